"""Batches as a program takes them: sharded over micro-batches and replicas, and stacked for the steps of one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.engine.devices import Replicas
from modetrain.errors import did_you_mean


class Batch(dict[str, Any]):
    """What a step and `prepare` get: tensors by feature. Features `box/x` and `box/y` are `batch["box"]["x"]` too."""

    def __missing__(self, name: str) -> Any:
        inner = {key.removeprefix(f"{name}/"): value for key, value in self.items() if key.startswith(f"{name}/")}
        if not inner:
            features = ", ".join(self) or "none"
            raise KeyError(
                f"the batch has no feature {name!r}; it has {features}.{did_you_mean(str(name), list(self))}"
            )
        return Batch(inner)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSharding:
    """How a training batch is sharded: into micro-batches, and each micro-batch over the replicas.

    Attributes:
      parts: number of micro-batches.
      replicas: number of replicas in all processes.
      first, local: number of this process's first replica, and how many it has.
    """

    parts: int = 1
    replicas: int = 1
    first: int = 0
    local: int = 1

    @classmethod
    def over(cls, replicas: Replicas, parts: int = 1) -> BatchSharding:
        """Shards batches over these replicas."""
        return cls(parts=parts, replicas=replicas.count, first=replicas.first, local=replicas.local)

    def shard(self, batch: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """The shards of this process of a batch whose examples lie along `axis`.

        That axis becomes three: [..., parts, local, examples of one replica, ...].
        """
        if batch.shape.is_fully_defined():
            before, size, after = batch.shape[:axis], batch.shape[axis], batch.shape[axis + 1 :]
            shape = [*before, self.parts, self.replicas, size // (self.parts * self.replicas), *after]
        else:  # a `prepare` has made it from Python, and the batch itself shows its shape
            found = tf.shape(batch)
            share = found[axis] // (self.parts * self.replicas)
            shape = tf.concat([found[:axis], [self.parts, self.replicas, share], found[axis + 1 :]], axis=0)
        split = tf.reshape(batch, shape)
        if self.local == self.replicas:
            return split
        here = tf.range(self.first, self.first + self.local)
        return tf.gather(split, here, axis=axis + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackedBatches:
    """Batches of successive steps, stacked and sharded over the replicas of this process.

    Attributes:
      first: step of the first batch; in evaluation its index.
      length: number of steps; a stack may have more batches, which only fill it up.
      arrays: by feature a tensor [stack, parts, replicas, examples, ...].
      numbers: int64 [stack, replicas]: each batch's step, or its index in evaluation.
      counted: bool [stack, replicas]: False for a batch that only fills up the stack.
    """

    first: int
    length: int
    arrays: Mapping[str, tf.Tensor]
    numbers: tf.Tensor
    counted: np.ndarray

    @property
    def parts(self) -> int:
        """Number of micro-batches in a step."""
        return next(iter(self.arrays.values())).shape[1]

    @classmethod
    def from_batches(cls, batches: Mapping[str, np.ndarray], first: int, sharding: BatchSharding) -> StackedBatches:
        """Shards training batches of successive steps, by feature [steps, examples, ...]."""
        with tf.device("CPU:0"):
            arrays = {name: sharding.shard(tf.constant(array), axis=1) for name, array in batches.items()}
        return cls.from_shards(arrays, first, sharding)

    @classmethod
    def from_shards(
        cls, arrays: Mapping[str, tf.Tensor], first: int, sharding: BatchSharding, *, length: int | None = None
    ) -> StackedBatches:
        """Stacks training batches of successive steps that are sharded already; the first `length` of them count."""
        stack = next(iter(arrays.values())).shape[0]
        length = stack if length is None else length
        numbers = np.repeat(np.arange(first, first + stack)[:, np.newaxis], sharding.local, axis=1)
        return cls(
            first=first,
            length=length,
            arrays=arrays,
            numbers=tf.constant(numbers, tf.int64),
            counted=numbers < first + length,
        )

    def describe(self) -> str:
        """Dtype and shape of each feature of a step's batch."""
        return ", ".join(f"{name}: {value.dtype.name} {tuple(value.shape[3:])}" for name, value in self.arrays.items())


def runs(batches: Iterator[Mapping[str, tf.Tensor]], length: int) -> Iterator[tuple[dict[str, tf.Tensor], int]]:
    """Stacks successive batches of one shape, at most `length`, with their number; the last one fills up a stack."""
    waiting: list[Mapping[str, tf.Tensor]] = []
    for batch in batches:
        if waiting and shapes(batch) != shapes(waiting[0]):
            yield fill_up(waiting, length), len(waiting)
            waiting = []
        waiting.append(batch)
        if len(waiting) == length:
            yield fill_up(waiting, length), length
            waiting = []


def shapes(batch: Mapping[str, tf.Tensor]) -> tuple:
    """What the batches of one stack have in common."""
    return tuple((name, value.dtype, tuple(value.shape)) for name, value in batch.items())


def fill_up(batches: Sequence[Mapping[str, tf.Tensor]], length: int) -> dict[str, tf.Tensor]:
    """The batches stacked, and the last one as often as it takes to have `length`."""
    whole = [*batches, *[batches[-1]] * (length - len(batches))]
    with tf.device("CPU:0"):
        return {name: tf.stack([batch[name] for batch in whole]) for name in whole[0]}


def micro_batches(arrays: Mapping[str, tf.Tensor], i, part) -> list[dict[str, tf.Tensor]]:
    """Micro-batch number `part` of batch number `i` of stacked batches, for each replica of this process."""
    count = next(iter(arrays.values())).shape[2]
    i, part = tf.cast(i, tf.int32), tf.cast(part, tf.int32)
    return [{name: value[i, part, index] for name, value in arrays.items()} for index in range(count)]
