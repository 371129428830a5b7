"""Defects written from public threads by somebody who had seen no detector, as `sixth` was, and scored before any was changed."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import csv
import dataclasses
import datetime
import enum
import functools
import itertools
import logging
import os
import pathlib
import queue
import random
import secrets
import tempfile
import time
import uuid

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import seventh_helpers as helpers
from tests.corpus.base import Tiny

logger = logging.getLogger(__name__)
PHASE = contextvars.ContextVar("phase", default=0)
TEMPERATURE = 1.0
CURRICULUM = [0.1, 0.5, 1.0]


def two_layers(image_shape, classes):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                5, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(1), name="body"
            ),
            keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(2), name="head"),
        ]
    )


def varied(image_shape, classes):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(3))]
    )


# Counters, schedules and switches in plain Python.


class LazyRegularization(Tiny):
    """A gradient penalty at every other step, as StyleGAN2 does it, counted by hand."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.iteration = 0

    def train_step(self, batch):
        penalize = self.iteration % 2 == 0
        self.iteration += 1  # expect MT201

        def loss():
            values = self.losses(batch)
            if penalize:
                with tf.GradientTape() as tape:
                    tape.watch(batch["x"])
                    out = tf.reduce_sum(self.logits(batch))
                values += 0.1 * tf.reduce_sum(tape.gradient(out, batch["x"]) ** 2, -1)
            return values

        return self.minimize(loss)


class TargetSync(Tiny):
    """A DQN target network copied at every second update."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.target = tf.Variable(tf.zeros([4, 3]), trainable=False)
        self.updates = 0

    def train_step(self, batch):
        self.updates += 1  # expect MT201
        if self.updates % 2 == 0:
            self.target.assign(self.model.trainable_variables[0])
        future = tf.reduce_max(tf.matmul(batch["x"], self.target), -1)

        def loss():
            q = tf.reduce_sum(self.logits(batch) * tf.one_hot(batch["label"], 3), -1)
            return tf.square(q - 0.9 * tf.stop_gradient(future))

        return self.minimize(loss)


class KlAnnealing(Tiny):
    """A VAE's beta rises at each step, as an attribute."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.beta = 0.0

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch) + self.beta * tf.reduce_mean(tf.square(self.logits(batch)), -1))
        self.beta = min(1.0, self.beta + 0.25)  # expect MT201
        return out


class CycledHeads(Tiny):
    """Which class's logit is boosted goes round."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.turns = itertools.cycle(range(3))

    def losses(self, batch):
        boost = tf.one_hot(next(self.turns), 3)  # expect MT205
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) + boost)


class TemperatureGenerator(Tiny):
    """A generator of the helper module gives the temperature."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.temperatures = helpers.cyclic_temperatures([1.0, 2.0, 4.0])

    def losses(self, batch):
        t = next(self.temperatures)  # expect MT205
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) / t)


class RotatedWeights(Tiny):
    """A deque of task weights is rotated."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weights = collections.deque([1.0, 0.5, 0.1])

    def losses(self, batch):
        values = self.losses_of(batch)
        self.weights.rotate(1)  # expect MT201
        return values

    def losses_of(self, batch):
        return self.weights[0] * super().losses(batch)


class SwappedPlayers(Tiny):
    """Two players take turns by swapping names."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.white = tf.Variable(tf.ones([3]), trainable=False)
        self.black = tf.Variable(-tf.ones([3]), trainable=False)

    def train_step(self, batch):
        mover = self.white
        mover.assign_add([0.0, 0.1, 0.2])
        out = self.minimize(
            lambda: tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) + mover)
        )
        self.white, self.black = self.black, self.white  # expect MT201
        return out


class Unfreezing(Tiny):
    """The body is trained from the third step on."""

    modes = ("graph",)
    build_model = staticmethod(two_layers)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps_done = 0

    def train_step(self, batch):
        self.model.get_layer("body").trainable = self.steps_done >= 1  # expect MT201
        self.steps_done += 1  # expect MT201
        return self.minimize(lambda: self.losses(batch), variables=self.model.trainable_variables)


class SharedClassCount(Tiny):
    """A count on the class, not on the object."""

    modes = ("graph",)
    seen = 0

    def losses(self, batch):
        type(self).seen += batch["label"].shape[0]  # expect MT201
        return super().losses(batch) / (1.0 + type(self).seen / 8)


class MutableDefault(Tiny):
    """The memory is a default argument."""

    modes = ("graph",)

    def losses(self, batch, memory=[]):  # noqa: B006
        memory.append("step")  # expect MT202
        return super().losses(batch) * len(memory)


class ClosureCount(Tiny):
    """A closure over a count, made at the start."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

        def warmup(total, done=0):
            def weight():
                nonlocal done
                done += 1  # expect MT201
                return min(done / total, 1.0)

            return weight

        self.warmup = warmup(4)

    def losses(self, batch):
        return self.warmup() * super().losses(batch)


class GlobalTemperature(Tiny):
    """A module's global falls."""

    modes = ("graph",)

    def losses(self, batch):
        global TEMPERATURE
        TEMPERATURE *= 0.8  # expect MT201
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) / TEMPERATURE)


class HelperStepCount(Tiny):
    """The helper module counts steps in a dict."""

    modes = ("graph",)

    def losses(self, batch):
        return super().losses(batch) / float(helpers.tick())


