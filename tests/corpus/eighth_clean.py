"""Clean training steps, in the way they are written in public repositories."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import logging
import math
import operator
import os
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import eighth_helpers as h
from tests.corpus.base import Tiny
from tests.corpus.eighth_helpers import LOSSES, Base, LossConfig, Mode, Outputs, Terms, accuracy, checked, named

log = logging.getLogger("corpus8.train")
log.setLevel(logging.ERROR)

NUM_CLASSES = 3
DEBUG = os.environ.get("CORPUS8_DEBUG", "0") == "1"
SOBEL = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)[:, :, None, None]


class VanillaGAN(Tiny):
    """Non-saturating GAN of two updates."""

    def __init__(self, *, model, optimizer, info, latent_dim: int = 5):
        self.info = info
        self.latent_dim = latent_dim
        self.generator = h.mlp(latent_dim, 4, seed=1)
        self.discriminator = h.mlp(4, 1, seed=2)
        self.g_optimizer = optimizer(self.generator.trainable_variables)
        self.d_optimizer = optimizer(self.discriminator.trainable_variables)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")

    def train_step(self, batch):
        real = batch["x"]
        noise = tf.random.stateless_normal([real.shape[0], self.latent_dim], self.seed("noise"))

        def d_loss():
            fake = self.generator(noise, training=True)
            real_logits = self.discriminator(real, training=True)
            fake_logits = self.discriminator(tf.stop_gradient(fake), training=True)
            return self.bce(tf.ones_like(real_logits), real_logits) + self.bce(tf.zeros_like(fake_logits), fake_logits)

        def g_loss():
            logits = self.discriminator(self.generator(noise, training=True), training=True)
            return self.bce(tf.ones_like(logits), logits)

        d = self.minimize(d_loss, self.discriminator.trainable_variables, self.d_optimizer)
        g = self.minimize(g_loss, self.generator.trainable_variables, self.g_optimizer)
        return {"d_loss": d["loss"], "g_loss": g["loss"]}


class WGANGP(Tiny):
    """Wasserstein GAN with gradient penalty and three critic updates."""

    n_critic = 3
    gp_weight = 1.0

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.generator = h.mlp(4, 4, seed=3)
        self.critic = h.mlp(4, 1, activation="tanh", seed=4)
        self.g_opt = optimizer(self.generator.trainable_variables)
        self.c_opt = optimizer(self.critic.trainable_variables)

    def gradient_penalty(self, real, fake, seed):
        alpha = tf.random.stateless_uniform([real.shape[0], 1], seed)
        mixed = real + alpha * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(mixed)
            score = self.critic(mixed, training=True)
        grads = tape.gradient(score, mixed)
        norm = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=1) + 1e-12)
        return tf.square(norm - 1.0)

    def train_step(self, batch):
        real = batch["x"]
        for i in range(self.n_critic):
            z = tf.random.stateless_normal(tf.shape(real), self.seed(f"z{i}"))
            fake = tf.stop_gradient(self.generator(z, training=True))

            def critic_loss(fake=fake, i=i):
                gp = self.gradient_penalty(real, fake, self.seed(f"alpha{i}"))
                wasserstein = self.critic(fake, training=True) - self.critic(real, training=True)
                return tf.squeeze(wasserstein, -1) + self.gp_weight * gp, {"gp": gp}

            critic = self.minimize(critic_loss, self.critic.trainable_variables, self.c_opt)
        z = tf.random.stateless_normal(tf.shape(real), self.seed("z"))
        gen = self.minimize(
            lambda: -tf.squeeze(self.critic(self.generator(z, training=True)), -1),
            self.generator.trainable_variables,
            self.g_opt,
        )
        return {"critic": critic["loss"], "gp": critic["gp"], "generator": gen["loss"]}


class AnnealedVAE(Tiny):
    """VAE whose KL weight warms up by the step."""

    warmup_steps = 5.0

    def __init__(self, *, model, optimizer, info, latent: int = 2):
        self.info = info
        self.latent = latent
        self.encoder = h.mlp(4, 2 * latent, seed=5)
        self.decoder = h.mlp(latent, 4, seed=6)
        self.vae_variables = self.encoder.trainable_variables + self.decoder.trainable_variables
        self.optimizer = optimizer(self.vae_variables)

    def reparameterize(self, mean, logvar):
        eps = tf.random.stateless_normal(mean.shape, self.seed("eps"))
        return mean + tf.exp(0.5 * logvar) * eps

    def elbo(self, x):
        mean, logvar = tf.split(self.encoder(x, training=True), 2, axis=-1)
        recon = self.decoder(self.reparameterize(mean, logvar), training=True)
        recon_loss = tf.reduce_sum(tf.square(x - recon), axis=-1)
        kl = h.kl_divergence(mean, logvar)
        beta = h.linear_warmup(self.step, self.warmup_steps)
        return recon_loss + beta * kl, {"recon": recon_loss, "kl": kl, "beta": beta}

    def train_step(self, batch):
        return self.minimize(lambda: self.elbo(batch["x"]), self.vae_variables, self.optimizer)


class AttentionClassifier(Tiny):
    """Self attention over the four features."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = keras.layers.Reshape((4, 1))(inputs)
        x = keras.layers.Dense(8)(x)
        y = h.SelfAttention(8, heads=2)(keras.layers.LayerNormalization()(x))
        x = keras.layers.Add()([x, y])
        return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling1D()(x)))

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=batch["label"], logits=logits)
            return loss, {"accuracy": accuracy(batch["label"], logits)}

        return self.minimize(loss_fn)


