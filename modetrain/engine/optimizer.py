"""An optimizer: an update rule and everything the library does around it, in one fixed order.

    gradients of the mean over the batch -> unscale -> accumulate -> mean over replicas -> clip by global norm -> finite?
    -> apply -> average

The library does all of it itself: clipping, accumulation, averaging and loss scaling of Keras's optimizers are silently wrong or
broken with more than one replica. What the settings do not ask for is not compiled. After the mean over the replicas all
of them hold the same numbers. Each then makes the same decision and the same update of its own copy, with no further
synchronisation: variables are written by their handles, without `tf.distribute`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from modetrain.engine.devices import mean_over_replicas
from modetrain.engine.metrics import NONFINITE
from modetrain.engine.schedule import learning_rate_at
from modetrain.engine.update_rules import slot_like, update_rule
from modetrain.errors import ConfigError
from modetrain.settings import OptimizerSettings

_FIRST_SCALE = 2.0**15
_MOST_SCALE = 2.0**24
_FIXED = ("settings", "steps", "trainable", "learning_rate")  # what a compiled step has frozen
_STEPS_TO_DOUBLE = 2000  # as in Micikevicius et al., "Mixed Precision Training" (2018)


class Optimizer:
    """Updates a fixed list of variables.

    Args:
      variables: the Keras variables it updates, each once however often it is listed; their slots are made here, so that
        a checkpoint can be restored before the first step.
      settings: see `OptimizerSettings`.
      steps: length of the run, for schedules that decay; a trainer sets it where it is None.
      loss_scaling: scale losses dynamically and skip updates whose gradients are not finite (mixed_float16).
      nonfinite: the policy for a loss or gradient that is not finite, see `NonfiniteSettings`.

    Attributes:
      trainable: the variables it updates.
      updates: int64 variable, updates made so far.
      averages: the moving average of each variable, empty without `ema`.
      nonfinite: as given.
      kept: whether the recipe is known to hold it and the variables it updates, see `untracked.py`.

    Raises:
      ConfigError: there is nothing to update, or something that is no Keras variable.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        settings: OptimizerSettings,
        *,
        steps: int | None = None,
        loss_scaling: bool = False,
        nonfinite: str = "stop",
    ):
        if not variables:
            raise ConfigError(
                "an optimizer got no variables: a model has none before it is built. "
                "Give the model an Input, or call model.build(shape) before you make its optimizer."
            )
        plain = [v.name for v in variables if not isinstance(v, keras.Variable)]
        if plain:
            raise ConfigError(
                f"an optimizer got {', '.join(plain)}, which is no Keras variable. Make it with keras.Variable(value, "
                'name="..."), or layer.add_weight(...). Only a variable that no optimizer updates may be a tf.Variable.'
            )
        self.settings = settings
        self.nonfinite = nonfinite
        self.kept = False
        self.trainable = each_once(variables)
        self.updates = keras.Variable(0, dtype="int64", trainable=False, name="updates")
        self._rule = update_rule(self.trainable, settings)
        self.steps = steps
        self.accumulators = [slot_like(v, "accumulator") for v in self.trainable] if settings.accumulate > 1 else []
        # Of a loss with weights; older versions did not save it.
        self.weight = (
            keras.Variable(0.0, dtype=_wide(variables), trainable=False, name="weight") if self.accumulators else None
        )
        self.averages = [slot_like(v, "average") for v in self.trainable] if settings.ema is not None else []
        for average, variable in zip(self.averages, self.trainable, strict=False):
            average.assign(variable)
        self.loss_scale = keras.Variable(_FIRST_SCALE, trainable=False, name="loss_scale") if loss_scaling else None
        self._good_steps = keras.Variable(0, dtype="int32", trainable=False, name="good") if loss_scaling else None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and (callable(getattr(type(self), name, None)) or vars(self).get(name) is not None):
            raise AttributeError(
                f"an optimizer's {name} cannot be changed: a compiled step has what it was when the step was traced, so modes "
                "would differ. Choose a schedule (optimizer.schedule, optimizer.warmup); or end the run, and resume it with "
                "another optimizer.learning_rate."
            )
        super().__setattr__(name, value)

    @property
    def variables(self) -> list[keras.Variable]:
        """Everything that a checkpoint must hold: the rule's slots, averages, accumulators and the loss scale."""
        scaling = [v for v in (self.loss_scale, self._good_steps) if v is not None]
        weight = [] if self.weight is None else [self.weight]
        return [self.updates, *self._rule.slots, *self.averages, *self.accumulators, *weight, *scaling]

    def learning_rate(self, step: tf.Tensor | int) -> tf.Tensor:
        """Learning rate of the update that begins at `step` (number of updates completed before it)."""
        return learning_rate_at(self.settings, step, self.steps)

    def scale(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss to differentiate: multiplied by the loss scale if there is one."""
        return loss if self.loss_scale is None else loss * tf.cast(self.loss_scale, loss.dtype)

    def unscale(self, gradients: Sequence) -> list:
        """Undoes `scale` on gradients."""
        if self.loss_scale is None:
            return list(gradients)
        return [None if g is None else _times(g, 1.0 / self.loss_scale) for g in gradients]

    def accumulate(
        self, gradients: Sequence, variables: Sequence[keras.Variable], weight: tf.Tensor | None = None
    ) -> None:
        """Adds one micro-batch's gradients to the accumulators; for `weight` see `apply`."""
        self._accumulate(self._index_gradients(gradients, variables), weight)

    def _accumulate(self, indexed: Sequence[tuple[int, tf.Tensor]], weight: tf.Tensor | None) -> None:
        if weight is not None and self.weight is not None:
            self.weight.value.assign_add(tf.cast(weight, self.weight.dtype) / self.settings.accumulate)
        for index, gradient in indexed:
            self.accumulators[index].value.assign_add(tf.convert_to_tensor(gradient) / self.settings.accumulate)

    def apply(
        self,
        gradients: Sequence,
        variables: Sequence[keras.Variable],
        *,
        step: tf.Tensor,
        watch: tf.Tensor,
        objective: tf.Tensor | None = None,
        weight: tf.Tensor | None = None,
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Updates `variables`; with accumulation it first adds the earlier micro-batches' gradients to the last one's.

        Args:
          gradients: gradients of the mean loss over this replica's (micro-)batch, unscaled, one for each variable, or None.
          variables: a subset of `trainable`, in the same order as `gradients`.
          step: int64 scalar, updates completed before this one.
          watch: bool scalar: a callback reads the gradient norm after this step.
          objective: the scalar that is differentiated, unscaled, if known.
          weight: scalar, the mean weight of the examples of a loss with weights; the gradients are then of the mean of values
            times weights, and their sum over the global batch is divided by that of the weights.

        Returns:
          Metrics as (total, count) pairs. `grad_norm` is the norm before clipping. `nonfinite` is 1 where the objective or
          a gradient is NaN or infinite (not with the policy `ignore`). `skipped` is there where updates may be skipped,
          `loss_scale` with loss scaling.

        Raises:
          ValueError: no variable has a gradient, or a variable is not this optimizer's.
        """
        indexed = self._index_gradients(gradients, variables)
        indices = [i for i, _ in indexed]
        finals = [tf.convert_to_tensor(g) for _, g in indexed]
        if self.accumulators:
            self._accumulate(indexed, weight)
            finals = [tf.identity(self.accumulators[i].value) for i in indices]
            weight = weight if weight is None or self.weight is None else tf.identity(self.weight.value)
        # The mean includes the objective: all replicas must agree on whether it is finite.
        several = [objective] if objective is not None and self.nonfinite != "ignore" else []
        finals = mean_over_replicas([*finals, *several, *([] if weight is None else [weight])])
        weight = weight if weight is None else finals.pop()
        objectives = [finals.pop()] if several else []
        if weight is not None:  # a batch without weight has gradients of 0
            finals = [tf.math.divide_no_nan(gradient, tf.cast(weight, gradient.dtype)) for gradient in finals]
        seen = {}

        if self.settings.clip_norm is not None:
            norm = _global_norm(finals)
            finals, _ = tf.clip_by_global_norm(finals, self.settings.clip_norm, use_norm=norm)
            computed = tf.constant(True)
        else:  # a pass over all gradients for display only: made at watched steps
            zero = tf.zeros([], tf.float64 if finals[0].dtype == tf.float64 else tf.float32)
            norm = tf.cond(watch, lambda: _global_norm(finals), lambda: zero)
            computed = watch
        # With loss scaling a norm may overflow, which is handled; one such value would spoil the mean of a whole window.
        counted = tf.logical_and(computed, tf.math.is_finite(norm))
        seen["grad_norm"] = (tf.where(counted, norm, tf.zeros_like(norm)), tf.cast(counted, norm.dtype))

        # The norm that clipping computes is finite only if all gradients are.
        gradients_finite = (
            (lambda: tf.math.is_finite(norm)) if self.settings.clip_norm is not None else (lambda: _all_finite(finals))
        )
        finite = tf.constant(True)
        if self.nonfinite != "ignore":
            finite = _all_finite(objectives) if objectives else finite
            # With loss scaling gradients overflow now and then: that is handled below.
            if self.loss_scale is None:
                finite = tf.logical_and(finite, gradients_finite())
            seen[NONFINITE] = (tf.cast(tf.logical_not(finite), tf.float32), tf.constant(1.0))

        def update():
            rate, count = self.learning_rate(step), tf.identity(self.updates.value)
            for index, gradient in zip(indices, finals, strict=True):
                self._rule.apply(index, self.trainable[index], gradient, rate, count)
            self.updates.value.assign_add(1)
            self._average(indices, step)

        if self.loss_scale is not None:
            seen["loss_scale"] = (tf.identity(self.loss_scale.value), tf.constant(1.0))
            fits = gradients_finite()
            finite = tf.logical_and(finite, fits) if self.nonfinite == "skip" else fits
            self._rescale(fits)
        if self.loss_scale is None and self.nonfinite != "skip":
            update()
        else:  # there is no synchronisation point inside, so each replica may decide by itself
            seen["skipped"] = (tf.cast(tf.logical_not(finite), tf.float32), tf.constant(1.0))
            tf.cond(finite, _returning_nothing(update), lambda: tf.constant(0))
        for accumulator in self.accumulators:
            accumulator.assign(tf.zeros_like(accumulator.value))
        if weight is not None and self.weight is not None:
            self.weight.assign(tf.zeros_like(self.weight.value))
        return seen

    def _index_gradients(self, gradients: Sequence, variables: Sequence[keras.Variable]) -> list[tuple[int, tf.Tensor]]:
        positions = {id(v): i for i, v in enumerate(self.trainable)}
        strangers = [v.path for v in variables if id(v) not in positions]
        if strangers:
            raise ValueError(
                f"the optimizer was not made for {', '.join(strangers)}: it has no slots for them. "
                "Pass all variables that it updates when you make it."
            )
        by_position: dict[int, tf.Tensor] = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is not None:  # a variable that is listed twice has its whole gradient twice
                by_position.setdefault(positions[id(variable)], gradient)
        found = list(by_position.items())
        missing = [v.path for g, v in zip(gradients, variables, strict=True) if g is None]
        if not found:
            raise ValueError(
                "no variable has a gradient: the loss does not depend on any of them. Compute the loss inside the "
                "function given to minimize, from the model's output."
            )
        if missing:
            warnings.warn(f"no gradient for {', '.join(missing)}: the loss does not depend on them.", stacklevel=3)
        return found

    def _average(self, indices: Sequence[int], step: tf.Tensor) -> None:
        if self.settings.ema is None:
            return
        for index in indices:
            average, variable = self.averages[index], self.trainable[index]
            # The decay rises with the step, so that early averages are not the initial weights
            # (num_updates of tf.train.ExponentialMovingAverage).
            updates = tf.cast(step, variable.dtype)
            decay = tf.minimum(tf.cast(self.settings.ema, variable.dtype), (1.0 + updates) / (10.0 + updates))
            average.value.assign_sub((1.0 - decay) * (average.value - variable.value))

    def _rescale(self, finite: tf.Tensor) -> None:
        assert self.loss_scale is not None
        assert self._good_steps is not None
        good = tf.where(finite, self._good_steps.value + 1, 0)
        grow = good >= _STEPS_TO_DOUBLE
        scale = tf.where(finite, self.loss_scale.value, tf.maximum(self.loss_scale.value / 2.0, 1.0))
        self.loss_scale.assign(tf.where(grow, tf.minimum(scale * 2.0, _MOST_SCALE), scale))
        self._good_steps.assign(tf.where(grow, 0, good))


def _wide(variables: Sequence[keras.Variable]) -> str:
    return "float64" if any(variable.dtype == "float64" for variable in variables) else "float32"


def each_once(variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    """The variables without repetitions, in their order."""
    return list({id(v): v for v in variables}.values())


def _times(gradient, factor):
    if isinstance(gradient, tf.IndexedSlices):
        scaled = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(scaled, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _all_finite(tensors: Sequence) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def _global_norm(gradients: Sequence) -> tf.Tensor:
    """Square root of the sum of squares over all gradients; float32, or float64 for float64 gradients."""
    norm = tf.linalg.global_norm([_at_least_float32(gradient) for gradient in gradients])
    assert norm is not None
    return norm if norm.dtype == tf.float64 else tf.cast(norm, tf.float32)


def _at_least_float32(gradient):
    dtype = tf.float64 if gradient.dtype == tf.float64 else tf.float32
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.cast(gradient.values, dtype), gradient.indices, gradient.dense_shape)
    return tf.cast(gradient, dtype)


def _returning_nothing(function: Callable[[], None]) -> Callable[[], tf.Tensor]:
    def run():
        function()
        return tf.constant(0)

    return run