class CallableLossWarmup(Tiny):
    """A loss object counts its calls."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.criterion = helpers.CountedLoss()

    def losses(self, batch):
        return self.criterion(batch["label"], self.logits(batch))


class DescriptorDecay(Tiny):
    """Reading an attribute changes it."""

    modes = ("graph",)
    noise_weight = helpers.Decaying(1.0, 0.5)

    def losses(self, batch):
        return super().losses(batch) + self.noise_weight * tf.reduce_mean(self.logits(batch) ** 2, -1)


class PropertySchedule(Tiny):
    """A property steps the schedule."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._margin = 0.0

    @property
    def margin(self):
        self._margin += 0.5  # expect MT201
        return self._margin

    def losses(self, batch):
        adjusted = self.logits(batch) - self.margin * tf.one_hot(batch["label"], 3)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], adjusted)


class ContextVariable(Tiny):
    """A context variable holds the phase."""

    modes = ("graph",)

    def losses(self, batch):
        phase = PHASE.get()
        PHASE.set(phase + 1)  # expect MT201
        return super().losses(batch) * (1.0 if phase % 2 else 0.5)


class EnvironmentPhase(Tiny):
    """The phase is passed on through the environment."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        os.environ["C7_PHASE"] = "0"

    def losses(self, batch):
        phase = int(os.environ["C7_PHASE"])
        os.environ["C7_PHASE"] = str(phase + 1)  # expect MT103
        return super().losses(batch) * (1 + phase)


class ListPopCurriculum(Tiny):
    """Lengths of the curriculum are taken off a list."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lengths = [1, 2, 3, 4]

    def losses(self, batch):
        keep = self.lengths.pop(0) if len(self.lengths) > 1 else self.lengths[0]  # expect MT202
        mask = np.arange(4) < keep
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch["label"], self.model(batch["x"] * mask.astype(np.float32), training=True)
        )


class DeletedStage(Tiny):
    """A stage is deleted when done, errors suppressed."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stages = {0: 0.1, 1: 0.2, 2: 0.4}

    def losses(self, batch):
        weight = sum(self.stages.values())
        with contextlib.suppress(KeyError):
            del self.stages[min(self.stages, default=-1)]  # expect MT202
        return super().losses(batch) * (0.1 + weight)


class ReplacedState(Tiny):
    """A frozen dataclass is replaced by one of the next step."""

    modes = ("graph",)

    @dataclasses.dataclass(frozen=True)
    class State:
        step: int = 0
        scale: float = 1.0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.progress = self.State()

    def losses(self, batch):
        now = self.progress
        self.progress = dataclasses.replace(now, step=now.step + 1, scale=now.scale * 0.5)  # expect MT201
        return super().losses(batch) * now.scale


class TurnEnum(Tiny):
    """Generator and discriminator take turns by an enum."""

    modes = ("graph",)

    class Turn(enum.Enum):
        GENERATOR = 1
        DISCRIMINATOR = -1

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.turn = self.Turn.DISCRIMINATOR

    def train_step(self, batch):
        match self.turn:
            case self.Turn.DISCRIMINATOR:
                out = self.minimize(lambda: self.losses(batch))
                self.turn = self.Turn.GENERATOR  # expect MT201
            case self.Turn.GENERATOR:
                out = self.minimize(lambda: tf.nn.softplus(tf.reduce_sum(self.logits(batch), -1)))
                self.turn = self.Turn.DISCRIMINATOR
        return out


class QueuedJobs(Tiny):
    """Extra losses wait in a queue; when it is empty none is added."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.jobs = queue.Queue()
        for weight in (3.0, 1.0):
            self.jobs.put(weight)

    def losses(self, batch):
        try:
            weight = self.jobs.get_nowait()  # expect MT202
        except queue.Empty:
            weight = 0.0
        return super().losses(batch) + weight * tf.abs(tf.reduce_mean(self.logits(batch), -1))


class SetAttrPhase(Tiny):
    """The state is written by setattr under a made-up name."""

    modes = ("graph",)
    knobs = ("sharpness",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sharpness = 1.0

    def losses(self, batch):
        for knob in self.knobs:
            setattr(self, knob, getattr(self, knob) * 1.5)  # expect MT201
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) * self.sharpness)


class DictUpdate(Tiny):
    """A dict of run state is updated by method."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.run_state = {"n": 0, "best": None}

    def losses(self, batch):
        self.run_state.update(n=self.run_state["n"] + 1)  # expect MT201
        return super().losses(batch) / self.run_state.get("n", 1)


class NumpyClassWeights(Tiny):
    """A NumPy array of class weights decays in place."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.class_weights = np.array([1.0, 2.0, 4.0], np.float32)

    def losses(self, batch):
        self.class_weights *= 0.7  # expect MT202
        return super().losses(batch) * tf.gather(tf.constant(self.class_weights), batch["label"])


class Patience(Tiny):
    """Training ends after a number of steps by an early return."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.patience = 1

    def losses(self, batch):
        self.patience -= 1  # expect MT201
        if self.patience < 0:
            return 0.0 * super().losses(batch)
        return super().losses(batch)


class EveryOtherCall(Tiny):
    """A decorator of the helpers runs a penalty at every other call."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.penalty = helpers.every(2)(lambda logits: tf.reduce_mean(logits**2, -1))

    def losses(self, batch):
        return super().losses(batch) + self.penalty(self.logits(batch))


