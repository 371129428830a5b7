"""MT703: gradients are clipped by hand on each replica."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Shared


class ClipsEach(Shared):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self.losses(batch)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        gradients = [tf.clip_by_norm(g, 1.0) for g in gradients]  # expect MT703
        self.apply(gradients, self.model.trainable_variables)
        return {"loss": loss}
