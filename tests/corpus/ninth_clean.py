"""A hundred clean training steps."""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import enum
import functools
import itertools
import logging
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tests.corpus import ninth_clean_helpers as helpers
from tests.corpus.base import BATCH_SIZE, Tiny
from tests.corpus.ninth_clean_helpers import (
    EPSILON,
    LOSSES,
    DiffusionSchedule,
    Gaussian,
    accuracy,
    cosine_ramp,
    cross_entropy,
    linear_ramp,
    mlp,
    normalize,
    pairwise_squared,
    per_example,
    prefixed,
    reverse_gradient,
    round_through,
    sinkhorn_plan,
    update_average,
)

logger = logging.getLogger(__name__)
logger.debug("recipes of %s, TensorFlow %s", __name__, tf.__version__)


# --- classification -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FocalConfig:
    gamma: float = 2.0
    alpha: tuple[float, ...] = (0.25, 0.5, 0.25)
    label_smoothing: float = 0.1
    report_accuracy: bool = True


class FocalFromConfig(Tiny):
    """Focal loss with class weights, all from a frozen dataclass."""

    def __init__(self, *, model, optimizer, info, gamma: float = 2.0):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.config = FocalConfig(gamma=gamma)

    def losses(self, batch):
        cfg = self.config
        classes = self.info.classes
        logits = self.logits(batch)
        target = tf.one_hot(batch["label"], classes)
        if cfg.label_smoothing > 0:
            target = target * (1.0 - cfg.label_smoothing) + cfg.label_smoothing / classes
        log_p = tf.nn.log_softmax(logits)
        weight = tf.constant(cfg.alpha) * tf.pow(1.0 - tf.exp(log_p), cfg.gamma)
        loss = -tf.reduce_sum(target * weight * log_p, axis=-1)
        metrics = {"accuracy": accuracy(batch["label"], logits)} if cfg.report_accuracy else {}
        return loss, metrics


class Phase(NamedTuple):
    until: float
    value: float


class SmoothingSchedule(Tiny):
    """Label smoothing that follows a piecewise constant schedule of the step."""

    phases = (Phase(until=2, value=0.2), Phase(until=3, value=0.1), Phase(until=math.inf, value=0.0))

    def smoothing(self):
        step = tf.cast(self.step, tf.float32)
        value = tf.constant(self.phases[-1].value)
        for phase in reversed(self.phases[:-1]):
            value = tf.where(step < phase.until, phase.value, value)
        return value

    def train_step(self, batch):
        smoothing = self.smoothing()

        def loss_fn():
            logits = self.logits(batch)
            one_hot = tf.one_hot(batch["label"], self.info.classes)
            target = (1.0 - smoothing) * one_hot + smoothing / self.info.classes
            return tf.nn.softmax_cross_entropy_with_logits(target, logits)

        return {**self.minimize(loss_fn), "smoothing": smoothing}


class RegistryOfLosses(Tiny):
    """A weighted sum of losses that are looked up by name."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.weights = {"xent": 1.0, "brier": 0.5, "focal": 0.25}
        try:
            self.functions = {name: LOSSES[name] for name in self.weights}
        except KeyError as error:
            raise ValueError(f"no loss {error}; there are {', '.join(sorted(LOSSES))}") from error

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            terms = {name: function(batch["label"], logits) for name, function in self.functions.items()}
            total = sum(weight * terms[name] for name, weight in self.weights.items())
            return total, prefixed("term", terms)

        return self.minimize(loss_fn)


class Reduction(enum.Enum):
    MEAN = "mean"
    HARDEST = "hardest"
    SOFT = "soft"


class HardExamples(Tiny):
    """Online hard example mining; how the examples are weighted is an enum that a match statement reads."""

    keep = 0.5
    reduction = Reduction.HARDEST

    def example_weights(self, losses):
        count = losses.shape[0]
        match self.reduction:
            case Reduction.MEAN:
                return tf.ones_like(losses)
            case Reduction.HARDEST:
                k = max(1, int(count * self.keep))
                threshold = tf.math.top_k(losses, k=k).values[-1]
                mask = tf.cast(losses >= threshold, losses.dtype)
                return mask * count / tf.reduce_sum(mask)
            case Reduction.SOFT:
                return tf.nn.softmax(losses) * count
            case other:
                raise ValueError(f"unknown reduction {other}")

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            weights = tf.stop_gradient(self.example_weights(losses))
            return weights * losses, {"unweighted": losses, "kept": tf.cast(weights > 0, tf.float32)}

        return self.minimize(loss_fn)


class ClassBalanced(Tiny):
    """Class weights by the effective number of samples, from counts that accumulate over the steps."""

    def __init__(self, *, model, optimizer, info, beta: float = 0.99):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.beta = beta
        self.counts = tf.Variable(tf.ones([info.classes]), trainable=False, name="class_counts")

    def train_step(self, batch):
        self.counts.assign_add(
            tf.math.bincount(batch["label"], minlength=self.info.classes, maxlength=self.info.classes, dtype=tf.float32)
        )
        effective = (1.0 - tf.pow(self.beta, self.counts)) / (1.0 - self.beta)
        weights = 1.0 / effective
        weights = weights / tf.reduce_sum(weights) * self.info.classes
        return self.minimize(lambda: tf.gather(weights, batch["label"]) * self.losses(batch))


class OrdinalCumulative(Tiny):
    """Ordinal regression with cumulative binary targets (CORAL)."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        hidden = layers.Dense(8, activation="relu")(inputs)
        score = layers.Dense(1, use_bias=False)(hidden)
        return keras.Model(inputs, layers.Dense(classes - 1, kernel_initializer="ones")(score))

    @staticmethod
    def levels(labels, classes: int):
        thresholds = tf.range(classes - 1, dtype=labels.dtype)
        return tf.cast(labels[:, None] > thresholds[None, :], tf.float32)

    def train_step(self, batch):
        levels = self.levels(batch["label"], self.info.classes)

        def loss_fn():
            logits = self.logits(batch)
            assert logits.shape == levels.shape, f"{logits.shape} against {levels.shape}"
            loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(levels, logits), axis=1)
            rank = tf.reduce_sum(tf.cast(logits > 0, tf.int32), axis=1)
            return loss, {"absolute_error": tf.cast(tf.abs(rank - batch["label"]), tf.float32)}

        return self.minimize(loss_fn)


class EvidentialClassifier(Tiny):
    """Evidential deep learning: a Dirichlet over the classes, its KL annealed in."""

    annealing_steps: ClassVar[int] = 5

    def dirichlet_kl(self, alpha):
        classes = self.info.classes
        total = tf.reduce_sum(alpha, axis=1, keepdims=True)
        first = (
            tf.math.lgamma(total) - tf.reduce_sum(tf.math.lgamma(alpha), axis=1, keepdims=True) - math.lgamma(classes)
        )
        second = tf.reduce_sum((alpha - 1.0) * (tf.math.digamma(alpha) - tf.math.digamma(total)), axis=1, keepdims=True)
        return tf.squeeze(first + second, axis=1)

    def train_step(self, batch):
        coefficient = linear_ramp(self.step, self.annealing_steps)
        target = tf.one_hot(batch["label"], self.info.classes)

        def loss_fn():
            alpha = tf.nn.softplus(self.logits(batch)) + 1.0
            strength = tf.reduce_sum(alpha, axis=1, keepdims=True)
            mean = alpha / strength
            error = tf.reduce_sum(tf.square(target - mean), axis=1)
            variance = tf.reduce_sum(mean * (1.0 - mean) / (strength + 1.0), axis=1)
            misleading = target + (1.0 - target) * alpha
            loss = error + variance + coefficient * self.dirichlet_kl(misleading)
            return loss, {"uncertainty": self.info.classes / strength[:, 0]}

        return self.minimize(loss_fn)


# --- mixing and consistency -----------------------------------------------------------------------------------------


class Mixup(Tiny):
    """Mixup with one coefficient per example, drawn from a beta distribution by two gammas (which XLA lacks)."""

    modes = ("graph",)
    alpha = 0.4

    def coefficients(self, shape):
        one = tf.random.stateless_gamma(shape, self.seed("mixup_one"), alpha=self.alpha)
        two = tf.random.stateless_gamma(shape, self.seed("mixup_two"), alpha=self.alpha)
        share = one / tf.maximum(one + two, EPSILON)
        return tf.maximum(share, 1.0 - share)

    def train_step(self, batch):
        x, label = batch["x"], batch["label"]
        share = self.coefficients([x.shape[0]])
        order = tf.random.experimental.stateless_shuffle(tf.range(x.shape[0]), seed=self.seed("order"))
        mixed = share[:, None] * x + (1.0 - share)[:, None] * tf.gather(x, order)

        def loss_fn():
            logits = self.model(mixed, training=True)
            same, other = (cross_entropy(y, logits) for y in (label, tf.gather(label, order)))
            return share * same + (1.0 - share) * other

        return self.minimize(loss_fn) | {"mixup_share": share}


class FeatureCutout(Tiny):
    """One random feature of each example is replaced by that of another example; targets are mixed by the share kept."""

    def train_step(self, batch):
        x, label = batch["x"], batch["label"]
        examples, features = x.shape
        start = tf.random.stateless_uniform([examples, 1], self.seed("start"), 0, features, dtype=tf.int32)
        mask = tf.cast(tf.equal(tf.range(features)[None, :], start), tf.float32)
        donor = tf.roll(x, shift=1, axis=0)
        kept = 1.0 - tf.reduce_mean(mask, axis=1)
        augmented = x * (1.0 - mask) + donor * mask
        one_hot = tf.one_hot(label, self.info.classes)
        target = kept[:, None] * one_hot + (1.0 - kept)[:, None] * tf.roll(one_hot, shift=1, axis=0)
        criterion = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="none")
        return self.minimize(lambda: criterion(target, self.model(augmented, training=True)))


class MeanTeacher(Tiny):
    """Mean teacher: consistency of a student to its own moving average under different noise."""

    def __init__(self, *, model, optimizer, info, decay: float = 0.9, weight: float = 1.0):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.teacher = keras.models.clone_model(self.model)
        self.teacher.set_weights(self.model.get_weights())
        self.teacher.trainable = False
        self.decay, self.weight = decay, weight

    def perturb(self, x, who: str):
        return x + 0.1 * tf.random.stateless_normal(x.shape, self.seed(f"noise_{who}"))

    def train_step(self, batch):
        target = tf.nn.softmax(self.teacher(self.perturb(batch["x"], "teacher"), training=False))
        ramp = self.weight * tf.exp(-5.0 * tf.square(1.0 - linear_ramp(self.step, 4)))

        def loss_fn():
            logits = self.model(self.perturb(batch["x"], "student"), training=True)
            supervised = cross_entropy(batch["label"], logits)
            consistency = tf.reduce_mean(tf.square(tf.nn.softmax(logits) - target), axis=1)
            return supervised + ramp * consistency, {"supervised": supervised}

        metrics = self.minimize(loss_fn)
        decay = tf.minimum(self.decay, 1.0 - 1.0 / (tf.cast(self.step, tf.float32) + 1.0))
        update_average(self.teacher.variables, self.model.variables, decay)
        return metrics


class FixMatch(Tiny):
    """FixMatch: confident predictions of weak views teach strong views; half of the batch counts as unlabelled."""

    threshold = 0.34

    @property
    def labelled(self) -> int:
        return BATCH_SIZE // 2

    def weak(self, x):
        return x + 0.05 * tf.random.stateless_normal(tf.shape(x), self.seed("weak"))

    def strong(self, x):
        noise = tf.random.stateless_normal(tf.shape(x), self.seed("strong"))
        keep = tf.random.stateless_uniform(tf.shape(x), self.seed("keep")) > 0.25
        return tf.where(keep, x + 0.3 * noise, tf.zeros_like(x))

    def train_step(self, batch):
        x = batch["x"]
        unlabelled = tf.cast(tf.range(tf.shape(x)[0]) >= self.labelled, tf.float32)
        views = tf.concat([self.weak(x), self.strong(x)], axis=0)

        def loss_fn():
            logits_weak, logits_strong = tf.split(self.model(views, training=True), 2)
            supervised = (1.0 - unlabelled) * cross_entropy(batch["label"], logits_weak)
            pseudo = tf.stop_gradient(tf.nn.softmax(logits_weak))
            mask = tf.cast(tf.reduce_max(pseudo, axis=1) >= self.threshold, tf.float32) * unlabelled
            unsupervised = mask * cross_entropy(tf.argmax(pseudo, axis=1), logits_strong)
            return supervised + unsupervised, {"pseudo_used": mask}

        return self.minimize(loss_fn)


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


# --- adversarial training -------------------------------------------------------------------------------------------


class FastGradientSign(Tiny):
    """Half clean, half adversarial examples of the fast gradient sign method."""

    epsilon = 0.1

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([12, classes], activation="relu")

    def attack(self, x, label):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(cross_entropy(label, self.model(x, training=False)))
        return tf.stop_gradient(x + self.epsilon * tf.sign(tape.gradient(loss, x)))

    def train_step(self, batch):
        adversarial = self.attack(batch["x"], batch["label"])

        def loss_fn():
            both = tf.concat([batch["x"], adversarial], axis=0)
            losses = cross_entropy(tf.tile(batch["label"], [2]), self.model(both, training=True))
            clean, robust = tf.unstack(tf.reshape(losses, [2, -1]))
            return 0.5 * (clean + robust), {"clean": clean, "robust": robust}

        return self.minimize(loss_fn)


@dataclasses.dataclass
class Attack:
    """Projected gradient descent inside an infinity ball."""

    epsilon: float = 0.2
    step_size: float = 0.1
    iterations: int = 3

    def __call__(self, predict: Callable, x, label, seed):
        delta = tf.random.stateless_uniform(tf.shape(x), seed, -self.epsilon, self.epsilon)
        for _ in range(self.iterations):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(delta)
                loss = tf.reduce_sum(cross_entropy(label, predict(x + delta)))
            delta = delta + self.step_size * tf.sign(tape.gradient(loss, delta))
            delta = tf.clip_by_value(delta, -self.epsilon, self.epsilon)
        return tf.stop_gradient(x + delta)


class ProjectedGradient(Tiny):
    """TRADES: a clean loss and the divergence to examples that an attack object has moved."""

    attack = Attack(iterations=2)
    trade_off = 2.0

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([12, classes])

    def train_step(self, batch):
        predict = functools.partial(self.model, training=False)
        moved = self.attack(predict, batch["x"], batch["label"], self.seed("attack"))

        def loss_fn():
            natural = self.model(batch["x"], training=True)
            robust = self.model(moved, training=True)
            p = tf.nn.softmax(natural)
            divergence = tf.reduce_sum(p * (tf.nn.log_softmax(natural) - tf.nn.log_softmax(robust)), axis=-1)
            return cross_entropy(batch["label"], natural) + self.trade_off * divergence, {"divergence": divergence}

        return self.minimize(loss_fn)


class InterpolatedGradientPenalty(Tiny):
    """WGAN-GP on feature vectors: two critic updates per generator update."""

    latent = 3
    critic_updates = 2

    def __init__(self, *, model, optimizer, info, penalty: float = 0.5):
        self.info = info
        self.penalty = penalty
        self.generator = mlp([8, 4], inputs=self.latent, name="generator")
        self.critic = mlp([8, 1], inputs=4, name="critic")
        self.model = self.generator
        self.generator_optimizer = optimizer(self.generator.trainable_variables)
        self.critic_optimizers = [optimizer(self.critic.trainable_variables) for _ in range(self.critic_updates)]

    def fake(self, name: str, count: int):
        z = tf.random.stateless_normal([count, self.latent], self.seed(name))
        return self.generator(z, training=True)

    def gradient_penalty(self, real, fake, name: str):
        share = tf.random.stateless_uniform([real.shape[0], 1], self.seed(name))
        between = share * real + (1.0 - share) * fake
        with tf.GradientTape() as tape:
            tape.watch(between)
            score = self.critic(between, training=True)
        slope = tf.sqrt(tf.reduce_sum(tf.square(tape.gradient(score, between)), axis=1) + 1e-12)
        return tf.square(slope - 1.0)

    def train_step(self, batch):
        real = batch["x"]
        metrics = {}
        for n, critic_optimizer in enumerate(self.critic_optimizers):
            fake = tf.stop_gradient(self.fake(f"z{n}", real.shape[0]))

            def critic_loss(fake=fake, n=n):
                wasserstein = self.critic(fake, training=True)[:, 0] - self.critic(real, training=True)[:, 0]
                return wasserstein + self.penalty * self.gradient_penalty(real, fake, f"mix{n}")

            update = self.minimize(critic_loss, self.critic.trainable_variables, critic_optimizer)
            metrics[f"critic_{n}"] = update["loss"]
        update = self.minimize(
            lambda: -self.critic(self.fake("z", real.shape[0]), training=True)[:, 0],
            self.generator.trainable_variables,
            self.generator_optimizer,
        )
        return metrics | {"generator": update["loss"]}


