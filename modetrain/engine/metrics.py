"""Metrics are (total, count) pairs and sums that merge by `+`: over micro-batches, steps, calls and batches of any length.

    pack_row(values, batch_size)   on the device: what one step returned, as a [slots, 2] tensor
    layout_of(values)              what its slots hold
    StepMetrics                    on the host: what one call of a program returned, by step
    RunningMeans                   on the host: names with float64 totals and counts

The mean of merged pairs is exact however the examples are divided; a mean of means is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.engine.values import Sum, Weighted
from modetrain.errors import ConfigError

NONFINITE = "nonfinite"  # the metric that is 1 where a loss or gradient is not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumSpec:
    """A `Sum` that a step returns.

    Attributes:
      name: as returned.
      shape: of its tensor.
      summarize: see `Sum`.
    """

    name: str
    shape: tuple[int, ...]
    summarize: Callable[[np.ndarray], Any] | None = None

    @property
    def slots(self) -> int:
        """How many slots of a row it takes: two numbers each."""
        return -(-int(np.prod(self.shape)) // 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What the slots of a row hold: the pairs of means, then sums, then the pairs of the optimizers.

    Attributes:
      means: names of the step's means.
      sums: the step's sums.
      optimizer: names of the optimizers' metrics; only the last micro-batch of a step has them.
    """

    means: tuple[str, ...] = ()
    sums: tuple[SumSpec, ...] = ()
    optimizer: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all pairs."""
        return (*self.means, *self.optimizer)

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The pairs [..., names, 2] and the sums [..., *shape] by name, of rows [..., slots, 2]."""
        if not self.sums:
            return rows, {}
        begin, found = len(self.means), {}
        for spec in self.sums:
            held = rows[..., begin : begin + spec.slots, :].reshape(*rows.shape[:-2], -1)
            found[spec.name] = held[..., : int(np.prod(spec.shape))].reshape(*rows.shape[:-2], *spec.shape)
            begin += spec.slots
        pairs = np.concatenate([rows[..., : len(self.means), :], rows[..., begin:, :]], axis=-2)
        return pairs, found


def layout_of(values: Mapping[str, Any], optimizer: Sequence[str] = ()) -> Layout:
    """The layout of the row of what a step returned.

    Args:
      values: see `pack_row`.
      optimizer: names of the optimizers' metrics.
    """
    sums = {name: value for name, value in values.items() if isinstance(value, Sum)}
    return Layout(
        means=tuple(name for name in values if name not in sums),
        sums=tuple(
            SumSpec(name=name, shape=tuple(tf.convert_to_tensor(one.tensor).shape), summarize=one.summarize)
            for name, one in sums.items()
        ),
        optimizer=tuple(optimizer),
    )


