"""Writes files whole or not at all: a reader, or a crash, finds the old content or the new one."""

from __future__ import annotations

import os
from pathlib import Path


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
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