class SpectralDense(layers.Layer):
    """A dense layer whose kernel is divided by its largest singular value, by one power iteration per call."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.u = self.add_weight(shape=(1, self.units), initializer="random_normal", trainable=False, name="u")

    def call(self, inputs, training=False):
        kernel = tf.convert_to_tensor(self.kernel)
        u = tf.convert_to_tensor(self.u)
        v = tf.math.l2_normalize(tf.matmul(u, kernel, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, kernel))
        u, v = tf.stop_gradient(u), tf.stop_gradient(v)
        if training:
            self.u.assign(u)
        sigma = tf.squeeze(tf.matmul(tf.matmul(v, kernel), u, transpose_b=True))
        return tf.matmul(inputs, kernel / sigma) + self.bias


class HingeGan(Tiny):
    """A hinge GAN whose discriminator is spectrally normalised by a layer of our own."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.generator = mlp([8, 4], inputs=2)
        self.discriminator = keras.Sequential(
            [keras.Input((4,)), SpectralDense(8), layers.LeakyReLU(0.2), SpectralDense(1)], name="discriminator"
        )
        self.model = self.generator
        self.updaters = {
            "generator": optimizer(self.generator.trainable_variables),
            "discriminator": optimizer(self.discriminator.trainable_variables),
        }

    def train_step(self, batch):
        z = tf.random.stateless_normal([batch["x"].shape[0], 2], self.seed("latent"))

        def discriminator_loss():
            real = self.discriminator(batch["x"], training=True)
            fake = self.discriminator(tf.stop_gradient(self.generator(z)), training=True)
            return tf.squeeze(tf.nn.relu(1.0 - real) + tf.nn.relu(1.0 + fake), axis=-1)

        def generator_loss():
            return -tf.squeeze(self.discriminator(self.generator(z, training=True)), axis=-1)

        out = {}
        for name, loss_fn in (("discriminator", discriminator_loss), ("generator", generator_loss)):
            network = getattr(self, name)
            out[name] = self.minimize(loss_fn, network.trainable_variables, self.updaters[name])["loss"]
        return out


class RelativisticR1(Tiny):
    """A relativistic discriminator with a lazy R1 penalty (at every second step), switched by tf.cond."""

    interval = 2

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = self.generator = mlp([6, 4], inputs=3)
        self.judge = mlp([6, 1], inputs=4)
        self.optimizer_g = optimizer(self.generator.trainable_variables)
        self.optimizer_d = optimizer(self.judge.trainable_variables)

    def r1(self, real):
        with tf.GradientTape() as tape:
            tape.watch(real)
            score = tf.reduce_sum(self.judge(real, training=True))
        return tf.reduce_sum(tf.square(tape.gradient(score, real)), axis=1)

    def train_step(self, batch):
        real = batch["x"]
        z = tf.random.stateless_normal([real.shape[0], 3], self.seed("z"))
        lazy = tf.equal(self.step % self.interval, 0)

        def judge_loss():
            gap = self.judge(real, training=True) - self.judge(tf.stop_gradient(self.generator(z)), training=True)
            penalty = tf.cond(lazy, lambda: self.r1(real), lambda: tf.zeros([real.shape[0]]))
            return tf.nn.softplus(-gap)[:, 0] + 0.5 * self.interval * penalty, {"r1": penalty}

        judged = self.minimize(judge_loss, self.judge.trainable_variables, self.optimizer_d)

        def generator_loss():
            gap = self.judge(self.generator(z, training=True)) - self.judge(real)
            return tf.nn.softplus(-gap)[:, 0]

        generated = self.minimize(generator_loss, self.generator.trainable_variables, self.optimizer_g)
        return {"judge": judged["loss"], "generator": generated["loss"], "r1": judged["r1"]}


# --- generative models ----------------------------------------------------------------------------------------------


class NoisePrediction(Tiny):
    """DDPM: a network that is given the noised features and a time embedding predicts the noise."""

    schedule = DiffusionSchedule(steps=16)

    @staticmethod
    def build_model(image_shape, classes):
        x, t = keras.Input((4,)), keras.Input((8,))
        hidden = layers.Dense(16, activation="silu")(layers.Concatenate()([x, t]))
        return keras.Model([x, t], layers.Dense(4)(hidden))

    @staticmethod
    def time_embedding(t, width: int = 8):
        frequencies = np.exp(-math.log(1000.0) * np.arange(width // 2) / (width // 2)).astype(np.float32)
        angles = tf.cast(t, tf.float32)[:, None] * frequencies[None, :]
        return tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)

    def train_step(self, batch):
        x = batch["x"]
        t = tf.random.stateless_uniform([x.shape[0]], self.seed("t"), 0, self.schedule.steps, dtype=tf.int32)
        noise = tf.random.stateless_normal(x.shape, self.seed("noise"))
        noised = self.schedule.diffuse(x, noise, t)

        def loss_fn():
            predicted = self.model([noised, self.time_embedding(t)], training=True)
            return tf.reduce_mean(tf.square(noise - predicted), axis=-1)

        return self.minimize(loss_fn)


class VelocityWithMinSnr(Tiny):
    """Diffusion with v-prediction, classifier-free dropping of the condition and min-SNR weights."""

    steps, drop, gamma = 10, 0.2, 5.0

    @staticmethod
    def build_model(image_shape, classes):
        x, time = keras.Input((4,)), keras.Input((1,))
        label = keras.Input((), dtype="int32")
        condition = layers.Embedding(classes + 1, 4)(label)
        hidden = layers.Dense(12, activation="gelu")(layers.Concatenate()([x, time, condition]))
        return keras.Model({"x": x, "time": time, "label": label}, layers.Dense(4)(hidden))

    def train_step(self, batch):
        x, label = batch["x"], batch["label"]
        n = x.shape[0]
        t = tf.random.stateless_uniform([n, 1], self.seed("time"), 0.02, 0.98)
        alpha, sigma = tf.cos(0.5 * np.pi * t), tf.sin(0.5 * np.pi * t)
        noise = tf.random.stateless_normal([n, 4], self.seed("noise"))
        unconditional = tf.random.stateless_uniform([n], self.seed("drop")) < self.drop
        inputs = {"x": alpha * x + sigma * noise, "time": t, "label": tf.where(unconditional, self.info.classes, label)}
        velocity = alpha * noise - sigma * x
        snr = tf.squeeze(tf.square(alpha / sigma), axis=1)
        weight = tf.minimum(snr, self.gamma) / (snr + 1.0)

        def loss_fn():
            error = tf.reduce_mean(tf.math.squared_difference(self.model(inputs, training=True), velocity), axis=1)
            return weight * error, {"unweighted": error}

        return self.minimize(loss_fn)


class FlowMatching(Tiny):
    """Rectified flow with a logit-normal time."""

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((5,)), layers.Dense(16, activation="swish"), layers.Dense(4)])

    def interpolate(self, data):
        count, width = data.shape
        source = tf.random.stateless_normal((count, width), self.seed("source"))
        t = tf.sigmoid(tf.random.stateless_normal((count, 1), self.seed("time"), stddev=0.8))
        return t, (1.0 - t) * source + t * data, data - source

    def train_step(self, batch):
        t, point, velocity = self.interpolate(batch["x"])

        def loss_fn():
            field = self.model(tf.concat([point, t], -1), training=True)
            loss = tf.reduce_mean((field - velocity) ** 2, axis=-1)
            cosine = -keras.losses.cosine_similarity(velocity, field)
            return loss, {"cosine": cosine}

        return self.minimize(loss_fn)


class VariationalAutoencoder(Tiny):
    """A VAE with cyclical annealing of the weight of its KL term and free bits."""

    latent, cycle, free_bits = 2, 4, 0.05

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.encoder = mlp([8, 2 * self.latent], name="encoder")
        self.decoder = mlp([8, 4], inputs=self.latent, name="decoder")
        self.model = self.encoder
        self.trainable = [*self.encoder.trainable_variables, *self.decoder.trainable_variables]
        self.optimizer = optimizer(self.trainable)

    @property
    def beta(self):
        position = tf.cast(self.step % self.cycle, tf.float32) / self.cycle
        return tf.minimum(2.0 * position, 1.0)

    def train_step(self, batch):
        beta = self.beta
        noise = tf.random.stateless_normal([batch["x"].shape[0], self.latent], self.seed("posterior"))

        def elbo():
            posterior = Gaussian.split(self.encoder(batch["x"], training=True))
            decoded = self.decoder(posterior.sample(noise), training=True)
            distortion = tf.reduce_sum(tf.square(decoded - batch["x"]), axis=-1)
            rate = posterior.kl_to_standard()
            return distortion + beta * tf.maximum(rate, self.free_bits), {"distortion": distortion, "rate": rate}

        return self.minimize(elbo, variables=self.trainable) | {"beta": beta}


class ImportanceWeighted(Tiny):
    """An importance weighted autoencoder with three samples."""

    def __init__(self, *, model, optimizer, info, samples: int = 3):
        self.info = info
        self.samples = samples
        self.nets = {"encoder": mlp([6, 4]), "decoder": mlp([6, 8], inputs=2)}
        self.model = self.nets["encoder"]
        self.optimizer = optimizer(self.variables)

    @property
    def variables(self):
        return list(itertools.chain.from_iterable(net.trainable_variables for net in self.nets.values()))

    def log_weight(self, x, noise):
        posterior = Gaussian.split(self.nets["encoder"](x, training=True))
        z = posterior.sample(noise)
        prior = Gaussian(tf.zeros_like(z), tf.zeros_like(z))
        mean, log_std = tf.split(self.nets["decoder"](z, training=True), 2, axis=-1)
        likelihood = Gaussian(mean, tf.clip_by_value(log_std, -3.0, 3.0))
        return likelihood.log_prob(x) + prior.log_prob(z) - posterior.log_prob(z)

    def train_step(self, batch):
        noises = tf.random.stateless_normal([self.samples, batch["x"].shape[0], 2], self.seed("iwae"))

        def loss_fn():
            weights = tf.stack([self.log_weight(batch["x"], noise) for noise in tf.unstack(noises)], axis=0)
            bound = tf.reduce_logsumexp(weights, axis=0) - math.log(self.samples)
            normalized = tf.stop_gradient(tf.nn.softmax(weights, axis=0))
            return -bound, {"effective_samples": 1.0 / tf.reduce_sum(tf.square(normalized), axis=0)}

        return self.minimize(loss_fn, self.variables)


class VectorQuantizer:
    """Nearest codes by a straight-through estimator; the codes follow by moving averages."""

    def __init__(self, codes: int, width: int, decay: float = 0.9, seed: int = 3):
        initial = np.random.default_rng(seed).normal(size=(codes, width)).astype(np.float32)
        self.codebook = tf.Variable(initial, trainable=False)
        self.sizes = tf.Variable(tf.ones([codes]), trainable=False)
        self.sums = tf.Variable(initial, trainable=False)
        self.decay = decay

    @property
    def state(self):
        return [self.codebook, self.sizes, self.sums]

    def __call__(self, z):
        index = tf.argmin(pairwise_squared(z, self.codebook), axis=1)
        codes = tf.gather(self.codebook, index)
        return index, codes, z + tf.stop_gradient(codes - z)

    def follow(self, z, index):
        one_hot = tf.one_hot(index, self.codebook.shape[0])
        self.sizes.assign(self.decay * self.sizes + (1 - self.decay) * tf.reduce_sum(one_hot, 0))
        self.sums.assign(self.decay * self.sums + (1 - self.decay) * tf.matmul(one_hot, z, transpose_a=True))
        self.codebook.assign(self.sums / (self.sizes[:, None] + 1e-5))


class VectorQuantized(Tiny):
    """VQ-VAE whose codebook is a plain object with variables, registered as state in a list."""

    def __init__(self, *, model, optimizer, info, commitment: float = 0.25):
        self.info = info
        self.encoder, self.decoder = mlp([8, 3]), mlp([8, 4], inputs=3)
        self.model = keras.Sequential([keras.Input((4,)), self.encoder, self.decoder])
        self.optimizer = optimizer(self.model.trainable_variables)
        self.quantizer = VectorQuantizer(codes=5, width=3)
        self.quantizer_state = self.quantizer.state
        self.commitment = commitment

    def train_step(self, batch):
        x = batch["x"]

        def loss_fn():
            z = self.encoder(x, training=True)
            _, codes, quantized = self.quantizer(z)
            reconstruction = tf.reduce_mean(tf.square(self.decoder(quantized, training=True) - x), axis=1)
            commit = tf.reduce_mean(tf.square(z - tf.stop_gradient(codes)), axis=1)
            return reconstruction + self.commitment * commit, {"reconstruction": reconstruction, "commit": commit}

        metrics = self.minimize(loss_fn)
        z = self.encoder(x, training=False)
        index, *_ = self.quantizer(z)
        self.quantizer.follow(z, index)
        return metrics


class GumbelCategorical(Tiny):
    """A discrete autoencoder with Gumbel-softmax samples whose temperature decays exponentially."""

    groups, categories = 2, 3

    def __init__(self, *, model, optimizer, info, start: float = 1.0, rate: float = 0.1, lowest: float = 0.3):
        self.info = info
        flat = self.groups * self.categories
        inputs = keras.Input((4,))
        logits = layers.Reshape((self.groups, self.categories))(layers.Dense(flat)(inputs))
        self.encoder = keras.Model(inputs, logits)
        self.decoder = mlp([8, 4], inputs=flat)
        self.model = self.encoder
        self.optimizer = optimizer(self.weights())
        self.temperature = lambda step: tf.maximum(lowest, start * tf.exp(-rate * tf.cast(step, tf.float32)))

    def weights(self):
        return self.encoder.trainable_variables + self.decoder.trainable_variables

    def train_step(self, batch):
        x = batch["x"]
        tau = self.temperature(self.step)
        uniform = tf.random.stateless_uniform(
            [x.shape[0], self.groups, self.categories], self.seed("gumbel"), 1e-4, 1.0 - 1e-4
        )
        gumbel = -tf.math.log(-tf.math.log(uniform))

        def loss_fn():
            logits = self.encoder(x, training=True)
            sample = tf.nn.softmax((logits + gumbel) / tau, axis=-1)
            decoded = self.decoder(tf.reshape(sample, [-1, self.groups * self.categories]), training=True)
            log_q = tf.nn.log_softmax(logits)
            kl = tf.einsum("bgc,bgc->b", tf.exp(log_q), log_q + math.log(self.categories))
            return tf.reduce_sum(tf.square(decoded - x), 1) + 0.1 * kl, {"kl": kl}

        return {**self.minimize(loss_fn, self.weights()), "temperature": tau}


class CouplingLayer(keras.Model):
    """An affine coupling layer: one half of the features scales and shifts the other."""

    def __init__(self, swap: bool, **kwargs):
        super().__init__(**kwargs)
        self.swap = swap
        self.hidden = layers.Dense(8, activation="tanh")
        self.out = layers.Dense(4)

    def build(self, input_shape):
        self.hidden.build((None, 2))
        self.out.build((None, 8))
        self.built = True

    def call(self, x):
        a, b = tf.split(x, 2, axis=-1)
        if self.swap:
            a, b = b, a
        scale, shift = tf.split(self.out(self.hidden(a)), 2, axis=-1)
        scale = tf.tanh(scale)
        b = b * tf.exp(scale) + shift
        y = tf.concat([b, a] if self.swap else [a, b], axis=-1)
        return y, tf.reduce_sum(scale, axis=-1)