class IndexedStages(Tiny):
    """A container counts how often it is indexed."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stage_weights = helpers.Stages(0.1, 0.4, 1.0)

    def losses(self, batch):
        return self.stage_weights["now"] * super().losses(batch)


class ReshuffledPass(Tiny):
    """Positives are gone through in another order each time."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sampler = helpers.Reshuffled(4, seed=3)

    def losses(self, batch):
        total, weight = 0.0, 1.0
        for column in self.sampler:
            total += weight * batch["x"][:, column]
            weight *= 0.5
        return super().losses(batch) * (1.0 + total**2)


class SharpeningLayer(Tiny):
    """A custom layer keeps its temperature as a number."""

    modes = ("graph",)

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(classes, kernel_initializer="ones"), helpers.Sharpening(rate=0.5)]
        )


class AlternatingReversal(Tiny):
    """The gradient's sign alternates, by a count in the backward function."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gate = helpers.flipping_gradient()

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.gate(self.logits(batch)))


class StepSeedFromPython(Tiny):
    """A stateless draw whose seed is counted in Python."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.draws = itertools.count()

    def losses(self, batch):
        seed = [7, next(self.draws)]  # expect MT205
        shift = tf.random.stateless_uniform([8], seed, 0, 5, tf.int32)
        return super().losses(batch) * tf.cast(shift, tf.float32)


# Tensors kept on objects between steps.


class MomentumBaseline(Tiny):
    """REINFORCE's baseline is a tensor on self."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.baseline = 0.0

    def losses(self, batch):
        reward = tf.reduce_sum(batch["x"], -1)
        advantage = reward - self.baseline
        self.baseline = 0.9 * self.baseline + 0.1 * tf.reduce_mean(reward)  # expect MT203
        return super().losses(batch) * advantage


class TensorEma(Tiny):
    """A teacher's weights as a list of tensors."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.shadow = [np.asarray(v) for v in self.model.trainable_variables]

    def train_step(self, batch):
        kernel, bias = self.shadow
        teacher = tf.nn.softmax(tf.matmul(batch["x"], kernel) + bias)
        out = self.minimize(
            lambda: self.losses(batch) + keras.losses.kl_divergence(teacher, tf.nn.softmax(self.logits(batch)))
        )
        self.shadow = [0.5 * s + 0.5 * v for s, v in zip(self.shadow, self.model.trainable_variables)]  # expect MT203
        return out


class MocoQueue(Tiny):
    """MoCo's queue of keys is a tensor on self."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.keys = tf.zeros([16, 3])

    def losses(self, batch):
        query = self.logits(batch)
        against = tf.matmul(query, self.keys, transpose_b=True)
        self.keys = tf.concat([tf.stop_gradient(query), self.keys], 0)[:16]  # expect MT203
        return super().losses(batch) + 0.1 * tf.reduce_logsumexp(against, -1)


class CarriedState(Tiny):
    """Truncated backpropagation through time carries the hidden state on self."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = None

    def losses(self, batch):
        hidden = tf.zeros([8, 3]) if self.hidden is None else self.hidden
        hidden = tf.tanh(self.logits(batch) + 0.5 * hidden)
        self.hidden = tf.stop_gradient(hidden)  # expect MT203
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], hidden)


class FirstBatchStatistics(Tiny):
    """Inputs are normalized by the first batch's mean, kept from then on."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.center = None

    def losses(self, batch):
        if self.center is None:
            self.center = tf.reduce_mean(batch["x"], 0)  # expect MT203
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(batch["x"] - self.center))


class SetDefaultReference(Tiny):
    """The reference prediction of the run is what the first batch gave."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memo = {}

    def losses(self, batch):
        logits = self.logits(batch)
        reference = self.memo.setdefault("first", tf.stop_gradient(logits))  # expect MT203
        return super().losses(batch) + tf.reduce_mean((logits - reference) ** 2, -1)


class ReplayOldest(Tiny):
    """The oldest batch of a replay buffer is trained on too."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.replay = collections.deque(maxlen=5)

    def losses(self, batch):
        self.replay.append((batch["x"], batch["label"]))  # expect MT203
        x, label = self.replay[0]
        old = tf.nn.sparse_softmax_cross_entropy_with_logits(label, self.model(x, training=True))
        return super().losses(batch) + old


class SpectralNormVector(Tiny):
    """A helper keeps the power iteration's vector as a tensor."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sigma = helpers.SpectralNorm(3)

    def losses(self, batch):
        logits = self.logits(batch) / self.sigma(self.model.trainable_variables[0])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class RunningMoments(Tiny):
    """Observations are normalized by moments that a helper keeps."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.moments = helpers.RunningMeanStd()

    def losses(self, batch):
        self.moments.update(batch["x"])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(self.moments(batch["x"])))


class AdaptiveKl(Tiny):
    """PPO's coefficient grows where the divergence is too large, under a tensor's `if`."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.coefficient = 1.0

    def train_step(self, batch):
        before = tf.nn.softmax(self.logits(batch))
        out = self.minimize(lambda: self.losses(batch) * self.coefficient)
        kl = tf.reduce_mean(keras.losses.kl_divergence(before, tf.nn.softmax(self.logits(batch))))
        self.coefficient = tf.where(kl > 1e-4, 2.0, 0.5) * self.coefficient  # expect MT203
        return out


