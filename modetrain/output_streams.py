"""Standard output and error that outlive who reads them: a run must not end because its terminal was closed, the `tee` behind
it was killed, or the disk of its log is full.
"""

from __future__ import annotations

import io
import sys
from typing import TextIO


class _Lasting(io.FileIO):
    """What cannot be written is dropped, as C's stdio has it."""

    def write(self, data) -> int:  # type: ignore[override]  # any buffer, as FileIO has it
        try:
            return super().write(data)
        except OSError:
            return len(data)


def last() -> None:
    """From now on an error of writing to `sys.stdout` or `sys.stderr` ends nothing. One that was replaced is left as it is."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _lasting(sys.stdout)
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _lasting(sys.stderr)


def _lasting(stream: TextIO) -> TextIO:
    assert isinstance(stream, io.TextIOWrapper)
    stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if isinstance(stream.buffer, io.BufferedWriter) else raw,  # `python -u` has no buffer
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
