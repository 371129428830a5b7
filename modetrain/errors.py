"""Errors that the user can fix, and parts of their messages.

Every message follows one pattern: the value given, the value seen, why it cannot work, the exact override to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A configuration that cannot run. The command line prints it without a traceback and exits with code 2."""


class NotSavedError(RuntimeError):
    """A checkpoint could not be written."""


def closest(given: str, known: Iterable[str]) -> str | None:
    """The known name that is closest to `given`, or None if none is close."""
    # Sorted, so that a tie gives the same answer every time.
    names = {name.lower(): name for name in sorted(known, reverse=True)}
    close = difflib.get_close_matches(given.lower(), sorted(names), n=1, cutoff=0.6)
    if not close:  # `bfloat16` for `mixed_bfloat16`
        close = [name for name in sorted(names) if len(given) > 3 and given.lower() in name]
    return names[close[0]] if close else None


def nearest_multiple(number: int, of: int) -> int:
    """The multiple of `of` closest to a number, but not 0: the size to type if shares must be equal."""
    return max(1, round(number / of)) * of


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` if a known name is close to `given`, else an empty string."""
    close = closest(given, known)
    return f" Did you mean {close!r}?" if close else ""
