"""Data: position is (seed, step). Any batch can be asked for, and blocks of batches stream from any step on.

    data.batch(step)              one training batch, as `Recipe.prepare` makes it
    data.train_blocks(first, K)   endless blocks of K batches each, for steps first, first + K, ...
    data.eval_blocks(K)           every evaluation example exactly once; the last batch may be short

Over several replicas a training batch is cut, so that all of them together see what one device would. In evaluation each
replica takes whole batches in turn, so that a value of a whole batch too is what one device would return.

The order is a permutation per epoch, computed and not stored, so that seeking costs nothing and a resumed run needs no
saved iterator. Epochs follow each other without gaps: every example is seen once before any is seen again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from modetrain.draws import named_seed
from modetrain.errors import ConfigError, nearest_multiple
from modetrain.replicas import Replicas
from modetrain.settings import DataSettings
from modetrain.sources import Source

# What the batches of one call may take in memory before `steps_per_call=auto` asks for fewer of them.
_BLOCK_BYTES = 64 * 2**20
_MOST_STEPS = 100
# Of the cipher behind RandomIndexShuffle. With its usual 4 rounds and small seeds, 40 examples are hardly shuffled and
# successive epochs of 60,000 nearly alike; more rounds cost next to nothing.
_ROUNDS = 16

Prepare = Callable[..., dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """How a training batch is cut: into micro-batches, and each of those over the replicas.

    Attributes:
      parts: micro-batches.
      replicas: in all processes.
      first, local: which of them are in this process.
    """

    parts: int = 1
    replicas: int = 1
    first: int = 0
    local: int = 1

    @classmethod
    def over(cls, replicas: Replicas, parts: int = 1) -> Cut:
        """Over these replicas, what this process needs of it."""
        return cls(parts=parts, replicas=replicas.count, first=replicas.first, local=replicas.local)

    def of(self, batch: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """What this process needs of a batch, whose examples lie along `axis`.

        That axis becomes three: [..., parts, local, examples of one replica, ...].
        """
        share = batch.shape[axis] // (self.parts * self.replicas)
        before, after = batch.shape[:axis], batch.shape[axis + 1 :]
        cut = tf.reshape(batch, [*before, self.parts, self.replicas, share, *after])
        if self.local == self.replicas:
            return cut
        here = tf.range(self.first, self.first + self.local)
        return tf.gather(cut, here, axis=axis + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Batches of successive steps, stacked, as the replicas of this process need them.

    Attributes:
      first: step of the first batch; in evaluation its index.
      length: number of steps.
      arrays: per feature a tensor [length, parts, replicas, examples, ...].
      numbers: int64 [length, replicas]: step, or index of the evaluation batch, of each.
      counted: bool [length, replicas]: whether it is a batch of its own, and not there to fill up.
    """

    first: int
    length: int
    arrays: Mapping[str, tf.Tensor]
    numbers: tf.Tensor
    counted: np.ndarray

    @property
    def parts(self) -> int:
        """Micro-batches of a step."""
        return next(iter(self.arrays.values())).shape[1]

    @classmethod
    def of(cls, batches: Mapping[str, np.ndarray], first: int, cut: Cut) -> Block:
        """Training batches of successive steps, per feature [steps, examples, ...], cut."""
        with tf.device("CPU:0"):
            arrays = {name: cut.of(tf.constant(array), axis=1) for name, array in batches.items()}
        return cls.of_cut(arrays, first, cut)

    @classmethod
    def of_cut(cls, arrays: Mapping[str, tf.Tensor], first: int, cut: Cut) -> Block:
        """Training batches of successive steps that are cut already."""
        length = next(iter(arrays.values())).shape[0]
        numbers = np.repeat(np.arange(first, first + length)[:, np.newaxis], cut.local, axis=1)
        return cls(
            first=first,
            length=length,
            arrays=arrays,
            numbers=tf.constant(numbers, tf.int64),
            counted=np.ones(numbers.shape, bool),
        )

    def described(self) -> str:
        """Dtype and shape of what a step gets, per feature."""
        return ", ".join(f"{name}: {value.dtype.name} {tuple(value.shape[3:])}" for name, value in self.arrays.items())


