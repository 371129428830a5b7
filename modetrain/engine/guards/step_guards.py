"""The guards of one traced step.

guards = Guards.find(graph, bodies)          # while the step is traced, after its last operation
guards.failed                                # int32: 0, or the number of the first guard that failed
raise guards.error(number, step)             # on the host
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.engine.guards.bodies import Bodies
from modetrain.engine.guards.checks import CHECKS
from modetrain.engine.guards.guard import Guard, GuardError, guard

GUARDED = "guarded_program"  # in the names of XLA programs inside the step that return their failed guard


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
    def none(cls) -> Guards:
        """No guards: nothing fails."""
        return cls(guards=(), failed=tf.constant(0, tf.int32))

    @classmethod
    def join(cls, several: Sequence[Guards]) -> Guards:
        """Joins several guards of one graph into one."""
        several = [one for one in several if one.guards]
        if not several:
            return cls.none()
        guards = tuple(guard for one in several for guard in one.guards)
        end, flags, before = len(guards) + 1, [], 0
        for one in several:
            flags.append(tf.where(one.failed == 0, end, one.failed + before))
            before += len(one.guards)
        first = tf.reduce_min(tf.stack(flags))
        return cls(guards=guards, failed=tf.where(first == end, 0, first))

    @classmethod
    def find(cls, graph: tf.Graph, bodies: Bodies | None = None) -> Guards:
        """Guards every operation of a graph that is being traced.

        Args:
          graph: the step's graph.
          bodies: the guards inside bodies, entered while the step was traced.
        """
        found = [one for op in list(graph.get_operations()) if (one := guard(op)) is not None]
        several = [cls(guards=(one,), failed=tf.cast(flag, tf.int32)) for one, flag in found]
        if bodies is not None and bodies.guards:
            several.append(cls(guards=tuple(bodies.guards), failed=bodies.take()))
        return cls.join(several)

    def error(self, number: int, step: int) -> GuardError:
        """The error of a guard that failed.

        Args:
          number: the value of `failed`.
          step: updates completed before the step.
        """
        return self.guards[number - 1].error(step)


def find_unguarded(graph: tf.Graph) -> list[Location]:
    """The user's lines that may fail without a guard in an XLA program inside the step.

    They are in branches and loops of a replica's program, in such programs inside branches and loops of the step, and in
    functions that the user compiles with XLA.
    """
    library = graph.as_graph_def().library.function
    programs = {function.signature.name for function in library if function.attr["_XlaMustCompile"].b}
    found = {
        stack.of_op(one)
        for op in graph_ops.operations(graph)
        if any(value.func.name in programs for value in op.node_def.attr.values())
        for inner in graph_ops.inner_graphs(op)
        for one in _beyond_guards(inner)
        if _may_fail(one)
    }
    return sorted(place for place in found if place is not None)


def _beyond_guards(program: tf.Graph) -> list[tf.Operation]:
    inside = list(graph_ops.operations(program))
    if GUARDED in program.name:
        return [op for op in inside if op.graph is not program]
    return [] if any("guard/" in op.name for op in inside) else inside


def _may_fail(op: tf.Operation) -> bool:
    if op.type == "Assert" and "AssertGuard" in op.graph.name:  # the branch around it is checked instead
        return False
    if op.type == "If":
        return any(one.type == "Assert" for inner in graph_ops.inner_graphs(op) for one in inner.get_operations())
    if op.type in ("FloorDiv", "FloorMod", "Div", "TruncateDiv", "TruncateMod", "Mod", "Pow"):
        return op.inputs[1].dtype.is_integer
    return op.type in CHECKS and not graph_ops.is_gradient(op)
