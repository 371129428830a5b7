"""Metrics are (total, count) pairs that merge by `+`: over micro-batches, steps, calls and batches of any length.

    pack_row(values, batch_size)   on the device: what one step returned, as a [metrics, 2] tensor
    StepMetrics                    on the host: what one call of a program returned, by step
    RunningMeans                   on the host: names with float64 totals and counts

The mean of merged pairs is exact however the examples are divided; a mean of means is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

NONFINITE = "nonfinite"  # the metric that is 1 where a loss or gradient is not finite


def pack_row(values: Mapping[str, tf.Tensor], batch_size: int) -> tf.Tensor:
    """Packs what a step returned into one [len(values), 2] tensor of (total, count), in the order of `values`.

    Args:
      values: by name one value per example (first dimension `batch_size`), or a scalar that counts as the mean over
        the batch.
      batch_size: examples in the batch.

    Returns:
      float64 if any value is float64, else float32.

    Raises:
      TypeError: when `values` is not a mapping of names to numbers.
      ValueError: when a value is neither a scalar nor one per example.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"a step returns {{name: one value per example}}, this one returned {type(values).__name__}. "
            'Write for example: return {"loss": loss}.'
        )
    tensors = {name: tf.convert_to_tensor(value) for name, value in values.items()}
    dtype = tf.float64 if any(t.dtype == tf.float64 for t in tensors.values()) else tf.float32
    pairs = []
    for name, tensor in tensors.items():
        total = tf.cast(tensor, dtype)
        if tensor.shape.rank is None:
            raise ValueError(
                f"the step returned {name!r} with a shape that is not known when the step is traced: return one value per "
                f"example, or a scalar that is the mean over the batch. If you know its shape, declare it: "
                f"tf.ensure_shape({name}, [{batch_size}]), or []."
            )
        if tensor.shape.rank == 0:
            pairs.append(tf.stack([total * batch_size, tf.constant(batch_size, dtype)]))
        elif tensor.shape[0] == batch_size:
            pairs.append(tf.stack([tf.reduce_sum(total), tf.constant(tensor.shape.num_elements(), dtype)]))
        else:
            raise ValueError(
                f"the step returned {name!r} with shape {tuple(tensor.shape)} for a batch of {batch_size} examples: "
                "return one value per example, or a scalar that is the mean over the batch."
            )
    return tf.stack(pairs) if pairs else tf.zeros([0, 2], dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """What a call of the program returned.

    Attributes:
      first: steps completed before the call.
      names: names of the metrics.
      values: float64 [steps, metrics, 2] of (total, count) over all replicas.
    """

    first: int
    names: tuple[str, ...]
    values: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningMeans:
    """Sums that become means when they are read.

    Attributes:
      pairs: (total, count) by name.
    """

    pairs: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_rows(cls, names: Sequence[str], rows: np.ndarray) -> RunningMeans:
        """Merges rows [..., len(names), 2] of any number of steps."""
        sums = rows.reshape(-1, len(names), 2).sum(axis=0, dtype=np.float64)
        return cls(pairs={name: (float(sums[i, 0]), float(sums[i, 1])) for i, name in enumerate(names)})

    def __add__(self, other: RunningMeans) -> RunningMeans:
        merged = dict(self.pairs)
        for name, (total, count) in other.pairs.items():
            old_total, old_count = merged.get(name, (0.0, 0.0))
            merged[name] = (old_total + total, old_count + count)
        return RunningMeans(pairs=merged)

    def add_steps(self, names: Sequence[str], rows: np.ndarray) -> RunningMeans:
        """Adds rows [steps, len(names), 2] one after the other: the same to the last digit however the rows are split."""
        carried = np.array([[self.pairs.get(name, (0.0, 0.0)) for name in names]], np.float64)
        merged = RunningMeans.from_rows(names, np.concatenate([carried, rows.astype(np.float64)]))
        return RunningMeans(pairs={**self.pairs, **merged.pairs})

    def array(self) -> np.ndarray:
        """The pairs as float64 [names, 2], for `RunningMeans.from_rows`."""
        return np.array(list(self.pairs.values()), np.float64).reshape(-1, 2)

    def means(self) -> dict[str, float]:
        """The means by name; a name with a count of 0 is left out."""
        return {name: total / count for name, (total, count) in self.pairs.items() if count}
