"""MT202: changes a Python container."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import elsewhere, trackers
from tests.corpus.base import Tiny


class AppendsToADefault(Tiny):
    def losses(self, batch, seen=[]):  # noqa: B006
        seen.append(len(seen))  # expect MT202
        return super().losses(batch)


class AddsToASet(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.seen = set()

    def losses(self, batch):
        self.seen.add(len(self.seen))  # expect MT202
        return super().losses(batch)


class PopsASchedule(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = [0.3, 0.2, 0.1]

    def losses(self, batch):
        return super().losses(batch) * self.rates.pop()  # expect MT202


class LambdaCallbackCalled(Tiny):
    """A callback of Keras is called by hand."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ends = []
        self.callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda b, logs: self.ends.append(b)  # expect MT202
        )

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        self.callback.on_train_batch_end(len(self.ends), {})
        return out


def cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


def stacked(*layers):
    """A model: the layers, and a dense one after them."""

    def build(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                *(make() for make in layers),
                keras.layers.Dense(classes, kernel_initializer="glorot_uniform"),
            ]
        )

    return staticmethod(build)


class QueueFeed(Tiny):
    """Noise from a queue which a thread fills."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.feed = trackers.NoiseFeed((8, 4))

    def logits(self, batch):
        return self.model(batch["x"] + self.feed.take(), training=True)

    build_model = stacked()


class InPlacePrior(Tiny):
    """A prior in numpy, changed in place after every step."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.prior = np.array([2.0, 0.0, -2.0], np.float32)

    def losses(self, batch):
        return cross_entropy(batch["label"], self.logits(batch) + self.prior)

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        np.multiply(self.prior, 0.5, out=self.prior)  # expect MT202
        return result


class HookedStep(Tiny):
    """Hooks that append to a list are called by the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.bus = trackers.Dispatcher()
        self.timeline = []
        self.bus.on(self.timeline.append)

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        self.bus.emit("updated")
        return results


class ReversedGradient(Tiny):
    """A custom gradient pops its factor from a list."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.reverse = elsewhere.reversal([0.1 * n for n in range(info.steps + 10)])

    def train_step(self, batch):
        def loss_fn():
            logits = self.reverse(self.logits(batch))
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)
