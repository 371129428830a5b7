"""A guard: one operation that XLA would let fail without a word, with the user's line, and the error it stands for."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.engine.guards.checks import CHECKS


class GuardError(Exception):
    """What eager and graph mode would have stopped at, raised from an XLA program.

    Attributes:
      step: updates completed before the step that failed.
      place: the user's line.
    """

    def __init__(self, message: str, step: int, place: Location | None):
        super().__init__(message)
        self.step = step
        self.place = place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """One operation that is guarded.

    Attributes:
      code: what its failing means: see `inspect/codes.py`.
      what: what has gone wrong, in words.
      place: the user's line.
    """

    code: str
    what: str
    place: Location | None

    def error(self, step: int) -> GuardError:
        """What to raise where it has failed.

        Args:
          step: updates completed before the step.
        """
        where = ""
        if self.place is not None:
            where = f'\n  File "{self.place.file}", line {self.place.line}\n    {self.place.text}'
        return GuardError(
            f"{self.code}: {self.what} in step {step + 1}.{where}\nmode=eager and mode=graph stop here; XLA would have computed "
            "on (mode.guards=false lets it).",
            step,
            self.place,
        )


def guard(op: tf.Operation) -> tuple[Guard, tf.Tensor] | None:
    """The guard of an operation, made in its graph, with a bool that is true where it fails; None where none is needed."""
    check = CHECKS.get(op.type)
    if check is None or graph_ops.is_gradient(op):
        return None
    with tf.control_dependencies(None), tf.name_scope("guard"):
        flagged = check(op)
    if flagged is None:
        return None
    code, what, flag = flagged
    return Guard(code=code, what=what, place=stack.of_op(op)), flag