class GradNormWeights(Tiny):
    """Weights of tasks in a list, rescaled by their losses."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.task_weights = [1.0, 1.0]

    def losses(self, batch):
        tasks = [super().losses(batch), tf.reduce_mean(tf.abs(self.logits(batch)), -1)]
        for i, task in enumerate(tasks):
            self.task_weights[i] = 0.5 * self.task_weights[i] + 0.5 / (1.0 + tf.reduce_mean(task))  # expect MT203
        return sum(tf.stop_gradient(w) * t for w, t in zip(self.task_weights, tasks))


class PreviousLoss(Tiny):
    """The trend of the loss needs the loss of the step before."""

    modes = ("graph",)
    previous = None

    def train_step(self, batch):
        scale = 1.0 if self.previous is None else tf.stop_gradient(tf.sigmoid(self.previous))
        out = self.minimize(lambda: self.losses(batch) * scale)
        self.previous = tf.reduce_mean(out["loss"])  # expect MT203
        return out


# Host randomness, time and files.


class RandomRotation(Tiny):
    """The first two features are turned by a random angle."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        angle = random.uniform(-1.5, 1.5)  # expect MT301
        turn = np.eye(4, dtype=np.float32)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(tf.matmul(batch["x"], turn)))


class BetaMixup(Tiny):
    """Mixup's coefficient by NumPy."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        lam = float(np.random.beta(0.4, 0.4))  # expect MT301
        x = lam * batch["x"] + (1.0 - lam) * batch["x"][::-1]
        logits = self.model(x, training=True)
        one = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
        return lam * one + (1 - lam) * tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"][::-1], logits)


class DiffusionNoise(Tiny):
    """A diffusion step's noise from a generator of NumPy on self."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rng = np.random.default_rng(11)

    def losses(self, batch):
        noise = self.rng.standard_normal((8, 4), dtype=np.float32)  # expect MT301
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(batch["x"] + noise))


class ShuffledNegatives(Tiny):
    """Negatives of a contrastive loss are a permutation of the batch."""

    modes = ("graph",)

    def losses(self, batch):
        order = list(range(8))
        random.shuffle(order)  # expect MT301
        logits = self.logits(batch)
        return super().losses(batch) + tf.nn.relu(1.0 - tf.reduce_sum((logits - tf.gather(logits, order)) ** 2, -1))


class HelperCutout(Tiny):
    """A helper cuts a random feature out."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(helpers.cutout(batch["x"])))


class RandAugmentNames(Tiny):
    """A helper object draws the names of augmentations."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.augment = helpers.RandAugment(seed=7)

    def losses(self, batch):
        x = self.augment(batch["x"])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x * [1.0, 2.0, 3.0, 4.0]))


class NoisyWeights(Tiny):
    """Noise is added to the weights after each update, with NumPy."""

    modes = ("graph",)

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        kernel = self.model.trainable_variables[0]
        kernel.assign_add(0.01 * np.random.standard_normal(kernel.shape).astype(np.float32))  # expect MT301
        return out


class ElapsedWeight(Tiny):
    """A weight that grows with the seconds since the start."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.began = time.monotonic()

    def losses(self, batch):
        elapsed = time.monotonic() - self.began  # expect MT302
        return super().losses(batch) * (1.0 + 100.0 * elapsed)


class ClockSeed(Tiny):
    """The seed of a stateless draw is the time of day."""

    modes = ("graph",)

    def losses(self, batch):
        seed = [datetime.datetime.now().microsecond, 1]  # expect MT302
        keep = tf.random.stateless_uniform([8], seed, 0, 1000, tf.int32)
        return super().losses(batch) * tf.cast(keep, tf.float32)


class UuidSalt(Tiny):
    """Examples are dropped by the salt of a fresh uuid."""

    modes = ("graph",)

    def losses(self, batch):
        salt = uuid.uuid4().int % 9973  # expect MT303
        return super().losses(batch) * (1.0 + salt / 9973)


class SecretBit(Tiny):
    """Differential privacy's coin from `secrets`."""

    modes = ("graph",)

    def losses(self, batch):
        return super().losses(batch) * (1.0 + secrets.randbelow(10**6) / 10**6)  # expect MT303


class UnlabeledIterator(Tiny):
    """Unlabeled arrays come from an iterator of the recipe's own."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        arrays = np.random.default_rng(5).normal(size=(3, 8, 4)).astype(np.float32)
        self.unlabeled = itertools.cycle(arrays)

    def losses(self, batch):
        extra = next(self.unlabeled)  # expect MT205
        p = tf.nn.softmax(self.model(extra, training=True))
        return super().losses(batch) - tf.reduce_sum(p * tf.math.log(p + 1e-6), -1)


class MarkerFile(Tiny):
    """A marker file says that the first batch was seen."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.folder = tempfile.TemporaryDirectory()
        self.marker = pathlib.Path(self.folder.name) / "warm"

    def losses(self, batch):
        warm = self.marker.exists()  # expect MT103
        self.marker.touch()  # expect MT103
        return super().losses(batch) * (1.0 if warm else 0.1)


class CsvLogger(Tiny):
    """A row of a CSV file is written at each step."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name) / "steps.csv"

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(["step", len(batch["label"])])  # expect MT103
        return out


class JsonLines(Tiny):
    """A helper appends JSON to a file."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.folder = tempfile.TemporaryDirectory()

    def train_step(self, batch):
        helpers.log_json(os.path.join(self.folder.name, "log.jsonl"), event="step", size=batch["x"].shape[0])
        return self.minimize(lambda: self.losses(batch))


