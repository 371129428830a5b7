"""The lock of a run folder: one process at a time writes there. The kernel releases the lock when the process dies.

    lock = Lock.take(folder)      # raises ConfigError if another live process has it
    lock.release()

The file names the holder. On a file system whose locks work only within one machine, the holder's heartbeat shows that another
machine writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from modetrain.errors import ConfigError
from modetrain.files import paths

NAME = "lock.json"
HEARTBEAT = "heartbeat.json"
_ALIVE = 120.0  # seconds that a heartbeat of another machine counts


class Lock:
    """The held lock of a run folder.

    Args:
      descriptor: descriptor of the open and locked file.
      stale: the previous holder, which did not release it, in words.
    """

    def __init__(self, descriptor: int, stale: str | None = None):
        self._descriptor = descriptor
        self.stale = stale

    @classmethod
    def take(cls, folder: Path) -> Lock:
        """Takes the lock of a folder.

        Raises:
          ConfigError: another live process holds it.
        """
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            problem = _problem(folder, descriptor)
            if problem is not None:
                raise ConfigError(problem)
            left = _read(descriptor)
            mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(mine) + "\n").encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, stale=_format_holder(left) if left else None)

    def release(self) -> None:
        """Releases the lock; the empty file stays."""
        try:
            os.ftruncate(self._descriptor, 0)
        finally:
            os.close(self._descriptor)


def find_holder(folder: Path) -> str | None:
    """Why a folder cannot be written to now, in words; None if it can. Changes nothing."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _problem(folder, descriptor)
    finally:
        os.close(descriptor)


def _problem(folder: Path, descriptor: int) -> str | None:
    name = paths.format_path(folder, Path.cwd())
    advice = "Wait for its end or stop it, or type run_dir= with another folder."
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"run_dir={name}: {_format_holder(_read(descriptor))} is writing there. {advice}"
    except OSError:
        pass  # a file system without locks: only the file's contents count
    holder = _read(descriptor)
    if holder and holder.get("host") != socket.gethostname() and _has_heartbeat(folder):
        return f"run_dir={name}: {_format_holder(holder)} is writing there, by its {HEARTBEAT}. {advice}"
    return None


def _read(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _format_holder(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"


def _has_heartbeat(folder: Path) -> bool:
    try:
        return time.time() - json.loads((folder / HEARTBEAT).read_text(encoding="utf-8"))["time"] < _ALIVE
    except (OSError, ValueError, KeyError, TypeError):
        return False