class SoftMoE(Tiny):
    """Mixture of experts with a load balancing loss of the layer."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = h.MixtureOfExperts(6)(inputs)
        return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.ReLU()(x)))

    def losses(self, batch):
        ce = super().losses(batch)
        return ce + tf.add_n(self.model.losses)


class SimCLR(Tiny):
    """Two noisy views of each example."""

    @staticmethod
    def build_model(image_shape, classes):
        return h.mlp(4, 6, seed=7)

    def augment(self, x, name):
        noise = tf.random.stateless_normal(x.shape, self.seed(f"{name}/noise"), stddev=0.1)
        keep = tf.random.stateless_uniform(x.shape, self.seed(f"{name}/drop")) > 0.2
        return tf.where(keep, x + noise, 0.0)

    def train_step(self, batch):
        v1, v2 = (self.augment(batch["x"], name) for name in ("first", "second"))

        def loss_fn():
            z1 = self.model(v1, training=True)
            z2 = self.model(v2, training=True)
            return h.nt_xent(z1, z2)

        return self.minimize(loss_fn)


class BYOL(Base):
    """Online and target networks; the target follows as a moving average."""

    tau = 0.99

    def setup(self, optimizer):
        self.online = h.mlp(4, 6, seed=10)
        self.target = h.mlp(4, 6, seed=10)
        self.target.set_weights(self.online.get_weights())
        self.predictor = h.mlp(6, 6, seed=11)
        self.params = self.online.trainable_variables + self.predictor.trainable_variables
        self.optimizer = optimizer(self.params)

    @staticmethod
    def regression(p, z):
        p, z = (tf.math.l2_normalize(t, axis=-1, epsilon=1e-6) for t in (p, z))
        return 2.0 - 2.0 * tf.reduce_sum(p * z, axis=-1)

    def train_step(self, batch):
        a = batch["x"] + 0.1 * tf.random.stateless_normal(batch["x"].shape, self.seed("a"))
        b = batch["x"] + 0.1 * tf.random.stateless_normal(batch["x"].shape, self.seed("b"))
        za, zb = (tf.stop_gradient(self.target(v, training=False)) for v in (a, b))

        def loss_fn():
            pa = self.predictor(self.online(a, training=True), training=True)
            pb = self.predictor(self.online(b, training=True), training=True)
            return self.regression(pa, zb) + self.regression(pb, za)

        metrics = self.minimize(loss_fn, self.params, self.optimizer)
        h.update_ema(self.target.variables, self.online.variables, self.tau)
        return metrics


class DINO(Base):
    """Student and EMA teacher with a centred, sharpened target."""

    def setup(self, optimizer):
        self.student, self.teacher = h.mlp(4, 5, seed=12), h.mlp(4, 5, seed=12)
        self.center = tf.Variable(tf.zeros([1, 5]), trainable=False, name="center")
        self.optimizer = optimizer(self.student.trainable_variables)

    def train_step(self, batch):
        x = batch["x"]
        view = x * (1.0 + 0.1 * tf.random.stateless_normal(x.shape, self.seed("view")))
        teacher_out = self.teacher(x, training=False)
        target = tf.stop_gradient(tf.nn.softmax((teacher_out - self.center) / 0.2))

        def loss_fn():
            student = tf.nn.log_softmax(self.student(view, training=True) / 0.5)
            return -tf.reduce_sum(target * student, axis=-1)

        out = self.minimize(loss_fn, self.student.trainable_variables, self.optimizer)
        batch_center = tf.reduce_mean(teacher_out, axis=0, keepdims=True)
        self.center.assign(self.center * 0.9 + batch_center * 0.1)
        momentum = 1.0 - 0.01 * h.cosine_factor(self.step, 10.0)
        for t, s in zip(self.teacher.variables, self.student.variables):
            t.assign(momentum * t + (1.0 - momentum) * s)
        return {**out, "momentum": momentum}


class Distillation(Base):
    """Hinton's distillation from a frozen teacher."""

    alpha = 0.3

    def setup(self, optimizer):
        self.teacher = h.mlp(4, 3, seed=13)
        self.teacher.trainable = False

    def train_step(self, batch):
        teacher_logits = self.teacher(batch["x"], training=False)

        def loss_fn():
            logits = self.logits(batch)
            hard = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            soft = h.kd_loss(logits, teacher_logits)
            return self.alpha * hard + (1.0 - self.alpha) * soft, {"hard": hard, "soft": soft}

        return self.minimize(loss_fn)


class Mixup(Tiny):
    """Mixes examples with a rolled batch."""

    def train_step(self, batch):
        x = batch["x"]
        y = tf.one_hot(batch["label"], NUM_CLASSES)
        lam = tf.random.stateless_uniform([], self.seed("lambda"), 0.5, 1.0)
        x = lam * x + (1 - lam) * tf.roll(x, 1, axis=0)
        y = lam * y + (1 - lam) * tf.roll(y, 1, axis=0)
        return self.minimize(lambda: tf.nn.softmax_cross_entropy_with_logits(y, self.model(x, training=True)))


class ShuffledMixup(Tiny):
    """Mixup with a permutation by sorting draws, and one lambda per example."""

    def train_step(self, batch):
        n = batch["x"].shape[0]
        order = tf.argsort(tf.random.stateless_uniform([n], self.seed("order")), stable=True)
        lam = tf.random.stateless_uniform([n, 1], self.seed("lam"))
        lam = tf.maximum(lam, 1.0 - lam)
        mixed = lam * batch["x"] + (1.0 - lam) * tf.gather(batch["x"], order)
        other = tf.gather(batch["label"], order)

        def loss_fn():
            logits = self.model(mixed, training=True)
            ce = functools.partial(tf.nn.sparse_softmax_cross_entropy_with_logits, logits=logits)
            w = tf.squeeze(lam, -1)
            return w * ce(labels=batch["label"]) + (1.0 - w) * ce(labels=other)

        return self.minimize(loss_fn)


class CutMixColumns(Tiny):
    """CutMix along the feature axis by a range mask."""

    def train_step(self, batch):
        x, y = batch["x"], tf.one_hot(batch["label"], NUM_CLASSES)
        length = x.shape[-1]
        start = tf.random.stateless_uniform([], self.seed("start"), 0, length, dtype=tf.int32)
        size = tf.random.stateless_uniform([], self.seed("size"), 1, length, dtype=tf.int32)
        index = tf.range(length)
        mask = tf.cast((index >= start) & (index < start + size), x.dtype)
        x = x * (1 - mask) + tf.reverse(x, [0]) * mask
        ratio = tf.reduce_mean(mask)
        y = (1 - ratio) * y + ratio * tf.reverse(y, [0])

        def loss_fn():
            logits = self.model(x, training=True)
            return keras.losses.categorical_crossentropy(y, logits, from_logits=True), {"ratio": ratio}

        return self.minimize(loss_fn)


