"""The context of a running step: its number, and what its updates return besides the metrics.

context.begin(step)     # then the recipe's method is called,
context.now()           # in which `minimize`, `apply`, `self.step` and `self.seed` read it,
context.end()
step.seen               # and whose optimizers leave metrics of their own
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import keras
import tensorflow as tf

from modetrain.engine.optimizer import Optimizer


@dataclasses.dataclass(kw_only=True)
class StepContext:
    """One call of a step on one micro-batch; its tensors live no longer than the call (or its trace).

    Attributes:
      number: int64 scalar: updates completed, or the index of an evaluation batch.
      watch: bool scalar: a callback reads the gradient norm after this step.
      part: int32 scalar: number of the micro-batch.
      last_part: whether it is the last one of its step.
      seen: metrics of the optimizers, (total, count) by name.
      used: ids of the optimizers that have accumulated gradients.
    """

    number: tf.Tensor
    watch: tf.Tensor
    part: tf.Tensor
    last_part: bool
    seen: dict[str, tuple[tf.Tensor, tf.Tensor]] = dataclasses.field(default_factory=dict)
    used: list[int] = dataclasses.field(default_factory=list)

    def update(
        self,
        optimizer: Optimizer,
        gradients: Sequence,
        variables: Sequence[keras.Variable],
        objective: tf.Tensor | None,
        *,
        suffix: str,
    ) -> None:
        """Makes an update; in a micro-batch before the last one the gradients are kept for it.

        Args:
          optimizer: makes it.
          gradients: of the mean over the batch, one a variable.
          variables: what to update.
          objective: what the gradients are of, where it is known.
          suffix: of the names of what the optimizer shows.

        Raises:
          ValueError: two losses of a step would add up in one optimizer.
        """
        if optimizer.accumulators:
            if id(optimizer) in self.used:
                raise ValueError(
                    "one optimizer was used twice in one step with optimizer.accumulate="
                    f"{optimizer.settings.accumulate}: the two losses' gradients would add up. Give each loss its own "
                    "optimizer, or type optimizer.accumulate=1."
                )
            self.used.append(id(optimizer))
            if not self.last_part:
                optimizer.accumulate(gradients, variables)
                return
        seen = optimizer.apply(gradients, variables, step=self.number, watch=self.watch, objective=objective)
        for name, pair in seen.items():
            self.seen[name + suffix] = pair


class _Thread(threading.local):
    """The step that a thread runs: each of several replicas has a thread, and they take turns."""

    step: StepContext | None = None


_thread = _Thread()


def begin(step: StepContext) -> None:
    """Makes a step this thread's running one, until `end`."""
    _thread.step = step


def end() -> None:
    """Ends the running step."""
    _thread.step = None


def now() -> StepContext:
    """The running step of this thread.

    Raises:
      RuntimeError: none runs.
    """
    if _thread.step is None:
        raise RuntimeError("minimize, apply, step and seed belong inside train_step or eval_step.")
    return _thread.step
