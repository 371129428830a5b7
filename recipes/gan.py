"""A generative adversarial network: two models, two optimizers, two updates in one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import keras
import tensorflow as tf

from modetrain import Bounds, ConfigError, Recipe


class Gan(Recipe):
    """A generator and a discriminator with the non-saturating loss (Goodfellow et al., 2014).

    Args:
      discriminator_speed: the discriminator's learning rate as a multiple of the generator's.
      samples: images shown in TensorBoard at each evaluation.
    """

    def __init__(
        self,
        *,
        model: Callable[..., tuple[keras.Model, keras.Model]],
        optimizer,
        info,
        discriminator_speed: Annotated[float, Bounds(above=0)] = 1.0,
        samples: Annotated[int, Bounds(at_least=1)] = 16,
    ):
        self.info = info
        models = model(info.image_shape, info.classes)
        if not isinstance(models, tuple):
            raise ConfigError("recipe=gan trains two models; the one chosen by model= is a single one. Type model=gan.")
        self.generator, self.discriminator = models
        self.generator_optimizer = optimizer(self.generator.trainable_variables)
        rate = self.generator_optimizer.settings.learning_rate * discriminator_speed
        self.discriminator_optimizer = optimizer(self.discriminator.trainable_variables, learning_rate=rate)
        self.latent = self.generator.input_shape[-1]
        self.samples = samples

    def train_step(self, batch):
        real = batch["image"]
        noise = self.noise(real.shape[0], self.seed("noise"))

        def discriminator_loss():
            fake = self.generator(noise, training=True)
            on_real = self.discriminator(real, training=True)
            on_fake = self.discriminator(fake, training=True)
            losses = bce(1.0, on_real) + bce(0.0, on_fake)
            return losses, {"real_taken": share(on_real > 0), "fake_caught": share(on_fake < 0)}

        def generator_loss():
            return bce(1.0, self.discriminator(self.generator(noise, training=True), training=True))

        discriminator = self.minimize(discriminator_loss, optimizer=self.discriminator_optimizer)
        generator = self.minimize(generator_loss, optimizer=self.generator_optimizer)
        return {
            "generator_loss": generator["loss"],
            "discriminator_loss": discriminator["loss"],
            "real_taken": discriminator["real_taken"],
            "fake_caught": discriminator["fake_caught"],
        }

    def eval_step(self, batch):
        real = batch["image"]
        fake = self.generator(self.noise(real.shape[0], self.seed("eval noise")), training=False)
        on_real = self.discriminator(real, training=False)
        on_fake = self.discriminator(fake, training=False)
        return {
            "generator_loss": bce(1.0, on_fake),
            "discriminator_loss": bce(1.0, on_real) + bce(0.0, on_fake),
            "real_taken": share(on_real > 0),
            "fake_caught": share(on_fake < 0),
            # Falls as samples spread over all digits; it knows nothing of sharpness.
            "mean_image_error": mean_error(real, fake),
        }

    def show(self):
        """Samples from noise that stays the same, so that one sees them change."""
        noise = self.noise(self.samples, tf.constant([self.info.seed, 0], tf.int32))
        return {"samples": self.generator(noise, training=False)}

    def noise(self, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Standard normal noise [count, latent]."""
        return tf.random.stateless_normal([count, self.latent], seed, dtype=keras.config.floatx())


def bce(target: float, logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy of each logit [n] against one target, at least float32."""
    logits = logits if logits.dtype == tf.float64 else tf.cast(logits, tf.float32)
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), tf.cast(target, logits.dtype)), logits)


def mean_error(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """How far the mean image of a batch is off. What is shown is the mean over batches, which is no mean over examples."""
    off = tf.reduce_mean(real, 0) - tf.reduce_mean(fake, 0)
    return tf.reduce_mean(tf.abs(off))  # modetrain: ignore MT707


def share(which: tf.Tensor) -> tf.Tensor:
    """1 where true, else 0: float32 [n]."""
    return tf.cast(which, tf.float32)
