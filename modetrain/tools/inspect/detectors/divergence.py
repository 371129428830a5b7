"""The line at which Python takes another path when a step is traced than when it runs eagerly."""

from __future__ import annotations

import ast
import collections
import re
from types import FrameType

from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.inspected_step import InspectedStep
from modetrain.tools.inspect.python_state.accesses import MUTATING_METHODS
from modetrain.tools.inspect.python_state.line_tracer import LineTracer
from modetrain.tools.inspect.python_state.source import called_name, nodes_of_file, spans

# A line that asks whether it is being traced.
_ASKS = re.compile(
    r"executing_eagerly|inside_function|EagerTensor|is_symbolic|hasattr\(.*numpy|SymbolicTensor|KerasTensor"
    r"|get_static_value|constant_value\(|num_elements\(|is_fully_defined\(|\.shape\b.*\bNone\b"
)
# Methods that change an object in place, or take the next item of an iterator.
_IN_PLACE = MUTATING_METHODS | {"get_nowait", "next", "__next__", "send"}


def find_line(step: InspectedStep, *, asked: bool = True) -> Location | None:
    """The line, or None where both take the same path.

    Args:
      step: the step; the first batch is taken.
      asked: whether, if nothing else is found, a line counts that asks how it is being run.

    What eager runs and tracing does not was left out at the line before it. The other way round says less, because tracing
    runs both sides of a branch on a tensor. Three kinds of line count there: one that handles an error; one that changes
    Python's own values in the body of a loop, which eager runs in every round and tracing once; and one that asks how it is run.
    """
    eager, traced = _LineRecorder(), _LineRecorder()
    with step.restore_variables(), CallRecorder(silent=True):
        # What runs only on first use is left out by tracing, and by every later step alike.
        step.run_eagerly(step.batches[0])
        with eager:
            step.run_eagerly(step.batches[0])
        with traced:
            step.trace(step.batches[0])
    run_eagerly, run_traced = set(eager.places), set(traced.places)
    left_out = next((number for number, one in enumerate(eager.places) if one not in run_traced), 0)
    if left_out > 0:
        return eager.places[left_out - 1]
    for number, one in enumerate(traced.places[1:], 1):
        if one not in run_eagerly and _handles_error(one):
            return traced.places[number - 1]
    for one in dict.fromkeys(eager.places):
        if eager.times[one] > traced.times[one] and _changes_python(one):
            return one
    return next((one for one in eager.places if asked and _ASKS.search(one.text)), None)


def _handles_error(place: Location) -> bool:
    return any(isinstance(node, ast.ExceptHandler) and spans(node, place.line) for node in nodes_of_file(place.file))


def _changes_python(place: Location) -> bool:
    """Whether a line looks like changing what Python keeps between the rounds of a loop: in place, or by a name from outside."""
    nodes = list(nodes_of_file(place.file))
    modules = {
        name.asname or name.name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    shared = {name for node in nodes if isinstance(node, ast.Nonlocal | ast.Global) for name in node.names}
    for node in nodes:
        if not spans(node, place.line):
            continue
        if isinstance(node, ast.Call):
            is_of_module = ast.unparse(node.func).partition(".")[0] in modules  # tf.add is not set.add
            if called_name(node) in _IN_PLACE and not is_of_module:
                return True
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for to in targets for part in (to.elts if isinstance(to, ast.Tuple) else [to])]
            if any(isinstance(to, ast.Attribute | ast.Subscript) or getattr(to, "id", None) in shared for to in parts):
                return True
    return False


class _LineRecorder(LineTracer):
    """The user's lines that run within a `with` block.

    Attributes:
      places: in order; one that runs several times in a row is there once.
      times: how often each has run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Location] = []
        self.times: collections.Counter[Location] = collections.Counter()

    def on_line(self, frame: FrameType, place: Location | None) -> None:
        if place is not None:
            self.times[place] += 1
            if self.places[-1:] != [place]:
                self.places.append(place)
