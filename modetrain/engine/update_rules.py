"""Update rules: the arithmetic of one optimizer step, one fused TensorFlow kernel a variable.

A Keras optimizer makes about fifteen small operations a variable; on small models they are half of a graph step. The
kernels compute the same update up to rounding, and exist for CPU, GPU, TPU and XLA. They have no synchronisation point, so
replicas need nothing around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import keras
import tensorflow as tf

from modetrain.settings import OptimizerSettings


class UpdateRule(Protocol):
    """Slots of the variables to update, and the update.

    Attributes:
      slots: everything the rule remembers, of the variables' shapes and dtypes.
    """

    slots: list[keras.Variable]

    def apply(
        self, index: int, variable: keras.Variable, gradient: tf.Tensor, rate: tf.Tensor, count: tf.Tensor
    ) -> None:
        """Updates variable number `index`.

        Args:
          index: position of the variable in the list the rule was made for.
          variable: what to update.
          gradient: of the variable's shape.
          rate: learning rate, a float64 scalar.
          count: updates made before this one, an int64 scalar.
        """
        ...


class Adam:
    """Adam (Kingma and Ba, 2015), with decoupled weight decay as AdamW (Loshchilov and Hutter, 2019) where asked for.

    As in Keras, epsilon is added to the root of the uncorrected second moment.
    """

    def __init__(self, variables: Sequence[keras.Variable], settings: OptimizerSettings):
        self._settings = settings
        self._means = [slot_like(v, "mean") for v in variables]
        self._squares = [slot_like(v, "square") for v in variables]
        self.slots = [*self._means, *self._squares]

    def apply(self, index, variable, gradient, rate, count):
        settings, dtype = self._settings, tf.as_dtype(variable.dtype)
        decay(variable, settings.weight_decay, rate)
        number = tf.cast(count + 1, tf.float64)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=self._means[index].value.handle,
            v=self._squares[index].value.handle,
            beta1_power=tf.cast(tf.constant(settings.beta_1, tf.float64) ** number, dtype),
            beta2_power=tf.cast(tf.constant(settings.beta_2, tf.float64) ** number, dtype),
            lr=tf.cast(rate, dtype),
            beta1=tf.constant(settings.beta_1, dtype),
            beta2=tf.constant(settings.beta_2, dtype),
            epsilon=tf.constant(settings.epsilon, dtype),
            grad=gradient,
        )


class SGD:
    """Gradient descent with momentum and Nesterov's momentum (Sutskever et al., 2013), as in Keras."""

    def __init__(self, variables: Sequence[keras.Variable], settings: OptimizerSettings):
        self._settings = settings
        self.slots = [slot_like(v, "momentum") for v in variables] if settings.momentum else []

    def apply(self, index, variable, gradient, rate, count):
        settings, dtype = self._settings, tf.as_dtype(variable.dtype)
        decay(variable, settings.weight_decay, rate)
        if not self.slots:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.value.handle, alpha=tf.cast(rate, dtype), delta=gradient
            )
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.value.handle,
            accum=self.slots[index].value.handle,
            lr=tf.cast(rate, dtype),
            grad=gradient,
            momentum=tf.constant(settings.momentum, dtype),
            use_nesterov=settings.nesterov,
        )


def update_rule(variables: Sequence[keras.Variable], settings: OptimizerSettings) -> UpdateRule:
    """The rule that `settings.name` names: `adam` and `adamw` differ in their preset's weight decay alone."""
    return (SGD if settings.name == "sgd" else Adam)(variables, settings)


def slot_like(variable: keras.Variable, name: str) -> keras.Variable:
    """Makes a variable of zeros with the shape and dtype of another one."""
    return keras.Variable(
        lambda shape, dtype: tf.zeros(shape, dtype),
        shape=variable.shape,
        dtype=variable.dtype,
        trainable=False,
        name=name,
    )


def decay(variable: keras.Variable, weight_decay: float, rate: tf.Tensor) -> None:
    """Decoupled weight decay: subtracts `rate * weight_decay` of the variable."""
    if weight_decay:
        variable.value.assign_sub(variable.value * tf.cast(rate * weight_decay, variable.dtype))
