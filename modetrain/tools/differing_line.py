"""The line of the first operation that the traced step computes differently, as `modetrain.compare` finds it.

`Inspector` calls it where nothing else explains why the same Python gives other numbers.
"""

from __future__ import annotations

import ast

from modetrain.diagnostics.location import Location
from modetrain.tools.compare.in_process import compare
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.inspected_step import InspectedStep
from modetrain.tools.inspect.python_state.source import nodes_of_file


def find_differing_line(step: InspectedStep, *, perturbed: bool) -> Location | None:
    """Runs the step in both modes.

    Args:
      step: the step.
      perturbed: whether from weights that are changed a little.

    Returns:
      The line; None where there is none, or the step cannot be compared in one process.
    """
    if step.method != "train_step" or step.replicas.count > 1:
        return None
    with step.restore_variables(perturbed=perturbed), CallRecorder(silent=True):
        comparison = compare(step.recipe, step.global_batches, modes=["graph"], draws=1)
    found = next((one for one in comparison.findings if one.place is not None), None)
    if found is None or found.place is None:
        return None
    return _in_body(found.place) if "While" in str(found) else found.place


def _in_body(place: Location) -> Location:
    """The line of a loop's body, where that is one statement: a loop over tensors is one operation at its first line."""
    for node in nodes_of_file(place.file):
        if isinstance(node, ast.For | ast.While) and node.lineno == place.line and len(node.body) == 1:
            return Location(file=place.file, line=node.body[0].lineno, function=place.function)
    return place
