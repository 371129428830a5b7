"""Loops: over tensors, over layers, short ones, recursions, scans and maps."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.corpus.base import Tiny, Varied
from tests.corpus.clean_helpers import cross_entropy, linear_ramp, mlp


class TensorLoop(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for _ in tf.range(50):
            x = x * 0.99
        return super().losses({**batch, "x": x})


class LoopOverLayers(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.blocks = [keras.layers.Dense(4) for _ in range(12)]
        for block in self.blocks:
            block.build((None, 4))

    def losses(self, batch):
        x = batch["x"]
        for block in self.blocks:
            x = block(x)
        for n in range(len(self.blocks)):
            x = x + 0.01 * self.blocks[n](x)
        return super().losses({**batch, "x": x})


class ShortLoop(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for power in range(5):
            x = x + 0.1 * x / (power + 1)
        return super().losses({**batch, "x": x})


class MapAndScan(Tiny):
    def losses(self, batch):
        squared = tf.map_fn(lambda row: row**2, batch["x"])
        summed = tf.scan(lambda total, row: total + row, batch["x"])
        return super().losses({**batch, "x": squared + 0.1 * summed})


class UsesWhile(Tiny):
    def losses(self, batch):
        x = tf.reduce_mean(tf.abs(batch["x"]))
        n = 0
        while x < 3.0:
            x = x * 1.5
            n += 1
        return super().losses(batch) + 0.0 * tf.cast(n, tf.float32)


class UsesTensorArray(Tiny):
    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, size=8)
        for n in tf.range(8):
            rows = rows.write(n, batch["x"][n] * 2.0)
        return super().losses({**batch, "x": tf.ensure_shape(rows.stack(), [8, 4])})


class NewtonRoot(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)

        def better(i, root):
            return [i + 1, 0.5 * (root + (losses + 1.0) / root)]

        _, root = tf.while_loop(lambda i, _: i < 5, better, [0, losses + 1.0], maximum_iterations=5)
        return root


class OwnRecurrence(Tiny):
    def logits(self, batch):
        states = tf.TensorArray(tf.float32, size=4)
        state = tf.zeros([8])
        for i in tf.range(4):
            state = tf.tanh(0.5 * state + batch["x"][:, i])
            states = states.write(i, state)
        return self.model(tf.transpose(states.stack()), training=True)


class RowsByVectorizedMap(Tiny):
    def losses(self, batch):
        distances = tf.vectorized_map(lambda row: tf.reduce_sum((row - batch["x"]) ** 2, axis=1), batch["x"])
        return super().losses(batch) + 0.01 * tf.reduce_logsumexp(-distances, axis=1)


class IteratesToConvergence(Tiny):
    def losses(self, batch):
        y = tf.ones_like(batch["x"])
        for _ in tf.range(5):
            y = 0.5 * (y + (tf.abs(batch["x"]) + 1.0) / y)
        return super().losses({**batch, "x": tf.stop_gradient(y)})


def sparse_cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


class ArrayOfLogits(Tiny):
    """Collects the logits of noise levels in a TensorArray."""

    def losses(self, batch):
        collected = tf.TensorArray(tf.float32, size=3, element_shape=(8,))
        for index, level in enumerate((0.0, 0.1, 0.2)):
            logits = self.model(batch["x"] * (1.0 - level), training=True)
            collected = collected.write(index, sparse_cross_entropy(batch["label"], logits))
        return tf.reduce_mean(collected.stack(), 0)


class AlignmentLoop(Varied):
    """A forward recursion, as CTC's, over a short list in Python."""

    def losses(self, batch):
        log_p = tf.nn.log_softmax(self.logits(batch))
        path = [0, 1, 0, 2, 0]
        alpha = [log_p[:, 0]] + [tf.fill([8], -1e9) for _ in path[1:]]
        for column in range(4):
            after = []
            for i, symbol in enumerate(path):
                terms = [alpha[i]]
                if i > 0:
                    terms.append(alpha[i - 1])
                if i > 1 and symbol != 0 and symbol != path[i - 2]:
                    terms.append(alpha[i - 2])
                after.append(tf.reduce_logsumexp(tf.stack(terms), 0) + log_p[:, symbol] + 0.1 * batch["x"][:, column])
            alpha = after
        return -tf.reduce_logsumexp(tf.stack(alpha[-2:]), 0)


class AdvantageScan(Varied):
    """Generalized advantages by a scan in reverse."""

    def losses(self, batch):
        rewards = batch["x"][:, 0]
        advantages = tf.scan(lambda carry, r: r + 0.95 * carry, rewards, initializer=tf.zeros([]), reverse=True)
        advantages = (advantages - tf.reduce_mean(advantages)) / (tf.math.reduce_std(advantages) + 1e-6)
        return super().losses(batch) * tf.stop_gradient(advantages)


