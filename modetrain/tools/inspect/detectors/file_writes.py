"""What a step writes to files that were open before: methods written in C, which cannot be replaced.

`sys.setprofile` reports every call of a C function. It is far too slow for a run that trains; `do=inspect` has the time.
"""

from __future__ import annotations

import contextlib
import csv
import io
import socket
import sqlite3
import sys
import types
from collections.abc import Iterator
from typing import Any

from modetrain.diagnostics import stack
from modetrain.tools.inspect.detectors.recorded_calls import CallLog

_OWNERS = (io.IOBase, type(csv.writer(io.StringIO())), sqlite3.Connection, sqlite3.Cursor, socket.socket)
_METHODS = {
    *("write", "writelines", "writerow", "writerows", "flush", "truncate"),
    *("execute", "executemany", "executescript", "commit", "send", "sendall"),
}


@contextlib.contextmanager
def record_file_writes() -> Iterator[CallLog]:
    """Records them within a `with` block."""
    log = CallLog()

    def record(frame: types.FrameType, event: str, arg: Any) -> None:
        if event != "c_call" or not isinstance(owner := getattr(arg, "__self__", None), _OWNERS):
            return
        if isinstance(owner, (io.StringIO, io.BytesIO)):  # no file; one that outlasts the step is part of the state
            return
        if arg.__name__ in _METHODS and getattr(owner, "name", None) not in (0, 1, 2, "<stdout>", "<stderr>"):
            log.add("MT103", stack.here(direct=True), f"{arg.__name__} of {type(owner).__name__}")

    previous = sys.getprofile()
    sys.setprofile(record)
    try:
        yield log
    finally:
        sys.setprofile(previous)
