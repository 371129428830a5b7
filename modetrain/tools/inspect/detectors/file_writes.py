"""Hears what a step writes to files that were open before: methods of C, which cannot be exchanged.

`sys.setprofile` tells of every call of a C function. It is far too slow for a run that trains; `do=inspect` has the time.
"""

from __future__ import annotations

import csv
import io
import socket
import sqlite3
import sys
import types
from typing import Any

from modetrain.diagnostics import stack
from modetrain.tools.inspect.detectors.side_effects import Call

_OWNERS = (io.IOBase, type(csv.writer(io.StringIO())), sqlite3.Connection, sqlite3.Cursor, socket.socket)
_WRITES = {
    *("write", "writelines", "writerow", "writerows", "flush", "truncate"),
    *("execute", "executemany", "executescript", "commit", "send", "sendall"),
}


class Writes:
    """Hears within a `with` block.

    Attributes:
      heard: the calls, in order.
    """

    def __init__(self) -> None:
        self.heard: list[Call] = []
        self._before: Any = None

    def __enter__(self) -> Writes:
        self._before = sys.getprofile()
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if event != "c_call" or not isinstance(owner := getattr(arg, "__self__", None), _OWNERS):
            return
        if isinstance(owner, (io.StringIO, io.BytesIO)):  # no file; one that outlasts the step is seen as state
            return
        if arg.__name__ not in _WRITES or getattr(owner, "name", None) in (0, 1, 2, "<stdout>", "<stderr>"):
            return
        place = stack.here(direct=True)
        if place is None:
            return
        call = Call(code="MT103", place=place, name=f"{arg.__name__} of {type(owner).__name__}")
        if call not in self.heard:
            self.heard.append(call)
