"""A guard: one operation whose failure XLA would drop silently, with the user's line and the error to raise."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.engine.guards.checks import CHECKS


class GuardError(Exception):
    """An error that stops eager and graph mode, found by an XLA program.

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
      code: code of the failure, see `inspect/codes.py`.
      what: the failure in words.
      place: the user's line.
    """

    code: str
    what: str
    place: Location | None

    def error(self, step: int) -> GuardError:
        """The error to raise after the guard has failed.

        Args:
          step: updates completed before the step.
        """
        where = ""
        if self.place is not None:
            where = f'\n  File "{self.place.file}", line {self.place.line}\n    {self.place.text}'
        return GuardError(
            f"{self.code}: {self.what} in step {step + 1}.{where}\nmode=eager and mode=graph stop here; XLA alone would continue "
            "(mode.guards=false lets it).",
            step,
            self.place,
        )


def guard(op: tf.Operation) -> tuple[Guard, tf.Tensor] | None:
    """Makes the guard of an operation in its graph, with a bool tensor that is true where it fails; None if it needs none."""
    check = CHECKS.get(op.type)
    if check is None or graph_ops.is_gradient(op):
        return None
    with tf.control_dependencies(None), tf.name_scope("guard"):
        flagged = check(op)
    if flagged is None:
        return None
    code, what, flag = flagged
    return Guard(code=code, what=what, place=stack.of_op(op)), flag