class RealNvp(Tiny):
    """A normalising flow of three coupling layers, trained by maximum likelihood."""

    def __init__(self, *, model, optimizer, info, depth: int = 3):
        self.info = info
        self.flows = [CouplingLayer(swap=bool(i % 2), name=f"coupling_{i}") for i in range(depth)]
        for flow in self.flows:
            flow.build((None, 4))
        self.model = self.flows[0]
        self.optimizer = optimizer(self.parameters)

    @property
    def parameters(self):
        return [v for flow in self.flows for v in flow.trainable_variables]

    def forward(self, x):
        total = tf.zeros_like(x[:, 0])
        for flow in self.flows:
            x, log_det = flow(x)
            total += log_det
        return x, total

    def train_step(self, batch):
        def negative_log_likelihood():
            z, log_det = self.forward(batch["x"])
            prior = -0.5 * tf.reduce_sum(z**2, axis=-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
            return -(prior + log_det), {"log_det": log_det}

        return self.minimize(negative_log_likelihood, self.parameters)


class PlanarFlowPosterior(Tiny):
    """Variational inference of a ring-shaped density with planar flows; their weights are one Keras model's."""

    class Planar(layers.Layer):
        def build(self, shape):
            width = shape[-1]
            self.u = self.add_weight(shape=(width,), initializer="random_normal")
            self.w = self.add_weight(shape=(width,), initializer="random_normal")
            self.b = self.add_weight(shape=(), initializer="zeros")

        def call(self, z):
            inner = ops.sum(self.w * self.u)
            u = self.u + (ops.softplus(inner) - 1.0 - inner) * self.w / (ops.sum(self.w**2) + EPSILON)
            activation = ops.tanh(ops.matmul(z, self.w[:, None])[:, 0] + self.b)
            psi = (1.0 - activation**2)[:, None] * self.w
            log_det = ops.log(ops.absolute(1.0 + ops.sum(psi * u, axis=-1)) + EPSILON)
            return z + u * activation[:, None], log_det

    @classmethod
    def build_model(cls, image_shape, classes):
        z = inputs = keras.Input((4,))
        log_dets = []
        for _ in range(3):
            z, log_det = cls.Planar()(z)
            log_dets.append(log_det)
        return keras.Model(inputs, [z, layers.Add()(log_dets)])

    def train_step(self, batch):
        noise = tf.random.stateless_normal(batch["x"].shape, self.seed("base"))

        def loss_fn():
            z, log_det = self.model(noise, training=True)
            energy = tf.square(tf.norm(z - batch["x"], axis=-1) - 1.0)
            return energy - log_det, {"energy": energy}

        return self.minimize(loss_fn)


class EnergyByLangevin(Tiny):
    """An energy-based model with short-run Langevin chains that start from a persistent buffer."""

    chains, langevin_steps, step_size = 8, 3, 0.05

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([16, 1], activation="softplus")

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        start = np.linspace(-1, 1, self.chains * 4, dtype=np.float32).reshape(self.chains, 4)
        self.buffer = tf.Variable(start, trainable=False, name="chains")

    def energy(self, x, training: bool = False):
        return self.model(x, training=training)[:, 0]

    def langevin(self, x):
        noise = tf.random.stateless_normal([self.langevin_steps, *x.shape], self.seed("langevin"))
        for n in range(self.langevin_steps):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(self.energy(x))
            x = x - self.step_size * tape.gradient(total, x) + math.sqrt(2.0 * self.step_size) * 0.1 * noise[n]
        return tf.stop_gradient(x)

    def train_step(self, batch):
        negative = self.langevin(tf.convert_to_tensor(self.buffer))
        self.buffer.assign(negative)

        def loss_fn():
            positive_energy = self.energy(batch["x"], training=True)
            negative_energy = self.energy(negative, training=True)
            regularizer = 0.1 * (tf.square(positive_energy) + tf.square(negative_energy))
            return positive_energy - negative_energy + regularizer, {"gap": negative_energy - positive_energy}

        return self.minimize(loss_fn)


# --- contrastive and self-supervised --------------------------------------------------------------------------------


class Views(NamedTuple):
    first: tf.Tensor
    second: tf.Tensor


class BaseTwoViews(Tiny):
    """What methods with two augmented views share."""

    width = 6

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([12, BaseTwoViews.width], activation="relu")

    def augment(self, x, name: str):
        noise = tf.random.stateless_normal(x.shape, self.seed(f"{name}/noise"), stddev=0.2)
        scale = tf.random.stateless_uniform([x.shape[0], 1], self.seed(f"{name}/scale"), 0.8, 1.2)
        return scale * x + noise

    def views(self, x) -> Views:
        return Views(*(self.augment(x, name) for name in Views._fields))

    def embed(self, x):
        return self.model(x, training=True)


class NtXent(BaseTwoViews):
    """SimCLR's normalised temperature-scaled cross entropy."""

    temperature = 0.5

    def train_step(self, batch):
        views = self.views(batch["x"])
        count = batch["x"].shape[0]
        partners = np.concatenate([np.arange(count) + count, np.arange(count)])
        diagonal = tf.eye(2 * count)

        def loss_fn():
            z = normalize(self.embed(tf.concat(views, axis=0)))
            logits = tf.matmul(z, z, transpose_b=True) / self.temperature - 1e9 * diagonal
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(partners, logits)
            hits = tf.cast(tf.argmax(logits, axis=1) == partners, tf.float32)
            return tf.reduce_mean(tf.reshape(losses, [2, count]), axis=0), {"hits": tf.reduce_mean(hits)}

        return self.minimize(loss_fn)


class SupervisedContrastive(BaseTwoViews):
    """Supervised contrastive loss over both views."""

    def __init__(self, *, model, optimizer, info, temperature: float = 0.3):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.temperature = temperature

    def train_step(self, batch):
        x = tf.concat(self.views(batch["x"]), axis=0)
        labels = tf.tile(batch["label"], [2])
        not_self = 1.0 - tf.eye(labels.shape[0])
        positives = tf.cast(labels[:, None] == labels[None, :], tf.float32) * not_self

        def loss_fn():
            z = tf.math.l2_normalize(self.embed(x), axis=1)
            similarity = z @ tf.transpose(z) / self.temperature
            similarity -= tf.stop_gradient(tf.reduce_max(similarity, axis=1, keepdims=True))
            log_prob = similarity - tf.math.log(tf.reduce_sum(tf.exp(similarity) * not_self, axis=1, keepdims=True))
            per_anchor = -tf.reduce_sum(positives * log_prob, axis=1) / tf.reduce_sum(positives, axis=1)
            first, second = tf.split(per_anchor, 2)
            return (first + second) / 2

        return self.minimize(loss_fn)


class MomentumContrast(BaseTwoViews):
    """MoCo: a key encoder by moving average and a queue of negatives with a pointer."""

    queue_length = 16

    def __init__(self, *, model, optimizer, info, momentum: float = 0.9):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.key_encoder = keras.models.clone_model(self.model)
        self.key_encoder.set_weights(self.model.get_weights())
        self.momentum = momentum
        initial = np.random.default_rng(0).normal(size=(self.queue_length, self.width)).astype(np.float32)
        self.queue = tf.Variable(initial / np.linalg.norm(initial, axis=1, keepdims=True), trainable=False)
        self.pointer = tf.Variable(0, trainable=False, dtype=tf.int32)

    def enqueue(self, keys):
        count = keys.shape[0]
        assert self.queue_length % count == 0, "batches must fill the queue exactly"
        rows = (self.pointer + tf.range(count)) % self.queue_length
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, rows[:, None], keys))
        self.pointer.assign((self.pointer + count) % self.queue_length)

    def train_step(self, batch):
        query_view, key_view = self.views(batch["x"])
        update_average(self.key_encoder.variables, self.model.variables, self.momentum)
        keys = tf.stop_gradient(normalize(self.key_encoder(key_view, training=False)))
        negatives = tf.identity(self.queue)

        def loss_fn():
            query = normalize(self.embed(query_view))
            positive = tf.einsum("bd,bd->b", query, keys)[:, None]
            logits = tf.concat([positive, tf.einsum("bd,kd->bk", query, negatives)], axis=1) / 0.2
            return cross_entropy(tf.zeros([query.shape[0]], tf.int32), logits)

        metrics = self.minimize(loss_fn)
        self.enqueue(keys)
        return metrics


class BootstrapLatent(BaseTwoViews):
    """BYOL: online network and predictor against a slowly moving target network, symmetrised."""

    def __init__(self, *, model, optimizer, info, base_decay: float = 0.9):
        self.info = info
        self.base_decay = base_decay
        self.model = model(info.image_shape, info.classes)
        self.predictor = mlp([8, self.width], inputs=self.width, activation="relu", name="predictor")
        self.target = keras.models.clone_model(self.model)
        self.target.set_weights(self.model.get_weights())
        self.online = self.model.trainable_variables + self.predictor.trainable_variables
        self.optimizer = optimizer(self.online)

    @staticmethod
    def regression_loss(a, b):
        return 2.0 - 2.0 * tf.reduce_sum(normalize(a) * normalize(b), axis=-1)

    def train_step(self, batch):
        views = self.views(batch["x"])
        targets = [tf.stop_gradient(self.target(view, training=False)) for view in views]

        def loss_fn():
            predictions = [self.predictor(self.embed(view), training=True) for view in views]
            pairs = zip(predictions, reversed(targets))
            return sum(self.regression_loss(p, t) for p, t in pairs)

        metrics = self.minimize(loss_fn, self.online)
        decay = 1.0 - (1.0 - self.base_decay) * (1.0 - cosine_ramp(self.step, self.info.steps))
        update_average(self.target.variables, self.model.variables, decay)
        return metrics


class BarlowTwins(BaseTwoViews):
    """Barlow twins: the cross-correlation of two views should be the identity."""

    redundancy = 5e-2

    @staticmethod
    def standardize(z):
        mean, variance = tf.nn.moments(z, axes=[0])
        return (z - mean) / tf.sqrt(variance + 1e-3)

    def train_step(self, batch):
        first, second = self.views(batch["x"])

        def loss_fn():
            a, b = map(self.standardize, (self.embed(first), self.embed(second)))
            correlation = tf.einsum("bi,bj->ij", a, b) / tf.cast(tf.shape(a)[0], a.dtype)
            diagonal = tf.linalg.diag_part(correlation)
            on = tf.reduce_sum(tf.square(1.0 - diagonal))
            off = tf.reduce_sum(tf.square(correlation)) - tf.reduce_sum(tf.square(diagonal))
            return on + self.redundancy * off, {"on_diagonal": on, "off_diagonal": off}

        return self.minimize(loss_fn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VicregWeights:
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self):
        if min(dataclasses.astuple(self)) < 0:
            raise ValueError("weights are not negative")

    def scaled(self):
        total = sum(dataclasses.astuple(self))
        return {field.name: getattr(self, field.name) / total for field in dataclasses.fields(self)}


class Vicreg(BaseTwoViews):
    """VICReg with its three terms in a dict that dataclass weights are matched to."""

    weights = VicregWeights(invariance=10.0, variance=10.0)

    def terms(self, a, b) -> dict[str, tf.Tensor]:
        def variance(z):
            return tf.reduce_mean(tf.nn.relu(1.0 - tf.sqrt(tf.math.reduce_variance(z, axis=0) + 1e-4)))

        def covariance(z):
            n, d = z.shape
            z = z - tf.reduce_mean(z, axis=0)
            cov = tf.matmul(z, z, transpose_a=True) / (n - 1)
            return tf.reduce_sum(tf.square(tf.linalg.set_diag(cov, tf.zeros([d])))) / d

        return {
            "invariance": tf.reduce_mean(tf.math.squared_difference(a, b), axis=1),
            "variance": 0.5 * (variance(a) + variance(b)),
            "covariance": covariance(a) + covariance(b),
        }

    def train_step(self, batch):
        views = self.views(batch["x"])

        def loss_fn():
            terms = self.terms(*map(self.embed, views))
            return sum(weight * terms[key] for key, weight in self.weights.scaled().items()), terms

        return self.minimize(loss_fn)


class SwappedAssignments(BaseTwoViews):
    """SwAV: swapped prediction of balanced cluster assignments; prototypes are normalised by hand after each update."""

    prototypes_count = 5

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = model(info.image_shape, info.classes)
        self.prototypes = keras.Sequential(
            [keras.Input((self.width,)), layers.Dense(self.prototypes_count, use_bias=False, name="prototypes")]
        )
        self.learned = [*self.model.trainable_variables, *self.prototypes.trainable_variables]
        self.optimizer = optimizer(self.learned)

    def assignments(self, scores, rounds: int = 3):
        q = tf.transpose(tf.exp(scores / 0.5))
        clusters, count = q.shape
        q /= tf.reduce_sum(q)
        for _ in tf.range(rounds):
            q /= tf.reduce_sum(q, axis=1, keepdims=True) * clusters
            q /= tf.reduce_sum(q, axis=0, keepdims=True) * count
        return tf.stop_gradient(tf.transpose(q * count))

    def train_step(self, batch):
        views = self.views(batch["x"])

        def loss_fn():
            scores = [self.prototypes(normalize(self.embed(view))) for view in views]
            codes = [self.assignments(s) for s in scores]
            swapped = [
                tf.nn.softmax_cross_entropy_with_logits(codes[i], scores[j] / 0.3)
                for i, j in itertools.permutations(range(2), 2)
            ]
            return tf.add_n(swapped) / len(swapped)

        metrics = self.minimize(loss_fn, self.learned)
        for kernel in self.prototypes.trainable_variables:
            kernel.assign(tf.math.l2_normalize(kernel, axis=0))
        return metrics


class MaskedFeatures(Tiny):
    """A masked autoencoder over features: the loss counts hidden features only."""

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((8,)), layers.Dense(16, activation="gelu"), layers.Dense(4)])

    def __init__(self, *, model, optimizer, info, hidden: int = 2):
        super().__init__(model=model, optimizer=optimizer, info=info)
        if not 0 < hidden < 4:
            raise ValueError(f"between 1 and 3 of 4 features are hidden, not {hidden}")
        self.hidden = hidden

    def mask(self, shape):
        scores = tf.random.stateless_uniform(shape, self.seed("mask"))
        ranks = tf.argsort(tf.argsort(scores, axis=-1), axis=-1)
        return tf.cast(ranks < self.hidden, tf.float32)

    def train_step(self, batch):
        x = batch["x"]
        mask = self.mask(x.shape)

        def loss_fn():
            decoded = self.model(tf.concat([x * (1 - mask), mask], axis=-1), training=True)
            error = tf.square(decoded - x)
            hidden = tf.reduce_sum(mask * error, axis=-1) / self.hidden
            visible = tf.reduce_sum((1 - mask) * error, axis=-1) / (x.shape[-1] - self.hidden)
            return hidden, {"visible_error": visible}

        return self.minimize(loss_fn)


