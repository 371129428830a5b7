"""Two classes of the rows of a table: numbers and categories, classes that weigh alike, AUC.

    python -m modetrain recipe=tabular

The shipped table is a survey before the US election of 1996: who means to vote for whom. After 400 steps, in 6 seconds on two
cores, the AUC of rows that were held out is 0.96 and their accuracy 0.91.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import keras
import tensorflow as tf
from keras import layers

from modetrain import Bounds, ConfigError, Recipe, Weighted, metrics


def wide_and_deep(
    numeric: Sequence[str],
    categorical: Mapping[str, Sequence[str]],
    *,
    width: Annotated[int, Bounds(at_least=1)] = 16,
    size: Annotated[int, Bounds(at_least=1)] = 4,
    dropout: Annotated[float, Bounds(at_least=0, below=1)] = 0.3,
) -> keras.Model:
    """Columns by name -> logit [n]: an embedding of each category, then one hidden layer."""
    numbers = {name: keras.Input((), name=name) for name in numeric}
    categories = {name: keras.Input((), name=name, dtype="int32") for name in categorical}
    parts = [layers.Reshape((1,))(one) for one in numbers.values()]
    parts += [layers.Embedding(1 + len(categorical[name]), size)(one) for name, one in categories.items()]
    x = layers.Concatenate()(parts)
    x = layers.Dropout(dropout)(layers.Dense(width, activation="relu")(x))
    logit = layers.Reshape(())(layers.Dense(1)(x))
    return keras.Model({**numbers, **categories}, logit, name="wide_and_deep")


class TwoClasses(Recipe):
    """Tells two classes apart; with a feature `weight`, the loss is its weighted mean."""

    best_is = {"auc": "max"}

    def __init__(self, *, model, optimizer, info, target: str, classes: int = 0):
        if classes != 2:
            raise ConfigError(f"data.target={target}: recipe=tabular tells two classes apart, and there are {classes}.")
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.target = target
        self.columns = list(self.model.input)

    def train_step(self, batch):
        def loss():
            logits = self.logits(batch, training=True)
            return Weighted(cross_entropy(batch[self.target], logits), batch.get("weight", tf.ones_like(logits)))

        return self.minimize(loss)

    def eval_step(self, batch):
        logits, truth = self.logits(batch, training=False), batch[self.target]
        return {
            "loss": cross_entropy(truth, logits),
            "accuracy": tf.cast((logits > 0) == (truth == 1), tf.float32),
            "auc": metrics.auc(truth, tf.sigmoid(logits)),
        }

    def logits(self, batch, training):
        return self.model({name: batch[name] for name in self.columns}, training=training)


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Of each example, in nats: [n], at least float32."""
    wide = tf.float64 if logits.dtype == tf.float64 else tf.float32
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, wide), tf.cast(logits, wide))
