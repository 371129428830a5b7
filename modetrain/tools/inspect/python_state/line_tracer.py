"""Runs something line by line and finds the user's line at which Python state changed.

    with Blame(state) as blame:
        ...                       # trace
    blame.changes                 # [(Location, Change), ...]

`sys.settrace` follows the user's functions alone, those that AutoGraph has converted included. It is far too slow for a run
that trains; `do=inspect` has the time.
"""

from __future__ import annotations

import contextlib
import inspect as python_inspect
import sys
import types
from typing import Any

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location, is_generated, is_users
from modetrain.tools.inspect.python_state.diff import Change, State, changes

_GENERATOR = python_inspect.CO_GENERATOR


def _runs_for_contextlib(frame: types.FrameType) -> bool:
    return frame.f_back is not None and frame.f_back.f_code.co_filename == contextlib.__file__


class Blame:
    """Follows the user's lines within a `with` block.

    Args:
      state: what is looked at after every line.

    Attributes:
      changes: what changed, with the line that did it.
      ran: every line of the user's that was run.
      lasting: expressions that were not the same at the end as at the beginning.
    """

    def __init__(self, state: State):
        self._state = state
        self._look = self._first = state.look()
        self._stack: list[tuple[types.FrameType, Location | None]] = []
        self._before: Any = None
        self.changes: list[tuple[Location, Change]] = []
        self.ran: set[Location] = set()
        self.lasting: frozenset[str] = frozenset()

    def __enter__(self) -> Blame:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)
        self._check()
        self.lasting = frozenset(change.expression for change in changes(self._first, self._look))

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if event != "call" or not (is_generated(name) or is_users(name)):
            return None
        # What takes the next item of an iterator is to blame, and not the iterator; a context manager works by itself.
        if frame.f_code.co_flags & _GENERATOR and not _runs_for_contextlib(frame):
            return None
        self._check()
        self._stack.append((frame, self._stack[-1][1] if self._stack else None))
        return self._followed

    def _followed(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if event in ("line", "return"):
            self._check()
        if event == "line":
            place = stack.here()
            if place is not None:
                self.ran.add(place)
            while self._stack and self._stack[-1][0] is not frame:
                self._stack.pop()
            if self._stack:
                self._stack[-1] = (frame, place or self._stack[-1][1])
        elif event == "return" and self._stack and self._stack[-1][0] is frame:
            self._stack.pop()
        return self._followed

    def _check(self) -> None:
        look = self._state.look()
        found = changes(self._look, look)
        self._look = look
        place = self._stack[-1][1] if self._stack else None
        if place is not None:
            self.changes.extend((place, change) for change in found)
