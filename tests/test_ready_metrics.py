"""`modetrain.metrics`: each figure against an independent calculation, over uneven batches."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain import metrics
from modetrain.errors import ConfigError

RNG = np.random.default_rng(0)
N = 97
LABEL = RNG.integers(0, 2, N)
SCORE = np.clip(0.3 * LABEL + RNG.random(N) * 0.7, 0, 1).astype(np.float32)
CLASS, GUESS = RNG.integers(0, 4, N), RNG.integers(0, 4, N)
GUESS = np.where(RNG.random(N) < 0.5, CLASS, GUESS)
WEIGHT = RNG.random(N).astype(np.float32) * 3
Y = (1000 + RNG.normal(size=N)).astype(np.float32)
PREDICTED = (Y + RNG.normal(size=N) / 2).astype(np.float32)


def merged(metric, *arrays, **given):
    """The figure of three uneven batches, traced as a step is."""
    total = 0.0
    for part in np.split(np.arange(N), [50, 80]):
        step = tf.function(functools.partial(metric, **given))
        found = step(*(tf.constant(array[part]) for array in arrays))
        total = total + found.tensor.numpy().astype(np.float64)
    return found.summarize(total)


def ranked(weight):
    """The share of (positive, negative) pairs in order, pair by pair."""
    above = (SCORE[:, None] > SCORE) + 0.5 * (SCORE[:, None] == SCORE)
    pairs = weight[:, None] * weight * np.outer(LABEL, 1 - LABEL)
    return (above * pairs).sum() / pairs.sum()


def test_auc():
    assert merged(metrics.auc, LABEL, SCORE, thresholds=2000) == pytest.approx(ranked(np.ones(N)), abs=1e-3)
    assert merged(metrics.auc, LABEL, SCORE, WEIGHT, thresholds=2000) == pytest.approx(ranked(WEIGHT), abs=1e-3)
    rough = merged(metrics.auc, LABEL, SCORE, thresholds=10)
    assert abs(rough - ranked(np.ones(N))) < 0.05


def test_precision_recall_and_f1():
    said = SCORE > 0.5
    hits = (WEIGHT * LABEL * said).sum()
    precision, recall = hits / (WEIGHT * said).sum(), hits / (WEIGHT * LABEL).sum()
    found = merged(metrics.precision_recall, LABEL, said, WEIGHT)
    wanted = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
    assert found == pytest.approx(wanted, rel=1e-6)


def test_confusion_matrix_and_mean_iou():
    matrix = np.array([[((i == CLASS) & (j == GUESS)).sum() for j in range(4)] for i in range(4)])
    found = merged(metrics.confusion_matrix, CLASS, GUESS, classes=4)
    picture = found.pop("")
    cell = len(picture) // 4
    np.testing.assert_allclose(picture[::cell, ::cell], matrix / matrix.sum(axis=1, keepdims=True))
    recall, precision = np.diag(matrix) / matrix.sum(axis=1), np.diag(matrix) / matrix.sum(axis=0)
    wanted = {
        "macro_recall": recall.mean(),
        "macro_precision": precision.mean(),
        "macro_f1": (2 * precision * recall / (precision + recall)).mean(),
    }
    assert found == pytest.approx(wanted)
    iou = [((k == CLASS) & (k == GUESS)).sum() / ((k == CLASS) | (k == GUESS)).sum() for k in range(4)]
    assert merged(metrics.mean_iou, CLASS, GUESS, classes=4) == pytest.approx(np.mean(iou))
    assert merged(metrics.mean_iou, CLASS, GUESS, classes=9) == pytest.approx(np.mean(iou)), "five never occur"


def test_perplexity_and_r2():
    assert merged(metrics.perplexity, SCORE, WEIGHT) == pytest.approx(np.exp((SCORE * WEIGHT).sum() / WEIGHT.sum()))
    y, off = Y.astype(np.float64), Y.astype(np.float64) - PREDICTED
    assert merged(metrics.r2, Y, PREDICTED) == pytest.approx(1 - (off**2).sum() / ((y - y.mean()) ** 2).sum(), rel=1e-9)


def test_top_k():
    logits = RNG.normal(size=(N, 4))
    wanted = [CLASS[i] in np.argsort(-logits[i])[:2] for i in range(N)]
    np.testing.assert_array_equal(metrics.top_k(CLASS, logits, 2), np.float32(wanted))


def test_nothing_of_a_class_makes_no_error():
    zeros = np.zeros(N, np.int64)
    assert np.isnan(merged(metrics.auc, zeros, SCORE))
    assert merged(metrics.precision_recall, zeros, zeros) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_what_weighs_nothing_need_not_be_finite():
    found = metrics.perplexity(tf.constant([1.0, np.inf]), tf.constant([1.0, 0.0]))
    assert found.summarize(found.tensor.numpy()) == pytest.approx(np.e)


PROBABLE = RNG.dirichlet(np.ones(4), N).astype(np.float32)
ONE_HOT = np.eye(4, dtype=np.float32)[CLASS]
OF_KERAS = [
    (keras.metrics.AUC, {}, (LABEL, SCORE, WEIGHT)),
    (keras.metrics.Precision, {}, (LABEL, SCORE, WEIGHT)),
    (keras.metrics.Recall, {}, (LABEL, SCORE)),
    (keras.metrics.MeanIoU, {"num_classes": 4}, (CLASS, GUESS)),
    (keras.metrics.F1Score, {}, (ONE_HOT, PROBABLE)),
    (keras.metrics.MeanSquaredError, {}, (Y[:, None], PREDICTED[:, None], WEIGHT)),
    (keras.metrics.CosineSimilarity, {}, (ONE_HOT, PROBABLE)),
    (keras.metrics.R2Score, {}, (ONE_HOT, PROBABLE)),
    (keras.metrics.SparseCategoricalAccuracy, {}, (CLASS, PROBABLE)),
]


@pytest.mark.parametrize(("cls", "given", "arrays"), OF_KERAS, ids=lambda one: getattr(one, "__name__", None))
def test_a_metric_of_keras_is_that_of_all_examples(cls, given, arrays):
    """F1Score makes its variables at its first update: those of the user's own would be added to a checkpoint."""
    metric, alone = cls(**given), cls(**given)
    found = merged(functools.partial(metrics.keras, metric), *arrays)
    alone.update_state(*arrays)
    wanted = np.asarray(alone.result())
    found = np.array(list(found.values())) if isinstance(found, dict) else found
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not any(np.any(variable.numpy()) for variable in metric.variables), "it keeps nothing"
    assert len(metric.variables) == len(cls(**given).variables)


def test_a_metric_of_keras_that_is_no_sum_is_refused():
    class Highest(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="highest")
            self.top = self.add_variable((), "zeros", name="top")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.top.assign(tf.maximum(self.top, tf.reduce_max(y_pred)))

        def result(self):
            return self.top

    with pytest.raises(
        ConfigError, match=r"the Keras metric highest \(Highest\) keeps top, which is no sum over examples"
    ):
        merged(functools.partial(metrics.keras, Highest()), LABEL, SCORE)
    with pytest.raises(ConfigError, match="give them as .n, 1."):  # Keras's mean of a batch is then one example
        merged(functools.partial(metrics.keras, keras.metrics.MeanSquaredError()), Y, PREDICTED)
