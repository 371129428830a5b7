"""Cart-poles as tensors (Barto, Sutton and Anderson, 1983): a cart is pushed left or right, and a pole on it is to stay up.

A state has the place of the cart, its speed, the pole's angle and its speed, in float64: modes round differently, and poles that
are rounded differently soon fall differently.
"""

from __future__ import annotations

import tensorflow as tf


def start(count: int, seed: tf.Tensor) -> tf.Tensor:
    """States [count, 4] in which every pole is nearly upright."""
    return tf.random.stateless_uniform([count, 4], seed, -0.05, 0.05, dtype=tf.float64)


def is_up(state: tf.Tensor) -> tf.Tensor:
    """Of states [n, 4] whether the cart is on its track and the pole within 12 degrees: bool [n]."""
    return (tf.abs(state[:, 0]) < 2.4) & (tf.abs(state[:, 2]) < 0.2095)


def move(state: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """The states [n, 4] 20 ms after a push to the left (0) or right (1)."""
    _, speed, angle, turning = tf.unstack(state, axis=1)
    sin, cos = tf.sin(angle), tf.cos(angle)
    push = (20 * action - 10 + 0.05 * turning**2 * sin) / 1.1  # a cart of 1 kg, a pole of 0.1 kg and 1 m
    turned = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    pushed = push - 0.05 * turned * cos / 1.1
    return state + 0.02 * tf.stack([speed, pushed, turning, turned], axis=1)
