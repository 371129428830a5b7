"""The line of the first operation that the traced step computes otherwise, as `modetrain.compare` finds it.

An inspector is given it, and asks where nothing else tells: the same Python, other numbers.
"""

from __future__ import annotations

import ast

from modetrain.diagnostics.location import Location
from modetrain.tools.compare.in_process import compare
from modetrain.tools.inspect.detectors.side_effects import Calls
from modetrain.tools.inspect.python_state.reachable import tree_of_file
from modetrain.tools.inspect.traced_step import Steps


def place(steps: Steps, *, moved: bool) -> Location | None:
    """Runs the steps in both modes.

    Args:
      steps: the steps.
      moved: from weights that are moved a little.

    Returns:
      The line; None where there is none, or the steps cannot be compared in one process.
    """
    if steps.method != "train_step" or steps.replicas.count > 1:
        return None
    with steps.state_kept(moved=moved), Calls(silent=True):
        comparison = compare(steps.recipe, steps.whole, modes=["graph"], draws=1)
    found = next((one for one in comparison.findings if one.place is not None), None)
    if found is None or found.place is None:
        return None
    return _in_body(found.place) if "While" in str(found) else found.place


def _in_body(place: Location) -> Location:
    """Of a loop over tensors, which is one operation at its first line, the line of its body where that is one statement."""
    tree = tree_of_file(place.file)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.For | ast.While) and node.lineno == place.line and len(node.body) == 1:
            return Location(file=place.file, line=node.body[0].lineno, function=place.function)
    return place
