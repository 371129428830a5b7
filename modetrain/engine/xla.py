"""XLA programs inside a traced step: each of several replicas computes its gradients, or its whole step, in one.

    with programs:                      # trace the step
        compile_separately(function)()  # the results of `function`, from an XLA program of its own
    programs.guards                     # the guards of each program

Such a program has no output but its results, so it also returns the number of the guard that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from modetrain.engine.guards.step_guards import GUARDED, Guards


class XlaPrograms:
    """The XLA programs inside one trace of a step; within a `with` block `compile_separately` makes them.

    Args:
      guarded: whether they return which guard failed.

    Attributes:
      guards: the guards of each program, in the order of the calls; `failed` is a tensor of the step's graph.
    """

    def __init__(self, *, guarded: bool):
        self._guarded = guarded
        self.guards: list[Guards] = []
        self.step: tf.Graph | None = None  # the graph that the step is traced into

    def __enter__(self) -> XlaPrograms:
        _entered.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _entered.pop()

    def run(self, function: Callable[[], Any]) -> Any:
        """The function's results, computed by a program of its own."""
        # A branch or a loop of the step does not pass the number on.
        guarded = self._guarded and tf.compat.v1.get_default_graph() is self.step
        found: list[Guards] = []

        def program():
            returned = function()
            found.append(Guards.find(tf.compat.v1.get_default_graph()) if guarded else Guards.none())
            return returned, found[-1].failed

        program.__name__ = GUARDED if guarded else "program"
        returned, failed = tf.function(program, jit_compile=True, autograph=False)()
        if guarded:
            self.guards.append(Guards(guards=found[-1].guards, failed=failed))
        return returned


_entered: list[XlaPrograms] = []


def compile_separately(function: Callable[[], Any]) -> Callable[[], Any]:
    """Within `XlaPrograms` the function as an XLA program of its own, elsewhere the function itself."""
    return (lambda: _entered[-1].run(function)) if _entered else function
