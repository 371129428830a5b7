"""Python's debugger, opened at the user's own line."""

from __future__ import annotations

import functools
import pdb
import sys
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from modetrain.diagnostics import location


class Debugger(pdb.Pdb):
    """Continues at the end of its input, so that a command without a terminal still prints everything.

    Args:
      at_once: whether to stop at the first line, not only at breakpoints.
    """

    def __init__(self, *, at_once: bool = True):
        super().__init__()
        self._wait = not at_once

    def user_line(self, frame: FrameType) -> None:
        if self._wait:
            self._wait = False
            self.set_continue()
            return
        super().user_line(frame)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function under the debugger; unlike pdb's own `runcall` it raises where the user quits.

        Raises:
          BdbQuit: the user quit.
        """
        self.reset()
        sys.settrace(self.trace_dispatch)
        try:
            return function(*args, **kwargs)
        finally:
            self.quitting = True
            sys.settrace(None)

    def do_EOF(self, arg: str) -> bool | None:
        self.message("")
        return self.do_continue(arg)


def stopping_at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, made to open the debugger at its first line."""
    return functools.partial(Debugger().call, function)


def stopping_at(file: str, line: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, made to open the debugger before a line, its own or one of a function that it calls."""
    waiting = Debugger(at_once=False)
    waiting.set_break(file, line)
    return functools.partial(waiting.call, function)


def post_mortem(error: BaseException) -> None:
    """Opens the debugger at the user's own line of an error, not deep inside TensorFlow."""
    frames = [tb for tb in _tracebacks(error.__traceback__) if location.is_users(tb.tb_frame.f_code.co_filename)]
    if frames:
        frames[-1].tb_next = None
    debugger = Debugger()
    debugger.reset()
    debugger.interaction(None, error.__traceback__)  # type: ignore[arg-type]  # as pdb.post_mortem does


def _tracebacks(first: TracebackType | None) -> Iterator[TracebackType]:
    while first is not None:
        yield first
        first = first.tb_next
