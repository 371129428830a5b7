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

from modetrain.inspect import lines
from modetrain.inspect.checks import CHECKS
from modetrain.inspect.finding import Place

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
