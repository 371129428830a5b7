"""What steps of `fourth` take from another module."""

from __future__ import annotations

import datetime
import json
import random

import numpy as np
import tensorflow as tf

TEMPERATURE = 1.0
_SEEN = {}


def set_temperature(value):
    """Called by whoever trains."""
    global TEMPERATURE
    TEMPERATURE = value  # expect MT405 (GlobalOfAnotherModule)


def softened(logits):
    """Logits at the temperature of this module."""
    return logits / TEMPERATURE  # expect MT401 (GlobalOfAnotherModule)


def hour_weight():
    """Examples seen at night count less."""
    now = datetime.datetime.now()  # expect MT302 (HourOfTheDay)
    return 0.5 + now.microsecond / 1e6


def weights_from(path):
    """Class weights that somebody may edit while a run goes on."""
    return np.asarray(json.loads(path.read_text()), np.float32)  # expect MT103 (ReadsJson)


def flipped(images):
    """Half of the time the features reversed."""
    if random.getrandbits(1):  # expect MT301 (CoinInHelper)
        return images[:, ::-1]
    return images


def mask_of(size):
    """A causal mask, made once a size."""
    if size not in _SEEN:
        _SEEN[size] = tf.linalg.band_part(tf.ones([size, size]), -1, 0)  # expect MT202 MT203 MT204 (MaskCache)
    return _SEEN[size]


class Curriculum:
    """Mixed into a recipe: hands out the difficulties one after the other."""

    def difficulty(self):
        """The next one."""
        if len(self.difficulties) > 1:
            return self.difficulties.pop(0)  # expect MT202 (Inherited)
        return self.difficulties[0]


class Hinge:
    """A loss with a margin that grows each time it is asked for."""

    def __init__(self, margin):
        self.margin = margin

    def __call__(self, labels, logits):
        self.margin = min(2.0, self.margin * 1.05)  # expect MT201 (GrowingMargin)
        right = tf.gather(logits, labels, batch_dims=1)[:, None]
        return tf.reduce_sum(tf.nn.relu(self.margin + logits - right), axis=1)