class CutoutImages(Tiny):
    """Zeroes one pixel of each 2x2 image."""

    def cutout(self, images):
        n, height, width = images.shape[:3]
        pixel = tf.random.stateless_uniform([n], self.seed("cutout"), 0, height * width, dtype=tf.int32)
        mask = tf.one_hot(pixel, height * width, on_value=0.0, off_value=1.0)
        return images * tf.reshape(mask, [n, height, width, 1])

    def losses(self, batch):
        images = self.cutout(tf.reshape(batch["x"], [-1, 2, 2, 1]))
        logits = self.model(tf.reshape(images, [-1, 4]), training=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class FocalRecipe(Tiny):
    """Focal loss whose gamma grows with the step."""

    def losses(self, batch):
        gamma = 1.0 + tf.minimum(tf.cast(self.step, tf.float32) / 10.0, 1.0)
        return h.focal_loss(batch["label"], self.logits(batch), gamma=gamma)


class DiceCE(Tiny):
    """Dice plus cross entropy, as in segmentation."""

    def train_step(self, batch):
        y = tf.one_hot(batch["label"], NUM_CLASSES)

        def loss_fn():
            logits = self.logits(batch)
            dice = h.dice_loss(y, tf.nn.softmax(logits))
            ce = tf.nn.softmax_cross_entropy_with_logits(y, logits)
            return ce + dice, {"dice": 1.0 - dice, "ce": ce}

        return self.minimize(loss_fn)


class FocalTversky(Tiny):
    """Abraham & Khan's focal Tversky loss."""

    gamma = 0.75

    def losses(self, batch):
        probs = tf.nn.sigmoid(self.logits(batch))
        y = tf.cast(batch["label"][:, None] == tf.range(NUM_CLASSES), tf.float32)
        return tf.pow(1.0 - h.tversky_index(y, probs), self.gamma)


class RegisteredRegression(Tiny):
    """A sum of regression losses from a registry, weighted by name."""

    weights = {"mse": 1.0, "huber": 0.5, "logcosh": 0.25}

    def train_step(self, batch):
        target = batch["x"][:, :3]

        def loss_fn():
            pred = self.logits(batch)
            terms = {name: LOSSES[name](target, pred) for name in sorted(self.weights)}
            loss = tf.add_n([self.weights[name] * value for name, value in terms.items()])
            return loss, {f"loss/{name}": value for name, value in terms.items()}

        return self.minimize(loss_fn)


class SmoothedLabels(Base):
    """A Keras loss object of our own, made in __init__."""

    def setup(self, optimizer):
        self.criterion = h.SmoothedCrossEntropy(smoothing=0.1)

    def losses(self, batch):
        return self.criterion(batch["label"], self.logits(batch))


class ClassWeighted(Tiny):
    """Class weights of a NumPy table."""

    def losses(self, batch):
        weights = tf.gather(tf.constant(h.CLASS_WEIGHTS), batch["label"])
        return weights * super().losses(batch)


class CentralisedGradients(Tiny):
    """Gradient centralisation before the update (Yong et al., 2020)."""

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self.losses(batch)
            mean = tf.reduce_mean(loss)
        grads = []
        for g in tape.gradient(mean, self.model.trainable_variables):
            if g.shape.rank > 1:
                axes = list(range(g.shape.rank - 1))
                g = g - tf.reduce_mean(g, axis=axes, keepdims=True)
            grads.append(g)
        self.apply(grads, self.model.trainable_variables, self.optimizer)
        return {"loss": loss}


class PPOClip(Tiny):
    """PPO's clipped surrogate with an entropy bonus."""

    epsilon, entropy_coef = 0.2, 0.01

    def train_step(self, batch):
        actions = tf.one_hot(batch["label"], NUM_CLASSES)
        advantage = tf.reduce_sum(batch["x"], axis=-1)
        advantage = (advantage - tf.reduce_mean(advantage)) / (tf.math.reduce_std(advantage) + 1e-8)
        old_log_prob = tf.stop_gradient(tf.reduce_sum(actions * tf.nn.log_softmax(0.5 * self.logits(batch)), -1))

        def loss_fn():
            logits = self.logits(batch)
            log_prob = tf.reduce_sum(actions * tf.nn.log_softmax(logits), -1)
            ratio = tf.exp(log_prob - old_log_prob)
            clipped = tf.clip_by_value(ratio, 1.0 - self.epsilon, 1.0 + self.epsilon)
            surrogate = tf.minimum(ratio * advantage, clipped * advantage)
            ent = h.entropy(logits)
            clip_frac = tf.reduce_mean(tf.cast(tf.abs(ratio - 1.0) > self.epsilon, tf.float32))
            return -surrogate - self.entropy_coef * ent, {"entropy": ent, "clip_fraction": clip_frac}

        return self.minimize(loss_fn)


class DoubleDQN(Base):
    """Double DQN with a target network synchronised every second step."""

    gamma = 0.9
    sync_every = 2

    def setup(self, optimizer):
        self.target_w = tf.Variable(self.model.trainable_variables[0].value, trainable=False)
        self.target_b = tf.Variable(self.model.trainable_variables[1].value, trainable=False)

    def train_step(self, batch):
        state, action = batch["x"], batch["label"]
        next_state = tf.roll(state, -1, axis=0)
        reward, done = state[:, 0], tf.cast(state[:, 1] > 1.0, tf.float32)
        best = tf.argmax(self.model(next_state, training=False), axis=-1)
        next_q = tf.gather(next_state @ self.target_w + self.target_b, best, axis=1, batch_dims=1)
        target = tf.stop_gradient(reward + self.gamma * (1.0 - done) * next_q)

        def td_loss():
            q = tf.reduce_sum(self.logits(batch) * tf.one_hot(action, NUM_CLASSES), axis=-1)
            return keras.losses.huber(target[:, None], q[:, None]), {"q": q}

        metrics = self.minimize(td_loss)
        sync = tf.equal(self.step % self.sync_every, 0)
        for t, s in zip((self.target_w, self.target_b), self.model.trainable_variables):
            t.assign(tf.where(sync, tf.convert_to_tensor(s), t))
        return metrics


class A2C(Base):
    """Actor-critic with discounted returns by a reversed cumulative scan."""

    def setup(self, optimizer):
        self.critic = h.mlp(4, 1, seed=14)
        self.critic_optimizer = optimizer(self.critic.trainable_variables)

    @staticmethod
    def returns(rewards, gamma=0.9):
        flipped = tf.reverse(rewards, [0])
        out = tf.scan(lambda acc, r: r + gamma * acc, flipped, initializer=tf.zeros([]))
        return tf.reverse(out, [0])

    def train_step(self, batch):
        returns = self.returns(tf.tanh(batch["x"][:, 0]))
        value = tf.squeeze(self.critic(batch["x"], training=False), -1)
        advantage = tf.stop_gradient(returns - value)
        actor = self.minimize(lambda: super(A2C, self).losses(batch) * advantage)
        critic = self.minimize(
            lambda: tf.square(returns - tf.squeeze(self.critic(batch["x"], training=True), -1)),
            self.critic.trainable_variables,
            self.critic_optimizer,
        )
        return {"actor_loss": actor["loss"], "critic_loss": critic["loss"]}


class DiffusionNoise(Tiny):
    """DDPM's noise prediction with a cosine schedule in a table."""

    timesteps = len(h.ALPHAS_BAR)

    @staticmethod
    def build_model(image_shape, classes):
        return h.mlp(6, 4, width=16, activation="silu", seed=15)

    def time_embedding(self, t):
        angle = tf.cast(t, tf.float32)[:, None] / self.timesteps * math.pi
        return tf.concat([tf.sin(angle), tf.cos(angle)], axis=-1)

    def train_step(self, batch):
        x0 = batch["x"]
        t = tf.random.stateless_uniform([x0.shape[0]], self.seed("t"), 0, self.timesteps, dtype=tf.int32)
        eps = tf.random.stateless_normal(x0.shape, self.seed("eps"))
        abar = tf.gather(h.ALPHAS_BAR, t)[:, None]
        xt = tf.sqrt(abar) * x0 + tf.sqrt(1.0 - abar) * eps
        inputs = tf.concat([xt, self.time_embedding(t)], axis=-1)
        return self.minimize(lambda: tf.reduce_mean(tf.square(self.model(inputs, training=True) - eps), axis=-1))


class SpectralNormCritic(Tiny):
    """Hinge loss of a spectrally normalised critic."""

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), h.SpectralDense(6), keras.layers.LeakyReLU(), h.SpectralDense(1)])

    def losses(self, batch):
        score = tf.squeeze(self.logits(batch), -1)
        sign = tf.where(batch["label"] == 0, 1.0, -1.0)
        return tf.nn.relu(1.0 - sign * score)