class WarnedEachStep(Tiny):
    """A warning by the logger at each step."""

    modes = ("graph",)

    def train_step(self, batch):
        logger.warning("training on %d examples", batch["x"].shape[0])  # expect MT102
        return self.minimize(lambda: self.losses(batch))


class PrintedLoss(Tiny):
    """The loss is printed by an f-string."""

    modes = ("graph",)

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        print(f"loss {out['loss']}")  # expect MT101
        return out


class Heartbeat(Tiny):
    """A helper writes to the standard error."""

    modes = ("graph",)

    def train_step(self, batch):
        helpers.heartbeat()
        return self.minimize(lambda: self.losses(batch))


class ProgressBar(Tiny):
    """Keras's progress bar moves on at each step."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bar = keras.utils.Progbar(10, verbose=2)
        self.position = 0

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        self.position += 1  # expect MT201
        self.bar.update(self.position, finalize=True)
        return out


class LossHistory(Tiny):
    """Losses are collected in a list for a plot."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.history = []

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        self.history.append(out["loss"])  # expect MT203
        return out


class ExampleCounter(Tiny):
    """A Counter notes how many examples there were."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tally = collections.Counter()

    def train_step(self, batch):
        self.tally["examples"] += int(batch["x"].shape[0])  # expect MT202
        return self.minimize(lambda: self.losses(batch))


class ComprehensionNotes(Tiny):
    """A comprehension is run for what it appends."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.names = []

    def train_step(self, batch):
        [self.names.append(key) for key in sorted(batch)]  # expect MT202
        return self.minimize(lambda: self.losses(batch))


class LambdaCallbackCalled(Tiny):
    """A callback of Keras is called by hand."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ends = []
        self.callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda b, logs: self.ends.append(b)  # expect MT202
        )

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        self.callback.on_train_batch_end(len(self.ends), {})
        return out


class TimedBlock(Tiny):
    """A context manager notes that a block is done."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.times = []

    def train_step(self, batch):
        with helpers.timed("update", self.times):
            return self.minimize(lambda: self.losses(batch))


# Python that finds out whether it is traced.


class EagerOnlyPenalty(Tiny):
    """A helper adds a penalty where there is no graph."""

    modes = ("graph",)

    def losses(self, batch):
        return helpers.eager_extra(super().losses(batch))


class HasNumpy(Tiny):
    """Duck typing by `hasattr(x, "numpy")`."""

    modes = ("graph",)

    def losses(self, batch):
        values = super().losses(batch)
        if hasattr(values, "numpy"):  # expect MT307
            return values * 2.0
        return values


class StaticValue(Tiny):
    """The static value of a tensor, or one."""

    modes = ("graph",)

    def losses(self, batch):
        known = tf.get_static_value(tf.reduce_mean(tf.abs(batch["x"])))  # expect MT307
        return super().losses(batch) * (1.0 if known is None else known)


class TypeName(Tiny):
    """A type is looked up by name."""

    modes = ("graph",)
    scales = {"EagerTensor": 3.0}

    def losses(self, batch):
        return super().losses(batch) * self.scales.get(type(batch["x"]).__name__, 1.0)  # expect MT307


class MaskedCountDefault(Tiny):
    """The number of selected examples, or the default where it is not known."""

    modes = ("graph",)

    def losses(self, batch):
        positives = tf.boolean_mask(batch["x"], batch["label"] > 0)
        return super().losses(batch) / helpers.batch_size_of(positives)


class UniqueClasses(Tiny):
    """Losses are divided by the number of distinct classes, by the static shape."""

    modes = ("graph",)

    def losses(self, batch):
        classes, _ = tf.unique(batch["label"] % 2)
        return super().losses(batch) / (classes.shape.num_elements() or 10)  # expect MT307


class CaughtGather(Tiny):
    """A bad index is caught and the default taken."""

    modes = ("graph",)

    def losses(self, batch):
        try:
            weight = tf.gather([1.0, 2.0], batch["label"])  # expect MT307
        except tf.errors.InvalidArgumentError:
            weight = 0.5
        return super().losses(batch) * weight


class CaughtBadBatch(Tiny):
    """A helper gives zeros for a batch that is not finite."""

    modes = ("graph",)

    def losses(self, batch):
        return super().losses(batch) + helpers.finite_or_zero(tf.math.log(batch["x"][:, 0]))


class InitScopeCount(Tiny):
    """A variable is counted up outside of the graph."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counted = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        with tf.init_scope():
            self.counted.assign_add(1.0)  # expect MT207
        return self.minimize(lambda: self.losses(batch) * (1.0 + self.counted))


class InitScopeRead(Tiny):
    """A variable's value is read as a number, in an init scope."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.temperature = tf.Variable(1.0, trainable=False)

    def losses(self, batch):
        with tf.init_scope():
            now = float(self.temperature.numpy())  # expect MT207
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.logits(batch) / now)

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch))
        self.temperature.assign(self.temperature * 1.5)
        return out


class ReseededEachStep(Tiny):
    """The global seed is set in the step, so that each step draws the same."""

    modes = ("graph",)

    def losses(self, batch):
        tf.random.set_seed(3)
        return super().losses(batch) * tf.random.uniform([8])  # expect MT305


