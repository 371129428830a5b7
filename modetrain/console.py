"""Standard output and error: lines for the user, on a terminal or in a log file, and streams that survive their reader."""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 120  # a log file has no width of its own


@functools.cache
def stdout() -> Console:
    """The console of standard output, for a progress bar and all lines."""
    from rich.console import Console  # 50 ms, which a refused command line saves

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def plain(console: Console) -> Callable[[str], None]:
    """A function that prints a line unchanged: brackets are no markup, `:name:` is no emoji, long lines are not broken."""
    return functools.partial(console.print, markup=False, emoji=False, highlight=False, soft_wrap=True)


class ConsoleHandler(logging.Handler):
    """Prints log records of the library as plain lines; a warning begins with its level."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        plain(stdout())(f"{prefix}{record.getMessage()}")


def show_log() -> None:
    """From now on the library's log goes to standard output. Calling it again changes nothing."""
    log = logging.getLogger("modetrain")
    if not any(isinstance(handler, ConsoleHandler) for handler in log.handlers):
        log.addHandler(ConsoleHandler())
        log.propagate = False
    log.setLevel(logging.INFO)


class _LastingFile(io.FileIO):
    """Drops output that cannot be written, like C's stdio."""

    def write(self, data) -> int:  # type: ignore[override]  # any buffer, as FileIO has it
        try:
            return super().write(data)
        except OSError:
            return len(data)


def outlive_readers() -> None:
    """From now on a failed write to `sys.stdout` or `sys.stderr` raises nothing; a replaced stream is not changed.

    A run must not end because its terminal was closed, the `tee` after it was killed, the disk of its log is full, or the
    encoding of the output has no such letter.
    """
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _lasting(sys.stdout)
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _lasting(sys.stderr)


def _lasting(stream: TextIO) -> TextIO:
    assert isinstance(stream, io.TextIOWrapper)
    stream.flush()
    raw = _LastingFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if isinstance(stream.buffer, io.BufferedWriter) else raw,  # `python -u` has no buffer
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "backslashreplace" else "replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
