"""Calls a recipe's `prepare`, and checks what it returns: a dict of dense tensors, each with one row per example of the batch."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.split import flatten
from modetrain.diagnostics.location import Location
from modetrain.engine.batching import Batch
from modetrain.engine.random import named_seed
from modetrain.errors import ConfigError

log = logging.getLogger(__name__)

Prepare = Callable[..., Mapping[str, tf.Tensor]]


class Preparation:
    """What happens to the examples of a batch before a step gets them.

    Args:
      prepare: `Recipe.prepare`, or None.
      seed: the run's seed.
    """

    def __init__(self, prepare: Prepare | None, seed: int):
        self.prepare = prepare
        self._seed = seed
        self._name = describe(prepare) if prepare is not None else ""
        self._dropped: set[str] = set()

    def __call__(self, batch: Mapping[str, tf.Tensor], index: tf.Tensor, *, training: bool) -> dict[str, tf.Tensor]:
        """The batch of a step: prepared, and without features that are strings.

        Args:
          batch: by feature a tensor [examples, ...].
          index: int64 scalar: the step, or the batch of an evaluation.
          training: whether it is a training batch.

        Raises:
          ConfigError: `prepare` does not return a batch, or no feature is left.
        """
        if self.prepare is not None:
            seed = named_seed(self._seed, "prepare" if training else "prepare/eval", index)
            examples = next(iter(batch.values())).shape[0]
            returned = self.prepare(Batch(batch), seed=seed, training=training)
            batch = check(returned, examples=examples, where=self._name, training=training)
        return self.without_strings(batch)

    @tf.autograph.experimental.do_not_convert
    def without_strings(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The batch without features that are strings: they stay on the host, and this is logged once."""
        left = {name: value for name, value in batch.items() if value.dtype != tf.string}
        dropped = {name for name in batch if name not in left}
        if not left:
            raise ConfigError(
                f"the features of the data are strings ({', '.join(batch)}), and a step takes numbers. Turn them into numbers in "
                "prepare(self, batch, *, seed, training) of the recipe, with keras.layers.StringLookup or tf.strings."
            )
        if dropped - self._dropped:
            self._dropped |= dropped
            log.info(f"data: {', '.join(sorted(dropped))} are strings, which stay on the host: no step gets them")
        return left


def describe(prepare: Callable[..., Any]) -> str:
    """`Mine.prepare (recipes/mine.py:12)`."""
    owner = getattr(prepare, "__self__", None)
    name = getattr(prepare, "__name__", "prepare")
    code = getattr(inspect.unwrap(getattr(prepare, "__func__", prepare)), "__code__", None)
    at = f" ({Location(file=code.co_filename, line=code.co_firstlineno).shown})" if code is not None else ""
    return f"{type(owner).__name__}.{name}{at}" if owner is not None else f"{name}{at}"


@tf.autograph.experimental.do_not_convert
def check(given: Any, *, examples: int, where: str, training: bool) -> dict[str, tf.Tensor]:
    """The batch as tensors whose first dimension is known.

    Args:
      given: what `prepare` has returned.
      examples: number of examples in the batch.
      where: `describe(prepare)`.
      training: whether it is a training batch.

    Raises:
      ConfigError: names `prepare`, its line, the feature, and what to write instead.
    """
    where += "" if training else " for evaluation"
    if not isinstance(given, Mapping):
        what, fix = (
            f"a {type(given).__name__}",
            "Return a dict of tensors by feature, such as {**batch, 'image': image}.",
        )
        if given is None:
            what, fix = "None", "End it with `return batch`."
        raise ConfigError(f"{where} returned {what}. {fix}")
    if not given:
        raise ConfigError(f"{where} returned a dict without a feature. Return the features that the step reads.")
    return {name: _check_feature(name, value, examples, where) for name, value in flatten(given, where=where).items()}


def _check_feature(name: Any, value: Any, examples: int, where: str) -> tf.Tensor:
    said = f"{where} returned `{name}`"
    if isinstance(value, tf.RaggedTensor):
        fix = "value.to_tensor(shape=[None, LENGTH]), and keep value.row_lengths() as a feature of its own"
        raise ConfigError(f"{said}, a ragged tensor: a step takes dense ones. Return {fix}.")
    if isinstance(value, tf.SparseTensor):
        raise ConfigError(f"{said}, a sparse tensor: a step takes dense ones. Return tf.sparse.to_dense(value).")
    if isinstance(value, tuple):
        raise ConfigError(f"{said}, a {type(value).__name__}: give each tensor a name of its own in the batch.")
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{said}, {kind}: a feature is a tensor [{examples}, ...].") from error
    if tensor.shape.rank is not None and tensor.shape[:1].is_fully_defined():
        if tensor.shape[:1] != [examples]:
            raise _other_rows(said, tensor.shape.as_list(), examples)
        return tensor
    # The shape is unknown while the pipeline is traced, as after tf.numpy_function: the batch itself shows it.

    def refuse(shape: np.ndarray) -> np.ndarray:
        raise _other_rows(said, shape.tolist(), examples)

    shape = tf.shape(tensor)
    fits = tf.cond(
        tf.reduce_any(shape[:1] == examples), lambda: True, lambda: tf.numpy_function(refuse, [shape], tf.bool)
    )
    with tf.control_dependencies([fits]):
        tensor = tf.identity(tensor)
    if tensor.shape.rank is not None:
        tensor.set_shape([examples, *tensor.shape[1:]])
    return tensor


def _other_rows(said: str, shape: list[int], examples: int) -> ConfigError:
    rows = f"the batch has {examples} examples, and a feature has one row for each of them"
    if not shape:
        fix = "tf.repeat(value, tf.shape(FEATURE)[0]) with a feature of the batch"
        return ConfigError(f"{said}, one number for the batch: {rows}. Return {fix}, or compute it in the step.")
    fix = "keep a table that is no feature as an attribute of the recipe, and read it in the step"
    return ConfigError(f"{said} of shape {shape}: {rows}. Return {examples} rows; {fix}.")