class OrthogonalRegularised(Tiny):
    """Adds an orthogonality penalty over all kernels."""

    def kernels(self):
        return (v for v in self.model.trainable_variables if len(v.shape) == 2)

    def losses(self, batch):
        penalty = sum(h.orthogonal_penalty(tf.convert_to_tensor(k)) for k in self.kernels())
        return super().losses(batch) + 1e-3 * penalty


class CenterLoss(Base):
    """Wen et al.'s centres, moved by their batch differences."""

    rate = 0.5

    def setup(self, optimizer):
        self.centers = tf.Variable(tf.zeros([NUM_CLASSES, 3]), trainable=False, name="centers")

    def train_step(self, batch):
        labels = batch["label"]

        def loss_fn():
            features = self.logits(batch)
            own = tf.gather(self.centers, labels)
            center = tf.reduce_sum(tf.square(features - own), axis=-1)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, features)
            return ce + 0.05 * center, {"center": center}

        features = tf.stop_gradient(self.logits(batch))
        sums = tf.math.unsorted_segment_sum(features, labels, NUM_CLASSES)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(labels, tf.float32), labels, NUM_CLASSES)
        delta = (counts[:, None] * self.centers - sums) / (1.0 + counts[:, None])
        metrics = self.minimize(loss_fn)
        self.centers.assign_sub(self.rate * delta)
        return metrics


class MemoryBankEighth(Base):
    """A queue of negatives written in turn by the step (MoCo)."""

    slots = 24

    def setup(self, optimizer):
        rng = np.random.default_rng(3)
        bank = rng.normal(size=(self.slots, 3)).astype(np.float32)
        self.bank = tf.Variable(bank / np.linalg.norm(bank, axis=1, keepdims=True), trainable=False, name="queue")

    def train_step(self, batch):
        n = batch["x"].shape[0]
        noisy = batch["x"] + 0.05 * tf.random.stateless_normal(batch["x"].shape, self.seed("key"))
        keys = tf.stop_gradient(tf.math.l2_normalize(self.model(noisy, training=False), -1, epsilon=1e-6))

        def loss_fn():
            q = tf.math.l2_normalize(self.logits(batch), -1, epsilon=1e-6)
            pos = tf.reduce_sum(q * keys, -1, keepdims=True)
            neg = tf.matmul(q, self.bank, transpose_b=True)
            logits = tf.concat([pos, neg], axis=1) / 0.2
            return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.zeros([n], tf.int32), logits)

        out = self.minimize(loss_fn)
        start = tf.cast(self.step, tf.int32) * n % self.slots
        rows = (start + tf.range(n)) % self.slots
        self.bank.assign(tf.tensor_scatter_nd_update(self.bank, rows[:, None], keys))
        return out


class WarmupFactor(Tiny):
    """A loss factor by the step: warm-up, then cosine."""

    def losses(self, batch):
        factor = h.linear_warmup(self.step, 3.0) * h.cosine_factor(self.step, 10.0, floor=0.1)
        return factor * super().losses(batch)


class Curriculum(Tiny):
    """Hard examples count only later in training."""

    def losses(self, batch):
        loss = super().losses(batch)
        difficulty = tf.norm(batch["x"], axis=-1)
        threshold = tf.where(self.step < 2, 1.5, tf.where(self.step < 4, 2.5, 1e9))
        weight = tf.cast(difficulty <= threshold, loss.dtype)
        return loss * weight / tf.maximum(tf.reduce_mean(weight), 1e-3)


