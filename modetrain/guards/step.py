"""The guards of one traced step.

guards = Guards.of(graph, bodies)          # while the step is traced, after its last operation
guards.failed                              # int32: 0, or the number of the first guard that failed
raise guards.error(number, step)           # on the host
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from modetrain import graphs, lines
from modetrain.guards.bodies import Bodies
from modetrain.guards.checks import CHECKS
from modetrain.guards.guard import Guard, GuardError, guard
from modetrain.place import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guards:
    """The guards of one traced step.

    Attributes:
      guards: in the order of the operations.
      failed: int32 scalar in the graph: 0, or the number (from 1) of the first guard that failed.
    """

    guards: Sequence[Guard]
    failed: tf.Tensor

    @classmethod
    def of(cls, graph: tf.Graph, bodies: Bodies) -> Guards:
        """Guards every operation of a graph that is being traced.

        Args:
          graph: of the step.
          bodies: heard while it was traced.
        """
        found = [one for op in list(graph.get_operations()) if (one := guard(op)) is not None]
        guards = (*(one for one, _ in found), *bodies.guards)
        if not guards:
            return cls(guards=(), failed=tf.constant(0, tf.int32))
        end = len(guards) + 1
        flags = [tf.where(flag, number, end) for number, (_, flag) in enumerate(found, 1)]
        if bodies.guards:
            inside = bodies.taken()
            flags.append(tf.where(inside == 0, end, inside + len(found)))
        first = tf.reduce_min(tf.stack(flags))
        return cls(guards=guards, failed=tf.where(first == end, 0, first))

    def error(self, number: int, step: int) -> GuardError:
        """The error of a guard that failed.

        Args:
          number: as `failed` says.
          step: updates completed before the step.
        """
        return self.guards[number - 1].error(step)


def unguarded(graph: tf.Graph) -> list[Place]:
    """The user's lines that may fail in an XLA program inside the step, where no guard is: the gradients of a replica."""
    library = graph.as_graph_def().library.function
    programs = {function.signature.name for function in library if function.attr["_XlaMustCompile"].b}
    found = {
        lines.of_op(one)
        for op in graph.get_operations()
        if any(value.func.name in programs for value in op.node_def.attr.values())
        for inner in graphs.inner_graphs(op)
        if not any("guard/" in one.name for one in graphs.operations(inner))
        for one in graphs.operations(inner)
        if _may_fail(one)
    }
    return sorted(place for place in found if place is not None)


def _may_fail(op: tf.Operation) -> bool:
    if op.type == "If":
        return any(one.type == "Assert" for inner in graphs.inner_graphs(op) for one in inner.get_operations())
    if op.type in ("FloorDiv", "FloorMod", "Div", "TruncateDiv", "TruncateMod", "Mod", "Pow"):
        return op.inputs[1].dtype.is_integer
    return op.type in CHECKS and "gradient_tape" not in op.name
