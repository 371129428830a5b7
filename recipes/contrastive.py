"""Contrastive learning without labels (SimCLR, Chen et al., 2020): two views of an image are near, those of all others far.

    python -m modetrain recipe=contrastive

Expected on the bundled digits after 600 steps, 11 seconds on 2 cores: eval/found 0.32, the share of the first 1,000 test images
whose other view is the nearest of the 2,000 views (at random: 0.0005). Several replicas need mode.compile=graph on CPUs.
"""

from __future__ import annotations

from typing import Annotated

import tensorflow as tf

from modetrain import Bounds, Recipe
from recipes.mnist import shifted


class Contrastive(Recipe):
    """NT-Xent with the negatives of the whole global batch, on several replicas too; labels are never read.

    Args:
      temperature: what similarities are divided by.
      shift: pixels that a view is moved by, at most.
      noise: standard deviation of the noise of a view.
    """

    def __init__(
        self,
        *,
        model,
        optimizer,
        info,
        temperature: Annotated[float, Bounds(above=0)] = 0.2,
        shift: Annotated[int, Bounds(at_least=0)] = 4,
        noise: Annotated[float, Bounds(at_least=0)] = 0.3,
    ):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.temperature, self.shift, self.noise = temperature, shift, noise

    def train_step(self, batch):
        def loss():
            losses, found = self.compared(batch["image"], "", training=True)
            return losses, {"found": found}

        return self.minimize(loss)

    def eval_step(self, batch):
        losses, found = self.compared(batch["image"], "eval ", training=False)
        return {"loss": losses, "found": found}

    def compared(self, images, name: str, *, training: bool):
        """The loss of each image, and whether its other view is the nearest of all: two [n]."""
        one, other = (self.embedded(self.view(images, f"{name}{side}"), training) for side in ("one", "other"))
        count, first = one.shape[0], self.first_row(one)
        ones, others = (self.gather(one), self.gather(other)) if training else (one, other)
        same = tf.one_hot(tf.range(count) + (first if training else 0), ones.shape[0], dtype=one.dtype)
        total, found = 0.0, 0.0
        for own, alike, rest in ((one, ones, others), (other, others, ones)):
            across = tf.matmul(own, rest, transpose_b=True) / self.temperature
            within = tf.matmul(own, alike, transpose_b=True) / self.temperature - 1e9 * same  # not itself
            right = tf.reduce_sum(across * same, 1)
            everything = tf.concat([across, within], 1)
            total += 0.5 * (tf.reduce_logsumexp(everything, 1) - right)
            found += 0.5 * tf.cast(right >= tf.reduce_max(everything, 1), tf.float32)
        return total, found

    def view(self, images, name: str):
        """Images that are moved and made noisy, each its own way."""
        moved = shifted(images, self.shift, self.seed(f"{name} shift"))
        return moved + self.noise * tf.random.stateless_normal(
            moved.shape, self.seed(f"{name} noise"), dtype=moved.dtype
        )

    def embedded(self, images, training: bool):
        """Embeddings of length 1, [n, size], at least float32."""
        x = self.model(images, training=training)
        return tf.math.l2_normalize(x if x.dtype == tf.float64 else tf.cast(x, tf.float32), axis=1)
