"""Keras metrics as sums: a step returns what one batch adds to a metric's state, and the host makes the result of all of it.

Nothing is kept in the metric: its state is neither read nor assigned.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from modetrain.engine.values import Figure, Sum
from modetrain.errors import ConfigError

_EXAMPLES = 8  # of the trial
_known: weakref.WeakKeyDictionary[keras.metrics.Metric, keras.metrics.Metric] = weakref.WeakKeyDictionary()
_lock = threading.Lock()  # each of several replicas has a thread
Result = TypeVar("Result")


def increment(metric: keras.metrics.Metric, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Sum:
    """What a batch adds to the state of a metric, flat.

    Raises:
      ConfigError: the state does not merge by `+`.
    """
    y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
    with _lock:
        if metric not in _known:
            _known[metric] = _in_a_thread(functools.partial(_checked, metric, _random(y_true), _random(y_pred)))
    metric = _known[metric]
    state = _update(metric, y_true, y_pred, sample_weight)
    dtype = tf.float64 if any(part.dtype == tf.float64 for part in state) else tf.float32
    flat = [tf.reshape(tf.cast(part, dtype), [-1]) for part in state]
    return Sum(tf.concat(flat, axis=0), functools.partial(_result, metric))


def _result(metric: keras.metrics.Metric, total: np.ndarray) -> Figure | Mapping[str, Figure]:
    """The metric's result; of several numbers one for each, by its index."""
    ends = np.cumsum([int(np.prod(variable.shape)) for variable in metric.variables])
    parts = zip(np.split(total, ends[:-1]), metric.variables, strict=True)
    state = [tf.constant(part.reshape(variable.shape), variable.dtype) for part, variable in parts]
    found = metric.stateless_result(state)
    if isinstance(found, Mapping):
        return {name: np.asarray(value) for name, value in found.items()}
    found = np.asarray(found)
    return {str(index): value for index, value in enumerate(found)} if found.ndim == 1 else found


def _update(metric: keras.metrics.Metric, *batch: Any) -> Sequence[tf.Tensor]:
    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in metric.variables]
    return [tf.convert_to_tensor(part) for part in metric.stateless_update_state(zeros, *batch)]


def _checked(metric: keras.metrics.Metric, y_true: np.ndarray, y_pred: np.ndarray) -> keras.metrics.Metric:
    """The metric, or a copy that has made its variables; refuses one whose state does not merge by `+`."""
    # F1Score and others make variables at their first update: those of the user's own would change what a checkpoint holds.
    if not metric.variables or not getattr(metric, "_built", True):
        metric = type(metric).from_config(metric.get_config())
        metric.update_state(y_true, y_pred)
    half = _EXAMPLES // 2
    parts = [_update(metric, y_true[rows], y_pred[rows]) for rows in (slice(half), slice(half, None))]
    whole = _update(metric, y_true, y_pred)
    for variable, one, other, both in zip(metric.variables, *parts, whole, strict=True):
        if not np.allclose(np.add(one, other), both, rtol=1e-4, atol=1e-5, equal_nan=True):
            one_dimension = (
                "Where y_true and y_pred are [n], give them as [n, 1], with y[:, None]: Keras takes the mean over the last "
                "dimension as one example's. Else return"
            )
            raise ConfigError(
                f"the Keras metric {metric.name} ({type(metric).__name__}) keeps {variable.name}, which is no sum over examples: "
                "the values of two halves of a batch do not add up to that of the whole. Its result would depend on how the "
                f"examples are divided. {one_dimension if y_true.ndim == y_pred.ndim == 1 else 'Return'} a modetrain.Sum of what "
                "the figure is made from."
            )
    return metric


def _random(like: tf.Tensor) -> np.ndarray:
    """Labels of two classes, or scores in [0, 1], of the dtype and shape of a batch."""
    rng, shape = np.random.default_rng(0), [_EXAMPLES, *(size or 1 for size in like.shape[1:])]
    drawn = rng.random(shape) if like.dtype.is_floating else rng.integers(0, 2, shape)
    return drawn.astype(like.dtype.as_numpy_dtype)


def _in_a_thread(call: Callable[[], Result]) -> Result:
    """Runs eagerly, outside of the step, its trace and its replica, which are those of this thread."""
    found: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="keras metric")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