class ContrastivePredictive(Tiny):
    """InfoNCE between a recurrent context of the first features and the later ones."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.encoder = keras.Sequential([keras.Input((4, 1)), layers.Dense(5, activation="tanh")])
        self.context = keras.Sequential([keras.Input((2, 5)), layers.GRU(6)])
        self.heads = [keras.Sequential([keras.Input((6,)), layers.Dense(5, use_bias=False)]) for _ in range(2)]
        self.model = self.encoder
        everything = (self.encoder, self.context, *self.heads)
        self.learned = functools.reduce(operator.add, (net.trainable_variables for net in everything))
        self.optimizer = optimizer(self.learned)

    def train_step(self, batch):
        sequence = batch["x"][:, :, None]
        targets = tf.range(sequence.shape[0])

        def loss_fn():
            z = self.encoder(sequence, training=True)
            c = self.context(z[:, :2], training=True)
            losses = []
            for ahead, head in enumerate(self.heads, start=2):
                logits = tf.matmul(head(c), z[:, ahead], transpose_b=True)
                losses.append(cross_entropy(targets, logits))
            return tf.reduce_mean(tf.stack(losses), axis=0)

        return self.minimize(loss_fn, self.learned)


# --- tapes and optimisation -----------------------------------------------------------------------------------------


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


class GradientCentralization(BaseTape):
    """The gradient of every kernel loses its mean over the inputs before it is applied."""

    @staticmethod
    def centralize(gradient):
        if len(gradient.shape) < 2:
            return gradient
        return gradient - tf.reduce_mean(gradient, axis=list(range(len(gradient.shape) - 1)), keepdims=True)

    def train_step(self, batch):
        losses, gradients = self.gradients(lambda: self.losses(batch))
        self.apply([self.centralize(g) for g in gradients])
        return {"loss": losses}


class AdaptiveClipping(BaseTape):
    """Adaptive gradient clipping: unit-wise, by the norms of the weights (NFNets)."""

    clip_factor = 0.05
    smallest = 1e-3

    @staticmethod
    def unitwise_norm(x):
        axes = None if len(x.shape) <= 1 else [0]
        return tf.sqrt(tf.reduce_sum(tf.square(x), axis=axes, keepdims=True))

    def clip(self, gradients, variables) -> Iterator[tf.Tensor]:
        for gradient, variable in zip(gradients, variables):
            allowed = self.clip_factor * tf.maximum(self.unitwise_norm(tf.convert_to_tensor(variable)), self.smallest)
            norm = tf.maximum(self.unitwise_norm(gradient), 1e-6)
            yield tf.where(norm > allowed, gradient * allowed / norm, gradient)

    def train_step(self, batch):
        losses, gradients = self.gradients(lambda: self.losses(batch))
        clipped = list(self.clip(gradients, self.weights))
        ratio = tf.linalg.global_norm(clipped) / tf.linalg.global_norm(gradients)
        self.apply(clipped)
        return {"loss": losses, "clip_ratio": ratio}


class SharpnessAware(BaseTape):
    """SAM: the gradient at the worst nearby weights is applied to the original ones."""

    def __init__(self, *, model, optimizer, info, rho: float = 0.05):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.rho = rho

    def train_step(self, batch):
        compute = functools.partial(self.losses, batch)
        losses, gradients = self.gradients(compute)
        scale = self.rho / (tf.linalg.global_norm(gradients) + 1e-12)
        moves = [scale * gradient for gradient in gradients]
        for weight, move in zip(self.weights, moves):
            weight.assign_add(move)
        sharp, gradients = self.gradients(compute)
        for weight, move in zip(self.weights, moves):
            weight.assign_sub(move)
        self.apply(gradients)
        return {"loss": losses, "sharpness": sharp - losses}


class Lookahead(Tiny):
    """Lookahead: every second step the slow weights move half-way to the fast ones, which start again from there."""

    interval: int = 2
    share: float = 0.5

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.slow = [
            tf.Variable(v, trainable=False, name=f"slow_{i}") for i, v in enumerate(self.model.trainable_variables)
        ]

    def synchronize(self):
        for slow, fast in zip(self.slow, self.model.trainable_variables):
            slow.assign_add(self.share * (fast - slow))
            fast.assign(slow)

    def train_step(self, batch):
        metrics = self.minimize(lambda: self.losses(batch))
        if tf.equal((self.step + 1) % self.interval, 0):
            self.synchronize()
        return metrics


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


class UncertaintyWeights(Tiny):
    """Multi-task learning with learned homoscedastic uncertainties (Kendall et al.)."""

    tasks = ("class", "norm")

    class Weighting(keras.Model):
        def __init__(self, tasks: Sequence[str]):
            super().__init__()
            self.log_variances = {
                t: self.add_weight(shape=(), initializer="zeros", name=f"log_variance_{t}") for t in tasks
            }
            self.built = True

        def call(self, losses):
            terms = (tf.exp(-s) * losses[task] + s for task, s in self.log_variances.items())
            return sum(terms)

    def __init__(self, *, model, optimizer, info):
        self.info = info
        inputs = keras.Input((4,))
        hidden = layers.Dense(8, activation="relu")(inputs)
        self.model = keras.Model(inputs, [layers.Dense(info.classes)(hidden), layers.Dense(1)(hidden)])
        self.weighting = self.Weighting(self.tasks)
        self.learned = self.model.trainable_variables + self.weighting.trainable_variables
        self.optimizer = optimizer(self.learned)

    def train_step(self, batch):
        def loss_fn():
            logits, norm = self.model(batch["x"], training=True)
            losses = {
                "class": cross_entropy(batch["label"], logits),
                "norm": keras.losses.huber(tf.norm(batch["x"], axis=1, keepdims=True), norm),
            }
            return self.weighting(losses), losses

        return self.minimize(loss_fn, self.learned)


class GradNormBalancing(BaseTape):
    """Task weights in a variable that drift so that the norms of the tasks' gradients approach each other."""

    rate = 0.1

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.task_weights = tf.Variable([1.0, 1.0], trainable=False, name="task_weights")

    def tasks(self, batch):
        logits = self.logits(batch)
        target = tf.one_hot(batch["label"], logits.shape[-1])
        return [cross_entropy(batch["label"], logits), tf.reduce_mean(tf.square(logits - target), axis=1)]

    def train_step(self, batch):
        with contextlib.ExitStack() as stack:
            tapes = [stack.enter_context(tf.GradientTape()) for _ in range(2)]
            per_task = self.tasks(batch)
            scaled = [self.optimizer.scale(tf.reduce_mean(loss)) for loss in per_task]
        gradients = [
            self.optimizer.unscale(tape.gradient(loss, self.weights)) for tape, loss in zip(tapes, scaled, strict=True)
        ]
        norms = tf.stack([tf.linalg.global_norm(g) for g in gradients]) * self.task_weights
        self.task_weights.assign_sub(self.rate * (norms / tf.reduce_mean(norms) - 1.0))
        self.task_weights.assign(2.0 * self.task_weights / tf.reduce_sum(self.task_weights))
        w = tf.unstack(self.task_weights)
        self.apply([w[0] * a + w[1] * b for a, b in zip(*gradients)])
        return {"loss": w[0] * per_task[0] + w[1] * per_task[1], "first_weight": w[0]}


class ModelAgnosticMeta(Tiny):
    """Second-order MAML on a two-layer net evaluated functionally; half of the batch is support, half is query."""

    inner_rate, inner_steps = 0.1, 2

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, classes])

    @staticmethod
    def functional(weights, x):
        w1, b1, w2, b2 = weights
        return tf.tanh(x @ w1 + b1) @ w2 + b2

    def adapt(self, weights, x, label):
        for _ in range(self.inner_steps):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = tf.reduce_mean(cross_entropy(label, self.functional(weights, x)))
            gradients = tape.gradient(loss, weights)
            weights = [w - self.inner_rate * g for w, g in zip(weights, gradients)]
        return weights

    def train_step(self, batch):
        (support, query), (support_y, query_y) = (tf.split(batch[key], 2) for key in ("x", "label"))

        def loss_fn():
            start = [tf.convert_to_tensor(v) for v in self.model.trainable_variables]
            adapted = self.adapt(start, support, support_y)
            logits = self.functional(adapted, query)
            return tf.reduce_mean(cross_entropy(query_y, logits)), {
                "query_accuracy": tf.reduce_mean(accuracy(query_y, logits))
            }

        return self.minimize(loss_fn)


class ReptileInterpolation(Tiny):
    """Reptile: a few plain inner steps, then the outer weights go part of the way."""

    def __init__(self, *, model, optimizer, info, inner: int = 2, outer_rate: float = 0.5):
        self.info = info
        self.model = mlp([6, info.classes])
        self.inner_optimizers = [optimizer(self.model.trainable_variables) for _ in range(inner)]
        self.outer_rate = outer_rate

    def train_step(self, batch):
        variables = self.model.trainable_variables
        before = [tf.identity(v) for v in variables]
        losses = []
        for inner in self.inner_optimizers:
            losses.append(self.minimize(lambda: self.losses(batch), variables, inner)["loss"])
        for variable, old in zip(variables, before):
            variable.assign(old + self.outer_rate * (variable - old))
        return {f"inner_{i}": loss for i, loss in enumerate(losses)}


class ElasticWeights(Tiny):
    """Elastic weight consolidation with a running diagonal Fisher information and anchors."""

    strength = 5.0

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        trainable = self.model.trainable_variables
        self.anchors = [tf.Variable(v, trainable=False) for v in trainable]
        self.fisher = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in trainable]

    def penalty(self):
        parts = zip(self.model.trainable_variables, self.anchors, self.fisher)
        return 0.5 * self.strength * sum(tf.reduce_sum(f * tf.square(v - a)) for v, a, f in parts)

    def update_fisher(self, batch):
        with tf.GradientTape() as tape:
            likelihood = -tf.reduce_mean(cross_entropy(batch["label"], self.model(batch["x"], training=False)))
        for fisher, gradient in zip(self.fisher, tape.gradient(likelihood, self.model.trainable_variables)):
            fisher.assign(0.9 * fisher + 0.1 * tf.square(gradient))

    def train_step(self, batch):
        self.update_fisher(batch)
        return self.minimize(lambda: (self.losses(batch) + self.penalty(), {"penalty": self.penalty()}))


class InvariantRisk(Tiny):
    """IRMv1: environments are slices of the batch; the penalty is the squared gradient of a dummy scale."""

    environments = 2

    def environment_penalty(self, logits, label):
        scale = tf.constant(1.0)
        with tf.GradientTape() as tape:
            tape.watch(scale)
            loss = tf.reduce_mean(cross_entropy(label, logits * scale))
        return tf.square(tape.gradient(loss, scale))

    def train_step(self, batch):
        weight = tf.where(self.step < 2, 1.0, 10.0)

        def loss_fn():
            logits = self.logits(batch)
            slices = zip(tf.split(logits, self.environments), tf.split(batch["label"], self.environments))
            penalty = tf.add_n([self.environment_penalty(*pair) for pair in slices]) / self.environments
            return cross_entropy(batch["label"], logits) + weight * penalty, {"irm_penalty": penalty}

        return self.minimize(loss_fn)


class GroupDistributionallyRobust(Tiny):
    """Group DRO with exponentiated weights over groups (the labels)."""

    def __init__(self, *, model, optimizer, info, eta: float = 0.1):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.eta = eta
        self.group_weights = tf.Variable(tf.fill([info.classes], 1.0 / info.classes), trainable=False)

    def train_step(self, batch):
        groups = self.info.classes
        membership = tf.one_hot(batch["label"], groups)
        sizes = tf.maximum(tf.reduce_sum(membership, axis=0), 1.0)
        group_losses = tf.linalg.matvec(membership, self.losses(batch), transpose_a=True) / sizes
        updated = self.group_weights * tf.exp(self.eta * group_losses)
        self.group_weights.assign(updated / tf.reduce_sum(updated))
        example_weights = tf.gather(self.group_weights / sizes, batch["label"]) * BATCH_SIZE
        worst = tf.reduce_max(group_losses)
        return {**self.minimize(lambda: example_weights * self.losses(batch)), "worst_group": worst}


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


class ForwardByDoubleBackward(Tiny):
    """A tangent-prop penalty; the Jacobian-vector product comes from two reverse passes."""

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, classes], activation="softplus")

    def jvp(self, function, x, tangent):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = function(x)
            dummy = tf.ones_like(y)
            outer.watch(dummy)
            with tf.GradientTape() as tape:
                tape.watch([x, dummy])
                pulled = tf.reduce_sum(function(x) * dummy)
            g = tape.gradient(pulled, x)
        return y, outer.gradient(g, dummy, output_gradients=tangent)

    def train_step(self, batch):
        tangent = normalize(tf.random.stateless_normal(batch["x"].shape, self.seed("tangent")))
        forward = functools.partial(self.model, training=True)

        def loss_fn():
            with tf.name_scope("tangent_prop"):
                logits, change = self.jvp(forward, batch["x"], tangent)
                penalty = tf.reduce_sum(tf.square(change), axis=-1)
            return cross_entropy(batch["label"], logits) + 0.1 * penalty, {"tangent_penalty": penalty}

        return self.minimize(loss_fn)


class DiscriminativeRates(BaseTape):
    """Layer-wise learning-rate decay: gradients are scaled by the depth of their layer."""

    decay = 0.7

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, 6, classes])

    @functools.cached_property
    def multipliers(self):
        depth = len(self.model.layers)
        return [
            self.decay ** (depth - 1 - index)
            for index, layer in enumerate(self.model.layers)
            for _ in layer.trainable_variables
        ]

    def train_step(self, batch):
        losses, gradients = self.gradients(lambda: self.losses(batch))
        self.apply(list(map(operator.mul, gradients, self.multipliers)))
        return {"loss": losses}


class SplitOptimizers(Tiny):
    """Kernels and biases are updated by different optimizers from one partition of the variables."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = mlp([8, info.classes])
        groups = collections.defaultdict(list)
        for variable in self.model.trainable_variables:
            groups["kernel" if len(variable.shape) > 1 else "bias"].append(variable)
        self.groups = dict(groups)
        self.group_optimizers = {name: optimizer(variables) for name, variables in self.groups.items()}

    def regularized(self, batch, group: str):
        losses = self.losses(batch)
        if group == "kernel":
            losses += 1e-3 * tf.add_n([tf.nn.l2_loss(v) for v in self.groups[group]])
        return losses

    def train_step(self, batch):
        results = {
            group: self.minimize(functools.partial(self.regularized, batch, group), self.groups[group], updater)
            for group, updater in self.group_optimizers.items()
        }
        return {f"{group}_loss": result["loss"] for group, result in results.items()}


class OrthogonalAndSpectral(Tiny):
    """Soft orthogonality of the hidden kernel and its spectral norm by a few power iterations with a stored vector."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = mlp([6, info.classes])
        self.optimizer = optimizer(self.model.trainable_variables)
        self.left = tf.Variable(tf.fill([6, 1], 1.0 / math.sqrt(6.0)), trainable=False, name="left_vector")

    @property
    def kernel(self):
        return self.model.layers[0].kernel

    def spectral_norm(self, iterations: int = 2):
        w = tf.convert_to_tensor(self.kernel)
        u = tf.convert_to_tensor(self.left)
        for _ in range(iterations):
            v = tf.math.l2_normalize(w @ u)
            u = tf.math.l2_normalize(tf.transpose(w) @ v)
        return tf.stop_gradient(u), tf.squeeze(tf.transpose(tf.stop_gradient(v)) @ w @ tf.stop_gradient(u))

    def train_step(self, batch):
        def loss_fn():
            w = tf.convert_to_tensor(self.kernel)
            gram = w @ tf.transpose(w)
            orthogonality = tf.reduce_sum(tf.square(gram - tf.eye(gram.shape[0])))
            _, sigma = self.spectral_norm()
            return self.losses(batch) + 0.01 * orthogonality + 0.01 * sigma, {
                "orthogonality": orthogonality,
                "sigma": sigma,
            }

        metrics = self.minimize(loss_fn)
        self.left.assign(self.spectral_norm()[0])
        return metrics


class AddLossLayer(layers.Layer):
    """Identity that asks for sparse activations."""

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs):
        self.add_loss(self.rate * ops.mean(ops.absolute(inputs)))
        return inputs


