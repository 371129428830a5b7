"""The line at which Python goes another way when a step is traced than when it runs eagerly."""

from __future__ import annotations

import ast
import collections
import re
import sys
import types
from typing import Any

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location, is_generated, is_users
from modetrain.tools.inspect.detectors.side_effects import Calls
from modetrain.tools.inspect.python_state.accesses import CHANGING
from modetrain.tools.inspect.python_state.reachable import tree_of_file
from modetrain.tools.inspect.traced_step import Steps

# What asks whether it is being traced.
_ASKS = re.compile(
    r"executing_eagerly|inside_function|EagerTensor|is_symbolic|hasattr\(.*numpy|SymbolicTensor|KerasTensor"
    r"|get_static_value|constant_value\(|num_elements\(|is_fully_defined\(|\.shape\b.*\bNone\b"
)
# What is done to an object in place, or moves an iterator on.
_IN_PLACE = CHANGING | {"get_nowait", "next", "__next__", "send"}


def place(steps: Steps, *, asked: bool = True) -> Location | None:
    """The line, or None where both go the same way.

    Args:
      steps: the steps; the first batch is taken.
      asked: whether, if nothing else tells, a line counts that asks how it is being run.

    What eager runs and tracing does not was left out at the line before it. The other way round says less, because tracing
    runs both sides of a branch on a tensor: there, what handles an error counts, what changes Python's own values in the body of
    a loop, which eager runs in every round and tracing once, and what asks how it is being run.
    """
    eager, traced = _Course(), _Course()
    with steps.state_kept(), Calls(silent=True):
        steps.run_eagerly(
            steps.batches[0]
        )  # what runs on first use is left out by tracing, and by every later step alike
        with eager:
            steps.run_eagerly(steps.batches[0])
        with traced:
            steps.trace(steps.batches[0])
    left_out = _first_not_in(eager.places, set(traced.places))
    if left_out is not None and left_out > 0:
        return eager.places[left_out - 1]
    ran = set(eager.places)
    for number, one in enumerate(traced.places[1:], 1):
        if one not in ran and _handles_an_error(one):
            return traced.places[number - 1]
    for one in dict.fromkeys(eager.places):
        if eager.times[one] > traced.times[one] and _changes_python(one):
            return one
    return next((one for one in eager.places if asked and _ASKS.search(one.text)), None)


def _first_not_in(places: list[Location], others: set[Location]) -> int | None:
    return next((number for number, one in enumerate(places) if one not in others), None)


def _handles_an_error(one: Location) -> bool:
    tree = tree_of_file(one.file)
    return tree is not None and any(
        isinstance(node, ast.ExceptHandler) and _spans(node, one.line) for node in ast.walk(tree)
    )


def _spans(node: ast.AST, line: int) -> bool:
    return hasattr(node, "lineno") and node.lineno <= line <= (node.end_lineno or node.lineno)  # type: ignore[attr-defined]


def _changes_python(one: Location) -> bool:
    """Whether a line looks like changing what Python keeps between the rounds of a loop: in place, or by a name from outside."""
    tree = tree_of_file(one.file)
    if tree is None:
        return False
    modules = {
        name.asname or name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    shared = {name for node in ast.walk(tree) if isinstance(node, ast.Nonlocal | ast.Global) for name in node.names}
    for node in ast.walk(tree):
        if not _spans(node, one.line):
            continue
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _IN_PLACE and ast.unparse(node.func).partition(".")[0] not in modules:  # tf.add is not set.add
                return True
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for to in targets for part in (to.elts if isinstance(to, ast.Tuple) else [to])]
            if any(isinstance(to, ast.Attribute | ast.Subscript) or getattr(to, "id", None) in shared for to in parts):
                return True
    return False


class _Course:
    """The user's lines that run within a `with` block.

    Attributes:
      places: in order; one that runs several times in a row is there once.
      times: how often each has run.
    """

    def __init__(self) -> None:
        self.places: list[Location] = []
        self.times: collections.Counter[Location] = collections.Counter()
        self._before: Any = None

    def __enter__(self) -> _Course:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self._followed if is_generated(name) or is_users(name) else None

    def _followed(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if event == "line" and (here := stack.here()) is not None:
            self.times[here] += 1
            if self.places[-1:] != [here]:
                self.places.append(here)
        return self._followed
