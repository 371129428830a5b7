"""The batches of an evaluation: every example exactly once, the last batch as short as it has to be.

The replicas take whole batches in turn, so a value of a whole batch equals that of one device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.padding import Padding
from modetrain.data.prepared import Preparation
from modetrain.data.split import Split
from modetrain.engine.batching import BatchSharding, StackedBatches, fill_up, shapes

Tensors = dict[str, tf.Tensor]
MakeBatch = Callable[[tf.Tensor, int], Tensors]  # (index of the batch, number of its examples) -> the batch


class EvaluationBatches:
    """The batches of one evaluation split.

    Args:
      split: the examples.
      batch_size: examples in a batch.
      most: the most batches of one evaluation; None for all examples.
      preparation: prepares a batch.
      padding: pads a batch.
      sharding: the replicas.
      debug: prepare batches in this thread, and only when they are needed.
      make: makes a prepared batch from something else than consecutive examples of the split.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        most: int | None,
        preparation: Preparation,
        padding: Padding,
        sharding: BatchSharding,
        debug: bool = False,
        make: MakeBatch | None = None,
    ):
        self.split: Any = split
        self.batch_size = batch_size
        self._most = most
        self._preparation = preparation
        self._padding = padding
        self._sharding = sharding
        self._debug = debug
        self._make: MakeBatch = make or self._gather_batch

    @property
    def examples(self) -> int:
        """Number of examples in one evaluation; 0 for a stream whose length is not known."""
        most = None if self._most is None else self._most * self.batch_size
        if self.split.streamed and not self.split.examples:
            return most or 0 if self.split.endless else 0
        return self.split.examples if most is None else min(self.split.examples, most)

    def first(self, most: int) -> Tensors:
        """The first examples, at most `most`, as one batch."""
        if self.split.streamed:
            given = {name: tf.constant(value) for name, value in self.split.first(most).items()}
            return self._preparation(self._padding(given), tf.constant(0, tf.int64), training=False)
        return self._make(tf.constant(0, tf.int64), min(most, self.examples, self.batch_size))

    def check(self) -> None:
        """Traces `prepare`: what it returns is refused before the first step, not at the first evaluation.

        It does nothing where batches are debugged: then no batch is prepared before it is needed.
        """
        if self._preparation.prepare is not None and not self._debug and not self.split.streamed:
            _ = self._one_shape

    @functools.cached_property
    def _one_shape(self) -> bool:
        """Whether tracing shows that all batches but a short last one have one shape."""
        if self._preparation.prepare is None and not self._padding.axes:
            return True
        examples = min(self.examples, self.batch_size)
        traced = tf.function(lambda index: self._make(index, examples)).get_concrete_function(
            tf.TensorSpec([], tf.int64)
        )
        return all(value.shape.is_fully_defined() for value in traced.structured_outputs.values())

    def blocks(self, length: int) -> Iterator[StackedBatches]:
        """Blocks of up to `length` batches for each replica, all of one shape except a short last batch.

        Where shapes vary, the batches of one shape are evaluated together, so that the shape of a batch depends on nothing
        but the batch.
        """
        if self.split.streamed:
            yield from self._grouped(self._batches_of_stream(self.split), 1)  # how many there are shows when it ends
            return
        full, rest = divmod(self.examples, self.batch_size)
        rounds = -(-full // self._sharding.replicas)  # in a round every replica evaluates one batch
        length = max(1, min(length, rounds))
        if full and (self._debug or not self._one_shape):
            yield from self._grouped(self._each(full), length)
        elif full:
            for number, arrays in enumerate(self._in_pipeline(full, rounds, length)):
                yield self._block(arrays, number * length, min(length, rounds - number * length), full)
        if rest:
            yield self._short_block(self._make(tf.constant(full, tf.int64), rest), full)

    # --- private ----------------------------------------------------------------------------------------------------

    def _gather_batch(self, index: tf.Tensor, examples: int) -> Tensors:
        rows = index * self.batch_size + tf.range(examples, dtype=tf.int64)
        return self._preparation(self._padding(self.split.gather(rows), rows), index, training=False)

    def _round(self, number: tf.Tensor, full: int, make: MakeBatch) -> Tensors:
        """The batches of this process's replicas, [1, replicas, examples, ...]."""
        count, first, local = self._sharding.replicas, self._sharding.first, self._sharding.local
        # Beyond the last full batch a block is filled up with examples that are not counted.
        batches = [make(tf.minimum(number * count + first + i, full - 1), self.batch_size) for i in range(local)]
        return {name: tf.expand_dims(tf.stack([batch[name] for batch in batches]), 0) for name in batches[0]}

    def _each(self, full: int) -> Iterator[Tensors]:
        """The batches one by one, without a short last one."""
        if self._debug:
            return (self._make(tf.constant(index, tf.int64), self.batch_size) for index in range(full))
        made = tf.data.Dataset.range(full).map(
            lambda index: self._make(index, self.batch_size), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return iter(made.prefetch(2 * self._sharding.replicas))

    def _grouped(self, batches: Iterator[Tensors], length: int) -> Iterator[StackedBatches]:
        """Blocks of batches of one shape each, in rounds of a batch for every replica; all workers make every batch."""
        waiting: dict[tuple, list[tuple[int, Tensors]]] = {}
        for number, batch in enumerate(batches):
            if next(iter(batch.values())).shape[0] < self.batch_size:
                yield self._short_block(batch, number)
                continue
            found = waiting.setdefault(shapes(batch), [])
            found.append((number, batch))
            if len(found) == length * self._sharding.replicas:
                yield self._block_of(waiting.pop(shapes(batch)), length)
        for found in waiting.values():
            yield self._block_of(found, length)

    def _block_of(self, found: list[tuple[int, Tensors]], length: int) -> StackedBatches:
        """A block of the batches given; the last one fills it up, and is then not counted."""
        count, first, local = self._sharding.replicas, self._sharding.first, self._sharding.local
        places = np.arange(length)[:, np.newaxis] * count + np.arange(local) + first
        own = np.minimum(places, len(found) - 1)
        rounds = [fill_up([found[at][1] for at in row], local) for row in own]
        numbers = np.array([number for number, _ in found])[own]
        return StackedBatches(
            first=int(numbers[0, 0]),
            length=-(-len(found) // count),
            arrays={name: value[:, tf.newaxis] for name, value in fill_up(rounds, length).items()},
            numbers=tf.constant(numbers, tf.int64),
            counted=places < len(found),
        )

    def _in_pipeline(self, full: int, rounds: int, length: int) -> Iterator[Tensors]:
        def make_round(number):
            return self._round(number, full, self._make)

        yield from (
            tf.data.Dataset.range(-(-rounds // length) * length)
            .map(make_round, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(length, drop_remainder=True)
            .prefetch(2)
        )

    def _block(self, arrays: Tensors, first: int, length: int, full: int) -> StackedBatches:
        """A block of rounds from number `first` on; batches from number `full` on are not counted."""
        local, stacked = self._sharding.local, next(iter(arrays.values())).shape[0]
        rounds = np.arange(first, first + stacked)[:, np.newaxis]
        numbers = rounds * self._sharding.replicas + np.arange(local) + self._sharding.first
        return StackedBatches(
            first=int(numbers[0, 0]),
            length=length,
            arrays=arrays,
            numbers=tf.constant(numbers, tf.int64),
            counted=numbers < full,
        )

    def _short_block(self, batch: Mapping[str, tf.Tensor], number: int) -> StackedBatches:
        """The last batch: every replica evaluates it, but only the first one's result is counted."""
        local = self._sharding.local
        return StackedBatches(
            first=number,
            length=1,
            arrays={name: tf.stack([value] * local)[tf.newaxis, tf.newaxis] for name, value in batch.items()},
            numbers=tf.fill([1, local], tf.constant(number, tf.int64)),
            counted=(np.arange(local) + self._sharding.first == 0)[np.newaxis],
        )

    def _batches_of_stream(self, stream: Any) -> Iterator[Tensors]:
        batches = stream.pass_of_batches(self.batch_size)
        batches = batches.prefetch(2) if self._most is None else batches.take(self._most).prefetch(2)
        for number, given in enumerate(batches):
            yield self._preparation(self._padding(given), tf.constant(number, tf.int64), training=False)
