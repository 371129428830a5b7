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
from modetrain.engine.values import Sum, Weighted

# What computes a loss and its gradients as an XLA program of its own, while `xla.XlaPrograms` traces a step of several replicas.
separate_programs: list[Callable[[Callable[[], Any]], Any]] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The results of a loss function, and their gradients.

    Attributes:
      loss: one value per example, a scalar, or a `Weighted`.
      values: the function's other values, by name.
      objective: the scalar that is differentiated: the mean over the batch, with each penalty of Keras once.
        Of a `Weighted` it is the mean of values times weights, and of each penalty times `weight`.
      weight: the mean of the weights of a `Weighted`, else None: over a whole global batch, objective / weight is its mean.
      gradients: of the objective, one for each variable, or None.
    """

    loss: tf.Tensor | Weighted
    values: Mapping[str, tf.Tensor]
    objective: tf.Tensor
    weight: tf.Tensor | None
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
          loss_fn: returns the loss, a tensor or a `Weighted`, or (loss, {name: value}).
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
                    loss, objective, weight = _objective(loss)
                for penalty in penalties.missing(objective):
                    term = tf.cast(penalty, objective.dtype)
                    objective += term if weight is None else weight * term
                to_lower = optimizer.scale(objective)
            return loss, dict(values), objective, weight, tape.gradient(to_lower, watched)

        loss, values, objective, weight, gradients = separate_programs[-1](compute) if separate_programs else compute()
        return cls(loss=loss, values=values, objective=objective, weight=weight, gradients=optimizer.unscale(gradients))


def _objective(loss: Any) -> tuple[tf.Tensor | Weighted, tf.Tensor, tf.Tensor | None]:
    """The loss as tensors, the scalar to differentiate, and the mean weight of a `Weighted`."""
    if isinstance(loss, Sum):
        raise TypeError(
            "the loss is a Sum, whose scale depends on the number of examples: return one loss per example, a scalar that is their "
            "mean, or a Weighted."
        )
    if not isinstance(loss, Weighted):
        loss = tf.convert_to_tensor(loss)
        return loss, tf.reduce_mean(tf.cast(loss, _wide(loss))), None
    values = tf.convert_to_tensor(loss.values)
    values, weights = Weighted(values, loss.weights).pair(_wide(values))
    # What weighs nothing counts for nothing, even where it is not finite.
    weighed = tf.where(weights == 0, tf.zeros_like(values), values) * weights
    return Weighted(values, weights), tf.reduce_mean(weighed), tf.reduce_mean(weights)


def _wide(tensor: tf.Tensor) -> tf.DType:
    return tf.float64 if tensor.dtype == tf.float64 else tf.float32
