"""Figures of a whole evaluation, each exact however its examples are divided over batches, replicas and workers.

    return {"auc": metrics.auc(batch["label"], scores), "iou": metrics.mean_iou(batch["mask"], predicted, classes=3)}

Each is a `Sum` that knows how it becomes a figure. `top_k` is a mean like any other.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.engine import keras_metrics
from modetrain.engine.values import Figure, Sum, broadcast_weights

_CELL = 12  # pixels of a cell of a confusion matrix, at least


def auc(labels: Any, scores: Any, weights: Any = None, *, thresholds: int = 200) -> Sum:
    """Area under the ROC curve: the chance that a positive example scores above a negative one, ties counting half.

    Scores are counted in `thresholds` equal bins of [0, 1]; those within a bin are ties. The error is at most half the share of
    pairs that meet in a bin.

    Args:
      labels: 0 and 1, or bools, [n, ...].
      scores: in [0, 1], of the same shape; `tf.sigmoid` makes them of logits.
      weights: numbers that broadcast to them.
    """
    positive = tf.reshape(tf.cast(labels, tf.float32), [-1])
    weight = tf.reshape(_weights(weights, scores), [-1])
    bins = tf.cast(tf.reshape(tf.cast(scores, tf.float32), [-1]) * thresholds, tf.int32)
    each = tf.one_hot(tf.clip_by_value(bins, 0, thresholds - 1), thresholds)
    counts = tf.stack(
        [tf.linalg.matvec(each, weight * share, transpose_a=True) for share in (positive, 1.0 - positive)]
    )
    return Sum(counts, _auc)


def _auc(counts: np.ndarray) -> float:
    positive, negative = counts
    below = np.cumsum(negative) - negative / 2
    pairs = positive.sum() * negative.sum()
    return float((positive * below).sum() / pairs) if pairs else float("nan")


def precision_recall(labels: Any, predicted: Any, weights: Any = None) -> Sum:
    """Precision, recall and F1 of a yes-or-no prediction; figures `NAME/precision`, `NAME/recall` and `NAME/f1`.

    Args:
      labels: 0 and 1, or bools, [n, ...].
      predicted: the same for what is predicted, such as `logits > 0`.
      weights: numbers that broadcast to them.
    """
    truth, said = tf.cast(labels, tf.float32), tf.cast(predicted, tf.float32)
    weight = _weights(weights, said)
    parts = (truth * said, (1.0 - truth) * said, truth * (1.0 - said))
    return Sum(tf.stack([tf.reduce_sum(weight * part) for part in parts]), _precision_recall)


def _precision_recall(counts: np.ndarray) -> dict[str, Figure]:
    hits, false, missed = counts
    return {
        "precision": _share(hits, hits + false),
        "recall": _share(hits, hits + missed),
        "f1": _share(2 * hits, 2 * hits + false + missed),
    }


def confusion_matrix(labels: Any, predicted: Any, *, classes: int, weights: Any = None) -> Sum:
    """How often each class is taken for each other: a picture, a row for each true class, and figures of all classes.

    The figures are `NAME/macro_precision`, `NAME/macro_recall` and `NAME/macro_f1`: means over the classes that occur.

    Args:
      labels, predicted: numbers of classes, [n, ...].
      classes: how many there are.
      weights: numbers that broadcast to them.
    """
    return Sum(_matrix(labels, predicted, classes, weights), _confusion)


def _confusion(matrix: np.ndarray) -> dict[str, Figure]:
    hits, truth, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    there = truth + said > 0
    cell = max(1, -(-_CELL * 10 // len(matrix)), _CELL if len(matrix) <= 40 else 1)
    shares = matrix / np.maximum(truth, 1)[:, np.newaxis]
    return {
        "": np.kron(shares, np.ones((cell, cell))),
        "macro_precision": _mean(hits, said, there),
        "macro_recall": _mean(hits, truth, there),
        "macro_f1": _mean(2 * hits, truth + said, there),
    }


def mean_iou(labels: Any, predicted: Any, *, classes: int, weights: Any = None) -> Sum:
    """Mean intersection over union, over the classes that occur in the labels or the predictions.

    Args:
      labels, predicted: numbers of classes, [n, ...], of each pixel for example.
      classes: how many there are.
      weights: numbers that broadcast to them.
    """
    return Sum(_matrix(labels, predicted, classes, weights), _mean_iou)


def _mean_iou(matrix: np.ndarray) -> float:
    hits, either = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    return _mean(hits, either, either > 0)


def perplexity(losses: Any, weights: Any = None) -> Sum:
    """The exponential of the mean loss.

    Args:
      losses: in nats, of each token, [n, ...].
      weights: a mask or numbers that broadcast to them.
    """
    losses = tf.cast(losses, tf.float32)
    weight = _weights(weights, losses)
    total = tf.reduce_sum(tf.math.multiply_no_nan(losses, weight))
    return Sum(tf.stack([total, tf.reduce_sum(weight)]), _perplexity)


def _perplexity(sums: np.ndarray) -> float:
    return float(np.exp(sums[0] / sums[1])) if sums[1] else float("nan")


def r2(targets: Any, predictions: Any, weights: Any = None) -> Sum:
    """The share of the targets' variance that the predictions explain; it computes in float64.

    Args:
      targets, predictions: numbers of one shape, [n, ...].
      weights: numbers that broadcast to them.
    """
    y, off = tf.cast(targets, tf.float64), tf.cast(targets, tf.float64) - tf.cast(predictions, tf.float64)
    weight = tf.cast(_weights(weights, y), tf.float64)
    return Sum(tf.stack([tf.reduce_sum(weight * part) for part in (tf.ones_like(y), y, y * y, off * off)]), _r2)


def _r2(sums: np.ndarray) -> float:
    count, total, square, error = sums
    spread = square - total**2 / count if count else 0.0
    return float(1.0 - error / spread) if spread > 0 else float("nan")


def top_k(labels: Any, logits: Any, k: int = 5) -> tf.Tensor:
    """1 where the right class is among the `k` most likely ones, else 0: float32 [n], a mean like any other.

    Args:
      labels: numbers of classes, [n].
      logits: [n, classes].
      k: how many.
    """
    return tf.cast(tf.math.in_top_k(tf.cast(labels, tf.int32), tf.cast(logits, tf.float32), k), tf.float32)


def keras(metric: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Sum:
    """The result of a Keras metric, whose state must be a sum over examples, as that of AUC, MeanIoU and F1Score is.

    The step returns what the batch adds to the metric's state; the metric itself is not updated. A result of several numbers
    gives a figure for each, `NAME/0` and so on.

    Args:
      metric: a `keras.metrics.Metric`, made in `__init__`.
      y_true, y_pred, sample_weight: as in its `update_state`.

    Raises:
      ConfigError: its state is not a sum.
    """
    return keras_metrics.increment(metric, y_true, y_pred, sample_weight)


def _weights(weights: Any, like: Any) -> tf.Tensor:
    like = tf.convert_to_tensor(like)
    return tf.ones(tf.shape(like)) if weights is None else broadcast_weights(tf.cast(weights, tf.float32), like)


def _matrix(labels: Any, predicted: Any, classes: int, weights: Any) -> tf.Tensor:
    """Weights by (true class, predicted class): float32 [classes, classes]; a class out of range counts nowhere."""
    one_hot = functools.partial(tf.one_hot, depth=classes, dtype=tf.float32)
    weight = tf.reshape(_weights(weights, labels), [-1, 1])
    truth, said = (one_hot(tf.reshape(tf.cast(one, tf.int32), [-1])) for one in (labels, predicted))
    return tf.linalg.matmul(truth * weight, said, transpose_a=True)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _mean(parts: np.ndarray, wholes: np.ndarray, there: np.ndarray) -> float:
    shares = parts[there] / np.maximum(wholes[there], 1e-300)
    return float(shares.mean()) if there.any() else float("nan")