class UnrolledLSTM(Base):
    """An LSTM cell over four steps."""

    def setup(self, optimizer):
        self.cell = keras.layers.LSTMCell(5)
        self.cell.build((None, 1))
        self.head = keras.layers.Dense(3)
        self.head.build((None, 5))
        self.params = self.cell.trainable_variables + self.head.trainable_variables
        self.optimizer = optimizer(self.params)

    def forward(self, x):
        n = x.shape[0]
        states = [tf.zeros([n, 5]), tf.zeros([n, 5])]
        out = states[0]
        for step_input in tf.unstack(x[..., None], axis=1):
            out, states = self.cell(step_input, states)
        return self.head(out)

    def train_step(self, batch):
        def loss_fn():
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.forward(batch["x"]))

        return self.minimize(loss_fn, self.params, self.optimizer)


class MapFnPerExample(Tiny):
    """Per-example normalisation by tf.map_fn."""

    @staticmethod
    def standardize(row):
        return (row - tf.reduce_mean(row)) / (tf.math.reduce_std(row) + 1e-3)

    def losses(self, batch):
        x = tf.map_fn(self.standardize, batch["x"], fn_output_signature=tf.TensorSpec([4], tf.float32))
        logits = self.model(x, training=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class SinkhornWhile(Tiny):
    """SwAV's assignments by Sinkhorn iterations in a while loop."""

    @staticmethod
    def sinkhorn(scores, iterations=3):
        q = tf.exp(scores - tf.reduce_max(scores))

        def body(i, q):
            q = q / tf.reduce_sum(q, axis=0, keepdims=True)
            q = q / tf.reduce_sum(q, axis=1, keepdims=True)
            return [i + 1, q]

        _, q = tf.while_loop(lambda i, _: i < iterations, body, [tf.constant(0), q], maximum_iterations=iterations)
        return q

    def losses(self, batch):
        logits = self.logits(batch)
        q = tf.stop_gradient(self.sinkhorn(tf.tanh(logits)))
        return tf.nn.softmax_cross_entropy_with_logits(q, logits) + super().losses(batch)


class TensorArrayRollout(Tiny):
    """Collects a few iterates in a TensorArray."""

    horizon = 4

    def losses(self, batch):
        logits = self.logits(batch)
        array = tf.TensorArray(tf.float32, size=self.horizon, element_shape=logits.shape)
        state = logits
        for t in range(self.horizon):
            state = 0.5 * state + 0.5 * tf.tanh(state)
            array = array.write(t, state)
        trajectory = array.stack()
        ce = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.tile(batch["label"][None], [self.horizon, 1]), trajectory
        )
        return tf.reduce_mean(ce, axis=0)


class AutographPower(Tiny):
    """A loop over a tensor range, converted by AutoGraph."""

    def losses(self, batch):
        logits = self.logits(batch)
        total = tf.zeros_like(logits)
        for i in tf.range(3):
            total += tf.stop_gradient(tf.tanh(logits)) * tf.cast(i, tf.float32)
        return super().losses(batch) + 0.01 * tf.reduce_mean(total, axis=-1)


class CondPhase(Tiny):
    """Pretraining and fine-tuning phases by tf.cond on the step."""

    pretrain_steps = 2

    def losses(self, batch):
        logits = self.logits(batch)

        def pretrain():
            return LOSSES["mse"](batch["x"][:, :3], logits)

        def finetune():
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return tf.cond(self.step < self.pretrain_steps, pretrain, finetune)


class SwitchCaseTasks(Tiny):
    """Alternates three tasks by tf.switch_case."""

    def losses(self, batch):
        logits = self.logits(batch)
        target = batch["x"][:, :3]
        tasks = [functools.partial(fn, target, logits) for _, fn in sorted(LOSSES.items())]
        return tf.switch_case(tf.cast(self.step % len(tasks), tf.int32), tasks)


class TensorIfWarmup(Tiny):
    """An `if` over a tensor, both branches assigned."""

    def losses(self, batch):
        loss = super().losses(batch)
        if self.step < 2:  # noqa: SIM108
            scale = tf.constant(0.1)
        else:
            scale = tf.constant(1.0)
        return loss * scale


class ClippedBackward(Tiny):
    """Clips the gradient that flows into the logits."""

    def losses(self, batch):
        logits = h.clipped_identity(self.logits(batch))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class QuantisedActivations(Tiny):
    """Fake quantisation of activations, straight-through."""

    def losses(self, batch):
        x = h.fake_quant(batch["x"], bits=3)
        logits = h.fake_quant(self.model(x, training=True), bits=4, limit=4.0)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class KerasOpsStep(Tiny):
    """Backend-agnostic code with keras.ops."""

    def losses(self, batch):
        ops = keras.ops
        logits = self.logits(batch)
        log_probs = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        picked = ops.take_along_axis(log_probs, ops.expand_dims(ops.cast(batch["label"], "int32"), -1), axis=-1)
        poly = 1.0 - ops.exp(picked)
        return ops.squeeze(-picked + 0.5 * poly, axis=-1)


class ConfiguredLoss(Base):
    """Reads a frozen dataclass and an enum."""

    config = LossConfig(weight=0.7, l2=1e-2)

    def losses(self, batch):
        loss = super().losses(batch)
        l2 = tf.add_n([tf.nn.l2_loss(tf.convert_to_tensor(v)) for v in self.model.trainable_variables])
        loss = self.config.weight * loss + self.config.l2 * l2
        if self.config.mode is Mode.MEAN:
            return tf.reduce_mean(loss)
        if self.config.mode is Mode.SUM:
            return tf.reduce_sum(loss)
        return loss


