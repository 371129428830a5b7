"""The batches of an evaluation: every example exactly once, the last batch as short as it has to be.

The replicas take whole batches in turn, so a value of a whole batch equals that of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from modetrain.data.prepared import Preparation
from modetrain.data.split import Split
from modetrain.data.stream import Stream
from modetrain.engine.batching import BatchSharding, StackedBatches

Tensors = dict[str, tf.Tensor]
MakeBatch = Callable[[tf.Tensor, int], Tensors]  # (index of the batch, number of its examples) -> the batch


class EvaluationBatches:
    """The batches of one evaluation split.

    Args:
      split: the examples.
      batch_size: examples in a batch.
      most: the most batches of one evaluation; None for all examples.
      preparation: prepares a batch.
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
        sharding: BatchSharding,
        debug: bool = False,
        make: MakeBatch | None = None,
    ):
        self.split = split
        self.batch_size = batch_size
        self._most = most
        self._preparation = preparation
        self._sharding = sharding
        self._debug = debug
        self._make: MakeBatch = make or self._gather_batch

    @property
    def examples(self) -> int:
        """Number of examples in one evaluation; 0 for a stream whose length is not known."""
        most = None if self._most is None else self._most * self.batch_size
        if isinstance(self.split, Stream) and not self.split.examples:
            return most or 0 if self.split.endless else 0
        return self.split.examples if most is None else min(self.split.examples, most)

    def first(self, most: int) -> Tensors:
        """The first examples, at most `most`, as one batch."""
        if isinstance(self.split, Stream):
            given = {name: tf.constant(value) for name, value in self.split.first(most).items()}
            return self._preparation(given, tf.constant(0, tf.int64), training=False)
        return self._make(tf.constant(0, tf.int64), min(most, self.examples, self.batch_size))

    def check(self) -> None:
        """Traces `prepare`: what it returns is refused before the first step, not at the first evaluation.

        It does nothing where batches are debugged: then no batch is prepared before it is needed.
        """
        if self._preparation.prepare is None or self._debug or isinstance(self.split, Stream):
            return
        examples = min(self.examples, self.batch_size)
        tf.function(lambda index: self._make(index, examples)).get_concrete_function(tf.TensorSpec([], tf.int64))

    def blocks(self, length: int) -> Iterator[StackedBatches]:
        """Blocks of up to `length` batches for each replica, all of one shape except a short last batch."""
        if isinstance(self.split, Stream):
            yield from self._blocks_of_stream(self.split)
            return
        full, rest = divmod(self.examples, self.batch_size)
        rounds = -(-full // self._sharding.replicas)  # in a round every replica evaluates one batch
        length = max(1, min(length, rounds))
        if full:
            arrays_of_blocks = self._in_python if self._debug else self._in_pipeline
            for number, arrays in enumerate(arrays_of_blocks(full, rounds, length)):
                yield self._block(arrays, number * length, min(length, rounds - number * length), full)
        if rest:
            yield self._short_block(self._make(tf.constant(full, tf.int64), rest), full)

    # --- private ----------------------------------------------------------------------------------------------------

    def _gather_batch(self, index: tf.Tensor, examples: int) -> Tensors:
        rows = index * self.batch_size + tf.range(examples, dtype=tf.int64)
        return self._preparation(self.split.gather(rows), index, training=False)

    def _round(self, number: tf.Tensor, full: int, make: MakeBatch) -> Tensors:
        """The batches of this process's replicas, [1, replicas, examples, ...]."""
        count, first, local = self._sharding.replicas, self._sharding.first, self._sharding.local
        # Beyond the last full batch a block is filled up with examples that are not counted.
        batches = [make(tf.minimum(number * count + first + i, full - 1), self.batch_size) for i in range(local)]
        return {name: tf.expand_dims(tf.stack([batch[name] for batch in batches]), 0) for name in batches[0]}

    def _in_python(self, full: int, rounds: int, length: int) -> Iterator[Tensors]:
        last: dict[int, Tensors] = {}

        def once(index, examples):  # a batch that fills up a block is not prepared again
            if int(index) not in last:
                last.clear()
                last[int(index)] = self._make(index, examples)
            return last[int(index)]

        for start in range(0, rounds, length):
            batches = [self._round(tf.constant(start + n, tf.int64), full, once) for n in range(length)]
            yield {name: tf.stack([batch[name] for batch in batches]) for name in batches[0]}

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

    def _blocks_of_stream(self, stream: Stream) -> Iterator[StackedBatches]:
        """A round a block: how many batches there are shows when the stream ends."""
        batches = stream.dataset.batch(self.batch_size, num_parallel_calls=tf.data.AUTOTUNE)
        batches = batches.prefetch(2) if self._most is None else batches.take(self._most).prefetch(2)
        waiting: list[Tensors] = []
        number = 0
        for given in batches:
            whole = next(iter(given.values())).shape[0] == self.batch_size
            batch = self._preparation(given, tf.constant(number + len(waiting), tf.int64), training=False)
            if not whole:
                yield from self._round_of_stream(waiting, number)
                yield self._short_block(batch, number + len(waiting))
                return
            waiting.append(batch)
            if len(waiting) == self._sharding.replicas:
                yield from self._round_of_stream(waiting, number)
                number, waiting = number + len(waiting), []
        yield from self._round_of_stream(waiting, number)

    def _round_of_stream(self, batches: list[Tensors], number: int) -> Iterator[StackedBatches]:
        if batches:
            full = number + len(batches)

            def make(index: tf.Tensor, examples: int) -> Tensors:
                return batches[int(index) - number]

            first = tf.constant(number // self._sharding.replicas, tf.int64)
            arrays = {name: value[tf.newaxis] for name, value in self._round(first, full, make).items()}
            yield self._block(arrays, int(first), 1, full)
