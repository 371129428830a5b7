"""Guards: errors that XLA drops, found by the compiled program itself and returned as data.

    guards = Guards.of(graph, bodies)          # while the step is traced, after its last operation
    guards.failed                              # int32: 0, or the number of the first guard that failed
    raise guards.error(number, step)           # on the host

Eager and graph stop where an index is out of range, an assertion fails, an integer is divided by zero, and so on; XLA computes
on without a word. What such an operation reads is checked beside it; `checks.py` says how, and `bodies.py` does it inside
branches, loops and functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from modetrain.inspect import graphs, lines
from modetrain.inspect.checks import CHECKS
from modetrain.place import Place

if TYPE_CHECKING:
    from modetrain.inspect.bodies import Bodies


class GuardError(Exception):
    """What eager and graph mode would have stopped at, raised from an XLA program.

    Attributes:
      step: updates completed before the step that failed.
      place: the user's line.
    """

    def __init__(self, message: str, step: int, place: Place | None):
        super().__init__(message)
        self.step = step
        self.place = place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """One operation that is guarded.

    Attributes:
      code: what its failing means: see `codes.CODES`.
      what: what has gone wrong, in words.
      place: the user's line.
    """

    code: str
    what: str
    place: Place | None


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
        guard = self.guards[number - 1]
        where = ""
        if guard.place is not None:
            where = f'\n  File "{guard.place.file}", line {guard.place.line}\n    {guard.place.text}'
        return GuardError(
            f"{guard.code}: {guard.what} in step {step + 1}.{where}\nmode=eager and mode=graph stop here; XLA would have computed "
            "on (mode.guards=false lets it).",
            step,
            guard.place,
        )


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


def guard(op: tf.Operation) -> tuple[Guard, tf.Tensor] | None:
    """The guard of an operation, made in its graph, with a bool that is true where it fails; None where none is needed."""
    check = CHECKS.get(op.type)
    if check is None or "gradient_tape" in op.name:
        return None
    with tf.control_dependencies(None), tf.name_scope("guard"):
        flagged = check(op)
    if flagged is None:
        return None
    code, what, flag = flagged
    return Guard(code=code, what=what, place=lines.of_op(op)), flag