class GanLatents(Tiny):
    """A helper draws the latents of a GAN."""

    modes = ("graph",)

    def losses(self, batch):
        z = helpers.latent(8, 4)
        return super().losses(batch) + tf.nn.softplus(tf.reduce_sum(self.model(z, training=True), -1))


class SampledActions(Tiny):
    """Actions are sampled from the policy with the global seed."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        logits = self.logits(batch)
        action = tf.random.categorical(tf.stop_gradient(logits), 1)[:, 0]  # expect MT305
        return tf.nn.sparse_softmax_cross_entropy_with_logits(action, logits)


class OpDropout(Tiny):
    """Dropout by the stateful operation."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        x = tf.nn.dropout(batch["x"], 0.5)  # expect MT305
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x, training=True))


class RandomBrightness(Tiny):
    """An augmentation of tf.image in the step."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        images = tf.reshape(batch["x"], [-1, 2, 2, 1])
        x = tf.reshape(tf.image.random_brightness(images, 0.9), [-1, 4])  # expect MT305
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x, training=True))


# Python inside of TensorFlow's own control flow.


class NotedBranch(Tiny):
    """Branches of tf.cond write down which was taken."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.book = helpers.Book()

    def losses(self, batch):
        values = super().losses(batch)

        def large():
            self.book.note("large")
            return values * 0.5

        def small():
            self.book.note("small")
            return values

        return tf.cond(tf.reduce_mean(values) > 0.5, large, small)


class SwitchTally(Tiny):
    """Each branch of a switch raises its own weight."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.uses = [0, 0, 0]

    def losses(self, batch):
        def branch(i):
            self.uses[i] += 1  # expect MT201
            return tf.constant(float(i))

        chosen = tf.switch_case(batch["label"][1], [functools.partial(branch, i) for i in range(3)])
        return super().losses(batch) * (1.0 + chosen + sum(self.uses))


class MapCounter(Tiny):
    """Examples are weighted by their number, taken off an iterator in map_fn."""

    modes = ("graph",)

    def losses(self, batch):
        ranks = itertools.count(1)
        return tf.map_fn(lambda value: value / next(ranks), super().losses(batch))  # expect MT307


class FoldDiscount(Tiny):
    """A discount that falls in Python with each element of a fold."""

    modes = ("graph",)

    def losses(self, batch):
        discount = [1.0]

        def add(total, value):
            discount[0] *= 0.5  # expect MT307
            return total + discount[0] * value

        return tf.foldl(add, super().losses(batch), initializer=tf.zeros([]))


class WhileHalving(Tiny):
    """A line search halves its step in a nonlocal."""

    modes = ("graph",)

    def losses(self, batch):
        size = 1.0

        def body(i, total):
            nonlocal size
            size /= 2  # expect MT307
            return i + 1, total + size

        _, total = tf.while_loop(lambda i, total: i < 4, body, [tf.constant(0), tf.constant(0.0)])
        return super().losses(batch) * total


class LoopedHash(Tiny):
    """A linear congruence over a tensor's loop: whole numbers of Python do not overflow."""

    modes = ("graph",)

    def train_step(self, batch):
        bucket = 12345
        for _ in tf.range(4):
            bucket = bucket * 1103515245 + 12345  # expect MT307
        weight = 1.0 + tf.cast(bucket % 1000, tf.float32)
        return self.minimize(lambda: self.losses(batch) * weight)


class LoopedAppend(Tiny):
    """A list is appended to within a tensor's loop and its length used."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.visits = []

    def train_step(self, batch):
        total = tf.zeros([8])
        for i in tf.range(3):
            self.visits.append("visit")  # expect MT202
            total += tf.cast(i, tf.float32)
        return self.minimize(lambda: self.losses(batch) * (1.0 + total) * len(self.visits))


class ScanPositions(Tiny):
    """A scan with positions kept in a closure."""

    modes = ("graph",)

    def losses(self, batch):
        position = itertools.count()

        def step(carry, x):
            return 0.9 * carry + x * float(next(position))  # expect MT307

        return super().losses(batch) + tf.scan(step, tf.reduce_sum(batch["x"], -1), initializer=tf.zeros([]))


class ReadTwice(Tiny):
    """An element of a TensorArray is read again: eagerly it is gone by then."""

    modes = ("graph",)

    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, 8, element_shape=[4]).unstack(batch["x"])
        twice = rows.read(2) + rows.read(2)  # expect MT308
        return super().losses(batch) + tf.reduce_sum(twice)


# What the graph optimizer changes.


class MagicRound(Tiny):
    """A helper rounds by adding and taking away a large number."""

    modes = ("graph",)

    def losses(self, batch):
        return super().losses(batch) + tf.reduce_sum(helpers.fake_quantize(batch["x"]) ** 2, -1)


class HandScaled(Tiny):
    """Losses are scaled up and down by hand, beyond what a float holds."""

    modes = ("graph",)

    def losses(self, batch):
        scaled = tf.reduce_sum(batch["x"] ** 2, -1) * 3e38
        return super().losses(batch) + tf.math.tanh(scaled / 3e38)  # expect MT307


class HalfPrecisionScaled(Tiny):
    """Half precision overflows where activations are scaled and scaled back."""

    modes = ("graph",)

    def losses(self, batch):
        half = tf.cast(3.0 * batch["x"][:, 0], tf.float16)
        back = (half * 60000.0) / 60000.0  # expect MT307
        return super().losses(batch) + tf.cast(tf.tanh(back), tf.float32)


class TinyLogRatio(Tiny):
    """log(1 + x) / x of a tiny x: only the graph makes it log1p."""

    modes = ("graph",)

    def losses(self, batch):
        tiny = 1e-9 * tf.abs(batch["x"][:, 0])
        return super().losses(batch) * (1.0 + tf.math.log(1.0 + tiny) / tiny)  # expect MT307


# What only XLA changes: checks that are gone.


class TokenTable(Tiny):
    """Tokens beyond the table."""

    def losses(self, batch):
        tokens = batch["label"] + 2
        table = tf.reshape(tf.range(12.0), [4, 3])
        return super().losses(batch) + tf.reduce_sum(tf.nn.embedding_lookup(table, tokens), -1)  # expect MT601


class ShortEmbedding(Tiny):
    """A layer of the helpers embeds ids beyond its rows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = helpers.HashedEmbedding(2, 3)
        self.embed.build((None,))

    def losses(self, batch):
        return super().losses(batch) + tf.reduce_sum(self.embed(batch["label"]), -1)