class MatchActivation(Tiny):
    """Selects an activation by a match statement."""

    activation = h.Activation.TANH

    def activate(self, x):
        match self.activation:
            case h.Activation.RELU:
                return tf.nn.relu(x)
            case h.Activation.TANH:
                return tf.math.tanh(x)
            case _:
                raise NotImplementedError(self.activation)

    def losses(self, batch):
        logits = 2.0 * self.activate(self.logits(batch))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class NamedOutputs(Tiny):
    """Passes a NamedTuple and a TypedDict around."""

    def forward(self, batch) -> Outputs:
        logits = self.logits(batch)
        return Outputs(logits=logits, features=tf.math.l2_normalize(logits, -1, epsilon=1e-6))

    def terms(self, batch, outputs: Outputs) -> Terms:
        terms: Terms = {"main": tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], outputs.logits)}
        terms["extra"] = 0.1 * tf.reduce_sum(outputs.features, axis=-1)
        return terms

    def train_step(self, batch):
        def loss_fn():
            terms = self.terms(batch, self.forward(batch))
            return functools.reduce(operator.add, terms.values()), dict(terms)

        return self.minimize(loss_fn)


class DecoratedLosses(Tiny):
    """Decorators with wraps: a name scope and a shape check."""

    @checked
    @named("losses")
    def losses(self, batch, *, weight=0.5):
        return weight * super().losses(batch)


class Triangular(Tiny):
    """A weight from a cached function over ints."""

    def losses(self, batch):
        weight = 1.0 / h.triangle(batch["x"].shape[-1])
        ranks = tf.range(1, batch["x"].shape[-1] + 1, dtype=tf.float32)
        return super().losses(batch) + weight * tf.linalg.matvec(batch["x"], ranks) ** 2


class NormaliserProperty(Base):
    """Plain numbers in a property and a table made in __init__."""

    def setup(self, optimizer):
        self.scale = {"mean": 0.1, "std": 1.5}

    @property
    def shift(self) -> float:
        return self.scale["mean"] / self.scale["std"]

    @functools.cached_property
    def inverse_std(self) -> float:
        return 1.0 / self.scale["std"]

    def losses(self, batch):
        logits = self.model(batch["x"] * self.inverse_std - self.shift, training=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class NestedScopes(Tiny):
    """Context managers of our own."""

    def losses(self, batch):
        with h.scope("forward") as name, h.scope(f"{name}_inner", enabled=False):
            logits = self.logits(batch)
        with tf.name_scope("loss"):
            return keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True)


class DispatchedTotals(Tiny):
    """Sums a nested structure by singledispatch."""

    def losses(self, batch):
        logits = self.logits(batch)
        structure = {"b": [logits * 0.01, tf.square(logits) * 0.01], "a": tf.nn.softplus(logits)}
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits) + 0.1 * h.total(structure)


class NestMapped(Tiny):
    """tf.nest over a structure of views."""

    def losses(self, batch):
        views = {"clean": batch["x"], "scaled": (batch["x"] * 0.5, batch["x"] * 2.0)}
        logits = tf.nest.map_structure(lambda v: self.model(v, training=True), views)
        ce = tf.nest.map_structure(
            lambda z: tf.nn.sparse_softmax_cross_entropy_with_logits(labels=batch["label"], logits=z), logits
        )
        return tf.add_n(tf.nest.flatten(ce)) / len(tf.nest.flatten(ce))


class LoggedDebug(Tiny):
    """Debug lines that stay guarded off."""

    def losses(self, batch):
        loss = super().losses(batch)
        if DEBUG:
            tf.print("loss", loss)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("shapes %s", {k: v.shape for k, v in batch.items()})
        return loss


class AssertedInputs(Tiny):
    """Shape, dtype and value checks that hold."""

    def losses(self, batch):
        x, label = batch["x"], batch["label"]
        assert isinstance(x, tf.Tensor)
        assert x.dtype.is_floating, x.dtype
        assert x.shape.rank == 2, f"expected [batch, features], got {x.shape}"
        tf.debugging.assert_rank(label, 1)
        tf.debugging.assert_shapes([(x, ("N", 4)), (label, ("N",))])
        tf.debugging.assert_less(label, NUM_CLASSES, message="label out of range")
        tf.debugging.assert_all_finite(x, "x is not finite")
        logits = tf.ensure_shape(self.logits({"x": x}), [None, NUM_CLASSES])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


class PairwiseSmoothness(Tiny):
    """Smoothness along features by itertools.pairwise."""

    def losses(self, batch):
        columns = tf.unstack(self.logits(batch), axis=-1)
        smooth = tf.add_n([tf.square(b - a) for a, b in itertools.pairwise(columns)])
        partial = list(itertools.accumulate(columns))
        return super().losses(batch) + 0.1 * smooth + 0.01 * tf.square(partial[-1])


class GroupedMetrics(Tiny):
    """defaultdict, Counter and deque that live for one call."""

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            groups = collections.defaultdict(list)
            counts = collections.Counter()
            for c, column in enumerate(tf.unstack(logits, axis=-1)):
                kind = "even" if c % 2 == 0 else "odd"
                groups[kind].append(column)
                counts[kind] += 1
            metrics = {f"logit/{kind}": tf.add_n(v) / counts[kind] for kind, v in sorted(groups.items())}
            recent = collections.deque(maxlen=2)
            for value in metrics.values():
                recent.append(value)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits) + 0.01 * sum(recent), metrics

        return self.minimize(loss_fn)


class NonlocalCounter(Tiny):
    """A closure that counts its own layers within a call."""

    def losses(self, batch):
        depth = 0

        def block(x):
            nonlocal depth
            depth += 1
            return x + tf.nn.tanh(x) / depth

        logits = self.logits(batch)
        for _ in range(3):
            logits = block(logits)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class WalrusPenalty(Tiny):
    """Collects biases with a walrus."""

    def losses(self, batch):
        loss = super().losses(batch)
        if biases := [v for v in self.model.trainable_variables if "bias" in v.name]:
            loss += 0.1 * tf.add_n([tf.reduce_sum(tf.abs(tf.convert_to_tensor(b))) for b in biases])
        return loss


class KwargsPlumbing(Tiny):
    """Keyword arguments handed down."""

    loss_kwargs: dict[str, Any] = {"gamma": 1.5, "alpha": 0.5}

    def compute_loss(self, y, y_pred, **kwargs):
        kwargs = {**self.loss_kwargs, **kwargs}
        return h.focal_loss(y, y_pred, **kwargs)

    def losses(self, batch):
        return self.compute_loss(batch["label"], self.logits(batch), alpha=1.0)


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


