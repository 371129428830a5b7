"""Writes files whole or not at all: a reader, or a crash, finds the old content or the new one.

What a file system cannot do (hard links, renaming over a file, flushing a folder, as on exFAT or some network mounts) is done
by copying or left out, and logged once. An error that loses data (a full disk, a failed write) is raised.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

# What a file system answers that does not have an operation; a folder may not even be opened to be flushed.
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EXDEV, errno.EMLINK}
_NOT_FLUSHED = {*_UNSUPPORTED, errno.EBADF, errno.EACCES, errno.EISDIR, errno.ENOTTY}


def write_text(path: Path, text: str) -> None:
    """Replaces a file by this text, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file by this content.

    A process that is killed may leave `.<name>.partial`, which the next write of the file replaces. Only one process at a
    time writes a file.

    Raises:
      OSError: the folder cannot be written, or the disk is full; the file is as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def replace(partial: Path, path: Path) -> None:
    """Renames a file, over another one if there is one; copies it where the file system cannot rename."""
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        shutil.copyfile(partial, path)
        partial.unlink()
        _log_once("files cannot be renamed there, so they are copied: a crash may leave a file that is not whole")


def link(path: Path, other: Path) -> None:
    """Gives a file a second name; where the file system has no hard links, a copy."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        shutil.copyfile(path, other)
        _log_once("this file system has no hard links, so the best checkpoint is a copy")


def flush(path: Path) -> None:
    """Returns when a file, or the entries of a folder, would survive a loss of power, where the file system has that."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NOT_FLUSHED:
            raise
        _log_once(
            "this file system does not flush on request: after a loss of power the last checkpoints may be missing"
        )


@functools.cache
def _log_once(line: str) -> None:
    log.info(line)
