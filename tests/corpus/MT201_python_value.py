"""MT201: changes a Python value."""

from __future__ import annotations

import contextvars
import functools
from collections import deque

import keras
import tensorflow as tf

from tests.corpus import elsewhere, trackers
from tests.corpus.base import Tiny


class SharedThing:
    instances = 0
    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


thing = SharedThing()


class CountsInASlot(Tiny):
    def losses(self, batch):
        thing.value += 1  # expect MT201
        return super().losses(batch)


class RotatesADeque(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.window = deque([1.0, 2.0, 3.0])

    def losses(self, batch):
        self.window.rotate(1)  # expect MT202 MT201
        return super().losses(batch) * self.window[0]


class GradientWithState(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.strength = 1.0

    def reversed(self, x):
        @tf.custom_gradient
        def flip(x):
            def backward(upstream):
                self.strength = self.strength * 0.8  # expect MT201
                return -self.strength * upstream

            return tf.identity(x), backward

        return flip(x)

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.reversed(self.logits(batch)))


class DescriptorDecay(Tiny):
    """Reading an attribute changes it."""

    modes = ("graph",)
    noise_weight = trackers.Decaying(1.0, 0.5)

    def losses(self, batch):
        return super().losses(batch) + self.noise_weight * tf.reduce_mean(self.logits(batch) ** 2, -1)


class SwitchTally(Tiny):
    """Each branch of a switch raises its own weight."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.uses = [0, 0, 0]

    def losses(self, batch):
        def branch(i):
            self.uses[i] += 1  # expect MT201
            return tf.constant(float(i))

        chosen = tf.switch_case(batch["label"][1], [functools.partial(branch, i) for i in range(3)])
        return super().losses(batch) * (1.0 + chosen + sum(self.uses))


class ScaledBlock(Tiny):
    """A contextmanager function multiplies the loss scale at the end."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.scale = 1.0

    def train_step(self, batch):
        with elsewhere.scaled(self, 0.5) as scale:
            results = self.minimize(lambda: scale * self.losses(batch))
        return results


VAR = contextvars.ContextVar("VAR", default=0)


class ContextVariable(Tiny):
    def losses(self, batch):
        VAR.set(VAR.get() + 1)  # expect MT201
        return super().losses(batch) / (1.0 + VAR.get())


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


class AnnealedSlope(Tiny):
    """Anneals an attribute of a Keras layer."""

    modes = ("graph",)
    build_model = stacked(lambda: keras.layers.LeakyReLU(negative_slope=0.8))

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        self.model.layers[0].negative_slope *= 0.5  # expect MT201
        return result