class HardExampleMining(Tiny):
    """Online hard example mining by top_k."""

    keep = 5

    def losses(self, batch):
        loss = super().losses(batch)
        values, _ = tf.math.top_k(loss, k=self.keep)
        return tf.reduce_mean(values)


class SortedQuantile(Tiny):
    """Sliced Wasserstein distance by sorting projections."""

    projections = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0].astype(np.float32)

    def losses(self, batch):
        a = tf.sort(tf.matmul(self.logits(batch), self.projections), axis=0)
        b = tf.sort(tf.matmul(batch["x"][:, :3], self.projections), axis=0)
        return tf.reduce_mean(tf.abs(a - b))


class PrototypeLoss(Tiny):
    """Prototypical networks with a static number of classes."""

    def losses(self, batch):
        emb = self.logits(batch)
        labels = batch["label"]
        sums = tf.math.unsorted_segment_mean(emb, labels, num_segments=NUM_CLASSES)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, -h.pairwise_distances(emb, sums))


class TripletBatchHard(Tiny):
    """Batch-hard triplets by masks."""

    margin = 0.5

    def losses(self, batch):
        emb = self.logits(batch)
        dist = tf.sqrt(h.pairwise_distances(emb, emb) + 1e-4)
        same = tf.equal(batch["label"][:, None], batch["label"][None, :])
        positive = tf.reduce_max(tf.where(same, dist, tf.zeros_like(dist)), axis=1)
        negative = tf.reduce_min(tf.where(same, tf.fill(tf.shape(dist), 1e6), dist), axis=1)
        return tf.nn.softplus(positive - negative + self.margin)


class MaskedSequence(Tiny):
    """Masks padded positions by sequence_mask."""

    def losses(self, batch):
        x = batch["x"]
        lengths = batch["label"] + 2
        mask = tf.sequence_mask(lengths, maxlen=x.shape[1], dtype=x.dtype)
        logits = self.model(x * mask, training=True)
        recon = tf.square(tf.pad(logits, [[0, 0], [0, 1]]) - x) * mask
        return tf.reduce_sum(recon, axis=1) / tf.reduce_sum(mask, axis=1)


class ImageAugment(Tiny):
    """Flips, brightness and contrast by stateless draws."""

    def augment(self, images):
        coin = tf.random.stateless_uniform([images.shape[0], 1, 1, 1], self.seed("flip")) < 0.5
        images = tf.where(coin, tf.image.flip_left_right(images), images)
        delta = tf.random.stateless_uniform([], self.seed("brightness"), -0.2, 0.2)
        images = tf.image.adjust_brightness(images, delta)
        images = tf.image.adjust_contrast(images, 1.2)
        return tf.clip_by_value(images, -2.0, 2.0)

    def losses(self, batch):
        images = self.augment(tf.reshape(batch["x"], [-1, 2, 2, 1]))
        return super().losses({**batch, "x": tf.reshape(images, [-1, 4])})


class MultiScale(Tiny):
    """A pyramid of resized and convolved images."""

    def losses(self, batch):
        images = tf.reshape(batch["x"], [-1, 2, 2, 1])
        large = tf.image.resize(images, [4, 4], method="bilinear")
        edges = tf.nn.conv2d(large, SOBEL, strides=1, padding="SAME")
        pooled = tf.nn.avg_pool2d(edges, 2, 2, "VALID")
        return super().losses({**batch, "x": tf.reshape(images + 0.5 * pooled, [-1, 4])})


class TotalVariation(Tiny):
    """Total variation of a reconstructed image."""

    @staticmethod
    def build_model(image_shape, classes):
        return h.mlp(4, 4, seed=18)

    def train_step(self, batch):
        def loss_fn():
            recon = tf.reshape(self.model(batch["x"], training=True), [-1, 2, 2, 1])
            target = tf.reshape(batch["x"], [-1, 2, 2, 1])
            l1 = tf.reduce_mean(tf.abs(recon - target), axis=[1, 2, 3])
            tv = tf.image.total_variation(recon)
            return l1 + 0.05 * tv, {"tv": tv}

        return self.minimize(loss_fn)


class OrdinalCumulative(Tiny):
    """Ordinal regression and earth mover's distance by cumulative sums."""

    def losses(self, batch):
        probs = tf.nn.softmax(self.logits(batch))
        target = tf.one_hot(batch["label"], NUM_CLASSES)
        emd = tf.reduce_sum(tf.square(tf.cumsum(probs, axis=-1) - tf.cumsum(target, axis=-1)), axis=-1)
        return tf.sqrt(emd + 1e-6)


class BarlowTwins(Tiny):
    """Cross-correlation of two views."""

    def train_step(self, batch):
        x = batch["x"]
        noise = 0.2 * tf.random.stateless_normal([2, *x.shape], self.seed("views"))

        def normalize(z):
            mean, variance = tf.nn.moments(z, axes=[0])
            return (z - mean) * tf.math.rsqrt(variance + 1e-2)

        def loss_fn():
            za, zb = (normalize(self.model(x + noise[i], training=True)) for i in range(2))
            c = tf.einsum("ni,nj->ij", za, zb) / x.shape[0]
            on = tf.reduce_sum(tf.square(tf.linalg.diag_part(c) - 1.0))
            off = tf.reduce_sum(tf.square(tf.linalg.set_diag(c, tf.zeros(c.shape[0]))))
            return on + 0.005 * off, {"on_diag": on, "off_diag": off}

        return self.minimize(loss_fn)


