"""MT803: a data set whose order is not fixed."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class ShufflesUnseeded(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.extra = tf.data.Dataset.range(10).shuffle(10).batch(2)  # expect MT803


class MapsInAnyOrder(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.extra = tf.data.Dataset.range(10).map(  # expect MT803
            lambda n: n, num_parallel_calls=2, deterministic=False
        )