class MappedExamples(Varied):
    """map_fn with a pure function and a structure of inputs."""

    def losses(self, batch):
        extra = tf.map_fn(
            lambda pair: tf.reduce_max(pair[0]) * tf.cast(pair[1] + 1, tf.float32),
            (batch["x"], batch["label"]),
            fn_output_signature=tf.float32,
        )
        return super().losses(batch) + 0.1 * extra


class AutographPower(Tiny):
    """A loop over a tensor range, converted by AutoGraph."""

    def losses(self, batch):
        logits = self.logits(batch)
        total = tf.zeros_like(logits)
        for i in tf.range(3):
            total += tf.stop_gradient(tf.tanh(logits)) * tf.cast(i, tf.float32)
        return super().losses(batch) + 0.01 * tf.reduce_mean(total, axis=-1)


class TreeRecursion(Tiny):
    """Recursion over a nested tuple as a small parse tree."""

    tree = ((0, 1), (2, (1, 0)))

    def compose(self, node, leaves):
        if isinstance(node, int):
            return leaves[node]
        left, right = (self.compose(child, leaves) for child in node)
        return tf.tanh(left + 0.5 * right)

    def losses(self, batch):
        leaves = tf.unstack(self.logits(batch), axis=1)
        root = self.compose(self.tree, leaves)
        return tf.square(root - tf.tanh(batch["x"][:, 0]))


class ZipsLayers(Tiny):
    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(classes)])

    def losses(self, batch):
        x = batch["x"]
        for number, (layer, rate) in enumerate(zip(self.model.layers, (1.0, 0.9), strict=True)):
            x = layer(x) * (rate if number else 1.0)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], x)


class DeepEquilibrium(Tiny):
    """A deep equilibrium layer: its fixed point by tf.while_loop, gradients through one more application."""

    tolerance, most = 1e-3, 12

    def __init__(self, *, model, optimizer, info, width: int = 6):
        self.info = info
        self.width = width
        z, x = keras.Input((width,)), keras.Input((4,))
        joint = layers.Dense(width, kernel_initializer=keras.initializers.RandomNormal(stddev=0.1))(z) + layers.Dense(
            width
        )(x)
        self.cell = keras.Model([z, x], layers.Activation("tanh")(joint))
        self.model = mlp([info.classes], inputs=width)
        self.learned = self.cell.trainable_variables + self.model.trainable_variables
        self.optimizer = optimizer(self.learned)

    def fixed_point(self, x):
        def going(n, z, residual):
            return residual > self.tolerance

        def body(n, z, residual):
            new = self.cell([z, x])
            return n + 1, new, tf.reduce_max(tf.abs(new - z))

        start = (tf.constant(0), tf.zeros([x.shape[0], self.width]), tf.constant(np.inf, tf.float32))
        n, z, _ = tf.while_loop(going, body, start, maximum_iterations=self.most)
        return tf.stop_gradient(z), n

    def train_step(self, batch):
        z, iterations = self.fixed_point(batch["x"])

        def loss_fn():
            return cross_entropy(batch["label"], self.model(self.cell([z, batch["x"]], training=True), training=True))

        return {**self.minimize(loss_fn, self.learned), "iterations": tf.cast(iterations, tf.float32)}


class RecurrentByHand(Tiny):
    """A GRU cell unrolled over a TensorArray, with scheduled sampling of its inputs."""

    units = 6

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.gates = mlp([2 * self.units], inputs=self.units + 1, name="gates")
        self.candidate = mlp([self.units], inputs=self.units + 1, name="candidate")
        self.model = mlp([1], inputs=self.units, name="readout")
        self.learned = [v for net in (self.gates, self.candidate, self.model) for v in net.trainable_variables]
        self.optimizer = optimizer(self.learned)

    def cell(self, x, h):
        update, reset = tf.split(tf.sigmoid(self.gates(tf.concat([x, h], 1))), 2, axis=1)
        proposal = tf.tanh(self.candidate(tf.concat([x, reset * h], 1)))
        return update * h + (1.0 - update) * proposal

    def unroll(self, sequence, truth_share):
        count, length = sequence.shape
        coins = tf.random.stateless_uniform([length, count, 1], self.seed("coins")) < truth_share
        h, predicted = tf.zeros([count, self.units]), sequence[:, :1]
        outputs = tf.TensorArray(tf.float32, size=length - 1, element_shape=[count])
        for t in range(length - 1):
            x = tf.where(coins[t], sequence[:, t : t + 1], predicted)
            h = self.cell(x, h)
            predicted = self.model(h)
            outputs = outputs.write(t, predicted[:, 0])
        return tf.transpose(outputs.stack())

    def train_step(self, batch):
        truth_share = 1.0 - 0.5 * linear_ramp(self.step, 4)

        def loss_fn():
            predictions = self.unroll(batch["x"], truth_share)
            return tf.reduce_mean(tf.square(predictions - batch["x"][:, 1:]), axis=1)

        return {**self.minimize(loss_fn, self.learned), "truth_share": truth_share}