class Dropped(Tiny):
    """Dropout and batch normalisation of Keras, and L2 of its own."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(1e-3))(inputs)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.Dropout(0.25, seed=5)(keras.layers.Activation("relu")(x))
        return keras.Model(inputs, keras.layers.Dense(classes)(x))

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            loss = keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True)
            return loss, {"accuracy": accuracy(batch["label"], logits)}

        return self.minimize(loss_fn)


class RDrop(Tiny):
    """Two passes with dropout, drawn to agree."""

    @staticmethod
    def build_model(image_shape, classes):
        layers = [keras.Input((4,)), keras.layers.Dense(8, activation="gelu"), keras.layers.Dropout(0.3, seed=9)]
        return keras.Sequential([*layers, keras.layers.Dense(classes)])

    def losses(self, batch):
        first, second = self.logits(batch), self.logits(batch)
        ce = [tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], z) for z in (first, second)]
        p, q = tf.nn.log_softmax(first), tf.nn.log_softmax(second)
        kl = tf.reduce_sum(tf.exp(p) * (p - q) + tf.exp(q) * (q - p), axis=-1) / 2.0
        return tf.add_n(ce) / len(ce) + 0.5 * kl


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


class RunningMomentsEighth(Base):
    """Normalises the loss by a running scale in a variable."""

    def setup(self, optimizer):
        self.scale = tf.Variable(1.0, trainable=False, name="loss_scale")
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False, name="seen")

    def train_step(self, batch):
        scale = tf.identity(self.scale)
        out = self.minimize(lambda: self.losses(batch) / scale)
        self.scale.assign(0.9 * scale + 0.1 * tf.reduce_mean(out["loss"]) * scale)
        self.seen.assign_add(batch["x"].shape[0])
        return {**out, "scale": self.scale.read_value(), "seen": tf.cast(self.seen, tf.float32)}


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


class MixtureDensity(Tiny):
    """A mixture density network's likelihood."""

    components = 2

    @staticmethod
    def build_model(image_shape, classes):
        return h.mlp(3, 6, seed=19)

    def losses(self, batch):
        inputs, target = tf.split(batch["x"], [3, 1], axis=-1)
        weight, mean, log_std = tf.split(self.model(inputs, training=True), 3, axis=-1)
        log_std = tf.clip_by_value(log_std, -3.0, 3.0)
        z = (target - mean) * tf.exp(-log_std)
        log_prob = -0.5 * tf.square(z) - log_std - 0.5 * math.log(2.0 * math.pi)
        return -tf.reduce_logsumexp(tf.nn.log_softmax(weight) + log_prob, axis=-1)


class GumbelSoftmax(Tiny):
    """Straight-through Gumbel softmax with an annealed temperature."""

    def losses(self, batch):
        logits = self.logits(batch)
        u = tf.random.stateless_uniform(logits.shape, self.seed("gumbel"), minval=1e-6, maxval=1.0)
        temperature = tf.maximum(0.5, tf.exp(-0.1 * tf.cast(self.step, tf.float32)))
        soft = tf.nn.softmax((logits - tf.math.log(-tf.math.log(u))) / temperature)
        hard = tf.one_hot(tf.argmax(soft, axis=-1), NUM_CLASSES)
        sample = hard + soft - tf.stop_gradient(soft)
        return tf.reduce_sum(tf.square(sample - tf.one_hot(batch["label"], NUM_CLASSES)), axis=-1)


class FixMatch(Tiny):
    """Pseudo labels above a threshold, as weights and not as a mask of rows."""

    threshold = 0.4

    def train_step(self, batch):
        x = batch["x"]
        weak = x + 0.05 * tf.random.stateless_normal(x.shape, self.seed("weak"))
        strong = x * tf.random.stateless_uniform(x.shape, self.seed("strong"), 0.5, 1.5)
        probs = tf.stop_gradient(tf.nn.softmax(self.model(weak, training=False)))
        pseudo = tf.argmax(probs, axis=-1)
        mask = tf.cast(tf.reduce_max(probs, axis=-1) >= self.threshold, tf.float32)

        def loss_fn():
            unsup = tf.nn.sparse_softmax_cross_entropy_with_logits(pseudo, self.model(strong, training=True)) * mask
            return self.losses(batch) + unsup, {"mask_rate": mask}

        return self.minimize(loss_fn)


@dataclasses.dataclass
class StepMetrics:
    """Filled within one call and handed out as a dict."""

    loss: Any = None
    confidence: Any = None
    top2: Any = None

    def as_dict(self, prefix=""):
        return {f"{prefix}{f.name}": v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) is not None}


class DataclassMetrics(Tiny):
    """A dataclass local to the step."""

    def train_step(self, batch):
        logits = self.logits(batch)
        metrics = StepMetrics(confidence=tf.reduce_max(tf.nn.softmax(logits), axis=-1))
        metrics.top2 = tf.cast(tf.math.in_top_k(batch["label"], logits, k=2), tf.float32)
        metrics.loss = self.minimize(lambda: self.losses(batch))["loss"]
        return metrics.as_dict(prefix="train/")


class Transition(NamedTuple):
    state: tf.Tensor
    action: tf.Tensor
    reward: tf.Tensor


class LookaheadSlow(Base):
    """Lookahead's slow weights, merged every third step."""

    k, alpha = 3, 0.5

    def setup(self, optimizer):
        self.slow = [tf.Variable(v.numpy(), trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        merge = tf.cast(tf.equal((self.step + 1) % self.k, 0), tf.float32)
        for slow, fast in zip(self.slow, self.model.trainable_variables, strict=True):
            target = slow + merge * self.alpha * (tf.convert_to_tensor(fast) - slow)
            slow.assign(target)
            fast.assign(merge * target + (1.0 - merge) * fast)
        return out


class SAM(Tiny):
    """Sharpness aware minimisation: up along the gradient, and back."""

    rho = 0.05

    def gradients(self, batch):
        with tf.GradientTape() as tape:
            loss = self.losses(batch)
            mean = tf.reduce_mean(loss)
        return loss, tape.gradient(mean, self.model.trainable_variables)

    def train_step(self, batch):
        variables = self.model.trainable_variables
        loss, grads = self.gradients(batch)
        scale = self.rho / (tf.linalg.global_norm(grads) + 1e-12)
        saved = [tf.identity(v) for v in variables]
        for v, g in zip(variables, grads):
            v.assign_add(g * scale)
        _, sharp = self.gradients(batch)
        for v, old in zip(variables, saved):
            v.assign(old)
        self.apply(sharp, variables)
        return {"loss": loss}
