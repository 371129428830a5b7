"""A split without random access: a `tf.data.Dataset` of the user's own, or what a generator function yields.

Its order is its own; the library reads it again from the beginning to come to a step. It is repeated when it ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.split import PROBED, Split, flatten, length_name, signature
from modetrain.errors import ConfigError

_COMPARED = 32  # examples that are read twice to see whether they are the same


class Stream(Split):
    """Examples one after the other.

    Args:
      dataset: yields dicts of tensors by feature, an example at a time.
      name: what it is called in messages.
      examples: whether its elements are certainly examples, and no batches.
      again: makes it for each time it is read: `shuffle` with a seed keeps the order of its first reading then.

    Attributes:
      examples: how many it yields, or 0 where that is not known.
      endless: whether it never ends.

    Raises:
      ConfigError: its elements are no dicts, or batches.
    """

    streamed = True

    def __init__(
        self,
        dataset: tf.data.Dataset,
        *,
        name: str = "the split",
        examples: bool = False,
        again: Callable[[], tf.data.Dataset] | None = None,
    ):
        self._name = name
        self._again = again
        spec = dataset.element_spec
        if not isinstance(spec, Mapping):
            raise ConfigError(
                f"{name} is a tf.data.Dataset of {_described(spec)}; expected are dicts of tensors by feature. Write for "
                'example dataset.map(lambda x, y: {"x": x, "y": y}).'
            )
        specs = flatten(spec)
        for feature, one in specs.items():
            if not isinstance(one, tf.TensorSpec):
                raise ConfigError(
                    f"{name}: its feature `{feature}` is a {one.value_type.__name__}; a batch takes dense tensors. Map it with "
                    "to_tensor() of a ragged tensor, or tf.sparse.to_dense."
                )
            if one.shape.rank is None:
                raise ConfigError(
                    f"{name}: the shape of its feature `{feature}` is unknown. Map it with tf.ensure_shape."
                )
        all_vary = specs and all(one.shape.rank and one.shape[0] is None for one in specs.values())
        if all_vary and not examples and _are_batches(dataset.map(flatten)):
            raise ConfigError(
                f"{name} yields batches (each feature begins with a dimension of any length), and the library makes the "
                "batches. Add .unbatch() to it, or leave .batch(...) out."
            )
        sizes = {feature: list(one.shape).index(None) for feature, one in specs.items() if None in list(one.shape)}
        self._varies = bool(sizes)
        self._lengths = {length_name(n): (n, axis) for n, axis in sizes.items() if length_name(n) not in specs}
        self._dataset = self._flat(dataset)
        known = int(dataset.cardinality())
        if known == 0:
            raise ConfigError(f"{name} holds no examples.")
        self.endless = known == tf.data.INFINITE_CARDINALITY
        shapes = {feature: tuple(one.shape) for feature, one in specs.items()}
        dtypes = {feature: one.dtype for feature, one in specs.items()}
        super().__init__(
            max(known, 0), shapes | dict.fromkeys(self._lengths, ()), dtypes | dict.fromkeys(self._lengths, tf.int32)
        )

    @classmethod
    def from_generator(cls, function: Callable[[], Iterator[Mapping[str, Any]]], *, name: str = "the split") -> Stream:
        """A stream of what `function()` yields, or of the `tf.data.Dataset` that it returns; it is called again for each reading.

        Raises:
          ConfigError: it yields no dicts of values by feature.
        """

        def examples() -> Iterator[dict[str, np.ndarray]]:
            for given in function():
                if not isinstance(given, Mapping):
                    raise ConfigError(
                        f"{name} yields a {type(given).__name__}; expected is a dict of values by feature. Yield for example "
                        '{"x": x, "y": y}.'
                    )
                yield {feature: np.asarray(value) for feature, value in flatten(given).items()}

        made = function()
        if isinstance(made, tf.data.Dataset):
            return cls(made, name=name, again=function)  # type: ignore[arg-type]
        if not hasattr(made, "__iter__"):
            raise ConfigError(
                f"{name} is a function that returns a {type(made).__name__}; expected is a generator of examples."
            )
        shapes, dtypes = signature(list(islice(examples(), PROBED)), name)
        spec = {feature: tf.TensorSpec(shapes[feature], dtype) for feature, dtype in dtypes.items()}
        return cls(tf.data.Dataset.from_generator(examples, output_signature=spec), name=name, examples=True)

    @property
    def dataset(self) -> tf.data.Dataset:
        """Its examples by flat names, with the lengths of what varies."""
        return self._dataset if self._again is None else self._flat(self._again())

    @functools.cached_property
    def reproducible(self) -> bool:
        """Whether its first examples are the same when they are read twice."""
        one, other = (self.first(_COMPARED) for _ in range(2))
        return all(
            one[name].shape == other[name].shape and repr(one[name].tolist()) == repr(other[name].tolist())
            for name in one
        )

    def take(self, examples: int) -> Stream:
        """The first examples alone."""
        again = self._again
        return Stream(
            self.dataset.take(examples),
            name=self._name,
            examples=True,
            again=None if again is None else lambda: again().take(examples),
        )

    def batches(self, size: int, first: int) -> tf.data.Dataset:
        """Endless training batches from number `first` on; the batches before it are read and left out."""
        whole = self._batched(self.dataset.repeat(), size, drop_remainder=True)
        return whole.skip(first) if first else whole

    def pass_of_batches(self, size: int) -> tf.data.Dataset:
        """Every example once, in batches; the last one is as short as it has to be."""
        return self._batched(self.dataset, size)

    def first(self, count: int) -> dict[str, np.ndarray]:
        found = next(iter(self._batched(self.dataset, count).take(1)))
        return {name: value.numpy() for name, value in found.items()}

    def fingerprint(self) -> str:
        return "stream"

    def _flat(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if not self._lengths:
            return (
                dataset
                if all(not isinstance(one, Mapping) for one in dataset.element_spec.values())
                else dataset.map(flatten)
            )

        def flat(given: Mapping[str, Any]) -> dict[str, tf.Tensor]:
            one = flatten(given)
            return one | {name: tf.shape(one[n])[axis] for name, (n, axis) in self._lengths.items()}

        return dataset.map(flat)

    def _batched(self, dataset: tf.data.Dataset, size: int, *, drop_remainder: bool = False) -> tf.data.Dataset:
        if self._varies:
            return dataset.padded_batch(size, drop_remainder=drop_remainder)
        return dataset.batch(size, drop_remainder=drop_remainder, num_parallel_calls=tf.data.AUTOTUNE)


def _described(spec: Any) -> str:
    return f"tuples of {len(spec)}" if isinstance(spec, tuple) else f"{type(spec).__name__} and no dicts"


def _are_batches(dataset: tf.data.Dataset) -> bool:
    """Whether elements in which each feature begins with a dimension of any length look like batches.

    The features of a batch have one length, and all batches but a short last one have the same.
    """
    found = [[value.shape[0] for value in one.values()] for one in dataset.take(PROBED)]
    return all(len({*sizes}) == 1 for sizes in found) and len({sizes[0] for sizes in found[:-1] or found}) <= 1
