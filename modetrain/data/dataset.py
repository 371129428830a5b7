"""Batches as functions of (seed, step): any batch can be made, and blocks of batches stream from any step on.

    data.batch(step)              one training batch, as `Recipe.prepare` makes it
    data.train_blocks(first, K)   endless blocks of K batches each, for steps first, first + K, ...
    data.eval_blocks(K)           every evaluation example exactly once; the last batch may be short

A training batch is sharded over the replicas, so together they see the batch of one device. In evaluation the replicas
take whole batches in turn, so a value of a whole batch also equals that of one device.

The order is computed and not stored (`permutation.py`): seeking costs nothing, and a resumed run needs no saved iterator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from modetrain.data import aligned, prepared
from modetrain.data.permutation import Permutation
from modetrain.data.sources.source import Source
from modetrain.engine.batching import BatchSharding, StackedBatches
from modetrain.engine.random import named_seed
from modetrain.errors import ConfigError, nearest_multiple
from modetrain.settings import DataSettings

# Memory for the batches of one call, which bounds `steps_per_call=auto`.
_BLOCK_BYTES = 64 * 2**20
_MOST_STEPS = 100

Prepare = Callable[..., dict[str, tf.Tensor]]


class Data:
    """Batches of a source as functions of (seed, step).

    Args:
      source: the examples, in host memory.
      settings: see `DataSettings`.
      seed: the run's seed.
      prepare: `Recipe.prepare`.
      sharding: how a training batch is sharded.
      debug: prepare batches in this thread, one at a time and only when they are needed. A breakpoint in `prepare` then
        stops at the batch of the next step.

    Attributes:
      source: as given.
      settings: as given.
      sharding: as given.

    Raises:
      ConfigError: a batch cannot be sharded equally, or there are too few examples for one or for `overfit`.
    """

    def __init__(
        self,
        source: Source,
        settings: DataSettings,
        *,
        seed: int,
        prepare: Prepare | None = None,
        sharding: BatchSharding | None = None,
        debug: bool = False,
    ):
        self.source = source
        self.settings = settings
        self.sharding = sharding or BatchSharding()
        self._seed = seed
        self._prepare = prepare
        self._prepare_name = prepared.describe(prepare) if prepare is not None else ""
        self._debug = debug
        self._train_size = _size(source.train)
        self._check_sharding()
        self._check_size()
        if self._overfit_examples > self._train_size:
            most = self._train_size // settings.batch_size
            raise ConfigError(
                f"data.overfit={settings.overfit} with data.batch_size={settings.batch_size}: there are only "
                f"{self._train_size:,} training examples, so some would come twice. Type data.overfit={max(most, 1)}"
                + (f" data.batch_size={self._train_size}." if not most else ".")
            )
        self._order = Permutation(examples=self._train_size, seed=seed, only=self._overfit_examples)
        with tf.device("CPU:0"):  # the input pipeline gathers there
            shared = source.kind != "arrays"  # those are the caller's, and may change
            self._train = {name: aligned.to_tensor(array, shared=shared) for name, array in source.train.items()}
            evaluation = {} if settings.overfit else source.eval
            self._eval = {name: aligned.to_tensor(array, shared=shared) for name, array in evaluation.items()}

    @property
    def prepares(self) -> bool:
        """Whether whole batches are prepared before they are sharded."""
        return self._prepare is not None

    @property
    def eval_examples(self) -> int:
        """Number of examples in one evaluation."""
        size = self._overfit_examples if self.settings.overfit else _size(self.source.eval)
        batches = self.settings.eval_batches
        return size if batches is None else min(size, batches * self._eval_batch_size)

    def examples(self) -> dict[str, np.ndarray]:
        """The first batch_size training examples, as the source holds them."""
        return {name: array[: self.settings.batch_size] for name, array in self.source.train.items()}

    def batch(self, step: int) -> dict[str, tf.Tensor]:
        """The training batch of one step: by feature a tensor [batch_size, ...]."""
        return self._train_batch(tf.constant(step, tf.int64))

    def eval_batch(self, most: int) -> dict[str, tf.Tensor]:
        """The first evaluation examples, at most `most`, as one batch."""
        if self.settings.overfit:
            return {name: value[:most] for name, value in self.batch(0).items()}
        rows = tf.range(min(most, self.eval_examples), dtype=tf.int64)
        return self._prepare_batch(self._gather(self._eval, rows), tf.constant(0, tf.int64), training=False)

    def steps_that_fit(self) -> int:
        """Resolves `mode.steps_per_call=auto`: as many training batches as fit 64 MiB, at most 100.

        It is 1 where batches are debugged: no batch is prepared before its step, not even to measure its size.
        """
        if self._debug:
            return 1
        # Traced and not made: a batch that fails must fail in the loader, which retries and names it.
        try:
            traced = tf.function(self._train_batch).get_concrete_function(tf.TensorSpec([], tf.int64))
        except Exception:
            return 1
        batch = traced.structured_outputs
        if not all(value.shape.is_fully_defined() for value in batch.values()):
            batch = self.batch(0)
        size = sum(int(np.prod(t.shape.as_list())) * t.dtype.size for t in batch.values())
        size = size * self.sharding.local // self.sharding.replicas
        return int(np.clip(_BLOCK_BYTES // max(size, 1), 1, _MOST_STEPS))

    def check_evaluation(self) -> None:
        """Traces `prepare` for evaluation: what it returns is refused before the first step, not at the first evaluation.

        It does nothing where batches are debugged: then no batch is prepared before it is needed.
        """
        if self._prepare is None or self._debug or self.settings.overfit or not self.eval_examples:
            return
        examples = min(self.eval_examples, self._eval_batch_size)
        tf.function(lambda index: self._eval_batch(index, examples)).get_concrete_function(tf.TensorSpec([], tf.int64))

    def train_blocks(self, first: int, length: int, *, skipped: int = 0) -> Iterator[StackedBatches]:
        """Endless training blocks of `length` batches; the first batch belongs to step `first`.

        Args:
          first: a step.
          length: number of batches in a block.
          skipped: number of batches left out before: step `n` gets batch `n + skipped`.
        """
        for arrays in self._train_arrays(first + skipped, length):
            yield StackedBatches.from_shards(arrays, first, self.sharding)
            first += length

    def eval_blocks(self, length: int) -> Iterator[StackedBatches]:
        """Blocks of up to `length` evaluation batches for each replica, all of one shape except a short last batch.

        With `overfit` they are the training batches themselves.
        """
        size, batch_size = self.eval_examples, self._eval_batch_size
        full, rest = divmod(size, batch_size)
        count, first, local = self.sharding.replicas, self.sharding.first, self.sharding.local
        rounds = -(-full // count)  # in a round every replica evaluates one batch
        length = max(1, min(length, rounds))

        def prepare(index, examples):
            return self._train_batch(index) if self.settings.overfit else self._eval_batch(index, examples)

        def make_round(number, prepare=prepare):
            # Beyond the last full batch a block is filled up with examples that are not counted.
            batches = [prepare(tf.minimum(number * count + first + i, full - 1), batch_size) for i in range(local)]
            return {name: tf.expand_dims(tf.stack([b[name] for b in batches]), 0) for name in batches[0]}

        def iter_in_python():
            last: dict[int, dict[str, tf.Tensor]] = {}

            def once(index, examples):  # a batch that fills up a block is not prepared again
                if int(index) not in last:
                    last.clear()
                    last[int(index)] = prepare(index, examples)
                return last[int(index)]

            for start in range(0, rounds, length):
                batches = [make_round(tf.constant(start + n, tf.int64), once) for n in range(length)]
                yield {name: tf.stack([batch[name] for batch in batches]) for name in batches[0]}

        def iter_in_pipeline():
            return (
                tf.data.Dataset.range(-(-rounds // length) * length)
                .map(make_round, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                .batch(length, drop_remainder=True)
                .prefetch(2)
            )

        if full:
            for number, arrays in enumerate(iter_in_python() if self._debug else iter_in_pipeline()):
                here = (
                    np.arange(number * length, (number + 1) * length)[:, np.newaxis] * count + np.arange(local) + first
                )
                yield StackedBatches(
                    first=int(here[0, 0]),
                    length=min(length, rounds - number * length),
                    arrays=arrays,
                    numbers=tf.constant(here, tf.int64),
                    counted=here < full,
                )
        if rest:  # every replica evaluates it, but only the first one's result is counted
            arrays = prepare(tf.constant(full, tf.int64), rest)
            yield StackedBatches(
                first=full,
                length=1,
                arrays={name: tf.stack([value] * local)[tf.newaxis, tf.newaxis] for name, value in arrays.items()},
                numbers=tf.fill([1, local], tf.constant(full, tf.int64)),
                counted=(np.arange(local) + first == 0)[np.newaxis],
            )

    # --- private ----------------------------------------------------------------------------------------------------

    def _check_sharding(self) -> None:
        size, parts, replicas = self.settings.batch_size, self.sharding.parts, self.sharding.replicas
        if size % (parts * replicas):
            over = f"{replicas} replicas" + (f" and optimizer.accumulate={parts}" if parts > 1 else "")
            nearest = nearest_multiple(size, parts * replicas)
            raise ConfigError(
                f"data.batch_size={size} over {over}: every replica gets an equal share of the batch, and "
                f"{parts * replicas} does not divide {size}. Type data.batch_size={nearest}."
            )

    def _check_size(self) -> None:
        given, shares = self.settings.batch_size, self.sharding.parts * self.sharding.replicas
        if given <= self._train_size or self.settings.overfit:
            return
        most = self._train_size // shares * shares
        fix = f"Type data.batch_size={most} or less." if most else f"At least {shares} examples are needed."
        raise ConfigError(
            f"data.batch_size={given}: there are only {self._train_size:,} training examples, so a batch would hold some "
            f"more than once. {fix}"
        )

    def _train_arrays(self, first: int, length: int) -> Iterator[dict[str, tf.Tensor]]:
        """The arrays of successive blocks."""
        most = np.iinfo(np.int64).max - length
        if self._debug:
            while True:
                batches = [self._train_shards(tf.constant(first + index, tf.int64)) for index in range(length)]
                yield {name: tf.stack([batch[name] for batch in batches]) for name in batches[0]}
                first += length
        if self._prepare is None:
            # Without a `prepare` of the recipe one gather makes a whole block, and only this process's part of it.
            def gather(start):
                rows = self._train_indices(start + tf.range(length, dtype=tf.int64))
                return self._gather(self._train, self.sharding.shard(rows, axis=1))

            blocks = tf.data.Dataset.range(first, most, length).map(
                gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
        else:
            blocks = tf.data.Dataset.range(first, most).map(
                self._train_shards, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
            blocks = blocks.batch(length, drop_remainder=True)
        yield from blocks.prefetch(2)

    @property
    def _overfit_examples(self) -> int:
        return self.settings.overfit * self.settings.batch_size

    @property
    def _eval_batch_size(self) -> int:
        return self.settings.batch_size if self.settings.overfit else self.settings.eval_batch_size

    def _train_indices(self, steps: tf.Tensor) -> tf.Tensor:
        batch_size = self.settings.batch_size
        positions = steps[..., tf.newaxis] * batch_size + tf.range(batch_size, dtype=tf.int64)
        return tf.ensure_shape(self._order.rows(positions), [*steps.shape, batch_size])

    def _gather(self, arrays: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.gather(array, rows) for name, array in arrays.items()}

    def _train_batch(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        # A batch of `overfit` is the same each time it returns, with the same augmentation.
        draw = step % self.settings.overfit if self.settings.overfit else step
        return self._prepare_batch(self._gather(self._train, self._train_indices(step)), draw, training=True)

    def _eval_batch(self, index: tf.Tensor, examples: int) -> dict[str, tf.Tensor]:
        positions = index * self._eval_batch_size + tf.range(examples, dtype=tf.int64)
        return self._prepare_batch(self._gather(self._eval, positions), index, training=False)

    def _train_shards(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: self.sharding.shard(value) for name, value in self._train_batch(step).items()}

    def _prepare_batch(self, batch: dict[str, tf.Tensor], index: tf.Tensor, *, training: bool) -> dict[str, tf.Tensor]:
        if self._prepare is None:
            return batch
        seed = named_seed(self._seed, "prepare" if training else "prepare/eval", index)
        examples = next(iter(batch.values())).shape[0]
        returned = self._prepare(batch, seed=seed, training=training)
        return prepared.check(returned, examples=examples, where=self._prepare_name, training=training)


def _size(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values()), ()))
