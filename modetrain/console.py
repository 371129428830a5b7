"""What is printed for whoever types a command: on a terminal, or into a log file."""

from __future__ import annotations

import functools
from collections.abc import Callable

from rich.console import Console

_WIDTH = 120  # a log file has no width of its own


def console() -> Console:
    """The console of standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def plain(console: Console) -> Callable[[str], None]:
    """What prints a line as it stands: brackets are no markup, and a long line is not broken."""
    return functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
