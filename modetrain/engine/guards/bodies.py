"""Guards inside branches, loops and functions: `tf.cond`, `tf.while_loop`, `tf.map_fn`, `tf.scan`, a `tf.function` in a step.

    with bodies:                  # trace the step; operations are guarded as they are made
        ...
        failed = bodies.take()   # int32: 0, or the number of the first of `bodies.guards` that failed

Nothing but what it returns comes out of such a body, so a guard there leaves its number in a variable, which the step reads and
clears at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import func_graph

from modetrain.engine.guards.checks import CHECKS
from modetrain.engine.guards.guard import Guard, guard

# Every loop over a tensor reads its items so, in range, and would be slowed down.
_OF_LOOPS = "TensorListGetItem"


class Bodies:
    """Guards what is inside a step that is traced within a `with` block.

    Args:
      failed: int64 variable that holds the number of the first guard that failed, 0 before.

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
        """The number of the guard that failed, which is forgotten."""
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
    """Whether an operation is in a body that the user's step has, and not in that of a gradient or of an assertion."""
    graph = op.graph
    if (
        not isinstance(graph.outer_graph, func_graph.FuncGraph) or "loop_body" in op.name
    ):  # what tf.vectorized_map rewrites
        return False
    while isinstance(graph, func_graph.FuncGraph):
        if "Grad" in type(graph).__name__ or "backward" in graph.name or "AssertGuard" in graph.name:
            return False
        graph = graph.outer_graph
    return True
