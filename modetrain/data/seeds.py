"""A split without data, for steps that make their own: an example is nothing but a seed."""

from __future__ import annotations

import tensorflow as tf

from modetrain.data.permutation import hash_numbers
from modetrain.data.split import ENDLESS, Split

SEED = "seed"


class Seeds(Split):
    """Examples of one feature: `seed`, int32 [2], for `tf.random.stateless_*`.

    Args:
      seed: the run's seed.
      name: other names make other seeds.
      examples: how many there are.
    """

    in_memory = in_order = True

    def __init__(self, seed: int, name: str, *, examples: int = ENDLESS):
        super().__init__(examples, {SEED: (2,)}, {SEED: tf.int32})
        self._name = f"{seed}/{name}"

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """The seeds of `rows`, int64 of any shape."""
        return {SEED: tf.bitcast(hash_numbers(rows, self._name), tf.int32)}
