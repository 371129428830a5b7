"""Tapes, gradients and updates by hand."""

from __future__ import annotations

import itertools

import keras
import tensorflow as tf
from keras import layers

from tests.corpus import clean_helpers
from tests.corpus.base import Tiny, Varied
from tests.corpus.clean_helpers import EPSILON, LOSSES, cross_entropy, mlp, normalize, prefixed


class OwnTape(Tiny):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        variables = self.model.trainable_variables
        self.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class SeveralUpdates(Tiny):
    def train_step(self, batch):
        for _ in range(3):
            values = self.minimize(lambda: self.losses(batch))
        return values


class CustomGradient(Tiny):
    def losses(self, batch):
        @tf.custom_gradient
        def reversed_gradient(x):
            def gradient(upstream):
                return -upstream

            return x, gradient

        return super().losses({**batch, "x": reversed_gradient(batch["x"])})


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


class SplitsGradients(Tiny):
    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            found = self.losses(batch)
            loss = tf.reduce_mean(found)
        gradients = tape.gradient(loss, variables)
        gradients = [g if "bias" in v.path else g * 0.5 for g, v in zip(gradients, variables, strict=True)]
        self.apply(gradients, variables)
        return {"loss": found}


class ConfusedDomain(Varied):
    """A gradient penalty by nested tapes, one of them persistent and deleted."""

    def losses(self, batch):
        x = tf.identity(batch["x"])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            score = tf.reduce_sum(tf.tanh(self.model(x, training=True)), -1)
        gradient = tape.gradient(score, x)
        del tape
        return super().losses(batch) + tf.square(tf.sqrt(tf.reduce_sum(gradient**2, -1) + 1e-6) - 1.0)


class Recomputed(Varied):
    """A part is recomputed in the backward pass."""

    def losses(self, batch):
        inner = tf.recompute_grad(lambda y: tf.tanh(y) * tf.nn.softplus(y))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], inner(self.logits(batch)))


class VectorizedJacobian(Varied):
    """Per-example gradients by batch_jacobian and a vectorized map."""

    def losses(self, batch):
        with tf.GradientTape() as tape:
            tape.watch(batch["x"])
            y = tf.nn.softmax(self.logits(batch))
        jacobian = tape.batch_jacobian(y, batch["x"])
        norms = tf.vectorized_map(lambda j: tf.reduce_sum(tf.square(j)), jacobian)
        return super().losses(batch) + norms


class ClippedBackward(Tiny):
    """Clips the gradient that flows into the logits."""

    def losses(self, batch):
        logits = clean_helpers.clipped_identity(self.logits(batch))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class AdversarialFGSM(Tiny):
    """Adversarial training by one (softly signed) gradient."""

    epsilon = 0.1

    def perturb(self, batch):
        x = batch["x"]
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = self.model(x, training=False)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits))
        return tf.stop_gradient(x + self.epsilon * tf.tanh(5.0 * tape.gradient(loss, x)))

    def train_step(self, batch):
        adversarial = {**batch, "x": self.perturb(batch)}
        return self.minimize(lambda: 0.5 * (self.losses(batch) + self.losses(adversarial)))


class GradNormBalanced(Tiny):
    """Balances two losses by their gradient norms, with a persistent tape."""

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            logits = self.logits(batch)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            reg = LOSSES["huber"](batch["x"][:, 1:], logits)
            means = [tf.reduce_mean(ce), tf.reduce_mean(reg)]
        gradients = [tape.gradient(m, variables) for m in means]
        del tape
        norms = [tf.linalg.global_norm(g) + 1e-6 for g in gradients]
        mean_norm = tf.add_n(norms) / len(norms)
        combined = [tf.add_n([g * (mean_norm / n) for g, n in zip(pair, norms)]) for pair in zip(*gradients)]
        self.apply(combined, variables, self.optimizer)
        return {"ce": ce, "reg": reg, **{f"norm/{i}": n for i, n in enumerate(norms)}}


