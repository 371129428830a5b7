"""Random draws as functions of the run's seed, a name and the step.

`Draws` sets every Keras `SeedGenerator` of a recipe at the start of each step. A dropout mask then depends on the seed, the
layer and the step, and on nothing that ran before. `named_seed` does the same for the user's own stateless draws.
`xla_random.py` makes the draws equal under XLA, and `replica_random.py` makes them equal over replicas.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import keras
import tensorflow as tf

# Keras folds a seed into int32 by this modulus before it draws; staying below it keeps the folding the identity.
_MODULUS = 2**31 - 2
# Odd and close to the golden ratio: successive steps land far apart, and no two steps of a run meet.
_STRIDE = 0x9E3779B1
_DRAWS_OF_A_PART = 2**16


class Draws:
    """The seed generators of a recipe.

    Args:
      states: by name the int64 [2] state variable of each generator.
      seed: the run's seed.
    """

    def __init__(self, states: Mapping[str, keras.Variable], seed: int):
        self.states = list(states.values())
        # Not from the generators' current state: restoring a checkpoint has changed it.
        self._bases = [zlib.crc32(f"{seed}/{name}".encode()) % _MODULUS for name in states]

    def seek(self, step: tf.Tensor | int, part: tf.Tensor | int = 0) -> None:
        """Sets every generator to the begin of micro-batch `part` (int32 scalar) of step `step` (int64 scalar)."""
        if not self.states:
            return
        offset = tf.math.floormod(tf.cast(step, tf.int64) * tf.constant(_STRIDE % _MODULUS, tf.int64), _MODULUS)
        for state, base in zip(self.states, self._bases, strict=True):
            first = tf.math.floormod(offset + base, _MODULUS)
            # The second word counts the draws made; no micro-batch makes enough to reach the next one's.
            state.assign(tf.stack([first, tf.cast(part, tf.int64) * _DRAWS_OF_A_PART]))


def named_seed(seed: int, name: str, step: tf.Tensor | int, part: tf.Tensor | int = 0) -> tf.Tensor:
    """An int32 [2] seed for `tf.random.stateless_*`: one for each (run seed, name, step, micro-batch)."""
    word = tf.constant(zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF, tf.int32)
    seed_of_step = tf.stack([word, tf.cast(tf.math.floormod(tf.cast(step, tf.int64), _MODULUS), tf.int32)])
    return tf.random.experimental.stateless_fold_in(seed_of_step, tf.cast(part, tf.int32))
