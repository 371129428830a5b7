"""Calls of the user's lines that were recorded while a step was traced."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tensorflow.python.framework import op_callbacks

from modetrain.diagnostics.location import Location


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """One call.

    Attributes:
      code: the code of its finding.
      place: the user's line.
      name: what was called.
    """

    code: str
    place: Location
    name: str

    def describe(self) -> str:
        """`print is called here`."""
        if self.code == "MT207":
            return f"{self.name} outside of the graph"
        return f"{self.name} is made here" if self.code == "MT206" else f"{self.name} is called here"


class CallLog:
    """Recorded calls, each once.

    Attributes:
      calls: in order.
    """

    def __init__(self) -> None:
        self.calls: list[RecordedCall] = []

    def add(self, code: str, place: Location | None, name: str) -> None:
        """Adds a call at one of the user's lines; nothing where `place` is None."""
        if place is not None and (call := RecordedCall(code=code, place=place, name=name)) not in self.calls:
            self.calls.append(call)


@contextlib.contextmanager
def observe_eager_operations(callback: Callable[[str, Sequence[Any], Sequence[Any]], None]) -> Iterator[None]:
    """Calls `callback(type, inputs, outputs)` after each operation that runs eagerly."""

    def called(op_type, inputs, attrs, outputs, op_name=None, graph=None) -> None:
        if graph is None:
            callback(op_type.decode() if isinstance(op_type, bytes) else op_type, inputs, outputs)

    op_callbacks.add_op_callback(called)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(called)
