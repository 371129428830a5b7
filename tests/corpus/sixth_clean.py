"""Clean steps, written beside `sixth`: realistic ones, and habits that look suspicious and change nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import math

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny

log = logging.getLogger("sixth_clean")


def cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


def stacked(*layers):
    """A model: the layers, and a dense one after them."""

    def build(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                *(make() for make in layers),
                keras.layers.Dense(classes, kernel_initializer="glorot_uniform"),
            ]
        )

    return staticmethod(build)


class StatelessMixup(Tiny):
    """Mixup whose seed is a variable that counts the steps."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.draws = tf.Variable(0, dtype=tf.int32, trainable=False)

    def train_step(self, batch):
        seed = tf.stack([self.draws, 17])
        share = tf.cast(tf.random.stateless_uniform((8, 1), seed, 0, 1001, tf.int32, alg="philox"), tf.float32) / 1000.0
        self.draws.assign_add(1)
        x = share * batch["x"] + (1.0 - share) * tf.reverse(batch["x"], [0])
        return self.minimize(lambda: self.losses({"x": x, "label": batch["label"]}))


class LabelSmoothing(Tiny):
    epsilon = 0.1

    def losses(self, batch):
        soft = tf.one_hot(batch["label"], 3) * (1.0 - self.epsilon) + self.epsilon / 3
        return tf.nn.softmax_cross_entropy_with_logits(soft, self.logits(batch))


class FocalLoss(Tiny):
    def losses(self, batch):
        log_probability = tf.nn.log_softmax(self.logits(batch))
        picked = tf.gather(log_probability, batch["label"], batch_dims=1)
        return -tf.pow(1.0 - tf.exp(picked), 2.0) * picked


class GradientPenalty(Tiny):
    """The penalty of WGAN-GP, by a tape within the tape."""

    build_model = stacked(lambda: keras.layers.Dense(4, activation="tanh"))

    def losses(self, batch):
        x = tf.convert_to_tensor(batch["x"])
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(self.model(x, training=True)[:, 0])
        slope = tf.sqrt(tf.reduce_sum(tf.square(tape.gradient(score, x)), 1) + 1e-6)
        return super().losses(batch) + 0.1 * tf.square(slope - 1.0)


class WeightAverage(Tiny):
    """An exponential average of the weights in a variable."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.average = tf.Variable(tf.zeros((4, 3)), trainable=False)

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        kernel = tf.convert_to_tensor(self.model.layers[-1].kernel)
        self.average.assign(0.9 * self.average + 0.1 * kernel)
        return result


class VariableSchedule(Tiny):
    """A cosine schedule of the weight of a term, by a counter in a variable."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.done = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        weight = 0.5 * (1.0 + tf.cos(math.pi * self.done / 10.0))
        result = self.minimize(lambda: self.losses(batch) * weight)
        self.done.assign_add(1.0)
        return result


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


class PenaltyComprehension(Tiny):
    """A sum over the weights by a generator expression."""

    def losses(self, batch):
        penalty = sum(tf.reduce_sum(tf.square(tf.convert_to_tensor(v))) for v in self.model.trainable_variables)
        return super().losses(batch) + 1e-2 * penalty


@dataclasses.dataclass(frozen=True)
class Options:
    temperature: float = 2.0
    penalise: bool = True
    names: tuple[str, ...] = ("entropy",)


class StaticOptions(Tiny):
    """Branches on a configuration."""

    options = Options()

    def losses(self, batch):
        logits = self.logits(batch) / self.options.temperature
        losses = cross_entropy(batch["label"], logits)
        if self.options.penalise and "entropy" in self.options.names:
            losses += 0.1 * tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), 1)
        return losses


