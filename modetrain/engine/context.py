"""The step under way: where in the run it stands, and what its updates have to show.

step = under_way.begin(call)    # then the recipe's method is called,
under_way.now()                 # in which `minimize`, `apply`, `self.step` and `self.seed` ask,
under_way.end()
step.seen                       # and which may have left something to show
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import keras
import tensorflow as tf

from modetrain.engine.call import Call
from modetrain.engine.optimizer import Optimizer


@dataclasses.dataclass(kw_only=True)
class UnderWay:
    """One call of a step; tensors here live no longer than the call (or its trace).

    Attributes:
      call: where in the run it stands.
      seen: what the optimizers show, (total, count) by name.
      used: by their ids the optimizers that have accumulated gradients.
    """

    call: Call
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
            if not self.call.last_part:
                optimizer.accumulate(gradients, variables)
                return
        seen = optimizer.apply(gradients, variables, step=self.call.number, watch=self.call.watch, objective=objective)
        for name, pair in seen.items():
            self.seen[name + suffix] = pair


class _Thread(threading.local):
    """The step that a thread runs: over several replicas each has a thread of its own, which take turns."""

    step: UnderWay | None = None


_thread = _Thread()


def begin(call: Call) -> UnderWay:
    """Has a step be under way until its `end`."""
    step = _thread.step = UnderWay(call=call)
    return step


def end() -> None:
    """Has no step be under way."""
    _thread.step = None


def now() -> UnderWay:
    """The step under way.

    Raises:
      RuntimeError: there is none.
    """
    if _thread.step is None:
        raise RuntimeError("minimize, apply, step and seed belong inside train_step or eval_step.")
    return _thread.step
