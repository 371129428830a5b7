"""MT207: reads or writes a variable outside of the graph (tf.init_scope)."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class InitScopeRead(Tiny):
    """A variable's value is read as a number, in an init scope."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.temperature = tf.Variable(1.0, trainable=False)

    def losses(self, batch):
        with tf.init_scope():
            now = float(self.temperature.numpy())  # expect MT207
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) / now)

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        self.temperature.assign(self.temperature * 1.5)
        return out


class InitScopeCount(Tiny):
    """tf.init_scope lifts the update of a variable out of the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.count = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        with tf.init_scope():
            self.count.assign_add(1.0)  # expect MT207
        return self.minimize(lambda: self.losses(batch) / self.count)