def pack_row(values: Mapping[str, Any], batch_size: int) -> tf.Tensor:
    """Packs what a step returned into one [slots, 2] tensor: (total, count) of each mean in its order, then the sums.

    Args:
      values: by name one value per example (first dimension `batch_size`), a scalar that counts as the mean over the batch, a
        `Weighted`, or a `Sum`.
      batch_size: examples in the batch.

    Returns:
      float64 if any value is float64 or a sum is of int32 or wider, which float32 would round; else float32.

    Raises:
      TypeError: when `values` is not a mapping of names to numbers.
      ValueError: when a value is neither a scalar nor one per example, or the shape of a sum is unknown.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"a step returns {{name: one value per example}}, this one returned {type(values).__name__}. "
            'Write for example: return {"loss": loss}.'
        )
    tensors = {name: _tensor(value) for name, value in values.items()}
    counts = [one.dtype for name, one in tensors.items() if isinstance(values[name], Sum)]
    exact = any(t.dtype == tf.float64 for t in tensors.values()) or any(d.is_integer and d.size > 2 for d in counts)
    dtype = tf.float64 if exact else tf.float32
    pairs = [
        _pair(name, values[name], tensor, batch_size, dtype)
        for name, tensor in tensors.items()
        if not isinstance(values[name], Sum)
    ]
    row = tf.stack(pairs) if pairs else tf.zeros([0, 2], dtype)
    sums = [_slots(name, tensors[name], dtype) for name, value in values.items() if isinstance(value, Sum)]
    return tf.concat([row, *sums], axis=0) if sums else row


def _tensor(value: Any) -> tf.Tensor:
    given = value.tensor if isinstance(value, Sum) else value.values if isinstance(value, Weighted) else value
    return tf.convert_to_tensor(given)


def _pair(name: str, value: Any, tensor: tf.Tensor, batch_size: int, dtype: tf.DType) -> tf.Tensor:
    if tensor.shape.rank is None:
        raise ValueError(
            f"the step returned {name!r} with a shape that is not known when the step is traced: return one value per "
            f"example, or a scalar that is the mean over the batch. If you know its shape, declare it: "
            f"tf.ensure_shape({name}, [{batch_size}]), or []."
        )
    if tensor.shape.rank and tensor.shape[0] == batch_size:
        if isinstance(value, Weighted):
            values, weights = value.pair(dtype)
            return tf.stack([tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights)])
        return tf.stack([tf.reduce_sum(tf.cast(tensor, dtype)), tf.constant(tensor.shape.num_elements(), dtype)])
    if tensor.shape.rank == 0 and not isinstance(value, Weighted):
        return tf.stack([tf.cast(tensor, dtype) * batch_size, tf.constant(batch_size, dtype)])
    kind = "a Weighted" if isinstance(value, Weighted) else "a tensor"
    raise ValueError(
        f"the step returned {name!r}, {kind} of shape {tuple(tensor.shape)}, for a batch of {batch_size} examples: "
        "return one value per example, or a scalar that is the mean over the batch; a mean with weights is "
        "modetrain.Weighted(values, weights), a sum that a figure is made from modetrain.Sum(tensor)."
    )


def _slots(name: str, tensor: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if not tensor.shape.is_fully_defined():
        raise ValueError(
            f"the step returned {name!r}, a Sum of shape {tensor.shape}: it needs the same shape in every step. Declare it: "
            f"tf.ensure_shape(tensor, [...])."
        )
    flat = tf.reshape(tf.cast(tensor, dtype), [-1])
    return tf.reshape(tf.pad(flat, [[0, int(flat.shape[0]) % 2]]), [-1, 2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """What a call of the program returned.

    Attributes:
      first: steps completed before the call.
      names: names of the metrics.
      values: float64 [steps, metrics, 2] of (total, count) over all replicas.
      sums: by name float64 [steps, ...], of all replicas.
    """

    first: int
    names: tuple[str, ...]
    values: np.ndarray
    sums: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_rows(cls, first: int, layout: Layout, rows: np.ndarray) -> StepMetrics:
        """Reads rows [steps, slots, 2] of all replicas together."""
        values, sums = layout.split(rows)
        return cls(first=first, names=layout.names, values=values, sums=sums)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningMeans:
    """Sums that become means when they are read.

    Attributes:
      pairs: (total, count) by name.
      sums: what `Sum` adds up, by name.
    """

    pairs: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    sums: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_rows(
        cls, names: Sequence[str], rows: np.ndarray, sums: Mapping[str, np.ndarray] | None = None
    ) -> RunningMeans:
        """Merges rows [..., len(names), 2] of any number of steps, and sums [steps, ...]."""
        total = rows.reshape(-1, len(names), 2).sum(axis=0, dtype=np.float64) if names else rows
        return cls(
            pairs={name: (float(total[i, 0]), float(total[i, 1])) for i, name in enumerate(names)},
            sums={name: value.sum(axis=0, dtype=np.float64) for name, value in (sums or {}).items()},
        )

    def __add__(self, other: RunningMeans) -> RunningMeans:
        merged = dict(self.pairs)
        for name, (total, count) in other.pairs.items():
            old_total, old_count = merged.get(name, (0.0, 0.0))
            merged[name] = (old_total + total, old_count + count)
        return RunningMeans(pairs=merged, sums=_merged(self.sums, other.sums))

    def add_steps(
        self, names: Sequence[str], rows: np.ndarray, sums: Mapping[str, np.ndarray] | None = None
    ) -> RunningMeans:
        """Adds rows [steps, len(names), 2] one after the other: the same to the last digit however the rows are split."""
        carried = np.array([[self.pairs.get(name, (0.0, 0.0)) for name in names]], np.float64)
        merged = RunningMeans.from_rows(names, np.concatenate([carried, rows.astype(np.float64)]), sums)
        return RunningMeans(pairs={**self.pairs, **merged.pairs}, sums=_merged(self.sums, merged.sums))

    def array(self) -> np.ndarray:
        """The pairs as float64 [names, 2], for `RunningMeans.from_rows`."""
        return np.array(list(self.pairs.values()), np.float64).reshape(-1, 2)

    def means(self) -> dict[str, float]:
        """The means by name; a name with a count of 0 is left out."""
        return {name: total / count for name, (total, count) in self.pairs.items() if count}


def _merged(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name in one.keys() & other.keys():
        if one[name].shape != other[name].shape:
            raise ConfigError(
                f"the step returned {name!r}, a Sum of shape {one[name].shape}, and one of shape {other[name].shape} for another "
                "batch: it needs the same shape in every step. Sum over the examples, tf.reduce_sum(..., axis=0); to a fixed "
                "number of bins, or padded to the longest."
            )
    return {**one, **{name: one[name] + value if name in one else value for name, value in other.items()}}
