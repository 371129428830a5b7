"""The order of the training examples: a permutation for each epoch, computed and not stored.

Epochs follow each other without gaps: every example comes once before any comes again.
"""

from __future__ import annotations

import dataclasses
import hashlib

import tensorflow as tf

# Rounds of the cipher behind RandomIndexShuffle. With its default of 4 and small seeds, 40 examples are hardly shuffled and
# successive epochs of 60,000 are nearly alike; more rounds cost almost nothing.
_ROUNDS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Permutation:
    """The endless stream of training examples.

    Attributes:
      examples: number of examples.
      seed: the run's seed; another text makes another order.
      only: repeat this many from the beginning of the stream; 0 uses all.
      ordered: the examples are in the order of training already, without an end.
    """

    examples: int
    seed: int | str
    only: int = 0
    ordered: bool = False

    def rows(self, positions: tf.Tensor) -> tf.Tensor:
        """Rows of the training arrays at positions (int64) of the stream."""
        if self.only:
            positions = tf.math.floormod(positions, self.only)
        if self.ordered:
            return positions
        flat = tf.reshape(positions, [-1])
        epoch, index = flat // self.examples, flat % self.examples
        # The cipher takes only the low bits of each word of the seed, as few as 8 for few examples.
        seed = tf.stack([hash_numbers(epoch, f"{self.seed}/order/{word}") for word in range(3)], axis=1)
        rows = tf.raw_ops.RandomIndexShuffle(index=index, seed=seed, max_index=self.examples - 1, rounds=_ROUNDS)
        return tf.reshape(rows, tf.shape(positions))


def hash_numbers(numbers: tf.Tensor, name: str) -> tf.Tensor:
    """A hash (uint64) of each number (int64) that depends on the name: splitmix64 (Steele et al., 2014)."""
    word = tf.cast(numbers, tf.uint64) * 0x9E3779B97F4A7C15 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, shift)) * factor
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, 31))
