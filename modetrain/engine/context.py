"""The context of a running step: its number, and what its updates return besides the metrics.

context.begin(step)     # before the recipe's method is called
context.now()           # `minimize`, `apply`, `self.step` and `self.seed` read it in that method
context.end()
step.seen               # metrics of the optimizers that the method has used
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from modetrain.engine.optimizer import Optimizer
from modetrain.engine.values import Sum, Weighted


@dataclasses.dataclass(kw_only=True)
class StepContext:
    """One call of a step on one micro-batch; its tensors live only as long as the call or its trace.

    Attributes:
      number: int64 scalar: updates completed, or the index of an evaluation batch.
      watch: bool scalar: a callback reads the gradient norm after this step.
      part: int32 scalar: number of the micro-batch.
      last_part: whether it is the last micro-batch of its step.
      seen: metrics of the optimizers, (total, count) by name.
      used: ids of the optimizers that have accumulated gradients.
      square: names of what the step has computed for as many columns as examples: perhaps for every pair of examples.
    """

    number: tf.Tensor
    watch: tf.Tensor
    part: tf.Tensor
    last_part: bool
    seen: dict[str, tuple[tf.Tensor, tf.Tensor]] = dataclasses.field(default_factory=dict)
    used: list[int] = dataclasses.field(default_factory=list)
    square: list[str] = dataclasses.field(default_factory=list)

    def note_square(self, values: Mapping[str, tf.Tensor | Weighted | Sum]) -> None:
        """Notes the names of what has as many columns as rows."""
        for name, value in values.items():
            held = value.values if isinstance(value, Weighted) else value
            shape = tuple(getattr(held, "shape", ()) or ())
            if len(shape) > 1 and shape[0] == shape[1] != 1:
                self.square.append(name)

    def update(
        self,
        optimizer: Optimizer,
        gradients: Sequence,
        variables: Sequence[keras.Variable],
        objective: tf.Tensor | None,
        *,
        suffix: str,
        weight: tf.Tensor | None = None,
    ) -> None:
        """Makes an update; before the last micro-batch it only accumulates the gradients.

        Args:
          optimizer: makes the update.
          gradients: gradients of the mean over the batch, one for each variable.
          variables: what to update.
          objective: the scalar that is differentiated, if known.
          suffix: appended to the names of the optimizer's metrics.
          weight: see `Optimizer.apply`.

        Raises:
          ValueError: the gradients of two losses would add up in one optimizer.
        """
        if optimizer.accumulators:
            if id(optimizer) in self.used:
                raise ValueError(
                    f"the step uses one optimizer twice with optimizer.accumulate={optimizer.settings.accumulate}: the "
                    "gradients of the two losses would add up. Give each loss its own optimizer, or type "
                    "optimizer.accumulate=1."
                )
            self.used.append(id(optimizer))
            if not self.last_part:
                optimizer.accumulate(gradients, variables, weight)
                return
        seen = optimizer.apply(
            gradients, variables, step=self.number, watch=self.watch, objective=objective, weight=weight
        )
        for name, pair in seen.items():
            self.seen[name + suffix] = pair


class _Thread(threading.local):
    """The step that a thread runs. Each of several replicas has a thread, and they take turns."""

    step: StepContext | None = None


_thread = _Thread()


def begin(step: StepContext) -> None:
    """Makes a step this thread's running step, until `end`."""
    _thread.step = step


def end() -> None:
    """Ends the running step."""
    _thread.step = None


def now() -> StepContext:
    """The running step of this thread.

    Raises:
      RuntimeError: no step runs.
    """
    if _thread.step is None:
        raise RuntimeError("minimize, apply, step and seed work only inside train_step or eval_step.")
    return _thread.step
