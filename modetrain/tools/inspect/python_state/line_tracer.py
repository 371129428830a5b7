"""Follows the user's functions line by line: `LineTracer`, whose subclasses say what to do at each line.

`sys.settrace` is far too slow for a run that trains; `do=inspect` and `do=compare` have the time.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Self

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location, is_generated, is_users


class LineTracer:
    """Calls its own methods for each of the user's lines that runs within a `with` block.

    Functions that AutoGraph has converted are followed too, and their lines are those the user wrote.
    """

    def __init__(self) -> None:
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = sys.gettrace()
        sys.settrace(self._trace_call)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._previous)

    def on_call(self, frame: FrameType) -> bool:
        """Called as a function of the user's begins; returns whether its lines are followed."""
        return True

    def on_line(self, frame: FrameType, place: Location | None) -> None:
        """Called before a line runs; `place` is the line that the user wrote, None where that is not known."""

    def on_return(self, frame: FrameType) -> None:
        """Called as a function returns."""

    def _trace_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self._trace_line if (is_generated(name) or is_users(name)) and self.on_call(frame) else None

    def _trace_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.on_line(frame, stack.here())
        elif event == "return":
            self.on_return(frame)
        return self._trace_line
