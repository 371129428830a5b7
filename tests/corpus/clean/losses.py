"""Losses as functions, objects, decorators and closures."""

from __future__ import annotations

import abc
import functools

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny, Varied
from tests.corpus.clean_helpers import checked, named


class Margin:
    """A callable helper with settings which nothing changes."""

    def __init__(self, width, power=2):
        self.width, self.power = width, power

    def __call__(self, logits, label):
        right = tf.gather(logits, label, batch_dims=1)[:, None]
        gap = tf.nn.relu(self.width + logits - right)
        return tf.reduce_sum(gap**self.power, 1)


class HelperObject(Tiny):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.margin = Margin(0.5)

    def losses(self, batch):
        return self.margin(self.logits(batch), batch["label"])


class LossObjects(Tiny):
    """Sparse and dense losses of Keras, which agree."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
        self.dense = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)

    def losses(self, batch):
        logits = self.logits(batch)
        return self.sparse(batch["label"], logits) + self.dense(tf.one_hot(batch["label"], 3), logits)


class HeadsDict(Varied):
    """Losses of several heads in a dict comprehension, weighted and summed."""

    weights = {"class": 1.0, "norm": 0.1, "entropy": -0.05}

    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            p = tf.nn.softmax(logits)
            heads = {
                "class": tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits),
                "norm": tf.reduce_sum(logits**2, -1),
                "entropy": -tf.reduce_sum(p * tf.math.log(p + 1e-8), -1),
            }
            total = sum(self.weights[name] * value for name, value in heads.items())
            return total, {f"loss_{name}": value for name, value in sorted(heads.items())}

        return self.minimize(loss)


class TripletMining(Varied):
    """The hardest positives and negatives, by masks over finite numbers."""

    def losses(self, batch):
        z = self.logits(batch)
        distance = tf.reduce_sum((z[:, None] - z[None]) ** 2, -1)
        same = batch["label"][:, None] == batch["label"][None]
        hardest = tf.reduce_max(tf.where(same, distance, 0.0), -1)
        nearest = tf.reduce_min(tf.where(same, 1e6, distance), -1)
        return tf.nn.relu(hardest - nearest + 0.5)


class Dice(Tiny):
    def losses(self, batch):
        p = tf.nn.softmax(self.logits(batch))
        y = tf.one_hot(batch["label"], 3)
        dice = (2 * tf.reduce_sum(p * y, axis=1) + 1e-6) / (tf.reduce_sum(p + y, axis=1) + 1e-6)
        return 1.0 - dice


class Ohem(Tiny):
    def losses(self, batch):
        scale = tf.range(1.0, 9.0) / 8.0
        values, _ = tf.math.top_k(super().losses(batch) * scale, k=4)
        return tf.reduce_mean(values)


class Sinkhorn(Tiny):
    def losses(self, batch):
        logits = self.logits(batch) / 0.05
        for _ in range(3):
            logits -= tf.reduce_logsumexp(logits, axis=0, keepdims=True)
            logits -= tf.reduce_logsumexp(logits, axis=1, keepdims=True)
        return -tf.gather(logits, batch["label"], batch_dims=1)


class Quantiles(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        ordered = tf.sort(losses)
        median = 0.5 * (ordered[3] + ordered[4])
        return tf.where(losses > 2 * median, 2 * median, losses)


FACTORS = [1.0, 0.5, 0.25]


class ClosureFactory(Tiny):
    def __init__(self, **given):
        super().__init__(**given)

        def scaled_by(factor):
            return lambda value: value * factor

        self.heads = [scaled_by(factor) for factor in FACTORS]

    def losses(self, batch):
        losses = super().losses(batch)
        return sum(head(losses) for head in self.heads) / len(self.heads)


class CosineOfEmbeddings(Tiny):
    def losses(self, batch):
        z = tf.math.l2_normalize(self.logits(batch), axis=1)
        similar = tf.matmul(z, z, transpose_b=True) / 0.07
        same = tf.cast(batch["label"][:, None] == batch["label"][None, :], tf.float32) - tf.eye(8)
        log_share = tf.nn.log_softmax(similar - 1e9 * tf.eye(8), axis=1)
        return -tf.reduce_sum(same * log_share, axis=1) / tf.reduce_sum(same, axis=1)


class GammaLikelihood(Tiny):
    def losses(self, batch):
        alpha = tf.math.softplus(self.logits(batch)) + 1.0
        total = tf.reduce_sum(alpha, axis=1)
        evidence = tf.math.lgamma(total) - tf.reduce_sum(tf.math.lgamma(alpha), axis=1)
        return super().losses(batch) + 0.05 * evidence


class ErrorFunctions(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        cdf = 0.5 * (1.0 + tf.math.erf(logits / tf.sqrt(2.0)))
        return super().losses(batch) + 0.1 * tf.reduce_sum(cdf * tf.math.atan(logits) + tf.math.expm1(-cdf), axis=1)


class InnerFunction(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.focal = tf.function(self._focal)

    @staticmethod
    def _focal(losses):
        return (1.0 - tf.exp(-losses)) ** 2 * losses

    def losses(self, batch):
        return self.focal(super().losses(batch))


class CallsAFunction(Tiny):
    @staticmethod
    @tf.function
    def gelu(x):
        return 0.5 * x * (1.0 + tf.math.erf(x / tf.sqrt(2.0)))

    def losses(self, batch):
        return super().losses({**batch, "x": self.gelu(batch["x"])})


class DecoratesItsLoss(Tiny):
    def halved(function):
        @functools.wraps(function)
        def wrapper(self, *args, **kwargs):
            return 0.5 * function(self, *args, **kwargs)

        return wrapper

    @halved
    def losses(self, batch):
        return super().losses(batch)


SOBEL = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)[:, :, None, None]


class DecoratedLosses(Tiny):
    """Decorators with wraps: a name scope and a shape check."""

    @checked
    @named("losses")
    def losses(self, batch, *, weight=0.5):
        return weight * super().losses(batch)


class SpectralLoss(Tiny):
    """Compares magnitudes of Fourier transforms."""

    def losses(self, batch):
        logits = self.logits(batch)
        pred = tf.pad(logits, [[0, 0], [0, 1]])
        a, b = (tf.signal.fft(tf.cast(t, tf.complex64)) for t in (pred, batch["x"]))
        diff = a - b
        power = tf.square(tf.math.real(diff)) + tf.square(tf.math.imag(diff))
        return tf.reduce_mean(power, axis=-1)


class RotaryFeatures(Tiny):
    """Rotary embedding by complex products."""

    freqs = np.array([1.0, 0.1], np.float32)

    def rotate(self, x):
        position = tf.range(x.shape[0], dtype=tf.float32)[:, None] * self.freqs
        z = tf.complex(x[:, 0::2], x[:, 1::2]) * tf.complex(tf.cos(position), tf.sin(position))
        return tf.reshape(tf.stack([tf.math.real(z), tf.math.imag(z)], axis=-1), x.shape)

    def losses(self, batch):
        return super().losses({**batch, "x": self.rotate(batch["x"])})


class MultiScale(Tiny):
    """A pyramid of resized and convolved images."""

    def losses(self, batch):
        images = tf.reshape(batch["x"], [-1, 2, 2, 1])
        large = tf.image.resize(images, [4, 4], method="bilinear")
        edges = tf.nn.conv2d(large, SOBEL, strides=1, padding="SAME")
        pooled = tf.nn.avg_pool2d(edges, 2, 2, "VALID")
        return super().losses({**batch, "x": tf.reshape(images + 0.5 * pooled, [-1, 4])})


class MaskedMean(Tiny):
    """A masked mean with fixed shapes."""

    def train_step(self, batch):
        keep = tf.cast(batch["x"][:, 0] > 0, tf.float32)
        count = tf.maximum(tf.reduce_sum(keep), 1.0)

        def loss_fn():
            losses = self.losses(batch)
            return tf.reduce_sum(losses * keep) / count, {"kept": keep}

        return self.minimize(loss_fn)


class SafeRatio(Tiny):
    """tf.where with a denominator that is safe on both sides."""

    def losses(self, batch):
        x = batch["x"]
        positive = x[:, 1] > 0
        safe = tf.where(positive, x[:, 1], tf.ones_like(x[:, 1]))
        ratio = tf.where(positive, tf.abs(x[:, 0]) / (safe + 0.1), tf.zeros_like(safe))
        return super().losses(batch) * (1.0 + tf.minimum(ratio, 3.0))


class ConfusionMixin:
    """Puts per-class recalls beside the metrics of the step it is mixed into."""

    def train_step(self, batch):
        metrics = super().train_step(batch)
        predicted = tf.argmax(self.model(batch["x"], training=False), axis=-1, output_type=tf.int32)
        matrix = tf.math.confusion_matrix(batch["label"], predicted, num_classes=self.info.classes, dtype=tf.float32)
        recalls = tf.linalg.diag_part(matrix) / tf.maximum(tf.reduce_sum(matrix, axis=1), 1.0)
        return metrics | {f"recall/{i}": recall for i, recall in enumerate(tf.unstack(recalls))}


class ForwardCorrected(ConfusionMixin, Tiny):
    """Forward correction of noisy labels by a fixed transition matrix, under a mixin that calls super()."""

    flip = 0.2

    @functools.cached_property
    def transition(self):
        classes = self.info.classes
        off = self.flip / (classes - 1)
        return np.full((classes, classes), off, np.float32) + np.eye(classes, dtype=np.float32) * (1 - self.flip - off)

    def losses(self, batch):
        noisy = tf.matmul(tf.nn.softmax(self.logits(batch)), self.transition)
        return -tf.math.log(tf.gather(noisy, batch["label"], axis=1, batch_dims=1))


class Loss(abc.ABC):
    @abc.abstractmethod
    def __call__(self, label, logits): ...


class Hinge(Loss):
    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def __call__(self, label, logits):
        sign = 2.0 * tf.one_hot(label, logits.shape[-1]) - 1.0
        return tf.reduce_mean(tf.nn.relu(self.margin - sign * logits), axis=-1)


class TakesAnObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.loss: Loss = Hinge(0.5)

    def losses(self, batch):
        return self.loss(batch["label"], self.logits(batch))


class RanksByPairs(Tiny):
    """Differences of every pair of scores, by a new axis."""

    def losses(self, batch):
        score = self.logits(batch)[:, :1]
        above = tf.cast(batch["label"][:, None] > batch["label"], tf.float32)
        return tf.reduce_mean(above * tf.nn.softplus(tf.transpose(score) - score), axis=1)


class AsManyFrequenciesAsExamples(Tiny):
    """A feature of one column times eight constants, for eight examples."""

    def losses(self, batch):
        waves = tf.sin(self.logits(batch)[:, :1] * tf.linspace(1.0, 8.0, 8))
        return tf.reduce_mean(tf.square(waves), axis=1)
