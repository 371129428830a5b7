"""What a worker process does for its launcher: it dies with it, and reports that it has joined or why it failed.

    die_with_parent(os.environ)                  # first of all, before TensorFlow is imported
    announce_waiting(os.environ)                 # started, waits for the others
    strategy = tf.distribute.MultiWorkerMirroredStrategy(...)
    announce_ready(os.environ)                   # joined: all workers have found each other
    try: ...
    except BaseException as error:
        report = announce_failure(error, os.environ)     # at once: this process may need 10 s more to exit
        if report is not None and report.lost_a_peer:
            leave()                              # the launcher names the cause, which this traceback would hide
        raise

Each does nothing in a process that the launcher did not start. MODETRAIN_WORKER and MODETRAIN_RESTART hold the worker's
index and the number of restarts so far.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from modetrain.diagnostics.lost_peer import says_lost_peer
from modetrain.errors import ConfigError
from modetrain.files import atomic

INDEX = "MODETRAIN_WORKER"
RESTART = "MODETRAIN_RESTART"
WAITING_FILE = "MODETRAIN_WAITING_FILE"
READY_FILE = "MODETRAIN_READY_FILE"
FAILURE_FILE = "MODETRAIN_FAILURE_FILE"
COMMAND = "MODETRAIN_COMMAND"  # the user's command, from which the launcher made this worker's command line
LAUNCHER = "MODETRAIN_LAUNCHER"  # pid:descriptor:inode of the launcher and of the pipe whose other end it holds

_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """An exception that ended a worker.

    Attributes:
      at: when, on the machine's monotonic clock, which all processes share.
      type: name of the exception's class.
      message: the exception's message.
      traceback: as Python prints it, notes included.
      code: the exit code for the error; the process may be killed before it exits with it.
      headline: the error in one line for the user, if more is known than its type and message.
      text: the error for the user, if it is shorter than the traceback.
    """

    at: float
    type: str
    message: str
    traceback: str
    code: int = 1
    headline: str = ""
    text: str = ""

    @property
    def line(self) -> str:
        """The headline, else type and the first line of the message."""
        if self.headline:
            return self.headline
        text = self.message.strip()
        if text.startswith("Graph execution error"):  # the error comes after the places in the graph
            text = text.rpartition("\n\n")[2].strip()
        return f"{self.type}: {text.splitlines()[0]}" if text else self.type

    @property
    def lost_a_peer(self) -> bool:
        """Whether it reports a lost peer and not this worker's own failure."""
        return says_lost_peer(self.type, self.message)


def restarted(environ: Mapping[str, str]) -> bool:
    """Whether the launcher has restarted the run's workers."""
    return environ.get(RESTART, "0") != "0"


def announce_waiting(environ: Mapping[str, str]) -> None:
    """Reports to the launcher that this worker only waits for the others to join."""
    if WAITING_FILE in environ:
        Path(environ[WAITING_FILE]).touch()


def announce_ready(environ: Mapping[str, str]) -> None:
    """Reports to the launcher that this worker has joined the cluster."""
    if READY_FILE in environ:
        Path(environ[READY_FILE]).touch()


def announce_failure(
    error: BaseException, environ: Mapping[str, str], *, code: int | None = None, headline: str = "", text: str = ""
) -> Report | None:
    """Reports to the launcher what ended this worker. Never raises, because the error matters more.

    Args:
      error: what ended this worker.
      environ: this process's environment.
      code: see `Report`; 2 for a `ConfigError` and 1 for others by default.
      headline, text: see `Report`.

    Returns:
      The report of the first error; None in a process that the launcher did not start.
    """
    if FAILURE_FILE not in environ:
        return None
    path = Path(environ[FAILURE_FILE])
    if (earlier := read_report(path)) is not None:
        return earlier
    report = Report(
        at=time.monotonic(),
        type=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        code=code if code is not None else 2 if isinstance(error, ConfigError) else 1,
        headline=headline,
        text=text,
    )
    written = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **dataclasses.asdict(report)}
    with contextlib.suppress(OSError):
        atomic.write_text(path, json.dumps(written))
    return report


def leave(code: int = 1) -> NoReturn:
    """Ends this process at once. TensorFlow would wait about 10 s for peers that have ended."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def read_report(path: Path) -> Report | None:
    """What `announce_failure` wrote, or None."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Report(**{field.name: written[field.name] for field in dataclasses.fields(Report)})


def die_with_parent(environ: Mapping[str, str]) -> None:
    """From now on this process dies when the launcher does, for any reason, so that no worker stays behind.

    On Linux the kernel does it, even for a stopped process. A thread that waits for the launcher's end of a pipe to close
    does the same on every system, and where a shell or another wrapper stands between the two.
    """
    if LAUNCHER not in environ:
        return
    launcher, descriptor, inode = map(int, environ[LAUNCHER].split(":"))
    parent = os.getppid()
    if parent == launcher and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != launcher:  # it died just before
            _die()
    has_pipe = _is_pipe(descriptor, inode)
    if has_pipe:
        os.set_inheritable(descriptor, False)
        if select.select([descriptor], [], [], 0)[0]:  # the launcher never writes: the other end is closed already
            _die()
    watch = threading.Thread(
        target=_watch, args=(descriptor if has_pipe else None, parent), daemon=True, name="launcher-watch"
    )
    watch.start()


def _is_pipe(descriptor: int, inode: int) -> bool:
    """Whether it is the launcher's pipe: a wrapper may have closed it, and its number may now be another file."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


def _watch(descriptor: int | None, parent: int) -> None:
    if descriptor is not None:
        os.read(descriptor, 1)  # returns when the other end is closed
        _die()
    while os.getppid() == parent:
        time.sleep(0.5)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