class LayerLosses(Tiny):
    """Activity losses that layers add, behind batch normalisation."""

    @staticmethod
    def build_model(image_shape, classes):
        x = inputs = keras.Input((4,))
        for width in (8, 6):
            x = layers.Dense(width, use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = AddLossLayer(0.05)(layers.ReLU()(x))
        return keras.Model(inputs, layers.Dense(classes)(x))

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            added = tf.add_n(self.model.losses)
            return losses + added, {"added": added}

        return self.minimize(loss_fn)


class DropoutConsistency(Tiny):
    """R-Drop: two passes with different dropout, symmetric KL between them; dropout by seeded Keras layers."""

    alpha = 0.5

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = layers.Dense(16, activation="relu")(inputs)
        x = layers.Dropout(0.3, seed=7)(x)
        return keras.Model(inputs, layers.Dense(classes)(x))

    def train_step(self, batch):
        def loss_fn():
            passes = [tf.nn.log_softmax(self.logits(batch)) for _ in range(2)]
            likelihood = -tf.add_n([tf.gather(p, batch["label"], axis=1, batch_dims=1) for p in passes]) / 2.0
            p, q = passes
            divergence = tf.reduce_sum((tf.exp(p) - tf.exp(q)) * (p - q), axis=-1) / 2.0
            return likelihood + self.alpha * divergence, {"divergence": divergence}

        return self.minimize(loss_fn)


# --- reinforcement learning -----------------------------------------------------------------------------------------


class Transition(NamedTuple):
    state: tf.Tensor
    action: tf.Tensor
    reward: tf.Tensor
    following: tf.Tensor
    done: tf.Tensor

    @classmethod
    def from_batch(cls, batch):
        """A synthetic environment: the reward is the first feature, the following state a rotated one."""
        x = batch["x"]
        return cls(x, batch["label"], x[:, 0], tf.roll(x, shift=1, axis=1), tf.cast(x[:, 1] > 1.0, tf.float32))


class ReplayBuffer:
    """A ring buffer of transitions in variables."""

    def __init__(self, capacity: int, width: int):
        make = functools.partial(tf.Variable, trainable=False)
        self.fields = Transition(
            state=make(tf.zeros([capacity, width])),
            action=make(tf.zeros([capacity], tf.int32)),
            reward=make(tf.zeros([capacity])),
            following=make(tf.zeros([capacity, width])),
            done=make(tf.zeros([capacity])),
        )
        self.filled = make(0)
        self.capacity = capacity

    def variables(self):
        return [*self.fields, self.filled]

    def add(self, transition: Transition):
        count = transition.state.shape[0]
        rows = (self.filled + tf.range(count)) % self.capacity
        for variable, value in zip(self.fields, transition):
            variable.assign(tf.tensor_scatter_nd_update(variable, rows[:, None], value))
        self.filled.assign_add(count)

    def sample(self, count: int, seed) -> Transition:
        size = tf.minimum(self.filled, self.capacity)
        share = tf.random.stateless_uniform([count], seed)
        index = tf.minimum(tf.cast(share * tf.cast(size, tf.float32), tf.int32), size - 1)
        return Transition(*(tf.gather(variable, index) for variable in self.fields))


class DoubleDqn(Tiny):
    """Double DQN with a replay buffer, a dueling head and a target network copied every second step."""

    gamma, copy_every = 0.9, 2

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        hidden = layers.Dense(12, activation="relu")(inputs)
        value, advantage = layers.Dense(1)(hidden), layers.Dense(classes)(hidden)
        return keras.Model(inputs, value + advantage - ops.mean(advantage, axis=-1, keepdims=True))

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.target = keras.models.clone_model(self.model)
        self.target.set_weights(self.model.get_weights())
        self.replay = ReplayBuffer(capacity=32, width=4)
        self.replay_variables = self.replay.variables()

    def train_step(self, batch):
        self.replay.add(Transition.from_batch(batch))
        t = self.replay.sample(BATCH_SIZE, self.seed("replay"))
        best = tf.argmax(self.model(t.following), axis=1, output_type=tf.int32)
        bootstrap = tf.gather(self.target(t.following), best, batch_dims=1)
        target = tf.stop_gradient(t.reward + self.gamma * (1.0 - t.done) * bootstrap)

        def loss_fn():
            q = tf.gather(self.model(t.state, training=True), t.action, batch_dims=1)
            return keras.losses.huber(target[:, None], q[:, None]), {"q": q}

        metrics = self.minimize(loss_fn)
        copy = tf.equal(self.step % self.copy_every, 0)
        for old, new in zip(self.target.variables, self.model.variables):
            old.assign(tf.where(copy, new, old))
        return metrics


class CategoricalDqn(Tiny):
    """C51: the distributional Bellman projection onto a fixed support."""

    atoms, low, high, gamma = 11, -3.0, 3.0, 0.9
    support = np.linspace(-3.0, 3.0, 11, dtype=np.float32)

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = layers.Dense(16, activation="relu")(inputs)
        return keras.Model(inputs, layers.Reshape((classes, 11))(layers.Dense(classes * 11)(x)))

    def project(self, reward, alive, probabilities):
        spacing = (self.high - self.low) / (self.atoms - 1)
        moved = tf.clip_by_value(
            reward[:, None] + self.gamma * alive[:, None] * self.support[None, :], self.low, self.high
        )
        distance = tf.abs(moved[:, None, :] - self.support[None, :, None]) / spacing
        return tf.einsum("bij,bj->bi", tf.nn.relu(1.0 - distance), probabilities)

    def train_step(self, batch):
        t = Transition.from_batch(batch)
        following = tf.nn.softmax(self.model(t.following, training=False))
        greedy = tf.argmax(tf.linalg.matvec(following, tf.constant(self.support)), axis=1)
        target = tf.stop_gradient(self.project(t.reward, 1.0 - t.done, tf.gather(following, greedy, batch_dims=1)))

        def loss_fn():
            logits = tf.gather(self.model(t.state, training=True), t.action, batch_dims=1)
            return tf.nn.softmax_cross_entropy_with_logits(target, logits)

        return self.minimize(loss_fn)


class ClippedPolicy(Tiny):
    """PPO: several epochs over the batch with clipped ratios, a value head and an entropy bonus."""

    clip, entropy_bonus, epochs = 0.2, 0.01, 2

    def __init__(self, *, model, optimizer, info):
        self.info = info
        inputs = keras.Input((4,))
        hidden = layers.Dense(12, activation="tanh")(inputs)
        self.model = keras.Model(inputs, (layers.Dense(info.classes)(hidden), layers.Dense(1)(hidden)))
        self.epoch_optimizers = [optimizer(self.model.trainable_variables) for _ in range(self.epochs)]

    @staticmethod
    def log_prob(logits, action):
        return -cross_entropy(action, logits)

    def train_step(self, batch):
        t = Transition.from_batch(batch)
        old_logits, values = self.model(t.state, training=False)
        old = tf.stop_gradient(self.log_prob(old_logits, t.action))
        returns = t.reward + 0.9 * (1.0 - t.done) * tf.reduce_mean(t.following, axis=1)
        advantage = tf.stop_gradient(returns - values[:, 0])
        advantage = (advantage - tf.reduce_mean(advantage)) / (tf.math.reduce_std(advantage) + EPSILON)

        def loss_fn():
            logits, value = self.model(t.state, training=True)
            ratio = tf.exp(self.log_prob(logits, t.action) - old)
            clipped = tf.clip_by_value(ratio, 1.0 - self.clip, 1.0 + self.clip)
            policy = -tf.minimum(ratio * advantage, clipped * advantage)
            entropy = -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), axis=-1)
            return policy + 0.5 * tf.square(value[:, 0] - returns) - self.entropy_bonus * entropy, {"entropy": entropy}

        results = [self.minimize(loss_fn, optimizer=updater) for updater in self.epoch_optimizers]
        return {"policy_loss": results[-1]["loss"], "entropy": results[-1]["entropy"]}


class AdvantageByScan(Tiny):
    """A2C whose generalised advantages are a reverse tf.scan over the batch as one trajectory."""

    gamma, lam = 0.95, 0.9

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        shared = layers.Dense(10, activation="tanh")(inputs)
        return keras.Model(inputs, [layers.Dense(classes)(shared), layers.Dense(1)(shared)])

    def advantages(self, rewards, values):
        following = tf.concat([values[1:], values[-1:]], axis=0)
        deltas = rewards + self.gamma * following - values
        return tf.scan(
            lambda total, delta: delta + self.gamma * self.lam * total,
            deltas,
            initializer=tf.constant(0.0),
            reverse=True,
        )

    def train_step(self, batch):
        rewards = batch["x"][:, 0]
        _, baseline = self.model(batch["x"], training=False)
        advantages = tf.stop_gradient(self.advantages(rewards, baseline[:, 0]))
        returns = advantages + tf.stop_gradient(baseline[:, 0])

        def loss_fn():
            logits, values = self.model(batch["x"], training=True)
            actor = cross_entropy(batch["label"], logits) * advantages
            critic = tf.square(returns - values[:, 0])
            return actor + critic, {"critic": critic}

        return self.minimize(loss_fn)


class SoftActorCritic(Tiny):
    """SAC for continuous actions: twin critics, soft targets and a learned temperature; three updates per step."""

    action_width, tau, gamma = 2, 0.1, 0.9

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = self.actor = mlp([8, 2 * self.action_width], name="actor")
        self.critics = [mlp([8, 1], inputs=4 + self.action_width, name=f"critic_{i}") for i in range(2)]
        self.targets = [keras.models.clone_model(critic) for critic in self.critics]
        for target, critic in zip(self.targets, self.critics):
            target.set_weights(critic.get_weights())
        self.log_alpha = keras.Variable(0.0, name="log_alpha")
        self.critic_variables = [v for critic in self.critics for v in critic.trainable_variables]
        self.actor_optimizer = optimizer(self.actor.trainable_variables)
        self.critic_optimizer = optimizer(self.critic_variables)
        self.alpha_optimizer = optimizer([self.log_alpha])

    def act(self, state, name: str):
        mean, log_std = tf.split(self.actor(state, training=True), 2, axis=-1)
        policy = Gaussian(mean, tf.clip_by_value(log_std, -4.0, 1.0))
        raw = policy.sample(tf.random.stateless_normal(mean.shape, self.seed(name)))
        action = tf.tanh(raw)
        return action, policy.log_prob(raw) - tf.reduce_sum(tf.math.log(1.0 - action**2 + EPSILON), axis=-1)

    @staticmethod
    def values(critics, state, action):
        inputs = tf.concat([state, action], axis=-1)
        return [critic(inputs, training=True)[:, 0] for critic in critics]

    def train_step(self, batch):
        t = Transition.from_batch(batch)
        taken = tf.tanh(t.state[:, : self.action_width])
        alpha = tf.exp(tf.convert_to_tensor(self.log_alpha))
        action, log_prob = self.act(t.following, "following")
        soft = tf.minimum(*self.values(self.targets, t.following, action)) - alpha * log_prob
        target = tf.stop_gradient(t.reward + self.gamma * (1.0 - t.done) * soft)
        critic = self.minimize(
            lambda: sum(tf.square(q - target) for q in self.values(self.critics, t.state, taken)),
            self.critic_variables,
            self.critic_optimizer,
        )

        def actor_loss():
            new, log_p = self.act(t.state, "current")
            return alpha * log_p - tf.minimum(*self.values(self.critics, t.state, new)), {"log_p": log_p}

        actor = self.minimize(actor_loss, self.actor.trainable_variables, self.actor_optimizer)
        temperature = self.minimize(
            lambda: -tf.convert_to_tensor(self.log_alpha) * tf.stop_gradient(actor["log_p"] - self.action_width),
            [self.log_alpha],
            self.alpha_optimizer,
        )
        for online, slow in zip(self.critics, self.targets):
            update_average(slow.variables, online.variables, 1.0 - self.tau)
        return {"critic": critic["loss"], "actor": actor["loss"], "temperature": temperature["loss"], "alpha": alpha}


class ReinforceBaseline(Tiny):
    """REINFORCE for a categorical policy with sampled actions and a running baseline."""

    def __init__(self, *, model, optimizer, info, decay: float = 0.8):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.baseline = tf.Variable(0.0, trainable=False, name="baseline")
        self.decay = decay

    def reward(self, x, action):
        correct = tf.cast(tf.argmax(x[:, : self.info.classes], axis=1, output_type=tf.int32), action.dtype)
        return tf.where(tf.equal(action, correct), 1.0, -0.1)

    def train_step(self, batch):
        logits = self.model(batch["x"], training=False)
        uniform = tf.random.stateless_uniform(logits.shape, self.seed("action"), 1e-4, 1.0 - 1e-4)
        gumbel = -tf.math.log(-tf.math.log(uniform))
        action = tf.argmax(logits + gumbel, axis=1, output_type=tf.int32)
        reward = self.reward(batch["x"], action)
        advantage = reward - self.baseline

        def loss_fn():
            return cross_entropy(action, self.logits(batch)) * tf.stop_gradient(advantage)

        metrics = self.minimize(loss_fn)
        self.baseline.assign(self.decay * self.baseline + (1.0 - self.decay) * tf.reduce_mean(reward))
        return {**metrics, "reward": reward}


# --- metric learning ------------------------------------------------------------------------------------------------


class SemiHardTriplets(Tiny):
    """Triplet loss with semi-hard mining over all pairs of the batch."""

    margin = 0.5

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([12, 5], activation="relu")

    def mine(self, distances, same):
        """For each anchor: its mean positive distance and the closest negative that is farther than that."""
        eye = tf.eye(distances.shape[0])
        positives = same * (1.0 - eye)
        positive = tf.reduce_sum(positives * distances, axis=1) / tf.maximum(tf.reduce_sum(positives, axis=1), 1.0)
        far = tf.where((same < 0.5) & (distances > positive[:, None]), distances, tf.fill(distances.shape, 1e6))
        outside = tf.reduce_min(far, axis=1)
        inside = tf.reduce_max(distances - 1e6 * same, axis=1)
        return positive, tf.where(outside < 1e5, outside, inside)

    def train_step(self, batch):
        same = tf.cast(tf.equal(batch["label"][:, None], batch["label"][None, :]), tf.float32)

        def loss_fn():
            embedded = tf.math.l2_normalize(self.logits(batch), axis=1)
            positive, negative = self.mine(pairwise_squared(embedded, embedded), same)
            losses = tf.nn.relu(positive - negative + self.margin)
            return losses, {"active": tf.cast(losses > 0, tf.float32)}

        return self.minimize(loss_fn)