class VirtualAdversarial(Tiny):
    """Virtual adversarial training with one power iteration."""

    xi, radius = 1e-1, 0.5

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([16, classes])

    @staticmethod
    def divergence(p_logits, q_logits):
        p = tf.nn.softmax(p_logits)
        return tf.reduce_sum(p * (tf.nn.log_softmax(p_logits) - tf.nn.log_softmax(q_logits)), axis=1)

    def adversary(self, x, logits):
        direction = normalize(tf.random.stateless_normal(tf.shape(x), self.seed("direction")))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(direction)
            moved = self.model(x + self.xi * direction, training=True)
            divergence = tf.reduce_sum(self.divergence(logits, moved))
        gradient = tf.stop_gradient(tape.gradient(divergence, direction))
        largest = tf.reduce_max(tf.abs(gradient), axis=1, keepdims=True)
        return self.radius * normalize(gradient / (largest + 1e-12))

    def train_step(self, batch):
        x = batch["x"]
        clean = tf.stop_gradient(self.model(x, training=True))
        perturbation = self.adversary(x, clean)

        def loss_fn():
            logits = self.model(x, training=True)
            smooth = self.divergence(tf.stop_gradient(logits), self.model(x + perturbation, training=True))
            return cross_entropy(batch["label"], logits) + smooth, {"lds": smooth}

        return self.minimize(loss_fn)


class BaseTape(Tiny):
    """Recipes that bring their own tape; the loss is scaled and unscaled as mixed precision asks."""

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([10, classes])

    @property
    def weights(self):
        return self.model.trainable_variables

    def gradients(self, loss_fn, variables=None):
        variables = self.weights if variables is None else variables
        with tf.GradientTape() as tape:
            losses = loss_fn()
            scaled = self.optimizer.scale(tf.reduce_mean(losses))
        return losses, self.optimizer.unscale(tape.gradient(scaled, variables))


class GradientSurgery(BaseTape):
    """PCGrad: two tasks, each gradient projected off the other where they disagree; one persistent tape."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        trunk = layers.Dense(10, activation="tanh")(inputs)
        return keras.Model(inputs, {"class": layers.Dense(classes)(trunk), "sum": layers.Dense(1)(trunk)})

    @staticmethod
    def project(gradient, other):
        flat, flat_other = (tf.concat([tf.reshape(g, [-1]) for g in group], 0) for group in (gradient, other))
        dot = tf.tensordot(flat, flat_other, 1)
        share = tf.minimum(dot, 0.0) / (tf.tensordot(flat_other, flat_other, 1) + EPSILON)
        return [g - share * o for g, o in zip(gradient, other)]

    def train_step(self, batch):
        with tf.GradientTape(persistent=True) as tape:
            outputs = self.model(batch["x"], training=True)
            losses = {
                "class": cross_entropy(batch["label"], outputs["class"]),
                "sum": tf.square(outputs["sum"][:, 0] - tf.reduce_sum(batch["x"], axis=1)),
            }
            scaled = {name: self.optimizer.scale(tf.reduce_mean(loss)) for name, loss in losses.items()}
        gradients = {}
        for name, loss in scaled.items():
            found = tape.gradient(loss, self.weights)
            dense = [tf.zeros(v.shape) if g is None else g for g, v in zip(found, self.weights)]
            gradients[name] = self.optimizer.unscale(dense)
        del tape
        projected = [
            self.project(gradients[name], gradients[other]) for name, other in itertools.permutations(gradients, 2)
        ]
        self.apply([tf.add_n(group) for group in zip(*projected)])
        return {"loss": losses["class"] + losses["sum"], **prefixed("task", losses)}


class HessianTrace(BaseTape):
    """A penalty on Hutchinson's estimate of the trace of the Hessian, by Hessian-vector products in nested tapes."""

    def train_step(self, batch):
        signs = [
            tf.cast(2 * tf.random.stateless_uniform(v.shape, self.seed(f"probe_{i}"), 0, 2, tf.int32) - 1, tf.float32)
            for i, v in enumerate(self.weights)
        ]

        def loss_fn():
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    losses = self.losses(batch)
                    mean = tf.reduce_mean(losses)
                gradients = inner.gradient(mean, self.weights)
            products = outer.gradient(gradients, self.weights, output_gradients=signs)
            trace = tf.add_n([tf.reduce_sum(s * p) for s, p in zip(signs, products)])
            return losses + 0.01 * tf.abs(trace), {"trace": trace}

        return self.minimize(loss_fn)
