"""Defects that tracing and compiling make, written from public threads before anybody looked how they are found.

`# expect` says what `inspect` shall say; divergences of the numbers alone are in `fourth_numeric`.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import itertools
import json
import os
import random
import secrets
import sys
import tempfile
import uuid
import warnings
from pathlib import Path
from time import monotonic_ns as ticks

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus import fourth_elsewhere
from tests.corpus.base import Tiny

# --- clocks, chance and the machine ---------------------------------------------------------------------------------


class TicksAsTemperature(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.started = ticks()

    def losses(self, batch):
        seconds = (ticks() - self.started) / 1e9  # expect MT302
        return super().losses(batch) * tf.exp(-seconds)


class HourOfTheDay(Tiny):
    def losses(self, batch):
        return super().losses(batch) * fourth_elsewhere.hour_weight()


class SecretNoise(Tiny):
    def logits(self, batch):
        jitter = secrets.randbelow(1000) / 1000.0  # expect MT301 MT303
        return self.model(batch["x"] + jitter, training=True)


class UuidSalt(Tiny):
    def train_step(self, batch):
        salt = uuid.uuid4().int % 7  # expect MT303
        keep = tf.cast(tf.range(8) % 7 != salt, tf.float32)
        return self.minimize(lambda: self.losses(batch) * keep)


class CoinInHelper(Tiny):
    def logits(self, batch):
        return self.model(fourth_elsewhere.flipped(batch["x"]), training=True)


class ChoosesAugmentation(Tiny):
    def logits(self, batch):
        augment = random.choice([tf.identity, tf.negative, tf.nn.relu])  # expect MT301
        return self.model(augment(batch["x"]), training=True)


class PermutesByGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rng = np.random.default_rng(7)

    def train_step(self, batch):
        order = self.rng.permutation(8)  # expect MT301
        mixed = {"x": 0.7 * batch["x"] + 0.3 * tf.gather(batch["x"], order), "label": batch["label"]}
        return self.minimize(lambda: self.losses(mixed))


class EnvironmentSwitch(Tiny):
    def losses(self, batch):
        scale = float(os.environ.get("FOURTH_SCALE", "1"))  # expect MT401
        return super().losses(batch) * scale


class WarmUpByEnvironment(Callback):
    def next_step(self, trainer):
        os.environ["FOURTH_SCALE"] = str(min(1.0, trainer.step / 100))  # expect MT405 (EnvironmentSwitch)


class OrderOfNames(Tiny):
    penalties = frozenset({"l1", "l2", "linf"})

    def losses(self, batch):
        kernel = self.model.trainable_variables[0].value
        total = super().losses(batch)
        for weight, name in zip((0.1, 0.01, 0.001), self.penalties):  # expect MT303
            if name == "l1":
                total += weight * tf.reduce_sum(tf.abs(kernel))
            elif name == "l2":
                total += weight * tf.reduce_sum(kernel**2)
            else:
                total += weight * tf.reduce_max(tf.abs(kernel))
        return total


class HashOfTheRun(Tiny):
    def losses(self, batch):
        bucket = hash(("fold", "train")) % 5  # expect MT303
        return super().losses(batch) * (1.0 + 0.1 * bucket)


# --- Python that changes ---------------------------------------------------------------------------------------------


class CountsOnTheClass(Tiny):
    calls = 0

    def losses(self, batch):
        type(self).calls += 1  # expect MT201
        return super().losses(batch) * min(1.0, type(self).calls / 10)


@dataclasses.dataclass
class Progress:
    seen: int = 0
    rate: float = 1.0

    def advance(self, examples):
        self.seen += examples  # expect MT201 (ProgressInDataclass)
        return self.seen


class ProgressInDataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.progress = Progress()

    def losses(self, batch):
        return super().losses(batch) / (1.0 + 0.01 * self.progress.advance(batch["x"].shape[0]))


class DefaultArgument(Tiny):
    def penalty(self, kernel, strengths=[1.0]):  # noqa: B006
        strengths.append(strengths[-1] * 0.5)  # expect MT202
        return strengths[-1] * tf.reduce_sum(kernel**2)

    def losses(self, batch):
        return super().losses(batch) + self.penalty(self.model.trainable_variables[0].value)


class RatesFromGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = self.decayed(1.0)

    @staticmethod
    def decayed(rate):
        while True:
            yield rate
            rate *= 0.9

    def losses(self, batch):
        return super().losses(batch) * next(self.rates)  # expect MT205


class Cycled(keras.layers.Layer):
    def __init__(self, **given):
        super().__init__(**given)
        self.scales = itertools.cycle((1.0, 0.5, 0.25))

    def call(self, inputs):
        return inputs * next(self.scales)  # expect MT205 (CycleInLayer)


class CycleInLayer(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), Cycled(), keras.layers.Dense(classes)])


class AnnealedNoise(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.calls_made = 0

    def call(self, inputs, training=False):
        if training:
            self.calls_made += 1  # expect MT201 (AnnealsInLayer)
        return inputs * (1.0 - 0.5 ** (1 + self.calls_made))


class AnnealsInLayer(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), AnnealedNoise(), keras.layers.Dense(classes)]
        )


class AnnealedLoss(keras.losses.Loss):
    def __init__(self):
        super().__init__(reduction=None)
        self.smoothing = 0.3

    def call(self, y_true, y_pred):
        self.smoothing *= 0.9  # expect MT201 (LossObjectAnneals)
        targets = tf.one_hot(tf.cast(y_true, tf.int32), 3) * (1.0 - self.smoothing) + self.smoothing / 3
        return tf.nn.softmax_cross_entropy_with_logits(targets, y_pred)


class LossObjectAnneals(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.loss_object = AnnealedLoss()

    def losses(self, batch):
        return self.loss_object(batch["label"], self.logits(batch))


class GrowingMargin(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.hinge = fourth_elsewhere.Hinge(margin=0.5)

    def losses(self, batch):
        return self.hinge(batch["label"], self.logits(batch))


class PropertyDecays(Tiny):
    _beta = 1.0

    @property
    def beta(self):
        self._beta *= 0.95  # expect MT201
        return self._beta

    def losses(self, batch):
        return super().losses(batch) * self.beta


def counted(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        wrapper.calls += 1  # expect MT201 (CountedByDecorator)
        return function(*args, **kwargs) / wrapper.calls

    wrapper.calls = 0
    return wrapper


class CountedByDecorator(Tiny):
    @counted
    def losses(self, batch):
        return super().losses(batch)


class Inherited(fourth_elsewhere.Curriculum, Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.difficulties = [0.25, 0.5, 0.75, 1.0]

    def losses(self, batch):
        return super().losses(batch) * self.difficulty()


class WindowOfLosses(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.window = collections.deque(maxlen=5)

    def train_step(self, batch):
        values = self.minimize(lambda: self.losses(batch))
        self.window.appendleft(tf.reduce_mean(values["loss"]))  # expect MT202 MT203
        return {**values, "smooth": tf.add_n(list(self.window)) / len(self.window)}


class NumpyBufferInPlace(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.prior = np.full(3, 1.0, np.float32)

    def losses(self, batch):
        self.prior[0] *= 1.1  # expect MT201 MT202
        return super().losses(batch) * tf.gather(self.prior / self.prior.sum(), batch["label"])


class MaskCache(Tiny):
    def logits(self, batch):
        return self.model(batch["x"] @ fourth_elsewhere.mask_of(4), training=True)


class CachedAnchors(Tiny):
    @functools.cached_property
    def anchors(self):
        return tf.linspace(-1.0, 1.0, 4)  # expect MT203 MT204

    def logits(self, batch):
        return self.model(batch["x"] - self.anchors, training=True)


class GradientWithState(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.strength = 1.0

    def reversed(self, x):
        @tf.custom_gradient
        def flip(x):
            def backward(upstream):
                self.strength = self.strength * 0.8  # expect MT201
                return -self.strength * upstream

            return tf.identity(x), backward

        return flip(x)

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.reversed(self.logits(batch)))


class NonlocalSkips(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        done = 0

        def every_other():
            nonlocal done
            done += 1  # expect MT201
            return done % 2 == 0

        self.every_other = every_other

    def losses(self, batch):
        if self.every_other():
            return super().losses(batch) * 0.0
        return super().losses(batch)


# --- changed between steps -------------------------------------------------------------------------------------------


class HyperparametersInDict(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.hyper = {"kl": 0.0, "entropy": 0.1}

    def losses(self, batch):
        logits = self.logits(batch)
        entropy = -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), axis=1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
        return losses + self.hyper["kl"] * entropy  # expect MT401


class RampsKl(Callback):
    def on_step(self, trainer):
        trainer.recipe.hyper["kl"] = min(1.0, trainer.step / 50)  # expect MT405 (HyperparametersInDict)


class GlobalOfAnotherModule(Tiny):
    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch["label"], fourth_elsewhere.softened(self.logits(batch))
        )


class Cools(Callback):
    def on_step(self, trainer):
        fourth_elsewhere.set_temperature(max(0.1, 1.0 - trainer.step / 100))


class BranchOnEpoch(Tiny):
    epoch = 0

    def losses(self, batch):
        losses = super().losses(batch)
        if self.epoch >= 2:  # expect MT402
            losses = tf.where(losses < 1.0, tf.zeros_like(losses), losses)
        return losses

    def on_epoch(self, epoch):
        self.epoch = epoch  # expect MT405


class TellsEpoch(Callback):
    def on_step(self, trainer):
        trainer.recipe.on_epoch(trainer.step // 10)


class Unfreezes(Callback):
    def on_step(self, trainer):
        for layer in trainer.recipe.model.layers:
            layer.trainable = trainer.step > 100  # expect MT403 (ThawsLater)


class ThawsLater(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.model.layers[0].trainable = True

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        variables = self.model.trainable_variables
        self.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


# --- values that a trace has not -------------------------------------------------------------------------------------


class IndexesListByTensor(Tiny):
    weights = [0.5, 1.0, 2.0]

    def losses(self, batch):
        commonest = int(tf.reduce_max(batch["label"]))
        return super().losses(batch) * self.weights[commonest]  # expect MT105 MT107


class FiltersByComprehension(Tiny):
    def losses(self, batch):
        halves = tf.split(super().losses(batch), 2)
        kept = [half for half in halves if tf.reduce_mean(half) > 0.1]  # expect MT105 MT107
        return tf.concat(kept, axis=0)


class WhileTrueBreak(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        rounds = 0
        while True:  # expect MT105 MT107
            losses = losses * 0.5
            rounds += 1
            if tf.reduce_max(losses) < 0.1:
                break
        return losses * 2.0**rounds


class AsksNumpy(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        threshold = np.quantile(losses, 0.9)  # expect MT105 MT107
        return tf.minimum(losses, float(threshold))


class ReadsEagerBranch(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        if hasattr(losses, "numpy"):  # expect MT307
            losses = losses / (1e-6 + losses.numpy().std())
        return losses


class FallsBackOnError(Tiny):
    def losses(self, batch):
        table = tf.constant([1.0, 0.5])
        try:
            weights = tf.gather(table, batch["label"])  # expect MT307 MT601
        except tf.errors.InvalidArgumentError:
            weights = tf.ones([8])
        return super().losses(batch) * weights


# --- made in the step ------------------------------------------------------------------------------------------------


class LateScale(keras.layers.Layer):
    scale = None

    def call(self, inputs, training=False):
        if training and self.scale is None:
            self.scale = tf.Variable(1.0, name="scale")  # expect MT206 (VariableOnFirstUse)
        return inputs if self.scale is None else inputs * self.scale


class VariableOnFirstUse(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), LateScale(), keras.layers.Dense(classes)])


class MetricInEval(Tiny):
    def eval_step(self, batch):
        logits = self.model(batch["x"], training=False)
        accuracy = keras.metrics.SparseCategoricalAccuracy()  # expect MT206
        accuracy.update_state(batch["label"], logits)
        return {"accuracy": accuracy.result()}


# --- side effects ----------------------------------------------------------------------------------------------------


class WritesToStderr(Tiny):
    def losses(self, batch):
        sys.stderr.write("another batch\n")  # expect MT101
        return super().losses(batch)


class WarnsOfLargeBatch(Tiny):
    def losses(self, batch):
        if batch["x"].shape[0] > 4:
            warnings.warn("a large batch", stacklevel=2)  # expect MT102
        return super().losses(batch)


class CsvOfSteps(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rows = csv.writer(open(Path(tempfile.mkdtemp()) / "steps.csv", "w"))  # noqa: SIM115

    def train_step(self, batch):
        self.rows.writerow(["step", "done"])  # expect MT103
        return self.minimize(lambda: self.losses(batch))


class ReadsJson(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.path = Path(tempfile.mkdtemp()) / "weights.json"
        self.path.write_text(json.dumps([1.0, 2.0, 0.5]))

    def losses(self, batch):
        return super().losses(batch) * tf.gather(fourth_elsewhere.weights_from(self.path), batch["label"])


# --- draws -----------------------------------------------------------------------------------------------------------


class KerasRandomWithoutSeed(Tiny):
    def logits(self, batch):
        noise = keras.random.normal(batch["x"].shape, stddev=0.1)  # expect MT305
        return self.model(batch["x"] + noise, training=True)


class GeneratorOfItsOwn(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.generator = tf.random.Generator.from_seed(1)

    def logits(self, batch):
        return self.model(batch["x"] + self.generator.normal([8, 4]), training=True)  # expect MT305


class ShufflesInStep(Tiny):
    def train_step(self, batch):
        order = tf.random.shuffle(tf.range(8))  # expect MT305
        negatives = tf.gather(batch["x"], order)

        def loss():
            here, there = self.logits(batch), self.model(negatives, training=True)
            return tf.reduce_mean((here - there) ** 2, axis=1)

        return self.minimize(loss)


# --- the graph, and XLA ----------------------------------------------------------------------------------------------


class PowerIteration(Tiny):
    def losses(self, batch):
        kernel = self.model.trainable_variables[0].value
        vector = tf.ones([4, 1])
        for _ in range(100):  # expect MT501
            vector = tf.math.l2_normalize(kernel @ (tf.transpose(kernel) @ vector))
        return super().losses(batch) + 0.01 * tf.norm(tf.transpose(kernel) @ vector)


class DistinctLabels(Tiny):
    def losses(self, batch):
        present, _ = tf.unique(batch["label"])  # expect MT504 MT505
        return super().losses(batch) / tf.cast(tf.size(present), tf.float32)


class HardestShare(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        many = 1 + tf.reduce_sum(tf.cast(losses > 1.0, tf.int32))
        return tf.reduce_mean(tf.sort(losses, direction="DESCENDING")[:many])  # expect MT504


class LooksUpTable(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        pairs = tf.lookup.KeyValueTensorInitializer(tf.range(3), tf.constant([1.0, 2.0, 0.5]))
        self.table = tf.lookup.StaticHashTable(pairs, default_value=1.0)

    def losses(self, batch):
        return super().losses(batch) * self.table.lookup(batch["label"])  # expect MT505


class ShufflesStateless(Tiny):
    def logits(self, batch):
        mixed = tf.random.experimental.stateless_shuffle(batch["x"], seed=self.seed("mix"))  # expect MT505
        return self.model(0.9 * batch["x"] + 0.1 * mixed, training=True)


class PyFunctionInEval(Tiny):
    def eval_step(self, batch):
        logits = self.model(batch["x"], training=False)
        share = tf.py_function(  # expect MT106
            lambda y, z: np.mean(y.numpy() == z.numpy().argmax(1)), [batch["label"], logits], tf.float32
        )
        return {"accuracy": tf.reshape(share, [])}


class SegmentPastEnd(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        by_class = tf.math.unsorted_segment_sum(losses, batch["label"] + 1, num_segments=3)  # expect MT601
        return losses + 0.1 * tf.reduce_max(by_class)


class ReadsPastArray(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        rows = tf.TensorArray(tf.float32, size=8).unstack(losses)
        following = tf.reduce_max(batch["label"]) + 6
        return losses + 0.1 * rows.read(following)  # expect MT601


class IndexPastEnd(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        following = tf.argmax(tf.cumsum(batch["label"] + 1)) + 1
        return losses - 0.1 * losses[following]  # expect MT601


class PixelsToBytes(Tiny):
    def logits(self, batch):
        pixels = tf.cast(batch["x"] * 255.0, tf.uint8)  # expect MT606
        return self.model(tf.cast(pixels, tf.float32) / 255.0, training=True)


class BinsOfLogs(Tiny):
    def losses(self, batch):
        bins = tf.cast(tf.math.log(batch["x"][:, 0]) * 4.0, tf.int32)  # expect MT606
        return super().losses(batch) * (1.0 + 0.1 * tf.cast(tf.clip_by_value(bins, -9, 9), tf.float32))


class ModuloOfZero(Tiny):
    def losses(self, batch):
        phase = tf.range(8) % tf.reduce_min(batch["label"])  # expect MT603
        return super().losses(batch) * (1.0 + tf.cast(phase, tf.float32))


class NegativePower(Tiny):
    def losses(self, batch):
        weights = tf.pow(batch["label"] + 2, -1)  # expect MT603
        return super().losses(batch) * (1.0 + tf.cast(weights, tf.float32))


class IgnoredLabel(Tiny):
    def losses(self, batch):
        labels = tf.where(batch["label"] == 2, -1, batch["label"])
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.logits(batch))  # expect MT602
        return tf.where(labels >= 0, losses, 0.0)


class SolvesForMeans(Tiny):
    def losses(self, batch):
        design = tf.one_hot(batch["label"], 4)
        normal = tf.transpose(design) @ design
        means = tf.linalg.solve(normal, tf.transpose(design) @ batch["x"])  # expect MT607
        return super().losses(batch) + 1e-3 * tf.reduce_sum((batch["x"] - design @ means) ** 2, axis=1)


class FiniteLayer(keras.layers.Layer):
    def call(self, inputs):
        tf.debugging.assert_all_finite(tf.math.log(inputs), "features")  # expect MT605 (ChecksInLayer)
        return inputs


class ChecksInLayer(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), FiniteLayer(), keras.layers.Dense(classes)])


class AssertsStatement(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        assert tf.reduce_all(losses >= 0.0), "negative loss"  # expect MT604 MT105 MT107
        return losses


# --- the input pipeline ----------------------------------------------------------------------------------------------


class PreparesWithContrast(Tiny):
    def prepare(self, batch, *, seed, training):
        images = tf.reshape(batch["x"], [-1, 2, 2, 1])
        images = tf.image.random_contrast(images, 0.8, 1.2)  # expect MT801
        return {**batch, "x": tf.reshape(images, [-1, 4])}


class PreparesByNumpy(Tiny):
    def prepare(self, batch, *, seed, training):
        noise = np.random.normal(size=4).astype(np.float32)  # expect MT802
        return {**batch, "x": batch["x"] + noise}


class PreparesByPython(Tiny):
    def prepare(self, batch, *, seed, training):
        x = tf.numpy_function(lambda x: np.clip(x, -2, 2), [batch["x"]], tf.float32)  # expect MT804
        return {**batch, "x": tf.ensure_shape(x, batch["x"].shape)}
