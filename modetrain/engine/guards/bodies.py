"""Guards inside branches, loops and functions: `tf.cond`, `tf.while_loop`, `tf.map_fn`, `tf.scan`, a `tf.function` in a step.

    with bodies:                 # trace the step; operations are guarded as they are made
        ...
        failed = bodies.take()   # int32: 0, or the number of the first of `bodies.guards` that failed

Such a body has no output but its results, so a guard inside writes its number to a variable. The step reads and clears the
variable at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import func_graph

from modetrain.engine.guards.checks import CHECKS
from modetrain.engine.guards.guard import Guard, guard

# Every loop over a tensor reads its items with it, always in range; a guard would slow the loop down.
_OF_LOOPS = "TensorListGetItem"


class Bodies:
    """Guards the bodies of a step that is traced within a `with` block.

    Args:
      failed: int64 variable for the number of the first guard that failed, 0 before.

    Attributes:
      guards: in the order in which their operations were made.
    """

    def __init__(self, failed: tf.Variable):
        self._failed = failed
        self._busy = False
        self._original: Callable[..., Any] | None = None
        self.guards: list[Guard] = []

    def __enter__(self) -> Bodies:
        self._original = original = func_graph.FuncGraph._create_op_internal

        def create(graph: Any, op_type: str, *args: Any, **kwargs: Any) -> tf.Operation:
            op = original(graph, op_type, *args, **kwargs)
            if op_type in CHECKS and op_type != _OF_LOOPS and not self._busy and _is_body(op):
                self._guard(op)
            return op

        func_graph.FuncGraph._create_op_internal = create
        return self

    def __exit__(self, *error: object) -> None:
        func_graph.FuncGraph._create_op_internal = self._original

    def take(self) -> tf.Tensor:
        """Returns the number of the guard that failed, and clears it."""
        failed = self._failed.read_value()
        self._failed.assign(0)
        return tf.cast(failed, tf.int32)

    def _guard(self, op: tf.Operation) -> None:
        self._busy = True
        try:
            found = guard(op)
            if found is None:
                return
            self.guards.append(found[0])
            with tf.control_dependencies(None), tf.name_scope("guard"):
                fails = tf.logical_and(found[1], tf.equal(self._failed, 0))
                self._failed.assign(tf.where(fails, tf.constant(len(self.guards), tf.int64), self._failed))
        finally:
            self._busy = False


def _is_body(op: tf.Operation) -> bool:
    """Whether an operation is in a body of the user's step, and not in the body of a gradient or an assertion."""
    graph = op.graph
    if (
        not isinstance(graph.outer_graph, func_graph.FuncGraph) or "loop_body" in op.name
    ):  # tf.vectorized_map rewrites it
        return False
    while isinstance(graph, func_graph.FuncGraph):
        if "Grad" in type(graph).__name__ or "backward" in graph.name or "AssertGuard" in graph.name:
            return False
        graph = graph.outer_graph
    return True
