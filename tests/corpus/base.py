"""What the cases share: a recipe with one dense layer, on batches of 8 examples `x` [8, 4] and `label` [8] of 3 classes."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from modetrain import Recipe
from modetrain.engine.optimizer import Optimizer
from modetrain.recipe import Info
from modetrain.settings import OptimizerSettings

BATCH_SIZE = 8


class Tiny(Recipe):
    """Softmax classification by one dense layer; cases override what they plant something in."""

    modes = ("xla",)

    def logits(self, batch):
        return self.model(batch["x"], training=True)

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch))

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch))


class Shared(Tiny):
    """For several replicas."""

    modes = ("mirrored",)


def varied(image_shape, classes):
    """The model with weights that differ."""
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(3))]
    )


def two_layers(image_shape, classes):
    """A model with a hidden layer."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                5, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(1), name="body"
            ),
            keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(2), name="head"),
        ]
    )


class Varied(Tiny):
    """With weights that differ."""

    build_model = staticmethod(varied)


class Base(Tiny):
    """Hands the maker of optimizers to a `setup` of the recipe."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.setup(optimizer)

    def setup(self, optimizer):
        """For subclasses."""


def batches():
    """Two batches; the second shares no example with the first."""
    rng = np.random.default_rng(0)
    return [
        {"x": rng.normal(size=(BATCH_SIZE, 4)).astype(np.float32), "label": np.arange(BATCH_SIZE, dtype=np.int32) % 3}
        for _ in range(2)
    ]


def dense(image_shape, classes):
    """The model."""
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(classes, kernel_initializer="ones")])


def made(cls):
    """A recipe of a class."""
    settings = OptimizerSettings(name="sgd", learning_rate=0.1)

    def optimizer(variables, **changes):
        return Optimizer(variables, settings, steps=10)

    info = Info(
        image_shape=(2, 2, 1), classes=3, train_examples=16, eval_examples=16, batch_size=BATCH_SIZE, steps=10, seed=0
    )
    return cls(model=getattr(cls, "build_model", dense), optimizer=optimizer, info=info)