class LastToken(Tiny):
    """The last token of a sequence of length zero."""

    def losses(self, batch):
        last = tf.gather(batch["x"], batch["label"] - 1, batch_dims=1)  # expect MT601
        return super().losses(batch) + last


class IgnoredLabel(Tiny):
    """Label 0 is meant to be ignored and shifted to -1."""

    def losses(self, batch):
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"] - 1, self.logits(batch))  # expect MT602
        return tf.where(batch["label"] > 0, values, 0.0)


class KerasLossIgnored(Tiny):
    """The same with a loss object of Keras, with a class too many."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def losses(self, batch):
        return self.criterion(batch["label"] + 1, self.logits(batch))  # expect MT602


class QValues(Tiny):
    """The Q-value of an action that does not exist."""

    def losses(self, batch):
        index = tf.stack([tf.range(8), batch["label"] + 1], -1)
        return tf.square(1.0 - tf.gather_nd(self.logits(batch), index))  # expect MT601


class SlotWrites(Tiny):
    """Memory slots are written beyond the end."""

    def losses(self, batch):
        slots = tf.tensor_scatter_nd_update(tf.zeros([8]), (batch["label"] * 4)[:, None], tf.ones([8]))  # expect MT601
        return super().losses(batch) + slots


class NegativeScatter(Tiny):
    """A heat map is scattered with a negative index for what is absent."""

    def losses(self, batch):
        heat = tf.scatter_nd((batch["label"] - 1)[:, None], batch["x"][:, 0], [8])  # expect MT601
        return super().losses(batch) + heat


class TableUpdate(Tiny):
    """Rows of a variable are added to beyond its end."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = tf.Variable(tf.zeros([2, 4]), trainable=False)

    def train_step(self, batch):
        self.table.scatter_nd_add(batch["label"][:, None], batch["x"])  # expect MT601
        return self.minimize(lambda: self.losses(batch) + tf.reduce_sum(self.table))


class GraphAggregate(Tiny):
    """Messages of a graph network to a node that is not there."""

    def losses(self, batch):
        nodes = helpers.aggregate(batch["x"], batch["label"], 2)
        return super().losses(batch) + tf.reduce_sum(nodes)


class ExpertOverflow(Tiny):
    """A mixture of experts routes to one expert too many."""

    def losses(self, batch):
        parts = helpers.route(batch["x"], batch["label"], 2)
        return super().losses(batch) + sum(tf.reduce_sum(part) for part in parts)


class TakeAlong(Tiny):
    """keras.ops.take_along_axis with ranks that start at one."""

    def losses(self, batch):
        ranks = keras.ops.expand_dims(batch["label"] + 2, -1)
        return super().losses(batch) + keras.ops.take_along_axis(batch["x"], ranks, axis=1)[:, 0]  # expect MT601


class ReversedTooFar(Tiny):
    """Lengths are longer than the sequences that are reversed."""

    def losses(self, batch):
        backwards = tf.reverse_sequence(batch["x"], batch["label"] + 3, seq_axis=1)  # expect MT308
        return super().losses(batch) + backwards[:, 0]


class ConfusionRange(Tiny):
    """A confusion matrix with too few classes."""

    def losses(self, batch):
        matrix = tf.math.confusion_matrix(batch["label"], tf.zeros([8], tf.int32), num_classes=2)  # expect MT604
        return super().losses(batch) * (1.0 + tf.cast(matrix[0, 0], tf.float32))


class NegativeCounts(Tiny):
    """Labels of -1 are counted."""

    def losses(self, batch):
        counts = tf.math.bincount(batch["label"] - 1, minlength=3, maxlength=3)  # expect MT308
        return super().losses(batch) * tf.cast(counts[0], tf.float32)


class LabelRangeAssert(Tiny):
    """An assertion on labels fails."""

    def losses(self, batch):
        tf.debugging.assert_less(batch["label"], 2, message="two classes")  # expect MT604
        return super().losses(batch)


class DependentAssert(Tiny):
    """An assertion as a control dependency fails."""

    def losses(self, batch):
        check = tf.debugging.Assert(tf.reduce_all(batch["x"] > -1.0), [batch["x"]])  # expect MT604
        with tf.control_dependencies([check] if check is not None else []):
            return tf.identity(super().losses(batch))


