"""Runs something line by line and finds the user's line at which Python state changed.

with ChangeTracer(state) as tracer:
    ...                       # trace
tracer.changes                # [(Location, Change), ...]
"""

from __future__ import annotations

import contextlib
import inspect as python_inspect
from types import FrameType
from typing import Self

from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.python_state.diff import Change, PythonState, find_changes
from modetrain.tools.inspect.python_state.line_tracer import LineTracer
from modetrain.tools.inspect.python_state.queue_uses import count_queue_uses


class ChangeTracer(LineTracer):
    """Compares the state before and after each of the user's lines within a `with` block.

    Args:
      state: what is compared.

    Attributes:
      changes: what changed, with the line that did it.
      ran: every line of the user's that was run.
      lasting: expressions that differ between the beginning and the end.
    """

    def __init__(self, state: PythonState):
        super().__init__()
        self._state = state
        self._counting = contextlib.ExitStack()
        self._frames: list[tuple[FrameType, Location | None]] = []  # with the line that each is at
        self.changes: list[tuple[Location, Change]] = []
        self.ran: set[Location] = set()
        self.lasting: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        self._counting.enter_context(count_queue_uses())
        self._last = self._first = self._state.snapshot()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._compare()
        self._counting.close()
        self.lasting = frozenset(change.expression for change in find_changes(self._first, self._last))

    def on_call(self, frame: FrameType) -> bool:
        # The line that takes the next item of a generator counts, not the generator. A context manager's lines count.
        if frame.f_code.co_flags & python_inspect.CO_GENERATOR and not _is_called_by_contextlib(frame):
            return False
        self._compare()
        self._frames.append((frame, self._place))
        return True

    def on_line(self, frame: FrameType, place: Location | None) -> None:
        self._compare()
        if place is not None:
            self.ran.add(place)
        while self._frames and self._frames[-1][0] is not frame:
            self._frames.pop()
        if self._frames:
            self._frames[-1] = (frame, place or self._place)

    def on_return(self, frame: FrameType) -> None:
        self._compare()
        if self._frames and self._frames[-1][0] is frame:
            self._frames.pop()

    @property
    def _place(self) -> Location | None:
        """The running line."""
        return self._frames[-1][1] if self._frames else None

    def _compare(self) -> None:
        snapshot = self._state.snapshot()
        found = find_changes(self._last, snapshot)
        self._last = snapshot
        if self._place is not None:
            self.changes.extend((self._place, change) for change in found)


def _is_called_by_contextlib(frame: FrameType) -> bool:
    return frame.f_back is not None and frame.f_back.f_code.co_filename == contextlib.__file__