class ArcMarginHead(layers.Layer):
    """Cosine logits with an additive angular margin on the true class."""

    def __init__(self, classes: int, *, margin: float = 0.2, scale: float = 8.0, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.margin, self.scale = classes, margin, scale

    def build(self, shapes):
        self.centers = self.add_weight(shape=(shapes[-1], self.classes), initializer="glorot_uniform", name="centers")

    def call(self, features, labels=None):
        cosine = tf.matmul(tf.math.l2_normalize(features, axis=1), tf.math.l2_normalize(self.centers, axis=0))
        if labels is None:
            return self.scale * cosine
        sine = tf.sqrt(tf.clip_by_value(1.0 - tf.square(cosine), 1e-6, 1.0))
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        shifted = tf.where(
            cosine > math.cos(math.pi - self.margin), shifted, cosine - self.margin * math.sin(self.margin)
        )
        one_hot = tf.one_hot(labels, self.classes)
        return self.scale * (one_hot * shifted + (1.0 - one_hot) * cosine)


class ArcFace(Tiny):
    """ArcFace: a subclassed model whose margin head sees the labels in training only."""

    class Net(keras.Model):
        def __init__(self, classes: int):
            super().__init__()
            self.trunk = layers.Dense(10, activation="relu")
            self.embedding = layers.Dense(6)
            self.head = ArcMarginHead(classes)

        def build(self, input_shape):
            self.trunk.build(input_shape)
            self.embedding.build((None, 10))
            self.head.build((None, 6))
            self.built = True

        def call(self, x, labels=None, training=False):
            return self.head(self.embedding(self.trunk(x)), labels=labels if training else None)

    @classmethod
    def build_model(cls, image_shape, classes):
        net = cls.Net(classes)
        net.build((None, 4))
        return net

    def train_step(self, batch):
        def loss_fn():
            logits = self.model(batch["x"], labels=batch["label"], training=True)
            return cross_entropy(batch["label"], logits)

        plain = accuracy(batch["label"], self.model(batch["x"]))
        return {**self.minimize(loss_fn), "accuracy": plain}


class CenterLoss(Tiny):
    """Center loss; the centers are a variable that follows the features of each class by hand."""

    def __init__(self, *, model, optimizer, info, weight: float = 0.1, rate: float = 0.5):
        self.info = info
        inputs = keras.Input((4,))
        features = layers.Dense(5, activation="tanh", name="features")(inputs)
        self.model = keras.Model(inputs, [features, layers.Dense(info.classes)(features)])
        self.optimizer = optimizer(self.model.trainable_variables)
        self.centers = tf.Variable(tf.zeros([info.classes, 5]), trainable=False)
        self.weight, self.rate = weight, rate

    def move_centers(self, features, labels):
        one_hot = tf.one_hot(labels, self.info.classes)
        counts = tf.reduce_sum(one_hot, axis=0)[:, None]
        sums = tf.matmul(one_hot, features, transpose_a=True)
        self.centers.assign_add(self.rate * (sums - counts * self.centers) / (1.0 + counts))

    def train_step(self, batch):
        label = batch["label"]

        def loss_fn():
            features, logits = self.model(batch["x"], training=True)
            pull = 0.5 * tf.reduce_sum(tf.square(features - tf.gather(self.centers, label)), axis=1)
            return cross_entropy(label, logits) + self.weight * pull, {"pull": pull}

        metrics = self.minimize(loss_fn)
        features, _ = self.model(batch["x"], training=False)
        self.move_centers(features, label)
        return metrics


class ProtoEpisode(NamedTuple):
    support: tf.Tensor
    support_label: tf.Tensor
    query: tf.Tensor
    query_label: tf.Tensor

    @classmethod
    def split(cls, batch, shots: int):
        x, label = batch["x"], batch["label"]
        return cls(x[:shots], label[:shots], x[shots:], label[shots:])


class PrototypicalNetwork(Tiny):
    """Prototypical networks: class means of the support examples classify the queries."""

    shots = 5

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, 4])

    def train_step(self, batch):
        episode = ProtoEpisode.split(batch, self.shots)

        def loss_fn():
            support = self.model(episode.support, training=True)
            query = self.model(episode.query, training=True)
            prototypes = tf.math.unsorted_segment_mean(support, episode.support_label, self.info.classes)
            logits = -pairwise_squared(query, prototypes)
            losses = cross_entropy(episode.query_label, logits)
            return tf.reduce_mean(losses), {"query_accuracy": tf.reduce_mean(accuracy(episode.query_label, logits))}

        return self.minimize(loss_fn)


class ListwiseRanking(Tiny):
    """ListNet and an approximate NDCG over two queries of four documents each."""

    queries, documents = 2, 4

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, 1], activation="relu")

    def approximate_ndcg(self, scores, relevance, temperature: float = 0.5):
        differences = scores[:, None, :] - scores[:, :, None]
        ranks = 0.5 + tf.reduce_sum(tf.sigmoid(differences / temperature), axis=-1)
        gains = tf.pow(2.0, relevance) - 1.0
        discounts = 1.0 / np.log2(np.arange(self.documents) + 2.0).astype(np.float32)
        ideal = tf.reduce_sum(tf.sort(gains, direction="DESCENDING", axis=-1) * discounts, axis=-1)
        return tf.reduce_sum(gains * math.log(2.0) / tf.math.log1p(ranks), axis=-1) / tf.maximum(ideal, EPSILON)

    def train_step(self, batch):
        relevance = tf.reshape(tf.cast(batch["label"], tf.float32), [self.queries, self.documents])

        def loss_fn():
            scores = tf.reshape(self.logits(batch), [self.queries, self.documents])
            listnet = tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(relevance), scores)
            ndcg = self.approximate_ndcg(scores, relevance)
            return tf.reduce_mean(listnet - 0.5 * ndcg), {"ndcg": tf.reduce_mean(ndcg)}

        return self.minimize(loss_fn)


# --- recommenders ---------------------------------------------------------------------------------------------------


class HashedTowers(Tiny):
    """Two towers with hashed identifiers and in-batch negatives, corrected by running item frequencies."""

    users, items = 7, 5

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.towers = {
            name: keras.Sequential(
                [keras.Input((), dtype="int32"), layers.Embedding(size, 6), layers.Dense(4)], name=name
            )
            for name, size in {"user": self.users, "item": self.items}.items()
        }
        self.model = self.towers["user"]
        self.learned = [one for tower in self.towers.values() for one in tower.trainable_variables]
        self.optimizer = optimizer(self.learned)
        self.frequency = tf.Variable(tf.ones([self.items]), trainable=False)

    def identifiers(self, batch):
        user = tf.math.floormod(tf.cast(tf.floor(batch["x"][:, 0] * 10.0), tf.int32), self.users)
        item = tf.math.floormod(tf.cast(tf.floor(batch["x"][:, 1] * 10.0), tf.int32) + batch["label"], self.items)
        return user, item

    def train_step(self, batch):
        user, item = self.identifiers(batch)
        self.frequency.assign_add(tf.reduce_sum(tf.one_hot(item, self.items), axis=0))
        log_q = tf.math.log(tf.gather(self.frequency, item) / tf.reduce_sum(self.frequency))
        duplicates = tf.cast(item[:, None] == item[None, :], tf.float32) - tf.eye(BATCH_SIZE)

        def loss_fn():
            queries, keys = self.towers["user"](user, training=True), self.towers["item"](item, training=True)
            logits = tf.matmul(queries, keys, transpose_b=True) - log_q[None, :] - 1e6 * duplicates
            return cross_entropy(tf.range(BATCH_SIZE), logits)

        return self.minimize(loss_fn, self.learned)


class FactorizationMachine(layers.Layer):
    """Second-order interactions of features in linear time."""

    def __init__(self, factors: int, **kwargs):
        super().__init__(**kwargs)
        self.factors = factors

    def build(self, shape):
        self.v = self.add_weight(shape=(shape[-1], self.factors), initializer="glorot_normal", name="factors")

    def call(self, x):
        square_of_sum = ops.square(ops.matmul(x, self.v))
        sum_of_square = ops.matmul(ops.square(x), ops.square(self.v))
        return 0.5 * ops.sum(square_of_sum - sum_of_square, axis=-1, keepdims=True)


class DeepFactorizationMachine(Tiny):
    """DeepFM for clicks: wide, factorised and deep logits are added."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        wide = layers.Dense(1, name="wide")(inputs)
        interactions = FactorizationMachine(3, name="interactions")(inputs)
        deep = inputs
        for i, width in enumerate((12, 6)):
            deep = layers.Dense(width, activation="relu", name=f"deep_{i}")(deep)
        deep = layers.Dense(1, name="deep_logit")(deep)
        return keras.Model(inputs, layers.Add()([wide, interactions, deep]))

    def train_step(self, batch):
        clicked = tf.cast(batch["label"] > 0, tf.float32)[:, None]
        criterion = keras.losses.BinaryFocalCrossentropy(from_logits=True, reduction="none", gamma=1.0)

        def loss_fn():
            logits = self.logits(batch)
            hit = keras.metrics.binary_accuracy(clicked, logits, threshold=0.0)
            return criterion(clicked, logits), {"accuracy": hit}

        return self.minimize(loss_fn)


class BayesianPersonalized(Tiny):
    """Bayesian personalised ranking: sampled negative items, embeddings regularised by those that are used."""

    def __init__(self, *, model, optimizer, info, factors: int = 4, regularization: float = 0.01):
        self.info = info
        self.regularization = regularization
        self.model = keras.Sequential([keras.Input((4,)), layers.Dense(factors, use_bias=False)])
        self.items = keras.Sequential([keras.Input((), dtype="int32"), layers.Embedding(info.classes, factors)])
        self.optimizer = optimizer(self.parameters)

    parameters = property(lambda self: self.model.trainable_variables + self.items.trainable_variables)

    def train_step(self, batch):
        positive = batch["label"]
        shift = tf.random.stateless_uniform(positive.shape, self.seed("negative"), 1, self.info.classes, dtype=tf.int32)
        negative = (positive + shift) % self.info.classes

        def loss_fn():
            user, liked, other = self.model(batch["x"]), self.items(positive), self.items(negative)
            margin = tf.reduce_sum(user * (liked - other), axis=1)
            used = sum(tf.reduce_sum(tf.square(e), axis=1) for e in (user, liked, other))
            return -tf.math.log_sigmoid(margin) + self.regularization * used, {"auc": tf.cast(margin > 0, tf.float32)}

        return self.minimize(loss_fn, self.parameters)


# --- regression and uncertainty -------------------------------------------------------------------------------------


def pinball(target, predicted, quantiles):
    error = target[:, None] - predicted
    return tf.maximum(quantiles * error, (quantiles - 1.0) * error)


class QuantileRegression(Tiny):
    """Several quantiles at once; increments are positive so that the quantiles do not cross."""

    quantiles: ClassVar[tuple[float, ...]] = (0.1, 0.5, 0.9)

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([10, len(QuantileRegression.quantiles)])

    def predict(self, x):
        raw = self.model(x, training=True)
        first, rest = raw[:, :1], tf.nn.softplus(raw[:, 1:])
        return tf.cumsum(tf.concat([first, rest], axis=1), axis=1)

    def train_step(self, batch):
        target = tf.reduce_sum(batch["x"], axis=1)

        def loss_fn():
            predicted = self.predict(batch["x"])
            per_quantile = pinball(target, predicted, tf.constant(self.quantiles))
            names = (f"pinball_{int(100 * q):02d}" for q in self.quantiles)
            return tf.reduce_sum(per_quantile, axis=1), dict(zip(names, tf.unstack(per_quantile, axis=1)))

        return self.minimize(loss_fn)


class MixtureDensity(Tiny):
    """A mixture density network with three components."""

    components = 3

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        hidden = layers.Dense(12, activation="tanh")(inputs)
        heads = {
            name: layers.Dense(MixtureDensity.components, name=name)(hidden) for name in ("logit", "mean", "log_std")
        }
        return keras.Model(inputs, heads)

    def log_likelihood(self, target, *, logit, mean, log_std):
        log_std = tf.clip_by_value(log_std, -3.0, 3.0)
        z = (target[:, None] - mean) * tf.exp(-log_std)
        component = -0.5 * tf.square(z) - log_std - 0.5 * math.log(2.0 * math.pi)
        return tf.reduce_logsumexp(tf.nn.log_softmax(logit) + component, axis=-1)

    def train_step(self, batch):
        target = tf.sin(batch["x"][:, 0]) + batch["x"][:, 1]
        return self.minimize(lambda: -self.log_likelihood(target, **self.model(batch["x"], training=True)))


class StudentNoise(Tiny):
    """Heteroscedastic regression with Student's t noise of a learned number of degrees of freedom."""

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([10, 3])

    def negative_log_likelihood(self, y, location, raw_scale, raw_freedom):
        scale = tf.nn.softplus(raw_scale) + 0.05
        nu = tf.nn.softplus(raw_freedom) + 2.0
        normalizer = (
            tf.math.lgamma(0.5 * (nu + 1.0))
            - tf.math.lgamma(0.5 * nu)
            - 0.5 * tf.math.log(nu * np.pi)
            - tf.math.log(scale)
        )
        return 0.5 * (nu + 1.0) * tf.math.log1p(tf.square((y - location) / scale) / nu) - normalizer

    def train_step(self, batch):
        y = tf.reduce_mean(batch["x"], axis=1) ** 2

        def loss_fn():
            location, *rest = tf.unstack(self.model(batch["x"], training=True), axis=1)
            return self.negative_log_likelihood(y, location, *rest), {"squared_error": tf.square(y - location)}

        return self.minimize(loss_fn)


class BayesianDense(layers.Layer):
    """A dense layer with a factorised normal posterior; the noise is handed in."""

    def __init__(self, units: int, prior_std: float = 1.0, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.prior_std = units, prior_std
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.mu = self.add_weight(shape=(shape[-1], self.units), initializer="glorot_uniform", name="mu")
        self.rho = self.add_weight(
            shape=(shape[-1], self.units), initializer=keras.initializers.Constant(-3.0), name="rho"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x, noise):
        sigma = tf.nn.softplus(tf.convert_to_tensor(self.rho))
        mean = tf.matmul(x, self.mu) + self.bias
        std = tf.sqrt(tf.matmul(tf.square(x), tf.square(sigma)) + 1e-8)
        return self.activation(mean + std * noise)

    def kl(self):
        mu, sigma = tf.convert_to_tensor(self.mu), tf.nn.softplus(tf.convert_to_tensor(self.rho))
        ratio = tf.square(sigma / self.prior_std)
        return 0.5 * tf.reduce_sum(ratio + tf.square(mu / self.prior_std) - 1.0 - tf.math.log(ratio))


class BayesByBackprop(Tiny):
    """Local reparameterisation in Bayesian layers; their KL is divided by the number of training examples."""

    widths = (6, 3)

    def __init__(self, *, model, optimizer, info):
        self.info = info
        noises = [keras.Input((w,)) for w in self.widths]
        x = inputs = keras.Input((4,))
        activations = itertools.chain(itertools.repeat("tanh", len(self.widths) - 1), [None])
        for width, noise, activation in zip(self.widths, noises, activations):
            x = BayesianDense(width, activation=activation)(x, noise)
        self.model = keras.Model([inputs, *noises], x)
        self.optimizer = optimizer(self.model.trainable_variables)

    def kl(self):
        return sum(layer.kl() for layer in self.model.layers if isinstance(layer, BayesianDense))

    def train_step(self, batch):
        count = batch["x"].shape[0]
        noise = [tf.random.stateless_normal([count, w], self.seed(f"layer_{i}")) for i, w in enumerate(self.widths)]

        def loss_fn():
            kl = self.kl() / self.info.train_examples
            likelihood = cross_entropy(batch["label"], self.model([batch["x"], *noise], training=True))
            return likelihood + kl, {"likelihood": likelihood, "kl": kl}

        return self.minimize(loss_fn)


class DeepEnsemble(Tiny):
    """An ensemble of networks, each with its own bootstrap weights, optimised one after the other."""

    def __init__(self, *, model, optimizer, info, members: int = 3):
        self.info = info
        self.members = [mlp([6, info.classes], name=f"member_{i}") for i in range(members)]
        self.model = self.members[0]
        self.member_optimizers = [optimizer(member.trainable_variables) for member in self.members]

    def bootstrap(self, index: int, count: int):
        u = tf.random.stateless_uniform([count], self.seed(f"bootstrap_{index}"), 1e-3, 1.0)
        weights = -tf.math.log(u)
        return weights / tf.reduce_mean(weights)

    def train_step(self, batch):
        metrics = {}
        for i, (member, updater) in enumerate(zip(self.members, self.member_optimizers)):
            weights = self.bootstrap(i, batch["x"].shape[0])

            def loss_fn(member=member, weights=weights):
                return weights * cross_entropy(batch["label"], member(batch["x"], training=True))

            metrics[f"member_{i}"] = self.minimize(loss_fn, member.trainable_variables, updater)["loss"]
        probabilities = tf.stack([tf.nn.softmax(member(batch["x"])) for member in self.members])
        mean = tf.reduce_mean(probabilities, axis=0)
        metrics["disagreement"] = tf.reduce_sum(tf.math.reduce_variance(probabilities, axis=0), axis=-1)
        metrics["entropy"] = -tf.reduce_sum(mean * tf.math.log(mean + EPSILON), axis=-1)
        return metrics


class CoxSurvival(Tiny):
    """Cox's partial likelihood with Breslow ties; censored examples only stand in the risk sets."""

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, 1], activation="relu")

    def train_step(self, batch):
        time = tf.abs(batch["x"][:, 0]) + 0.1
        event = tf.cast(batch["label"] != 0, tf.float32)
        at_risk = tf.cast(time[None, :] >= time[:, None], tf.float32)

        def loss_fn():
            risk = self.logits(batch)[:, 0]
            shift = tf.stop_gradient(tf.reduce_max(risk))
            log_sum = shift + tf.math.log(tf.linalg.matvec(at_risk, tf.exp(risk - shift)))
            concordant = tf.cast((risk[:, None] > risk[None, :]) & (time[:, None] < time[None, :]), tf.float32)
            return -event * (risk - log_sum), {"concordant": tf.reduce_mean(concordant, axis=1)}

        return self.minimize(loss_fn)