class Data:
    """Batches of a source as functions of (seed, step).

    Args:
      source: the examples, in host memory.
      settings: see `DataSettings`.
      seed: the run's seed.
      prepare: `Recipe.prepare`.
      cut: how a training batch is cut.
      debug: prepare batches in this thread, one at a time and only when they are needed, so that a breakpoint in
        `prepare` stops on the values of the batch that the next step gets.

    Attributes:
      source: as given.
      settings: as given.
      cut: as given.

    Raises:
      ConfigError: a batch cannot be cut into equal shares, or there are too few examples for one or for `overfit`.
    """

    def __init__(
        self,
        source: Source,
        settings: DataSettings,
        *,
        seed: int,
        prepare: Prepare | None = None,
        cut: Cut | None = None,
        debug: bool = False,
    ):
        self.source = source
        self.settings = settings
        self.cut = cut or Cut()
        self._seed = seed
        self._prepare = prepare
        self._debug = debug
        self._train_size = _size(source.train)
        self._check_cut()
        self._check_size()
        if self._overfit_examples > self._train_size:
            most = self._train_size // settings.batch_size
            raise ConfigError(
                f"data.overfit={settings.overfit} with data.batch_size={settings.batch_size}: there are only "
                f"{self._train_size:,} training examples, so some would be seen twice. Type data.overfit={max(most, 1)}"
                + (f" data.batch_size={self._train_size}." if not most else ".")
            )
        with tf.device("CPU:0"):  # where the input pipeline gathers from
            self._train = {name: tf.constant(array) for name, array in source.train.items()}
            self._eval = {} if settings.overfit else {k: tf.constant(v) for k, v in source.eval.items()}

    @property
    def prepares(self) -> bool:
        """Whether whole batches are prepared, and cut only then."""
        return self._prepare is not None

    @property
    def eval_examples(self) -> int:
        """Examples that one evaluation sees."""
        size = self._overfit_examples if self.settings.overfit else _size(self.source.eval)
        batches = self.settings.eval_batches
        return size if batches is None else min(size, batches * self._eval_batch_size)

    def batch(self, step: int) -> dict[str, tf.Tensor]:
        """The training batch of one step: per feature a tensor [batch_size, ...]."""
        return self._train_batch(tf.constant(step, tf.int64))

    def steps_that_fit(self) -> int:
        """What `mode.steps_per_call=auto` comes to: as many training batches as fit 64 MiB, at most 100.

        1 where batches are debugged: none is prepared before a step needs it, not even to tell how large it is.
        """
        if self._debug:
            return 1
        # Traced and not made: what fails in a batch is to fail where it is asked for again and named.
        traced = tf.function(self._train_batch).get_concrete_function(tf.TensorSpec([], tf.int64))
        batch = traced.structured_outputs
        if not all(value.shape.is_fully_defined() for value in batch.values()):
            batch = self.batch(0)
        size = sum(int(np.prod(t.shape.as_list())) * t.dtype.size for t in batch.values())
        size = size * self.cut.local // self.cut.replicas
        return int(np.clip(_BLOCK_BYTES // max(size, 1), 1, _MOST_STEPS))

    def train_blocks(self, first: int, length: int, *, passed_over: int = 0) -> Iterator[Block]:
        """Endless training blocks of `length` batches; the first batch belongs to step `first`.

        Args:
          first: a step.
          length: batches of a block.
          passed_over: so many batches were left out before: step `n` gets batch `n + passed_over`.
        """
        for arrays in self._train_arrays(first + passed_over, length):
            yield Block.of_cut(arrays, first, self.cut)
            first += length

    def eval_blocks(self, length: int) -> Iterator[Block]:
        """Blocks of up to `length` evaluation batches a replica: all of one shape, but for the last batch where it is short.

        With `overfit` they are the very batches trained on, as large and prepared alike.
        """
        size, batch_size = self.eval_examples, self._eval_batch_size
        full, rest = divmod(size, batch_size)
        count, first, local = self.cut.replicas, self.cut.first, self.cut.local
        rounds = -(-full // count)  # in a round every replica evaluates a batch
        length = max(1, min(length, rounds))

        def prepared(index, examples):
            if self.settings.overfit:
                return self._train_batch(index)
            positions = index * batch_size + tf.range(examples, dtype=tf.int64)
            return self._prepared(self._gather(self._eval, positions), index, training=False)

        def of_round(number, prepared=prepared):
            # A block is filled up beyond the last full batch, with examples that are not counted.
            batches = [prepared(tf.minimum(number * count + first + i, full - 1), batch_size) for i in range(local)]
            return {name: tf.stack([batch[name] for batch in batches])[tf.newaxis] for name in batches[0]}

        def in_python():
            last: dict[int, dict[str, tf.Tensor]] = {}

            def once(index, examples):  # what fills a block up is not prepared again
                if int(index) not in last:
                    last.clear()
                    last[int(index)] = prepared(index, examples)
                return last[int(index)]

            for start in range(0, rounds, length):
                batches = [of_round(tf.constant(start + n, tf.int64), once) for n in range(length)]
                yield {name: tf.stack([batch[name] for batch in batches]) for name in batches[0]}

        def in_pipeline():
            return (
                tf.data.Dataset.range(-(-rounds // length) * length)
                .map(of_round, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                .batch(length, drop_remainder=True)
                .prefetch(2)
            )

        if full:
            for number, arrays in enumerate(in_python() if self._debug else in_pipeline()):
                here = (
                    np.arange(number * length, (number + 1) * length)[:, np.newaxis] * count + np.arange(local) + first
                )
                yield Block(
                    first=int(here[0, 0]),
                    length=min(length, rounds - number * length),
                    arrays=arrays,
                    numbers=tf.constant(here, tf.int64),
                    counted=here < full,
                )
        if rest:  # every replica evaluates it, and the first one's result is counted
            arrays = prepared(tf.constant(full, tf.int64), rest)
            yield Block(
                first=full,
                length=1,
                arrays={name: tf.stack([value] * local)[tf.newaxis, tf.newaxis] for name, value in arrays.items()},
                numbers=tf.fill([1, local], tf.constant(full, tf.int64)),
                counted=(np.arange(local) + first == 0)[np.newaxis],
            )

    # --- private ----------------------------------------------------------------------------------------------------

    def _check_cut(self) -> None:
        size, parts, replicas = self.settings.batch_size, self.cut.parts, self.cut.replicas
        if size % (parts * replicas):
            cuts = f"{replicas} replicas" + (f" and optimizer.accumulate={parts}" if parts > 1 else "")
            nearest = nearest_multiple(size, parts * replicas)
            raise ConfigError(
                f"data.batch_size={size} over {cuts}: every replica gets an equal share of the batch, and "
                f"{parts * replicas} does not divide {size}. Type data.batch_size={nearest}."
            )

    def _check_size(self) -> None:
        given, shares = self.settings.batch_size, self.cut.parts * self.cut.replicas
        if given <= self._train_size or self.settings.overfit:
            return
        most = self._train_size // shares * shares
        fix = f"Type data.batch_size={most} or less." if most else f"At least {shares} examples are needed."
        raise ConfigError(
            f"data.batch_size={given}: there are only {self._train_size:,} training examples, so a batch would hold some of "
            f"them more than once. {fix}"
        )

    def _train_arrays(self, first: int, length: int) -> Iterator[dict[str, tf.Tensor]]:
        """The arrays of successive blocks."""
        most = np.iinfo(np.int64).max - length
        if self._debug:
            while True:
                batches = [self._train_cut(tf.constant(first + index, tf.int64)) for index in range(length)]
                yield {name: tf.stack([batch[name] for batch in batches]) for name in batches[0]}
                first += length
        if self._prepare is None:
            # Without a `prepare` of the recipe's own a whole block is one gather, however many batches it holds, and
            # of no more than this process needs.
            def gather(start):
                rows = self._train_indices(start + tf.range(length, dtype=tf.int64))
                return self._gather(self._train, self.cut.of(rows, axis=1))

            blocks = tf.data.Dataset.range(first, most, length).map(
                gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
        else:
            blocks = tf.data.Dataset.range(first, most).map(
                self._train_cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
            blocks = blocks.batch(length, drop_remainder=True)
        yield from blocks.prefetch(2)

    @property
    def _overfit_examples(self) -> int:
        return self.settings.overfit * self.settings.batch_size

    @property
    def _eval_batch_size(self) -> int:
        return self.settings.batch_size if self.settings.overfit else self.settings.eval_batch_size

    def _train_rows(self, positions: tf.Tensor) -> tf.Tensor:
        """Rows of the training arrays for positions (int64) in the endless stream of training examples."""
        if self.settings.overfit:
            positions = tf.math.floormod(positions, self._overfit_examples)
        flat = tf.reshape(positions, [-1])
        epoch, index = flat // self._train_size, flat % self._train_size
        # Of each word of the seed the cipher takes the low bits only, as few as 8 where examples are few.
        seed = tf.stack([_mixed(epoch, f"{self._seed}/order/{word}") for word in range(3)], axis=1)
        rows = tf.raw_ops.RandomIndexShuffle(index=index, seed=seed, max_index=self._train_size - 1, rounds=_ROUNDS)
        return tf.reshape(rows, tf.shape(positions))

    def _train_indices(self, steps: tf.Tensor) -> tf.Tensor:
        batch_size = self.settings.batch_size
        positions = steps[..., tf.newaxis] * batch_size + tf.range(batch_size, dtype=tf.int64)
        return tf.ensure_shape(self._train_rows(positions), [*steps.shape, batch_size])

    def _gather(self, arrays: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.gather(array, rows) for name, array in arrays.items()}

    def _train_batch(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        # One of the batches that are overfitted to is the same at each return, augmentation included.
        draw = step % self.settings.overfit if self.settings.overfit else step
        return self._prepared(self._gather(self._train, self._train_indices(step)), draw, training=True)

    def _train_cut(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: self.cut.of(value) for name, value in self._train_batch(step).items()}

    def _prepared(self, batch: dict[str, tf.Tensor], index: tf.Tensor, *, training: bool) -> dict[str, tf.Tensor]:
        if self._prepare is None:
            return batch
        seed = named_seed(self._seed, "prepare" if training else "prepare/eval", index)
        return self._prepare(batch, seed=seed, training=training)


def _mixed(numbers: tf.Tensor, name: str) -> tf.Tensor:
    """A hash of each number (int64), another one for each name: splitmix64 (Steele et al., 2014)."""
    word = tf.cast(numbers, tf.uint64) * 0x9E3779B97F4A7C15 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, shift)) * factor
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, 31))


def _size(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values())))
