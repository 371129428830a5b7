"""The models of the shipped recipes: functions (image_shape, classes) -> built Keras models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import keras
from keras import layers

from modetrain import Bounds, ConfigError, Length


def cnn(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    filters: Annotated[Sequence[int], Bounds(at_least=1), Length(at_least=1)] = (32, 64),
    dropout: Annotated[float, Bounds(at_least=0, below=1)] = 0.25,
) -> keras.Model:
    """Convolutions with batch normalisation and max-pooling, a stage per entry of `filters`, then one dense layer.

    Raises:
      ConfigError: when the images are too small to be halved by every stage.
    """
    most = min(image_shape[:2]).bit_length() - 1
    if len(filters) > most:
        given, fewer = (",".join(str(count) for count in some) for some in (filters, filters[:most]))
        least = 2 ** len(filters)
        raise ConfigError(
            f"model.filters=[{given}] with images of {image_shape[0]} x {image_shape[1]}: each filter is of a stage that "
            f"halves them, and they can be halved {most} times. Type "
            + (f"model.filters=[{fewer}], or " if most else "")
            + f"data.image_size=[{least},{least}]."
        )
    x = inputs = keras.Input(image_shape)
    for count in filters:
        x = layers.Conv2D(count, 3, padding="same", use_bias=False)(x)
        # Keras's default momentum of 0.99 lags behind for a thousand steps; evaluation would show it.
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="cnn")


def mlp(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: Annotated[Sequence[int], Bounds(at_least=1)] = (128,),
    dropout: Annotated[float, Bounds(at_least=0, below=1)] = 0.0,
) -> keras.Model:
    """Dense layers; a linear model where `hidden` is empty."""
    inputs = keras.Input(image_shape)
    x = layers.Flatten()(inputs)
    for units in hidden:
        x = layers.Dense(units, activation="relu")(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="mlp")


def gan(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    latent: Annotated[int, Bounds(at_least=1)] = 64,
    width: Annotated[int, Bounds(at_least=1)] = 32,
) -> tuple[keras.Model, keras.Model]:
    """A small DCGAN (Radford et al., 2016): (generator: noise [n, latent] -> images in [0, 1], discriminator: images -> logit [n]).

    Raises:
      ConfigError: when height or width is no multiple of 4: both halves halve or double it twice.
    """
    del classes
    height, breadth, channels = image_shape
    if height % 4 or breadth % 4:
        raise ConfigError(
            f"model=gan was given images of {height} x {breadth}: both must be multiples of 4. "
            f"Type data.image_size=[{-(-height // 4) * 4},{-(-breadth // 4) * 4}]."
        )
    noise = keras.Input((latent,))
    x = layers.Dense(height // 4 * (breadth // 4) * 2 * width, use_bias=False)(noise)
    x = layers.Reshape((height // 4, breadth // 4, 2 * width))(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2DTranspose(width, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Conv2DTranspose(channels, 4, strides=2, padding="same", activation="sigmoid")(x)
    generator = keras.Model(noise, x, name="generator")

    x = images = keras.Input(image_shape)
    for count in (width, 2 * width):
        x = layers.Conv2D(count, 4, strides=2, padding="same")(x)
        x = layers.Dropout(0.3)(layers.LeakyReLU(negative_slope=0.2)(x))
    x = layers.Reshape(())(layers.Dense(1)(layers.Flatten()(x)))
    return generator, keras.Model(images, x, name="discriminator")


def vae(
    image_shape: tuple[int, int, int],
    *,
    latent: Annotated[int, Bounds(at_least=1)] = 16,
    hidden: Annotated[int, Bounds(at_least=1)] = 256,
) -> tuple[keras.Model, keras.Model]:
    """Dense layers: (encoder: images -> means and log variances [n, 2 * latent], decoder: latents [n, latent] -> logits)."""
    images, latents = keras.Input(image_shape), keras.Input((latent,))
    x = layers.Dense(hidden, activation="relu")(layers.Flatten()(images))
    encoder = keras.Model(images, layers.Dense(2 * latent)(x), name="encoder")
    x = layers.Dense(hidden, activation="relu")(latents)
    x = layers.Reshape(image_shape)(layers.Dense(math.prod(image_shape))(x))
    return encoder, keras.Model(latents, x, name="decoder")


def actor_critic(*, hidden: Annotated[int, Bounds(at_least=1)] = 64) -> keras.Model:
    """A layer for the actor and one for the critic: states [n, 4] -> the logit of one of two actions, and a value: [n, 2]."""
    inputs = keras.Input((4,))
    heads = [layers.Dense(1)(layers.Dense(hidden, activation="tanh")(inputs)) for _ in range(2)]
    return keras.Model(inputs, layers.Concatenate()(heads), name="actor_critic")


def unet(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    filters: Annotated[Sequence[int], Bounds(at_least=1), Length(at_least=1)] = (16, 32, 64),
) -> keras.Model:
    """A U-Net, a level for each entry of `filters`: images -> logits of each pixel's class [n, h, w, classes].

    Raises:
      ConfigError: when height or width cannot be halved once for each level below the first.
    """
    whole = 2 ** (len(filters) - 1)
    if image_shape[0] % whole or image_shape[1] % whole:
        raise ConfigError(
            f"model=unet was given images of {image_shape[0]} x {image_shape[1]}: with {len(filters)} filters both must be "
            f"multiples of {whole}. Give images of such a size, or type model.filters= with fewer."
        )
    x = inputs = keras.Input(image_shape)
    skipped = []
    for level, count in enumerate(filters):
        x = layers.MaxPooling2D()(x) if level else x
        x = layers.Conv2D(count, 3, padding="same", activation="relu")(x)
        x = layers.LayerNormalization()(x)
        skipped.append(x)
    for count, beside in zip(filters[-2::-1], skipped[-2::-1], strict=True):
        x = layers.Conv2DTranspose(count, 2, strides=2)(x)
        x = layers.Conv2D(count, 3, padding="same", activation="relu")(layers.Concatenate()([x, beside]))
        x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Conv2D(classes, 1)(x), name="unet")


def embedding(
    image_shape: tuple[int, int, int],
    *,
    filters: Annotated[Sequence[int], Bounds(at_least=1), Length(at_least=1)] = (16, 32),
    size: Annotated[int, Bounds(at_least=1)] = 32,
) -> keras.Model:
    """Strided convolutions, then a dense layer: images -> embeddings [n, size]."""
    x = inputs = keras.Input(image_shape)
    for count in filters:
        x = layers.Conv2D(count, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Dense(size)(layers.Flatten()(x)), name="embedding")