class EmbeddingNormCheck(Tiny):
    """A helper asserts unit norms that are none."""

    def losses(self, batch):
        return super().losses(batch) + tf.reduce_sum(helpers.unit_norm_checked(batch["x"]), -1)


class CheckedLog(Tiny):
    """Numerics of the logarithm of negative numbers are checked."""

    def losses(self, batch):
        logs = tf.debugging.check_numerics(tf.math.log(batch["x"]), "log")  # expect MT605
        return super().losses(batch) + 0.0 * tf.reduce_sum(logs, -1)


class AssertInCond(Tiny):
    """An assertion in a branch that is taken."""

    def train_step(self, batch):
        if tf.reduce_max(batch["label"]) > 1:
            tf.debugging.assert_none_equal(batch["label"], 1)  # expect MT604
        return self.minimize(lambda: self.losses(batch))


class MonotoneAssert(Tiny):
    """Time stamps are asserted to rise, at the second batch too."""

    def losses(self, batch):
        tf.debugging.assert_non_negative(tf.experimental.numpy.diff(batch["x"][:, 1]), message="time")  # expect MT604
        return super().losses(batch)


class DividedByCount(Tiny):
    """A whole-number division by a count of zero."""

    def losses(self, batch):
        share = 7 // batch["label"]  # expect MT603
        return super().losses(batch) * tf.cast(share, tf.float32)


class ModuloPeriod(Tiny):
    """A phase by a modulus of zero."""

    def losses(self, batch):
        phase = tf.math.floormod(tf.range(8), batch["label"])  # expect MT603
        return super().losses(batch) + tf.cast(phase, tf.float32)


class NegativePower(Tiny):
    """Whole numbers to a negative power."""

    def losses(self, batch):
        scale = 2 ** (batch["label"] - 1)  # expect MT603
        return super().losses(batch) * tf.cast(scale, tf.float32)


class SingularLaplacian(Tiny):
    """A graph Laplacian is inverted."""

    def losses(self, batch):
        same = tf.cast(batch["label"][:2, None] != batch["label"][None, :2], tf.float32)
        laplacian = tf.linalg.diag(tf.reduce_sum(same, -1)) - same
        return super().losses(batch) + tf.tanh(tf.reduce_sum(tf.linalg.inv(laplacian)))  # expect MT607


class NotPositiveDefinite(Tiny):
    """A covariance that is none is factored by keras.ops."""

    def losses(self, batch):
        kernel = tf.matmul(batch["x"], batch["x"], transpose_b=True) - 5.0 * tf.eye(8)
        return super().losses(batch) + keras.ops.cholesky(kernel)[:, 0]  # expect MT308


class ReadBeyond(Tiny):
    """A TensorArray is read beyond its end."""

    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, 8, element_shape=[4], clear_after_read=False).unstack(batch["x"])
        return super().losses(batch) + tf.reduce_sum(rows.read(batch["label"][2] * 4))  # expect MT601


class MaskedReshape(Tiny):
    """What is selected is reshaped to the wrong size."""

    def losses(self, batch):
        chosen = tf.boolean_mask(batch["x"][:, 0], batch["label"] != 1)
        pairs = tf.reshape(chosen, [4, 2])  # expect MT308
        return super().losses(batch) + tf.reduce_sum(pairs)


class MaskedEnsured(Tiny):
    """The number of selected examples is ensured, and is another."""

    def losses(self, batch):
        chosen = tf.ensure_shape(tf.boolean_mask(batch["x"], batch["label"] == 0), [8, 4])  # expect MT308 MT504
        return super().losses(batch) + tf.reduce_sum(chosen)


class UnequalPairs(Tiny):
    """Positives and negatives are paired though there are not as many."""

    def losses(self, batch):
        positive = tf.boolean_mask(batch["x"][:, 0], batch["label"] == 0)
        negative = tf.boolean_mask(batch["x"][:, 0], batch["label"] == 2)
        return super().losses(batch) + tf.reduce_sum(tf.nn.relu(1.0 - positive + negative))  # expect MT308


# What only XLA changes: values.


class InverseDepth(Tiny):
    """An inverse depth of infinity becomes a bin."""

    def losses(self, batch):
        disparity = tf.cast(1.0 / tf.nn.relu(batch["x"][:, 0]), tf.int32)  # expect MT606
        return super().losses(batch) + tf.cast(tf.clip_by_value(disparity, -5, 5), tf.float32)


class LogBuckets(Tiny):
    """Buckets of the logarithm of negative numbers."""

    def losses(self, batch):
        bucket = tf.cast(tf.math.log(batch["x"][:, 0]), tf.int32)  # expect MT606
        return super().losses(batch) + tf.cast(tf.clip_by_value(bucket, -3, 3), tf.float32)


class MicrosecondCast(Tiny):
    """Seconds as microseconds do not fit 32 bits."""

    def losses(self, batch):
        micros = tf.cast(tf.exp(batch["x"][:, 0]) * 1e10, tf.int32)  # expect MT606
        return super().losses(batch) + tf.cast(micros // 2**20, tf.float32)


class MaskedReturnsToGo(Tiny):
    """A helper sums from the end over selected elements."""

    def losses(self, batch):
        returns = helpers.returns_to_go(batch["x"][:, 1], batch["label"] == 2)
        return super().losses(batch) + tf.reduce_max(returns)
