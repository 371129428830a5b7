"""MT401: a plain number that TensorFlow or Keras keeps for the process changes between steps."""

from __future__ import annotations

import keras
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny


class DefaultSummaryStep(Tiny):
    def losses(self, batch):
        done = tf.summary.experimental.get_step() or 0  # expect MT401
        return super().losses(batch) / (1.0 + 0.1 * done)


class TellsTheStep(Callback):
    def on_step(self, trainer):
        tf.summary.experimental.set_step(trainer.step)  # expect MT405 (DefaultSummaryStep)


class ShrinkingEpsilon(Tiny):
    def losses(self, batch):
        return super().losses(batch) + keras.config.epsilon()  # expect MT401


class Shrinks(Callback):
    def on_step(self, trainer):
        keras.config.set_epsilon(1e-3 / (1 + trainer.step))  # expect MT405 (ShrinkingEpsilon)
