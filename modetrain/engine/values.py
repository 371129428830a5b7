"""What a step may return besides a tensor: a mean with weights, and a sum that a figure is made from later.

    return {"loss": Weighted(losses, mask), "confusion": Sum(table)}

All of them merge by `+`, over micro-batches, steps, replicas, workers and batches of any length, so they are exact however
the examples are divided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

Figure = float | np.ndarray | str  # a number, an image [h, w, channels] or [h, w], or a text


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A mean in which examples, or tokens, weigh differently: the sum of `values * weights` over the sum of `weights`.

    Attributes:
      values: numbers [examples, ...].
      weights: numbers with as many dimensions as `values`, which broadcast to them, or one number; a mask of 0 and 1, or sample
        weights. No gradient passes through them.
    """

    values: Any
    weights: Any

    def pair(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """The values and the weights, of one shape and dtype.

        Raises:
          ValueError: the weights do not broadcast to the values, or it depends on sizes how.
        """
        values = tf.cast(self.values, dtype)
        return values, broadcast_weights(tf.stop_gradient(tf.cast(self.weights, dtype)), values)

    def __add__(self, term: Any) -> Any:
        raise TypeError(
            "to a Weighted nothing can be added: add a term to its values, Weighted(values + term, weights). Penalties of layers "
            "and weights are added by minimize."
        )

    def __tf_flatten__(self) -> tuple[tuple[()], tuple[Any, Any]]:
        return (), (self.values, self.weights)

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[()], components: tuple[Any, Any]) -> Weighted:
        return cls(*components)


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum over all examples that a figure is made from on the host: counts, a histogram, a confusion matrix.

    Attributes:
      tensor: numbers of a fixed shape.
      summarize: makes a number, an image or a text of the merged sum, or several by name; by default `Recipe.summarize` does.
    """

    tensor: Any
    summarize: Callable[[np.ndarray], Figure | Mapping[str, Figure]] | None = None

    def __tf_flatten__(self) -> tuple[tuple[Any], tuple[Any]]:
        return (self.summarize,), (self.tensor,)

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[Any], components: tuple[Any]) -> Sum:
        return cls(*components, *metadata)


def broadcast_weights(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Weights of the shape of some values.

    Weights [n] of values [n, t] would be those of the positions where n = t, and an error elsewhere: they are refused.

    Raises:
      ValueError: they do not broadcast, or have neither as many dimensions as the values nor none.
    """
    one, other = weights.shape, values.shape
    if one.rank is not None and other.rank is not None:
        fits = len(one) == len(other) and all(
            w in (1, v) for w, v in zip(one, other, strict=True) if None not in (w, v)
        )
        if one.rank and not fits:
            shorter = one.rank < other.rank
            raise ValueError(
                f"weights of shape {tuple(one)} for values of shape {tuple(other)}: they need as many dimensions, each of the same "
                "size or 1"
                + (
                    f"; a weight per example is tf.reshape(weights, {[-1, *[1] * (other.rank - 1)]})."
                    if shorter
                    else "."
                )
            )
    return tf.broadcast_to(weights, tf.shape(values))