# --- distillation, noisy labels, domains ----------------------------------------------------------------------------


class HintonDistillation(Tiny):
    """Knowledge distillation from a frozen teacher with a hint on an intermediate layer."""

    def __init__(self, *, model, optimizer, info, temperature: float = 3.0, alpha: float = 0.3, hint: float = 0.1):
        self.info = info
        self.temperature, self.alpha, self.hint = temperature, alpha, hint
        self.teacher = self.with_features(mlp([16, 8, info.classes], name="teacher"))
        self.teacher.trainable = False
        self.model = self.with_features(mlp([8, info.classes], name="student"))
        self.optimizer = optimizer(self.model.trainable_variables)

    @staticmethod
    def with_features(net: keras.Model) -> keras.Model:
        return keras.Model(net.inputs, [net.layers[-2].output, net.outputs[0]])

    def train_step(self, batch):
        teacher_features, teacher_logits = map(tf.stop_gradient, self.teacher(batch["x"], training=False))
        soft_target = tf.nn.softmax(teacher_logits / self.temperature)

        def loss_fn():
            features, logits = self.model(batch["x"], training=True)
            soft = tf.nn.softmax_cross_entropy_with_logits(soft_target, logits / self.temperature)
            book = helpers.LossBook(hard=self.alpha, soft=1.0 - self.alpha, hint=self.hint)
            book.add("hard", cross_entropy(batch["label"], logits))
            book.add("soft", soft * self.temperature**2)
            book.add("hint", tf.reduce_mean(tf.square(features - teacher_features), axis=1))
            return book.total(), book.terms

        return self.minimize(loss_fn)


class MutualLearning(Tiny):
    """Deep mutual learning: each of two students also imitates the other."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.students = {"wide": mlp([12, info.classes]), "deep": mlp([6, 6, info.classes])}
        self.model = self.students["wide"]
        self.student_optimizers = {name: optimizer(net.trainable_variables) for name, net in self.students.items()}

    def student_loss(self, name: str, batch, peers):
        logits = self.students[name](batch["x"], training=True)
        log_p = tf.nn.log_softmax(logits)
        imitation = sum(
            tf.reduce_sum(tf.exp(peer) * (peer - log_p), axis=1) for other, peer in peers.items() if other != name
        )
        return cross_entropy(batch["label"], logits) + imitation

    def train_step(self, batch):
        peers = {name: tf.stop_gradient(tf.nn.log_softmax(net(batch["x"]))) for name, net in self.students.items()}
        metrics = {}
        for name, net in self.students.items():
            loss_fn = functools.partial(self.student_loss, name, batch, peers)
            metrics |= {name: self.minimize(loss_fn, net.trainable_variables, self.student_optimizers[name])["loss"]}
        return metrics


class CoTeaching(Tiny):
    """Co-teaching: each network learns from the examples on which its peer's loss is small; the share kept shrinks."""

    def __init__(self, *, model, optimizer, info, forget: float = 0.4, gradual: int = 4):
        self.info = info
        self.forget, self.gradual = forget, gradual
        self.first, self.second = (mlp([8, info.classes], name=name) for name in ("first", "second"))
        self.model = self.first
        self.first_optimizer = optimizer(self.first.trainable_variables)
        self.second_optimizer = optimizer(self.second.trainable_variables)

    def small_loss_mask(self, losses):
        count = losses.shape[0]
        keep = 1.0 - linear_ramp(self.step, self.gradual, 0.0, self.forget)
        number = tf.cast(tf.math.ceil(keep * count), tf.int32)
        ranks = tf.argsort(tf.argsort(losses))
        return tf.stop_gradient(tf.cast(ranks < number, tf.float32)), tf.cast(number, tf.float32)

    def train_step(self, batch):
        networks = ((self.first, self.first_optimizer), (self.second, self.second_optimizer))
        clean = [cross_entropy(batch["label"], network(batch["x"])) for network, _ in networks]
        metrics = {}
        for index, ((network, updater), peer_losses) in enumerate(zip(networks, reversed(clean))):
            mask, number = self.small_loss_mask(peer_losses)
            weights = mask * BATCH_SIZE / number
            result = self.minimize(
                lambda network=network, weights=weights: (
                    weights * cross_entropy(batch["label"], network(batch["x"], training=True))
                ),
                network.trainable_variables,
                updater,
            )
            metrics[f"network_{index}"] = result["loss"]
        return metrics


class GeneralizedCrossEntropy(Tiny):
    """Robust losses chosen by name in an `if` over configuration; a decorator adds the norm of the weights."""

    kind: Literal["gce", "sce", "bootstrap"] = "gce"
    q = 0.7

    def robust(self, label, logits):
        p = tf.nn.softmax(logits)
        truth = tf.gather(p, label, axis=1, batch_dims=1)
        if self.kind == "gce":
            return (1.0 - tf.pow(truth, self.q)) / self.q
        if self.kind == "sce":
            return cross_entropy(label, logits) + 4.0 * (1.0 - truth)
        if self.kind == "bootstrap":
            target = 0.8 * tf.one_hot(label, p.shape[-1]) + 0.2 * tf.stop_gradient(p)
            return tf.nn.softmax_cross_entropy_with_logits(target, logits)
        raise NotImplementedError(self.kind)

    @helpers.with_weight_norm
    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            top2 = keras.metrics.sparse_top_k_categorical_accuracy(batch["label"], logits, k=2)
            return self.robust(batch["label"], logits), {"top_2": tf.cast(top2, tf.float32)}

        return self.minimize(loss_fn)


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


class DomainAdversarial(Tiny):
    """DANN: a reversed gradient into the features; the first half of the batch is the source domain."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.features = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="relu")])
        self.classifier = mlp([info.classes], inputs=8)
        self.domain = mlp([6, 1], inputs=8)
        self.model = self.features
        nets = [self.features, self.classifier, self.domain]
        self.learned = [v for net in nets for v in net.trainable_variables]
        self.optimizer = optimizer(self.learned)

    def train_step(self, batch):
        count = batch["x"].shape[0]
        source = tf.cast(tf.range(count) < count // 2, tf.float32)
        progress = tf.cast(self.step, tf.float32) / self.info.steps
        strength = 2.0 / (1.0 + tf.exp(-10.0 * progress)) - 1.0

        def loss_fn():
            features = self.features(batch["x"], training=True)
            labels = source * cross_entropy(batch["label"], self.classifier(features))
            domain_logits = self.domain(reverse_gradient(features))[:, 0]
            domains = tf.nn.sigmoid_cross_entropy_with_logits(source, domain_logits)
            return labels + strength * domains, {"domain": domains}

        return self.minimize(loss_fn, self.learned)


def gaussian_kernel(a, b, bandwidths: Sequence[float] = (0.5, 1.0, 2.0)):
    distances = pairwise_squared(a, b)
    return sum(tf.exp(-distances / (2.0 * s)) for s in bandwidths) / len(bandwidths)


class DeepAdaptation(Tiny):
    """MMD and CORAL between the features of the two halves of the batch; each discrepancy is a function in a dict."""

    @staticmethod
    def mmd(a, b):
        return (
            tf.reduce_mean(gaussian_kernel(a, a))
            + tf.reduce_mean(gaussian_kernel(b, b))
            - 2 * tf.reduce_mean(gaussian_kernel(a, b))
        )

    @staticmethod
    def coral(a, b):
        def covariance(z):
            centered = z - tf.reduce_mean(z, axis=0, keepdims=True)
            return tf.einsum("bi,bj->ij", centered, centered) / (z.shape[0] - 1)

        return tf.reduce_sum(tf.square(covariance(a) - covariance(b))) / (4 * a.shape[-1] ** 2)

    def __init__(self, *, model, optimizer, info):
        self.info = info
        inputs = keras.Input((4,))
        features = layers.Dense(6, activation="tanh")(inputs)
        self.model = keras.Model(inputs, (features, layers.Dense(info.classes)(features)))
        self.optimizer = optimizer(self.model.trainable_variables)
        self.discrepancies = {"mmd": (self.mmd, 0.5), "coral": (self.coral, 1.0)}

    def train_step(self, batch):
        def loss_fn():
            features, logits = self.model(batch["x"], training=True)
            halves = tf.split(features, 2)
            found = {name: weight * measure(*halves) for name, (measure, weight) in self.discrepancies.items()}
            return cross_entropy(batch["label"], logits) + tf.add_n(list(found.values())), found

        return self.minimize(loss_fn)


# --- physics and dynamics -------------------------------------------------------------------------------------------


class HeatEquation(Tiny):
    """A physics-informed net: residual of the heat equation by nested tapes, initial and boundary conditions."""

    diffusivity = 0.3
    weights: ClassVar[dict[str, float]] = {"residual": 0.1, "initial": 0.2, "boundary": 0.1}

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([12, 12, 1], inputs=2)

    def u(self, t, x):
        return self.model(tf.stack([t, x], axis=1), training=True)[:, 0]

    def residual(self, t, x):
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch([t, x])
                u = self.u(t, x)
            u_t, u_x = first.gradient(u, [t, x])
        return u_t - self.diffusivity * second.gradient(u_x, x)

    def conditions(self, t, x) -> dict[str, tf.Tensor]:
        zero, one = tf.zeros_like(t), tf.ones_like(t)
        return {
            "residual": self.residual(t, x),
            "initial": self.u(zero, x) - tf.sin(math.pi * x),
            "boundary": tf.abs(self.u(t, zero)) + tf.abs(self.u(t, one)),
        }

    def train_step(self, batch):
        t, x = tf.unstack(tf.sigmoid(batch["x"][:, :2]), axis=1)

        def loss_fn():
            squared = {name: tf.square(value) for name, value in self.conditions(t, x).items()}
            return tf.add_n([self.weights[name] * value for name, value in squared.items()]), squared

        return self.minimize(loss_fn)


def runge_kutta(field: Callable, state, steps: int, dt: float):
    """Yields the states of the classical fourth-order method."""
    for n in range(steps):
        t = n * dt
        k1 = field(t, state)
        k2 = field(t + dt / 2, state + dt / 2 * k1)
        k3 = field(t + dt / 2, state + dt / 2 * k2)
        k4 = field(t + dt, state + dt * k3)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        yield state


class NeuralOde(Tiny):
    """A neural ODE integrated by a generator of Runge-Kutta states, with a kinetic regulariser over the trajectory."""

    steps, dt = 3, 0.25

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.field = mlp([8, 4], inputs=5, name="field")
        self.readout = mlp([info.classes], name="readout")
        self.model = self.readout
        self.learned = self.field.trainable_variables + self.readout.trainable_variables
        self.optimizer = optimizer(self.learned)

    def velocity(self, t: float, z):
        time = tf.fill([z.shape[0], 1], t)
        return self.field(tf.concat([z, time], axis=1), training=True)

    def train_step(self, batch):
        def loss_fn():
            *_, final = trajectory = list(runge_kutta(self.velocity, batch["x"], self.steps, self.dt))
            moves = (b - a for a, b in itertools.pairwise([batch["x"], *trajectory]))
            kinetic = sum(tf.reduce_sum(tf.square(move), axis=1) for move in moves) / self.dt
            return cross_entropy(batch["label"], self.readout(final)) + 0.01 * kinetic, {"kinetic": kinetic}

        return self.minimize(loss_fn, self.learned)


class HamiltonianNetwork(Tiny):
    """A Hamiltonian net of a spring-like system, trained on derivatives and on a leapfrog rollout."""

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([16, 1], activation="softplus")

    def derivatives(self, q, p):
        with helpers.watching(q, p) as tape:
            energy = self.model(tf.concat([q, p], axis=-1), training=True)
        dh_dq, dh_dp = tape.gradient(energy, (q, p))
        return dh_dp, -dh_dq

    def leapfrog(self, q, p, dt: float = 0.1, steps: int = 2):
        for _ in range(steps):
            p = p + 0.5 * dt * self.derivatives(q, p)[1]
            q = q + dt * self.derivatives(q, p)[0]
            p = p + 0.5 * dt * self.derivatives(q, p)[1]
        return q, p

    def train_step(self, batch):
        q, p = tf.split(batch["x"], 2, axis=-1)
        angle = 0.2
        target = (math.cos(angle) * q + math.sin(angle) * p, math.cos(angle) * p - math.sin(angle) * q)

        def loss_fn():
            q_dot, p_dot = self.derivatives(q, p)
            fields = tf.reduce_sum(tf.square(q_dot - p) + tf.square(p_dot + q), axis=1)
            rollout = sum(tf.reduce_sum(tf.square(a - b), 1) for a, b in zip(self.leapfrog(q, p), target))
            return fields + rollout, {"rollout": rollout}

        return self.minimize(loss_fn)


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


# --- mixtures and transport -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Routing:
    combine: tf.Tensor
    balance: tf.Tensor
    z_loss: tf.Tensor

    def auxiliary(self, balance: float, z: float):
        return balance * self.balance + z * self.z_loss


class SparseExperts(Tiny):
    """A mixture of experts with top-2 routing, a load-balancing loss and a router z-loss."""

    experts, top, width = 4, 2, 8

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.router = keras.Sequential([keras.Input((4,)), layers.Dense(self.experts, use_bias=False)], name="router")
        self.expert_nets = [mlp([self.width, info.classes], name=f"expert_{i}") for i in range(self.experts)]
        self.model = self.router
        self.optimizer = optimizer(self.learned)

    @property
    def learned(self):
        return [v for net in (self.router, *self.expert_nets) for v in net.trainable_variables]

    def route(self, x) -> Routing:
        logits = self.router(x, training=True)
        probabilities = tf.nn.softmax(logits)
        values, chosen = tf.math.top_k(probabilities, k=self.top)
        gates = values / tf.reduce_sum(values, axis=-1, keepdims=True)
        one_hot = tf.one_hot(chosen, self.experts)
        load = tf.reduce_mean(one_hot[:, 0], axis=0)
        balance = self.experts * tf.reduce_sum(load * tf.reduce_mean(probabilities, axis=0))
        return Routing(
            tf.einsum("bk,bke->be", gates, one_hot), balance, tf.square(tf.reduce_logsumexp(logits, axis=-1))
        )

    def train_step(self, batch):
        def loss_fn():
            routing = self.route(batch["x"])
            outputs = tf.stack([expert(batch["x"], training=True) for expert in self.expert_nets], axis=1)
            logits = tf.einsum("be,bec->bc", routing.combine, outputs)
            loss = cross_entropy(batch["label"], logits) + routing.auxiliary(balance=0.01, z=0.001)
            return loss, {"balance": routing.balance}

        return self.minimize(loss_fn, self.learned)


class TransportAlignment(Tiny):
    """Optimal transport between embeddings and fixed anchors, by a few Sinkhorn iterations in a helper module."""

    anchors = np.stack([np.cos(np.arange(4)), np.sin(np.arange(4))], axis=1).astype(np.float32)

    @staticmethod
    def build_model(image_shape, classes):
        return mlp([8, 2])

    def train_step(self, batch):
        def loss_fn():
            z = self.model(batch["x"], training=True)
            cost = pairwise_squared(z, tf.constant(self.anchors))
            plan = tf.stop_gradient(sinkhorn_plan(cost, epsilon=0.5, iterations=3))
            transport = z.shape[0] * tf.reduce_sum(plan * cost, axis=1)
            spread = -tf.reduce_sum(tf.math.xlogy(plan, plan))
            return transport, {"plan_entropy": spread}

        return self.minimize(loss_fn)


class SlicedWasserstein(Tiny):
    """A sliced Wasserstein autoencoder; shapes are asserted with tf.debugging while the step is built."""

    slices = 6

    def __init__(self, *, model, optimizer, info, weight: float = 1.0):
        self.info = info
        self.weight = weight
        self.encoder, self.decoder = mlp([8, 2]), mlp([8, 4], inputs=2)
        self.model = keras.Sequential([keras.Input((4,)), self.encoder, self.decoder])
        self.optimizer = optimizer(self.model.trainable_variables)

    def distance(self, a, b):
        directions = tf.math.l2_normalize(tf.random.stateless_normal([2, self.slices], self.seed("slices")), axis=0)
        tf.debugging.assert_shapes([(a, ("N", 2)), (b, ("N", 2)), (directions, (2, "S"))])
        projected = (tf.sort(tf.matmul(z, directions), axis=0) for z in (a, b))
        return tf.reduce_mean(tf.math.squared_difference(*projected))

    def train_step(self, batch):
        prior = tf.random.stateless_normal([batch["x"].shape[0], 2], self.seed("prior"))

        def loss_fn():
            z = self.encoder(batch["x"], training=True)
            reconstruction = keras.losses.mean_squared_error(batch["x"], self.decoder(z, training=True))
            distance = self.distance(z, prior)
            return reconstruction + self.weight * distance, {"sliced_distance": distance}

        return self.minimize(loss_fn)


# --- quantisation ---------------------------------------------------------------------------------------------------


class MovingRange(tf.Module):
    """The moving range of a tensor, and fake quantisation in it."""

    def __init__(self, bits: int = 4, momentum: float = 0.9, name: str | None = None):
        super().__init__(name=name)
        self.levels = 2**bits - 1
        self.momentum = momentum
        self.low = tf.Variable(-1.0, trainable=False)
        self.high = tf.Variable(1.0, trainable=False)

    def observe(self, x):
        for variable, value in ((self.low, tf.reduce_min(x)), (self.high, tf.reduce_max(x))):
            variable.assign(self.momentum * variable + (1.0 - self.momentum) * value)

    def __call__(self, x):
        scale = (self.high - self.low) / self.levels
        clipped = tf.clip_by_value(x, self.low, self.high)
        return round_through((clipped - self.low) / scale) * scale + self.low


class QuantizationAware(Tiny):
    """Quantisation-aware training with moving ranges of the activations after each layer."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = mlp([8, info.classes], activation="relu")
        self.optimizer = optimizer(self.model.trainable_variables)
        self.ranges = [MovingRange(name=f"range_{i}") for i, _ in enumerate(self.model.layers)]
        self.range_variables = list(itertools.chain.from_iterable(r.variables for r in self.ranges))

    def forward(self, x, quantize: bool):
        activations = []
        for layer, moving in zip(self.model.layers, self.ranges):
            x = layer(x)
            activations.append(x)
            if quantize:
                x = moving(x)
        return x, activations

    def train_step(self, batch):
        _, activations = self.forward(batch["x"], quantize=False)
        for moving, activation in zip(self.ranges, activations):
            moving.observe(activation)

        def loss_fn():
            logits, _ = self.forward(batch["x"], quantize=True)
            return cross_entropy(batch["label"], logits)

        return self.minimize(loss_fn)


