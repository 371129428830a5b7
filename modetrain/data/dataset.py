"""Batches as functions of (seed, step): any batch can be made, and blocks of batches stream from any step on.

    data.batch(step)              one training batch, as `Recipe.prepare` makes it
    data.train_blocks(first, K)   endless blocks of K batches each, for steps first, first + K, ...
    data.evaluations["test"]      the batches of an evaluation split, see `evaluation_batches.py`

A training batch is sharded over the replicas, so together they see the batch of one device.

The order is computed and not stored (`permutation.py`): seeking costs nothing, and a resumed run needs no saved iterator.
Only a stream is read again up to the step.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import tensorflow as tf

from modetrain.data.evaluation_batches import EvaluationBatches
from modetrain.data.padding import Padding, lengths_for
from modetrain.data.permutation import Permutation
from modetrain.data.prepared import Preparation, Prepare
from modetrain.data.source import Source
from modetrain.data.split import ENDLESS, Split
from modetrain.engine.batching import BatchSharding, StackedBatches, runs
from modetrain.errors import ConfigError, nearest_multiple
from modetrain.settings import DataSettings

log = logging.getLogger(__name__)

# Memory for the batches of one call, which bounds `steps_per_call=auto`.
_BLOCK_BYTES = 64 * 2**20
_MOST_STEPS = 100
_MOST_IN_A_RUN = 8  # successive batches of one length among several; what fills up a stack is copied for nothing


class Data:
    """Batches of a source as functions of (seed, step).

    Args:
      source: the examples.
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
      lengths: what features of varying length are padded to; empty if none varies.
      evaluations: the batches of each evaluation split by name; the name is empty where there is one split. With
        `overfit` they are the training batches themselves.

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
        self._preparation = Preparation(prepare, seed)
        self._debug = debug
        self._train = cast(Any, source.train.for_run(seed))  # a `Stream` where it is `streamed`
        self._check_sharding()
        splits = {"the training split": self._train} | {
            f"the evaluation split {name}".rstrip(): split for name, split in source.evals.items()
        }
        self.lengths = lengths_for(splits, settings)
        self._padding = self._make_padding(self._train, "the training split")
        if self._train.streamed:
            if settings.overfit:
                self._train = self._train.take(self._overfit_examples)
        else:
            self._check_size()
            self._order = Permutation(
                examples=self._train.examples,
                seed=seed,
                only=self._overfit_examples,
                ordered=self._train.in_order,
            )
        self.evaluations = self._make_evaluations()
        for split in (self._train, *(batches.split for batches in self.evaluations.values())):
            split.load()

    def _make_padding(self, split: Split, name: str) -> Padding:
        return Padding(split, train=self._train, lengths=self.lengths, longer=self.settings.longer, name=name)

    def with_one_length(self) -> Data:
        """The same training batches, all padded to the largest of `lengths`: what compares or judges steps takes one shape."""
        other = copy.copy(self)
        other.lengths = self.lengths[-1:]
        other._padding = other._make_padding(self._train, "the training split")
        return other

    def _make_evaluations(self) -> dict[str, EvaluationBatches]:
        settings = self.settings
        common: dict[str, Any] = {
            "preparation": self._preparation,
            "sharding": self.sharding,
            "most": settings.eval_batches,
            "debug": self._debug,
        }
        if settings.overfit:
            split: Any = self._train if self._train.streamed else Split(self._overfit_examples)

            def train_batch(index: tf.Tensor, examples: int) -> dict[str, tf.Tensor]:
                return {name: value[:examples] for name, value in self._train_batch(index).items()}

            common["padding"] = self._padding
            return {"": EvaluationBatches(split, batch_size=settings.batch_size, make=train_batch, **common)}
        found = {}
        for name, split in self.source.evals.items():
            padding = self._make_padding(split, f"the evaluation split {name}".rstrip())
            found[name] = EvaluationBatches(split, padding=padding, batch_size=settings.eval_batch_size, **common)
            if split.streamed and split.endless and settings.eval_batches is None:
                raise ConfigError(
                    f"the evaluation split{f' {name}' if name else ''} is a stream without an end. Type data.eval_batches=N, the "
                    "number of batches of an evaluation."
                )
        return found

    @property
    def prepares(self) -> bool:
        """Whether whole batches are prepared before they are sharded."""
        return self._preparation.prepare is not None

    @property
    def train_examples(self) -> int | None:
        """Number of training examples; None for a stream whose length is not known, and without data."""
        examples = self.source.train.examples
        return examples if 0 < examples < ENDLESS else None

    @property
    def eval_examples(self) -> int | None:
        """Number of examples in one evaluation of all splits; None for a stream whose length is not known."""
        sizes = [batches.examples for batches in self.evaluations.values()]
        return sum(sizes) if all(sizes) else None

    @property
    def position(self) -> str:
        """How a run comes to its step: `exact`, by computing which examples belong to it, or `re-read`."""
        return "re-read" if self._train.streamed else "exact"

    @property
    def reproducible(self) -> bool:
        """Whether the training examples are the same when they are read again, as far as the first ones show it."""
        return not self._train.streamed or self._train.reproducible

    def log_notes(self) -> None:
        """Logs what the start of a run says of its batches: their lengths, and what of them is not exact."""
        if self._padding.axes:
            names = ", ".join(self._padding.axes)
            *some, last = map(str, self.lengths)
            to = f"the smallest of {', '.join(some)} and {last} that holds its longest example" if some else last
            traced = f"; each of the {len(self.lengths)} is traced once" if some else ""
            log.info(f"data: {names} var{'y' if ',' in names else 'ies'} in length: a batch is padded to {to}{traced}")
        if self._train.streamed:
            log.info(
                "data: the position in a stream is re-read: a resumed run reads it from its beginning up to its step"
            )
            if not self.reproducible:
                log.warning(
                    "data: the training stream gives other examples when it is read a second time, so a resumed run, a retry "
                    "and a replay see other batches than the run did. Give shuffle a seed, and hand over a function that returns "
                    "the tf.data.Dataset instead of the Dataset itself: it is called for each reading"
                )

    def examples(self) -> dict[str, np.ndarray]:
        """The first batch_size training examples, as the source holds them."""
        return self.source.train.first(self.settings.batch_size)

    def batch(self, step: int) -> dict[str, tf.Tensor]:
        """The training batch of one step: by feature a tensor [batch_size, ...]."""
        if self._train.streamed:
            given = self._padding(next(iter(self._train.batches(self.settings.batch_size, step))))
            return self._preparation(given, self._draw(tf.constant(step, tf.int64)), training=True)
        return self._train_batch(tf.constant(step, tf.int64))

    def eval_batch(self, most: int) -> dict[str, tf.Tensor]:
        """The first evaluation examples, at most `most`, as one batch."""
        return next(iter(self.evaluations.values())).first(most)

    def steps_that_fit(self) -> int:
        """Resolves `mode.steps_per_call=auto`: as many training batches as fit 64 MiB, at most 100.

        It is 1 where batches are debugged: no batch is prepared before its step, not even to measure its size.
        """
        if self._debug:
            return 1
        # Traced and not made: a batch that fails must fail in the loader, which retries and names it.
        try:
            shapes = {name: (shape, dtype.size) for name, (shape, dtype) in self._batch_spec().items()}
        except Exception:
            return 1
        if not all(shape.is_fully_defined() for shape, _ in shapes.values()):
            shapes = {name: (value.shape, value.dtype.size) for name, value in self.with_one_length().batch(0).items()}
        size = sum(int(np.prod(shape.as_list())) * width for shape, width in shapes.values())
        size = size * self.sharding.local // self.sharding.replicas
        return int(np.clip(_BLOCK_BYTES // max(size, 1), 1, _MOST_IN_A_RUN if len(self.lengths) > 1 else _MOST_STEPS))

    def check_evaluation(self) -> None:
        """Traces `prepare` for evaluation: what it returns is refused before the first step, not at the first evaluation.

        It does nothing where batches are debugged: then no batch is prepared before it is needed.
        """
        for batches in self.evaluations.values() if not self.settings.overfit else ():
            batches.check()

    def train_blocks(self, first: int, length: int, *, skipped: int = 0) -> Iterator[StackedBatches]:
        """Endless training blocks of at most `length` batches of one shape; the first batch belongs to step `first`.

        Args:
          first: a step.
          length: number of batches in a block.
          skipped: number of batches left out before: step `n` gets batch `n + skipped`.
        """
        for arrays, count in self._train_arrays(first + skipped, length):
            yield StackedBatches.from_shards(arrays, first, self.sharding, length=count)
            first += count

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
        settings, there = self.settings, self._train.examples
        given, shares = settings.batch_size, self.sharding.parts * self.sharding.replicas
        if self._overfit_examples > there:
            most = there // given
            raise ConfigError(
                f"data.overfit={settings.overfit} with data.batch_size={given}: there are only "
                f"{there:,} training examples, so some would come twice. Type data.overfit={max(most, 1)}"
                + (f" data.batch_size={there}." if not most else ".")
            )
        if given <= there or settings.overfit:
            return
        most = there // shares * shares
        fix = f"Type data.batch_size={most} or less." if most else f"At least {shares} examples are needed."
        raise ConfigError(
            f"data.batch_size={given}: there are only {there:,} training examples, so a batch would hold some "
            f"more than once. {fix}"
        )

    def _batch_spec(self) -> dict[str, tuple[tf.TensorShape, tf.DType]]:
        """Shape and dtype of each feature of a training batch, as far as tracing shows them."""
        if self._train.streamed:
            size, step = self.settings.batch_size, tf.TensorSpec([], tf.int64)
            given = {n: tf.TensorSpec([size, *s], self._train.dtypes[n]) for n, s in self._train.shapes.items()}
            traced = tf.function(lambda batch, index: self._preparation(self._padding(batch), index, training=True))
            concrete = traced.get_concrete_function(given, step)
        else:
            concrete = tf.function(self._train_batch).get_concrete_function(tf.TensorSpec([], tf.int64))
        return {name: (value.shape, value.dtype) for name, value in concrete.structured_outputs.items()}

    def _train_arrays(self, first: int, length: int) -> Iterator[tuple[dict[str, tf.Tensor], int]]:
        """The arrays of successive blocks, and how many of their batches count."""
        if self._debug:
            yield from runs(self._shards_in_python(first), length)
            return
        if not (self._train.streamed or self.prepares or self.lengths) and self._train.in_memory:
            # Without a `prepare` of the recipe one gather makes a whole block, and only this process's part of it.
            def gather(start):
                rows = self._train_rows(start + tf.range(length, dtype=tf.int64))
                return self._preparation.without_strings(self._train.gather(self.sharding.shard(rows, axis=1)))

            steps = tf.data.Dataset.range(first, np.iinfo(np.int64).max - length, length)
            blocks = steps.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        else:
            shards = self._shards_in_pipeline(first)
            if not all(spec.shape.is_fully_defined() for spec in shards.element_spec.values()):
                yield from runs(shards.prefetch(2 * length), length)  # only a batch itself shows its shape
                return
            blocks = shards.batch(length, drop_remainder=True)
        for arrays in blocks.prefetch(2):
            yield arrays, length

    def _shards_in_python(self, first: int) -> Iterator[dict[str, tf.Tensor]]:
        """This process's shards of each batch from number `first` on, made as they are asked for."""
        if self._train.streamed:
            batches = self._train.batches(self.settings.batch_size, first)
            for step, given in enumerate(batches, start=first):
                draw = self._draw(tf.constant(step, tf.int64))
                yield self._shards(self._preparation(self._padding(given), draw, training=True))
        for step in itertools.count(first):
            yield self._shards(self._train_batch(tf.constant(step, tf.int64)))

    def _shards_in_pipeline(self, first: int) -> tf.data.Dataset:
        """This process's shards of each batch from number `first` on."""
        steps = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        if self._train.streamed:
            batches = self._train.batches(self.settings.batch_size, first)
            return tf.data.Dataset.zip(steps, batches).map(
                lambda step, given: self._shards(
                    self._preparation(self._padding(given), self._draw(step), training=True)
                ),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        return steps.map(
            lambda step: self._shards(self._train_batch(step)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    @property
    def _overfit_examples(self) -> int:
        return self.settings.overfit * self.settings.batch_size

    def _train_rows(self, steps: tf.Tensor) -> tf.Tensor:
        batch_size = self.settings.batch_size
        positions = steps[..., tf.newaxis] * batch_size + tf.range(batch_size, dtype=tf.int64)
        rows = self._order.rows(positions)
        return tf.ensure_shape(rows, [*steps.shape, batch_size])

    def _draw(self, step: tf.Tensor) -> tf.Tensor:
        """A batch of `overfit` is the same each time it returns, with the same augmentation."""
        return step % self.settings.overfit if self.settings.overfit else step

    def _train_batch(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = self._train_rows(step)
        return self._preparation(self._padding(self._train.gather(rows), rows), self._draw(step), training=True)

    def _shards(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: self.sharding.shard(value) for name, value in batch.items()}
