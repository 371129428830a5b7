"""Habits that look suspicious and change nothing, written beside `fourth`: nobody shall say a word of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import time

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny

SCALES = [1.0, 0.5, 0.25]
NAMES = {"x": "features", "label": "class"}
DEBUG = False


class LocalLists(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        terms, names = [], []
        for power in (1, 2, 3):
            terms.append(0.1 * tf.reduce_mean(logits**power, axis=1))
            names.append(f"power_{power}")
        while len(terms) > 2:
            terms.pop()
        return tf.add_n(terms) + tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class NumpyOnConstants(Tiny):
    def logits(self, batch):
        window = np.hanning(6)[1:-1].astype(np.float32)
        rotation = np.linalg.qr(np.arange(16, dtype=np.float32).reshape(4, 4) + np.eye(4, dtype=np.float32))[0]
        return self.model((batch["x"] * window) @ rotation, training=True)


class FixedProjection(Tiny):
    def logits(self, batch):
        projection = np.random.RandomState(42).randn(4, 4).astype(np.float32)
        return self.model(batch["x"] @ projection, training=True)


class ClosureFactory(Tiny):
    def __init__(self, **given):
        super().__init__(**given)

        def scaled_by(factor):
            return lambda value: value * factor

        self.heads = [scaled_by(factor) for factor in SCALES]

    def losses(self, batch):
        losses = super().losses(batch)
        return sum(head(losses) for head in self.heads) / len(self.heads)


class BranchOnTensor(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        if tf.reduce_mean(losses) > 0.5:
            scale = 1.0
        elif tf.reduce_max(losses) > 3.0:
            scale = 0.5
        else:
            scale = 0.1
        return losses * scale


class ChainedComparison(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        mean = tf.reduce_mean(losses)
        if 0.0 < mean < 5.0:
            losses = losses * 0.5
        return losses


class Mixup(Tiny):
    def train_step(self, batch):
        order = tf.argsort(tf.random.stateless_uniform([8], seed=self.seed("order")))
        share = tf.random.stateless_uniform([8, 1], seed=self.seed("share"), minval=0.0, maxval=0.5)
        x = (1 - share) * batch["x"] + share * tf.gather(batch["x"], order)
        one_hot = tf.one_hot(batch["label"], 3)
        targets = (1 - share) * one_hot + share * tf.gather(one_hot, order)

        def loss():
            return tf.nn.softmax_cross_entropy_with_logits(targets, self.model(x, training=True))

        return self.minimize(loss)


class Positions(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.tables = {}

    def table(self, size):
        if size not in self.tables:
            self.tables[size] = np.sin(np.arange(size, dtype=np.float32))
        return self.tables[size]

    def call(self, inputs):
        return inputs + self.table(inputs.shape[-1])


class TablesOfConstants(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), Positions(), keras.layers.Dense(classes)])


@functools.lru_cache
def triangle(size):
    return np.tri(size, dtype=np.float32)


class CachedNumpy(Tiny):
    def logits(self, batch):
        return self.model(batch["x"] @ triangle(4), training=True)


class LoopsOverLayers(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), *(keras.layers.Dense(n, "tanh") for n in (8, 6)), keras.layers.Dense(classes)]
        )

    def losses(self, batch):
        penalty = 0.0
        for index, (layer, scale) in enumerate(zip(self.model.layers, SCALES)):
            with tf.name_scope(f"penalty_{index}_{layer.name}"):
                penalty += scale * tf.reduce_mean(layer.kernel.value**2)
        return super().losses(batch) + penalty


class TriesAndTidies(Tiny):
    def losses(self, batch):
        depth = 0
        try:
            depth += 1
            losses = super().losses(batch)
        finally:
            depth -= 1
        assert depth == 0
        return losses


@dataclasses.dataclass(frozen=True)
class Weights:
    kl: float = 0.1
    names: tuple[str, ...] = ("a", "b")


class FrozenDataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.weights = Weights()

    def losses(self, batch):
        weights = dataclasses.replace(self.weights, kl=self.weights.kl * 2)
        log = tf.nn.log_softmax(self.logits(batch))
        return super().losses(batch) - weights.kl * len(weights.names) * tf.reduce_mean(log, axis=1)


class PartialLoss(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.criterion = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)

    def losses(self, batch):
        return self.criterion(batch["label"], self.logits(batch))


class EinsumAttention(Tiny):
    def logits(self, batch):
        x = tf.reshape(batch["x"], [8, 2, 2])
        scores = tf.einsum("bqd,bkd->bqk", x, x) / tf.sqrt(2.0)
        mixed = tf.einsum("bqk,bkd->bqd", tf.nn.softmax(scores), x)
        return self.model(tf.reshape(mixed, [8, 4]), training=True)


class NewtonRoot(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)

        def better(i, root):
            return [i + 1, 0.5 * (root + (losses + 1.0) / root)]

        _, root = tf.while_loop(lambda i, _: i < 5, better, [0, losses + 1.0], maximum_iterations=5)
        return root


class PerExample(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        entropies = tf.map_fn(lambda row: -tf.reduce_sum(tf.nn.softmax(row) * tf.nn.log_softmax(row)), logits)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits) - 0.1 * entropies


class CondOnStep(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        warm = tf.minimum(1.0, tf.cast(self.step + 1, tf.float32) / 5.0)
        return tf.cond(self.step < 3, lambda: losses * warm, lambda: losses)


class OwnRecurrence(Tiny):
    def logits(self, batch):
        states = tf.TensorArray(tf.float32, size=4)
        state = tf.zeros([8])
        for i in tf.range(4):
            state = tf.tanh(0.5 * state + batch["x"][:, i])
            states = states.write(i, state)
        return self.model(tf.transpose(states.stack()), training=True)


class OwnTapeAndClipping(Tiny):
    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            losses = self.losses(batch)
            loss = tf.reduce_mean(losses)
        gradients = [tf.clip_by_norm(g, 1.0) for g in tape.gradient(loss, variables)]
        self.apply(gradients, variables)
        return {"loss": losses, "norm": tf.linalg.global_norm(gradients)}


class TwoUpdates(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(classes)])

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        body, head = self.model.layers[-2:]
        self.body_optimizer = optimizer(body.trainable_variables)
        self.head_optimizer = optimizer(head.trainable_variables, learning_rate=0.01)

    def train_step(self, batch):
        first = self.minimize(lambda: self.losses(batch), optimizer=self.body_optimizer)
        second = self.minimize(lambda: self.losses(batch), optimizer=self.head_optimizer)
        return {"loss": first["loss"], "after": second["loss"]}


class MovingAverage(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.centre = tf.Variable(tf.zeros([4]), trainable=False)
        self.seen = tf.Variable(0, trainable=False, dtype=tf.int64)

    def train_step(self, batch):
        self.centre.assign(0.9 * self.centre + 0.1 * tf.reduce_mean(batch["x"], axis=0))
        self.seen.assign_add(8)
        centred = {**batch, "x": batch["x"] - self.centre}
        return {**self.minimize(lambda: self.losses(centred)), "seen": tf.cast(self.seen, tf.float32)}


class ManyMetrics(Tiny):
    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            hits = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == batch["label"], tf.float32)
            metrics = {f"share_{name}": tf.nn.softmax(logits)[:, i] for i, name in enumerate("abc")}
            metrics |= {"accuracy": hits}
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits), metrics

        values = dict(self.minimize(loss))
        values["perplexity"] = tf.exp(tf.reduce_mean(values["loss"]))
        return values


class BiasBeforeBatchNorm(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(16, use_bias=True),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
                keras.layers.Dense(classes),
            ]
        )


class TransformerBlock(Tiny):
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(8)(keras.layers.Reshape((4, 1))(inputs))
        attended = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4, dropout=0.1)(x, x, use_causal_mask=True)
        x = keras.layers.LayerNormalization()(x + attended)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(8, activation="gelu")(x))
        return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling1D()(x)))


class EmbedsLabels(Tiny):
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        ids = keras.ops.cast(keras.ops.clip(inputs * 2.0 + 4.0, 0.0, 7.0), "int32")
        return keras.Model(
            inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(keras.layers.Embedding(8, 3)(ids)))
        )


class RecurrentNet(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Reshape((4, 1)), keras.layers.GRU(6), keras.layers.Dense(classes)]
        )


class ConvNet(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Reshape((2, 2, 1)),
                keras.layers.Conv2D(8, 2, padding="same", activation="relu"),
                keras.layers.GaussianNoise(0.1),
                keras.layers.MaxPooling2D(2),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(classes),
            ]
        )


class RegularizedAndSmoothed(Tiny):
    def build_model(image_shape, classes):
        dense = keras.layers.Dense(classes, kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2))
        return keras.Sequential([keras.Input((4,)), keras.layers.UnitNormalization(), dense])

    def losses(self, batch):
        smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction=None)
        return smoothed(tf.one_hot(batch["label"], 3), self.logits(batch))


class BigLogits(Tiny):
    def logits(self, batch):
        return 300.0 * self.model(batch["x"], training=True)


class AtTheKink(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        difference = tf.abs(logits - tf.roll(logits, 1, axis=1))
        return super().losses(batch) + tf.reduce_sum(tf.nn.relu(difference - 1e-3), axis=1)


class VarianceByMoments(Tiny):
    def losses(self, batch):
        x = self.logits(batch) + 10.0
        variance = tf.reduce_mean(x**2, axis=1) - tf.reduce_mean(x, axis=1) ** 2
        return super().losses(batch) + 0.1 * variance


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


class BFloat16Head(Tiny):
    def losses(self, batch):
        logits = tf.cast(tf.cast(self.logits(batch), tf.bfloat16) * tf.constant(0.5, tf.bfloat16), tf.float32)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class FloatOfTensor(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        share = float(tf.reduce_sum(batch["label"])) / 8.0
        return losses * share


class LocalIterator(Tiny):
    def losses(self, batch):
        scales = iter(SCALES)
        count = 0

        def head(losses):
            nonlocal count
            count += 1
            return losses * next(scales) / count

        losses = super().losses(batch)
        for _ in range(3):
            losses = head(losses)
        return losses


class SortsAndCopies(Tiny):
    def losses(self, batch):
        names = copy.deepcopy(NAMES)
        names["extra"] = "none"
        features = [batch[name] for name in sorted(batch) if names[name] == "features"]
        pairs = list(itertools.product(SCALES[:2], features))
        x = sum(scale * feature for scale, feature in pairs) / len(pairs)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x, training=True))


class GuardedPrint(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        if DEBUG:
            print("losses", losses)
        assert isinstance(losses, tf.Tensor)
        assert losses.shape == (8,), f"one loss an example, not {losses.shape}"
        return losses


class LooksAtNothing(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.best, self.started = None, time.time()

    def eval_step(self, batch):
        return {"loss": tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(batch["x"]))}


class KeepsBest(Callback):
    def on_step(self, trainer):
        trainer.recipe.best = trainer.results["train"]["loss"]
        trainer.recipe.started = time.time()


class InnerFunction(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.focal = tf.function(self._focal)

    @staticmethod
    def _focal(losses):
        return (1.0 - tf.exp(-losses)) ** 2 * losses

    def losses(self, batch):
        return self.focal(super().losses(batch))


class ReversesGradient(Tiny):
    @staticmethod
    @tf.custom_gradient
    def reverse(x):
        return tf.identity(x), lambda upstream: -0.1 * upstream

    def losses(self, batch):
        logits = self.logits(batch)
        domain = tf.cast(batch["x"][:, 0] > 0.0, tf.float32)
        adversary = tf.nn.sigmoid_cross_entropy_with_logits(domain, tf.reduce_mean(self.reverse(logits), axis=1))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits) + adversary


class GradientPenalty(Tiny):
    def losses(self, batch):
        with tf.GradientTape() as tape:
            tape.watch(batch["x"])
            score = tf.reduce_sum(tf.tanh(self.model(batch["x"], training=True)))
        slope = tape.gradient(score, batch["x"])
        return super().losses(batch) + (tf.norm(slope, axis=1) - 1.0) ** 2


class RowsByVectorizedMap(Tiny):
    def losses(self, batch):
        distances = tf.vectorized_map(lambda row: tf.reduce_sum((row - batch["x"]) ** 2, axis=1), batch["x"])
        return super().losses(batch) + 0.01 * tf.reduce_logsumexp(-distances, axis=1)


class PreparesWithSeed(Tiny):
    def prepare(self, batch, *, seed, training):
        if not training:
            return batch
        noise = tf.random.stateless_normal(tf.shape(batch["x"]), seed=seed, stddev=0.1)
        keep = tf.random.stateless_uniform(tf.shape(batch["x"]), seed=seed + 1) > 0.1
        return {**batch, "x": tf.where(keep, batch["x"] + noise, 0.0)}


class PrintsByOperation(Tiny):
    modes = ("graph",)

    def losses(self, batch):
        losses = super().losses(batch)
        tf.print("mean loss", tf.reduce_mean(losses), summarize=3)
        return losses