@tf.custom_gradient
def binarize(x):
    """The sign, with a gradient that is clipped to where the input is small."""

    def grad(upstream):
        return tf.where(tf.abs(x) <= 1.0, upstream, tf.zeros_like(upstream))

    return tf.where(x >= 0.0, tf.ones_like(x), -tf.ones_like(x)), grad


class BinaryWeights(Tiny):
    """A net with binary hidden kernels scaled per unit; the latent weights are clipped after the update."""

    class BinaryDense(layers.Dense):
        def call(self, inputs, training=None):
            kernel = tf.convert_to_tensor(self.kernel)
            scale = tf.reduce_mean(tf.abs(kernel), axis=0, keepdims=True)
            return self.activation(tf.matmul(inputs, binarize(kernel) * tf.stop_gradient(scale)) + self.bias)

    @classmethod
    def build_model(cls, image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                cls.BinaryDense(12, activation="tanh"),
                cls.BinaryDense(8, activation="tanh"),
                layers.Dense(classes),
            ]
        )

    def train_step(self, batch):
        metrics = self.minimize(lambda: self.losses(batch))
        for layer in self.model.layers:
            if isinstance(layer, self.BinaryDense):
                layer.kernel.assign(tf.clip_by_value(layer.kernel, -1.0, 1.0))
        return metrics


# --- sequences, graphs, images --------------------------------------------------------------------------------------


class BaseSequenceLoss(Tiny, abc.ABC):
    """The features are a sequence of four steps; what is lost along it is abstract."""

    tags = 3

    @abc.abstractmethod
    def sequence_loss(self, emissions, tags): ...

    def tag(self, x):
        return tf.cast(tf.clip_by_value(tf.math.floor(x + 1.5), 0.0, self.tags - 1.0), tf.int32)

    def train_step(self, batch):
        tags = self.tag(batch["x"])

        def loss_fn():
            return self.sequence_loss(self.model(batch["x"][:, :, None], training=True), tags)

        return self.minimize(loss_fn)


class ConditionalRandomField(BaseSequenceLoss):
    """A linear-chain CRF: forward algorithm over a static length; its transitions are a layer's weight."""

    class Transitions(layers.Layer):
        """Passes emissions on and keeps the transition scores beside them."""

        def build(self, shape):
            self.scores = self.add_weight(shape=(shape[-1], shape[-1]), initializer="random_normal", name="scores")

        def call(self, emissions):
            return emissions, ops.convert_to_tensor(self.scores)

    @classmethod
    def build_model(cls, image_shape, classes):
        inputs = keras.Input((4, 1))
        x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(inputs)
        return keras.Model(inputs, cls.Transitions()(layers.Dense(cls.tags)(x)))

    def sequence_loss(self, outputs, tags):
        emissions, transitions = outputs
        first, *rest = tf.unstack(emissions, axis=1)
        alpha = first
        for emission in rest:
            alpha = tf.reduce_logsumexp(alpha[:, :, None] + transitions[None], axis=1) + emission
        unary = tf.reduce_sum(tf.gather(emissions, tags, axis=2, batch_dims=2), axis=1)
        pairs = tf.stack([tags[:, :-1], tags[:, 1:]], axis=-1)
        binary = tf.reduce_sum(tf.gather_nd(transitions, pairs), axis=1)
        return tf.reduce_logsumexp(alpha, axis=1) - unary - binary


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


class CausalSelfAttention(layers.Layer):
    """Masked multi-head attention written with einsum."""

    def __init__(self, heads: int, width: int, **kwargs):
        super().__init__(**kwargs)
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads, self.width = heads, width
        self.qkv = layers.Dense(3 * width, use_bias=False)
        self.out = layers.Dense(width)

    def build(self, shape):
        self.qkv.build(shape)
        self.out.build((*shape[:-1], self.width))
        super().build(shape)

    def call(self, x):
        length = x.shape[1]
        per_head = self.width // self.heads
        q, k, v = tf.unstack(tf.reshape(self.qkv(x), [-1, length, 3, self.heads, per_head]), axis=2)
        scores = tf.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(per_head)
        mask = np.tril(np.ones((length, length), dtype=bool))
        weights = tf.nn.softmax(tf.where(mask, scores, -1e9))
        return self.out(tf.reshape(tf.einsum("bhqk,bkhd->bqhd", weights, v), [-1, length, self.width]))


class NextTokenTransformer(Tiny):
    """A causal transformer over features cut into tokens; next-token loss with a z-loss and perplexity."""

    vocabulary = 6

    @classmethod
    def build_model(cls, image_shape, classes, width: int = 8, depth: int = 2):
        tokens = keras.Input((3,), dtype="int32")
        x = layers.Embedding(cls.vocabulary, width)(tokens)
        for _ in range(depth):
            x = x + CausalSelfAttention(2, width)(layers.LayerNormalization()(x))
            hidden = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
            x = x + layers.Dense(width)(hidden)
        return keras.Model(tokens, layers.Dense(cls.vocabulary)(layers.LayerNormalization()(x)))

    def tokenize(self, x):
        edges = np.linspace(-1.5, 1.5, self.vocabulary - 1).tolist()
        return tf.reduce_sum(tf.cast(x[:, :, None] > tf.constant(edges), tf.int32), axis=-1)

    def train_step(self, batch):
        tokens = self.tokenize(batch["x"])
        inputs, targets = tokens[:, :-1], tokens[:, 1:]

        def loss_fn():
            logits = self.model(inputs, training=True)
            losses = tf.reduce_mean(cross_entropy(targets, logits), axis=1)
            z_loss = tf.reduce_mean(tf.square(tf.reduce_logsumexp(logits, axis=-1)), axis=1)
            return losses + 1e-3 * z_loss, {"perplexity": tf.exp(losses)}

        return self.minimize(loss_fn)


class GraphConvolution(Tiny):
    """The examples are the nodes of a fixed ring; messages go along edges by segment sums, degrees come from numpy."""

    hops = 2

    def __init__(self, *, model, optimizer, info):
        self.info = info
        nodes = np.arange(BATCH_SIZE)
        senders = np.concatenate([nodes, nodes, nodes])
        receivers = np.concatenate([nodes, (nodes + 1) % BATCH_SIZE, (nodes - 1) % BATCH_SIZE])
        degree = np.bincount(receivers, minlength=BATCH_SIZE).astype(np.float32)
        self.edges = (senders, receivers)
        self.edge_weights = (1.0 / np.sqrt(degree[senders] * degree[receivers]))[:, None]
        self.blocks = [
            keras.Sequential([keras.Input((w,)), layers.Dense(6)], name=f"hop_{i}") for i, w in enumerate((4, 6))
        ]
        self.model = mlp([info.classes], inputs=6)
        self.learned = [v for net in (*self.blocks, self.model) for v in net.trainable_variables]
        self.optimizer = optimizer(self.learned)
        assert len(self.blocks) == self.hops

    def propagate(self, h):
        senders, receivers = self.edges
        messages = tf.gather(h, senders) * self.edge_weights
        return tf.math.unsorted_segment_sum(messages, receivers, num_segments=BATCH_SIZE)

    def train_step(self, batch):
        def loss_fn():
            h = batch["x"]
            for block in self.blocks:
                h = tf.nn.relu(self.propagate(block(h, training=True)))
            smoothness = tf.reduce_sum(tf.square(h - self.propagate(h)), axis=1)
            return cross_entropy(batch["label"], self.model(h)) + 0.01 * smoothness, {"smoothness": smoothness}

        return self.minimize(loss_fn, self.learned)


class RegionLoss(Protocol):
    def __call__(self, target: tf.Tensor, probability: tf.Tensor) -> tf.Tensor: ...


class Tversky:
    """One minus the Tversky index; alpha = beta = 0.5 is Dice."""

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, power: float = 1.0):
        self.alpha, self.beta, self.power = alpha, beta, power

    def __call__(self, target, probability):
        axes = [1, 2]
        both = tf.reduce_sum(target * probability, axes)
        only_target = tf.reduce_sum(target * (1.0 - probability), axes)
        only_predicted = tf.reduce_sum((1.0 - target) * probability, axes)
        index = (both + 1.0) / (both + self.alpha * only_target + self.beta * only_predicted + 1.0)
        return tf.reduce_mean(tf.pow(1.0 - index + EPSILON, self.power), axis=-1)


class RegionSegmentation(Tiny):
    """Segmentation of a 2x2 image with region losses of one interface and a per-pixel cross entropy."""

    regions: ClassVar[dict[str, RegionLoss]] = {"dice": Tversky(), "focal_tversky": Tversky(0.7, 0.3, power=0.75)}

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = layers.Reshape((2, 2, 1))(inputs)
        for filters in (6, 4):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return keras.Model(inputs, layers.Conv2D(2, 1)(x))

    @staticmethod
    def mask(x):
        foreground = tf.cast(tf.reshape(x, [-1, 2, 2]) > 0.0, tf.int32)
        return foreground, tf.one_hot(foreground, 2)

    def train_step(self, batch):
        labels, target = self.mask(batch["x"])

        def loss_fn():
            logits = self.model(batch["x"], training=True)
            pixels = per_example(cross_entropy)(labels, logits)
            probability = tf.nn.softmax(logits)
            found = {name: region(target, probability) for name, region in self.regions.items()}
            return pixels + sum(found.values()), {"pixels": pixels, **found}

        return self.minimize(loss_fn)


class DeepClustering(Tiny):
    """Deep embedded clustering: Student kernels to learned centres, sharpened targets, a helper compiled by tf.function."""

    clusters = 4

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = mlp([8, 3])
        self.centers = keras.Variable(
            np.random.default_rng(1).normal(size=(self.clusters, 3)).astype("float32"), name="centers"
        )
        self.learned = [*self.model.trainable_variables, self.centers]
        self.optimizer = optimizer(self.learned)

    @staticmethod
    @tf.function
    def sharpen(q):
        weight = tf.square(q) / tf.reduce_sum(q, axis=0, keepdims=True)
        return weight / tf.reduce_sum(weight, axis=1, keepdims=True)

    def assign(self, z):
        kernel = 1.0 / (1.0 + pairwise_squared(z, tf.convert_to_tensor(self.centers)))
        return kernel / tf.reduce_sum(kernel, axis=1, keepdims=True)

    def train_step(self, batch):
        target = tf.stop_gradient(self.sharpen(self.assign(self.model(batch["x"]))))

        def loss_fn():
            q = self.assign(self.model(batch["x"], training=True))
            return tf.reduce_sum(target * tf.math.log(target / q), axis=1), {"confidence": tf.reduce_max(q, axis=1)}

        return self.minimize(loss_fn, self.learned)


class HyperNetwork(Tiny):
    """A hypernetwork writes the weights of a small net for each example; layout and slices are computed statically."""

    layout: ClassVar[dict[str, tuple[int, ...]]] = {"w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}

    @classmethod
    def build_model(cls, image_shape, classes):
        total = sum(math.prod(shape) for shape in cls.layout.values())
        small = keras.initializers.RandomNormal(stddev=0.3)
        return keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dense(total, kernel_initializer=small)]
        )

    @classmethod
    def cut(cls, flat) -> dict[str, tf.Tensor]:
        sizes = [math.prod(shape) for shape in cls.layout.values()]
        pieces = tf.split(flat, sizes, axis=1)
        return {name: tf.reshape(piece, [-1, *shape]) for (name, shape), piece in zip(cls.layout.items(), pieces)}

    def train_step(self, batch):
        x = batch["x"]

        def loss_fn():
            w = self.cut(self.model(tf.reverse(x, axis=[1]), training=True))
            hidden = tf.nn.relu(tf.einsum("bi,bij->bj", x, w["w1"]) + w["b1"])
            logits = tf.einsum("bi,bij->bj", hidden, w["w2"]) + w["b2"]
            decay = tf.add_n([tf.reduce_sum(tf.square(v), axis=list(range(1, len(v.shape)))) for v in w.values()])
            return cross_entropy(batch["label"], logits) + 1e-3 * decay

        return self.minimize(loss_fn)


class WarnOnSpikes(Tiny):
    """A running mean of the loss; tf.print reports a spike, which XLA cannot compile."""

    modes = ("graph",)

    def __init__(self, *, model, optimizer, info, factor: float = 3.0):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.factor = factor
        self.running = tf.Variable(1.0, trainable=False, name="running_loss")

    def watch(self, loss):
        if loss > self.factor * self.running:
            tf.print("step", self.step, "loss", loss, "against", self.running)
        self.running.assign(0.9 * self.running + 0.1 * loss)

    def train_step(self, batch):
        metrics = self.minimize(lambda: self.losses(batch))
        self.watch(tf.reduce_mean(metrics["loss"]))
        return metrics | {"running": tf.identity(self.running)}


class MappedEarthMover(Tiny):
    """Squared earth mover's distance between ordered histograms of each example, by tf.map_fn over the batch."""

    def distance(self, pair):
        predicted, target = pair
        return tf.reduce_mean(tf.square(tf.cumsum(predicted) - tf.cumsum(target)))

    def train_step(self, batch):
        target = tf.one_hot(batch["label"], self.info.classes)

        def loss_fn():
            logits = self.logits(batch)
            distances = tf.map_fn(self.distance, (tf.nn.softmax(logits), target), fn_output_signature=tf.float32)
            return cross_entropy(batch["label"], logits) + distances, {"distance": distances}

        return self.minimize(loss_fn)
