"""A loss and its gradients: value and gradients of the mean over the batch, which may be a separate XLA program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from modetrain.engine.autograph import convert
from modetrain.engine.optimizer import Optimizer
from modetrain.engine.penalties import Penalties

# What computes a loss and its gradients as an XLA program of its own, while `xla.XlaPrograms` traces a step of several replicas.
separate_programs: list[Callable[[Callable[[], Any]], Any]] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The results of a loss function, and their gradients.

    Attributes:
      loss: one value per example, or a scalar.
      values: the function's other values, by name.
      objective: the scalar that is differentiated: the mean over the batch, with each penalty of Keras once.
      gradients: one for each variable, or None.
    """

    loss: tf.Tensor
    values: Mapping[str, tf.Tensor]
    objective: tf.Tensor
    gradients: Sequence

    @classmethod
    def compute(
        cls,
        loss_fn: Callable[[], Any],
        variables: Sequence[keras.Variable],
        optimizer: Optimizer,
        layers: Callable[[], Sequence[keras.Layer]],
    ) -> Loss:
        """Computes the loss within a step.

        Args:
          loss_fn: returns the loss, or (loss, {name: value}).
          variables: what to differentiate by.
          optimizer: scales the loss where small gradients would vanish, and unscales the gradients.
          layers: returns the recipe's layers and models, whose penalties count.
        """
        watched = [v.value for v in variables]

        def compute():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                penalties = Penalties(tape, variables, layers)
                with penalties.observed():
                    returned = convert(loss_fn)()
                    loss, values = returned if isinstance(returned, tuple) else (returned, {})
                    loss = tf.convert_to_tensor(loss)
                    wide = tf.float64 if loss.dtype == tf.float64 else tf.float32
                    objective = tf.reduce_mean(tf.cast(loss, wide))
                for penalty in penalties.missing(objective):
                    objective += tf.cast(penalty, wide)
                to_lower = optimizer.scale(objective)
            return loss, dict(values), objective, tape.gradient(to_lower, watched)

        loss, values, objective, gradients = separate_programs[-1](compute) if separate_programs else compute()
        return cls(loss=loss, values=values, objective=objective, gradients=optimizer.unscale(gradients))
