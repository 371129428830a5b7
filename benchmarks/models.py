"""The Keras models that every contender trains: one builder each, of the form a modetrain config names."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def mlp(
    image_shape: tuple[int, int, int], classes: int, *, hidden: Sequence[int] = (128,), dropout: float = 0.0
) -> keras.Model:
    """Dense layers: 784-128-10 for digits."""
    assert not dropout  # kept so that the keys of conf/model/mlp.yaml fit
    stack = [layers.Dense(units, activation="relu") for units in hidden]
    return keras.Sequential([keras.Input(image_shape), layers.Flatten(), *stack, layers.Dense(classes)])


def cnn(
    image_shape: tuple[int, int, int], classes: int, *, filters: Sequence[int] = (32, 64), dropout: float = 0.0
) -> keras.Model:
    """3x3 convolutions, each with ReLU and max-pooling, then one dense layer."""
    assert not dropout  # kept so that the keys of conf/model/cnn.yaml fit
    stages = [
        layer for count in filters for layer in (layers.Conv2D(count, 3, activation="relu"), layers.MaxPooling2D())
    ]
    return keras.Sequential([keras.Input(image_shape), *stages, layers.Flatten(), layers.Dense(classes)])
