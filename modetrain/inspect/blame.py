"""Runs something line by line and finds the user's line at which Python state changed.

    with Blame(state) as blame:
        ...                       # trace
    blame.changes                 # [(Place, Change), ...]

`sys.settrace` follows the user's functions alone, those that AutoGraph has converted included. It is far too slow for a run
that trains; `do=inspect` has the time.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from modetrain.inspect import lines
from modetrain.inspect.finding import Place
from modetrain.inspect.state import Change, State, changes


class Blame:
    """Follows the user's lines within a `with` block.

    Args:
      state: what is looked at after every line.

    Attributes:
      changes: what changed, with the line that did it.
      ran: every line of the user's that was run.
    """

    def __init__(self, state: State):
        self._state = state
        self._look = state.look()
        self._stack: list[tuple[types.FrameType, Place | None]] = []
        self._before: Any = None
        self.changes: list[tuple[Place, Change]] = []
        self.ran: set[Place] = set()

    def __enter__(self) -> Blame:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)
        self._check()

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if event != "call" or not (lines.is_generated(name) or lines.is_users(name)):
            return None
        self._check()
        self._stack.append((frame, self._stack[-1][1] if self._stack else None))
        return self._followed

    def _followed(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if event in ("line", "return"):
            self._check()
        if event == "line":
            place = lines.here()
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