class ShapeLogic(Tiny):
    """Folds and unfolds by shapes, static and dynamic."""

    def logits(self, batch):
        x = batch["x"]
        examples, width = tf.shape(x)[0], x.shape[-1]
        assert width % 2 == 0, "the width is even"
        halves = tf.transpose(tf.reshape(x, (examples, 2, width // 2)), (0, 2, 1))
        return self.model(tf.reshape(halves, (-1, width)), training=True) * tf.constant([1.0, 2.0, 3.0])


class PowerIteration(Tiny):
    """The largest singular value by a while loop."""

    def losses(self, batch):
        kernel = tf.stop_gradient(tf.convert_to_tensor(self.model.layers[-1].kernel))

        def body(i, u):
            return i + 1, tf.math.l2_normalize(tf.linalg.matvec(kernel, tf.linalg.matvec(kernel, u, transpose_a=True)))

        _, u = tf.while_loop(lambda i, u: i < 5, body, (0, tf.ones(4) / 2.0))
        norm = tf.norm(tf.linalg.matvec(kernel, u, transpose_a=True))
        return super().losses(batch) / tf.maximum(norm, 1.0)


class ConditionalLoss(Tiny):
    """Two losses by tf.cond."""

    def losses(self, batch):
        losses = super().losses(batch)
        return tf.cond(tf.reduce_mean(batch["x"]) > 0.0, lambda: losses, lambda: 0.5 * tf.square(losses))


class ConvertedBranch(Tiny):
    """A branch of Python which depends on a tensor, in the step itself: autograph converts it."""

    def train_step(self, batch):
        spread = tf.math.reduce_std(batch["x"])
        if spread > 1.0:  # noqa: SIM108
            scale = 1.0 / spread
        else:
            scale = tf.constant(1.0)
        return self.minimize(lambda: scale * self.losses(batch))


class ArrayOfLogits(Tiny):
    """Collects the logits of noise levels in a TensorArray."""

    def losses(self, batch):
        collected = tf.TensorArray(tf.float32, size=3, element_shape=(8,))
        for index, level in enumerate((0.0, 0.1, 0.2)):
            logits = self.model(batch["x"] * (1.0 - level), training=True)
            collected = collected.write(index, cross_entropy(batch["label"], logits))
        return tf.reduce_mean(collected.stack(), 0)


class Affine(keras.layers.Layer):
    """A layer with its weights created in build."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="zeros", name="shift")

    def call(self, x):
        return x * self.scale + self.shift


class BuiltLayer(Tiny):
    build_model = stacked(Affine)


class MetricOfInit(Tiny):
    """A metric which __init__ creates and the step updates."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.mean_loss = keras.metrics.Mean()

    def losses(self, batch):
        losses = super().losses(batch)
        self.mean_loss.update_state(losses)
        return losses


class BatchNormalised(Tiny):
    build_model = stacked(keras.layers.BatchNormalization, lambda: keras.layers.Dense(6, activation="relu"))


class CounterDropout(Tiny):
    """Dropout by a stateless mask, with a variable as its seed."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.masks = tf.Variable(0, dtype=tf.int32, trainable=False)

    def logits(self, batch):
        self.masks.assign_add(1)
        draw = tf.random.stateless_uniform((8, 4), tf.stack([self.masks, 3]), 0, 10, tf.int32, alg="philox")
        return self.model(tf.where(draw < 8, batch["x"] / 0.8, 0.0), training=True)


class LayerNormalised(Tiny):
    build_model = stacked(keras.layers.LayerNormalization, lambda: keras.layers.Dense(5, activation="gelu"))


class SelfAttention(Tiny):
    """Attention between the features as tokens."""

    def logits(self, batch):
        tokens = tf.stack([batch["x"], tf.sin(batch["x"]), tf.cos(batch["x"])], 2)
        scores = tf.einsum("btd,bsd->bts", tokens, tokens) / math.sqrt(3.0)
        causal = tf.linalg.band_part(tf.ones((4, 4)), -1, 0)
        weights = tf.nn.softmax(scores + (1.0 - causal) * -1e9)
        return self.model(tf.reduce_mean(tf.einsum("bts,bsd->btd", weights, tokens), 2), training=True)


class RecurrentCells(Tiny):
    """A recurrent layer over the features."""

    build_model = stacked(lambda: keras.layers.Reshape((4, 1)), lambda: keras.layers.GRU(3, reset_after=False))


class ValidLookup(Tiny):
    """Looks labels up in a table which has all of them."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = tf.Variable([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5], [0.5, 1.0, 0.0]], trainable=False)

    def losses(self, batch):
        return cross_entropy(batch["label"], self.logits(batch) + tf.nn.embedding_lookup(self.table, batch["label"]))


class ClassWeights(Tiny):
    """Weights of classes which __init__ computes in numpy and caches."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        counts = np.array([3.0, 3.0, 2.0])
        self.weights = tf.constant(counts.sum() / (3 * counts), tf.float32)
        print("class weights", counts)

    def losses(self, batch):
        return tf.gather(self.weights, batch["label"]) * super().losses(batch)


@functools.cache
def positions(length, width):
    """Sinusoidal positions: a pure function of integers, cached as numpy."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(width)[None] / width)
    return np.sin(angles).astype(np.float32)


class CachedPositions(Tiny):
    def logits(self, batch):
        return self.model(batch["x"] + positions(8, 4), training=True)


class LoggedSetup(Tiny):
    """Logs while it is made, and outside the step."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.reports = []
        log.info("a model of %d weights", self.model.count_params())

    def on_epoch_end(self):
        self.reports.append("epoch")
        log.info("epoch %d", len(self.reports))


class NumpyConstants(Tiny):
    """Numpy on constants within the step."""

    def losses(self, batch):
        levels = np.linspace(0.5, 1.5, 3, dtype=np.float32)
        return cross_entropy(batch["label"], self.logits(batch) * (levels / levels.mean()))


class ClippedNorm(Tiny):
    def logits(self, batch):
        (clipped, scaled), _ = tf.clip_by_global_norm([batch["x"], 2.0 * batch["x"]], 5.0)
        return self.model(clipped + tf.clip_by_value(scaled, -1.0, 1.0), training=True) * tf.constant([1.0, 2.0, 3.0])


class SortedMargin(Tiny):
    build_model = stacked()

    def losses(self, batch):
        logits = self.logits(batch)
        first, second = tf.unstack(tf.sort(logits, direction="DESCENDING")[:, :2], axis=1)
        return cross_entropy(batch["label"], logits) + 0.1 * tf.nn.softplus(second - first)


class AccuracyVariable(Tiny):
    """Keeps the accuracy and a confusion matrix in variables."""

    build_model = stacked()

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.right = tf.Variable(0.0, trainable=False)
        self.confusion = tf.Variable(tf.zeros((3, 3)), trainable=False)

    def losses(self, batch):
        logits = self.logits(batch)
        guess = tf.argmax(logits, 1, output_type=tf.int32)
        self.right.assign_add(tf.reduce_sum(tf.cast(guess == batch["label"], tf.float32)))
        self.confusion.assign_add(tf.matmul(tf.one_hot(batch["label"], 3), tf.one_hot(guess, 3), transpose_a=True))
        return cross_entropy(batch["label"], logits)


class LossObjects(Tiny):
    """Sparse and dense losses of Keras, which agree."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
        self.dense = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)

    def losses(self, batch):
        logits = self.logits(batch)
        return self.sparse(batch["label"], logits) + self.dense(tf.one_hot(batch["label"], 3), logits)


class SpectralNorm(Tiny):
    """Spectral normalisation with its vector in a variable."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.u = tf.Variable([[0.6, 0.8, 0.0]], trainable=False)

    def logits(self, batch):
        kernel = tf.convert_to_tensor(self.model.layers[-1].kernel)
        v = tf.math.l2_normalize(tf.matmul(self.u, kernel, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, kernel))
        self.u.assign(tf.stop_gradient(u))
        sigma = tf.matmul(tf.matmul(tf.stop_gradient(v), kernel), tf.stop_gradient(u), transpose_b=True)
        return tf.matmul(batch["x"], kernel / sigma) + tf.convert_to_tensor(self.model.layers[-1].bias)


@tf.custom_gradient
def clipped_gradient(x):
    """The identity, with its gradient clipped."""
    return tf.identity(x), lambda upstream: tf.clip_by_value(upstream, -0.05, 0.05)


class ClippedGradient(Tiny):
    def logits(self, batch):
        return clipped_gradient(super().logits(batch))


class MappedRows(Tiny):
    """Standardises every row in a mapped function."""

    def logits(self, batch):
        rows = tf.map_fn(lambda row: (row - tf.reduce_mean(row)) / (tf.math.reduce_std(row) + 1e-3), batch["x"])
        return self.model(rows, training=True)


class VectorisedRows(Tiny):
    def logits(self, batch):
        outer = tf.vectorized_map(lambda row: tf.linalg.matvec(tf.tensordot(row, row, 0), row), batch["x"])
        return self.model(0.1 * outer, training=True)


class ScannedAverage(Tiny):
    """A running average along the batch."""

    def losses(self, batch):
        smooth = tf.scan(lambda state, row: 0.9 * state + 0.1 * row, batch["x"], tf.zeros(4))
        return cross_entropy(batch["label"], self.model(smooth, training=True) * tf.constant([1.0, 2.0, 3.0]))


class QuietPrint(Tiny):
    """Prints under a flag which is off, and reads an option which may be missing."""

    verbose = False
    options = {"weight": 2.0}

    def losses(self, batch):
        losses = super().losses(batch)
        if self.verbose:
            tf.print("losses", losses)
        try:
            weight = self.options["scale"]
        except KeyError:
            weight = self.options.get("weight", 1.0)
        return weight * losses


class RegularisedLayer(Tiny):
    """A regulariser of Keras, through the losses of the model."""

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(classes, kernel_regularizer="l2")])

    def losses(self, batch):
        losses = super().losses(batch)
        return losses + tf.add_n(self.model.losses)


@contextlib.contextmanager
def scoped(name):
    with tf.name_scope(name):
        yield name


class LocalLists(Tiny):
    """Local lists, counters and contexts, which live no longer than the step."""

    def losses(self, batch):
        terms, count = [], 0
        with scoped("pairs"):
            for first, second in itertools.combinations(range(3), 2):
                logits = self.logits(batch)
                terms.append(tf.square(logits[:, first] - logits[:, second] - float(first)))
                count += 1
        return super().losses(batch) + tf.add_n(terms) / count


class StatelessDraw(Tiny):
    """Noise of a stateless generator: the same seed, and other numbers."""

    modes = ("xla",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.draws = tf.Variable(0, dtype=tf.int32, trainable=False)

    def logits(self, batch):
        self.draws.assign_add(1)
        noise = tf.random.stateless_uniform((8, 4), tf.stack([self.draws, 2]))
        return self.model(batch["x"] + noise, training=True) * tf.constant([1.0, 2.0, 3.0])
