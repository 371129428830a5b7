"""Clean steps of the seventh corpus: they look as if tracing changed them, and do not."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import itertools
import logging
import math
import operator
import os
import random
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import seventh_helpers as helpers
from tests.corpus.base import Tiny

logging.getLogger("c7").setLevel(logging.ERROR)
logger = logging.getLogger("c7.clean")
DEBUG = bool(os.environ.get("C7_DEBUG_NEVER_SET"))
CLASS_PRIORS = {0: 0.2, 1: 0.3, 2: 0.5}
STARTED = time.time()


def varied(image_shape, classes):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(3))]
    )


class Varied(Tiny):
    """What the cases below derive from: the same with other weights."""

    build_model = staticmethod(varied)


# Idioms of public repositories.


class TransformerBlock(Tiny):
    """Attention with a cache built in the call."""

    @staticmethod
    def build_model(image_shape, classes):
        x = inputs = keras.Input((4,))
        x = keras.layers.Reshape((4, 1))(x)
        x = keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
        x = keras.layers.LayerNormalization()(x + helpers.Attention(helpers.BlockConfig())(x))
        x = keras.layers.GlobalAveragePooling1D()(x)
        return keras.Model(
            inputs, keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(2))(x)
        )


class SeededMixup(Varied):
    """Mixup by whole-number draws from the step's own seed."""

    def losses(self, batch):
        seed = self.seed("mixup")
        order = tf.argsort(tf.random.stateless_uniform([8], seed, 0, 2**30, tf.int32))
        lam = tf.cast(tf.random.stateless_uniform([], seed + 1, 0, 1000, tf.int32), tf.float32) / 1000.0
        logits = self.model(lam * batch["x"] + (1.0 - lam) * tf.gather(batch["x"], order), training=True)
        loss = functools.partial(tf.nn.sparse_softmax_cross_entropy_with_logits, logits=logits)
        return lam * loss(batch["label"]) + (1.0 - lam) * loss(tf.gather(batch["label"], order))


class FocalLoss(Varied):
    """The focal loss of a decorated helper."""

    def losses(self, batch):
        return helpers.focal(batch["label"], self.logits(batch), gamma=1.5)


class LabelSmoothing(Varied):
    """Label smoothing by an object of Keras."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction=None)

    def losses(self, batch):
        return self.criterion(tf.one_hot(batch["label"], 3), self.logits(batch))


class CosineWarmup(Varied):
    """A schedule that reads the step."""

    warmup, total = 2, 10

    def weight(self):
        step = tf.cast(self.step, tf.float32)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * (step - self.warmup) / (self.total - self.warmup)))
        return tf.where(step < self.warmup, (step + 1.0) / self.warmup, cosine)

    def losses(self, batch):
        return self.weight() * super().losses(batch)


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


class HandAccumulated(Varied):
    """Gradients are averaged over time in variables of the recipe's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            values = self.losses(batch)
            loss = tf.reduce_mean(values)
        gradients = tape.gradient(loss, variables)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign(0.5 * total + gradient)
        self.apply([total * 1.0 for total in self.sums], variables)
        return {"loss": values}


class MeanTeacher(Varied):
    """A teacher's weights in variables, by a module of the helpers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.teacher = [tf.Variable(v, trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        kernel, bias = self.teacher
        target = tf.stop_gradient(tf.nn.softmax(tf.matmul(batch["x"], kernel) + bias))
        out = self.minimize(
            lambda: self.losses(batch) + keras.losses.kl_divergence(target, tf.nn.softmax(self.logits(batch)))
        )
        for t, v in zip(self.teacher, self.model.trainable_variables):
            t.assign(0.9 * t + 0.1 * tf.convert_to_tensor(v))
        return out


class Lagrangian(Varied):
    """A multiplier rises while a constraint is broken."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.multiplier = tf.Variable(0.1, trainable=False)

    def train_step(self, batch):
        lam = tf.nn.softplus(self.multiplier)

        def loss():
            logits = self.logits(batch)
            violation = tf.reduce_mean(tf.square(logits), -1) - 0.1
            values = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return values + lam * violation, {"violation": violation}

        out = self.minimize(loss)
        self.multiplier.assign_add(0.5 * tf.reduce_mean(out["violation"]))
        return out


class LayerList(Tiny):
    """Layers in lists, gone through with enumerate and zip."""

    @staticmethod
    def build_model(image_shape, classes):
        x = inputs = keras.Input((4,))
        blocks = [keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(i)) for i in range(3)]
        for i, block in enumerate(blocks):
            x = x + keras.activations.gelu(block(x)) if i else block(x)
        return keras.Model(
            inputs, keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(9))(x)
        )


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


class QuietLogging(Varied):
    """A debug line that is not on, behind a guard and without."""

    def train_step(self, batch):
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("batch of %s", batch["x"].shape)
        logger.info("step")
        return self.minimize(lambda: self.losses(batch))


class TypeChecks(Varied):
    """Types, dtypes and ranks are checked, and hold."""

    def losses(self, batch):
        if not isinstance(batch["x"], tf.Tensor):
            raise TypeError(f"x is {type(batch['x'])}")
        if batch["x"].dtype != tf.float32 or batch["label"].dtype not in (tf.int32, tf.int64):
            raise ValueError("dtypes")
        assert batch["x"].shape.rank == 2, batch["x"].shape
        assert batch["x"].shape[-1] == 4, batch["x"].shape
        return super().losses(batch)


class AssertsHold(Varied):
    """Assertions on values that hold."""

    def losses(self, batch):
        tf.debugging.assert_shapes([(batch["x"], ("B", 4)), (batch["label"], ("B",))])
        tf.debugging.assert_less(batch["label"], 3)
        tf.debugging.assert_non_negative(batch["label"])
        p = tf.nn.softmax(self.logits(batch))
        tf.debugging.assert_near(tf.reduce_sum(p, -1), 1.0, atol=1e-4)
        return tf.debugging.check_numerics(super().losses(batch), "loss")


class PositionTable(Varied):
    """A table of NumPy, made anew at each trace, and one cached by a function of whole numbers."""

    def losses(self, batch):
        x = batch["x"] + helpers.sinusoids(8, 4) * 0.1
        x = tf.matmul(helpers.causal_mask(8) / 8.0, x)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x, training=True))


class KerasMetricFunctions(Varied):
    """Metrics as functions, in the returned dict."""

    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            accuracy = keras.metrics.sparse_categorical_accuracy(batch["label"], logits)
            top = keras.metrics.sparse_top_k_categorical_accuracy(batch["label"], logits, k=2)
            return self.losses(batch), {"accuracy": accuracy, "top2": tf.cast(top, tf.float32)}

        return self.minimize(loss)


class KerasOps(Varied):
    """keras.ops throughout."""

    def losses(self, batch):
        ops = keras.ops
        log_p = ops.log_softmax(self.logits(batch))
        picked = ops.take_along_axis(log_p, ops.expand_dims(batch["label"], -1), axis=-1)
        return -ops.squeeze(picked, -1) + 0.01 * ops.logsumexp(ops.abs(log_p), axis=-1)


class DeadWarning(Varied):
    """A warning where shapes are wrong, which they are not."""

    def losses(self, batch):
        if batch["x"].shape[-1] != 4:
            warnings.warn("unexpected width", stacklevel=2)
            print("unexpected width", batch["x"].shape)
        if DEBUG:
            print(batch)
        return super().losses(batch)


class FrozenConfig(Varied):
    """A frozen dataclass of settings with a property."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        low: float = 0.1
        high: float = 0.9
        powers: tuple[int, ...] = (1, 2)

        @property
        def middle(self):
            return 0.5 * (self.low + self.high)

    config = Config()

    def losses(self, batch):
        tuned = dataclasses.replace(self.config, low=0.2)
        values = super().losses(batch)
        return sum(values**p for p in tuned.powers) * tuned.middle


class DivergenceEnum(Varied):
    """An enum chooses a divergence by match."""

    class Kind(enum.Enum):
        FORWARD = "forward"
        REVERSE = "reverse"

    kind = Kind.REVERSE

    def losses(self, batch):
        p, q = tf.nn.softmax(self.logits(batch)), tf.fill([8, 3], 1 / 3)
        match self.kind:
            case self.Kind.FORWARD:
                first, second = q, p
            case self.Kind.REVERSE:
                first, second = p, q
        return super().losses(batch) + keras.losses.kl_divergence(first, second)


class GradientReversal(Varied):
    """Domain adaptation's reversal by a custom gradient."""

    def losses(self, batch):
        logits = self.logits(batch)
        domain = tf.reduce_sum(helpers.reverse_gradient(logits), -1)
        parity = tf.cast(batch["label"] % 2, tf.float32)
        return super().losses(batch) + 0.1 * tf.nn.sigmoid_cross_entropy_with_logits(parity, domain)


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


class EmaModule(Varied):
    """A tf.Module of the helpers holds averages."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ema = helpers.Ema([tf.convert_to_tensor(v) for v in self.model.trainable_variables], 0.5)
        self.shadow = self.ema.shadow

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch) + 0.1 * tf.reduce_sum(self.ema.shadow[0] ** 2))
        self.ema.update([tf.convert_to_tensor(v) for v in self.model.trainable_variables])
        return out


class AdvantageScan(Varied):
    """Generalized advantages by a scan in reverse."""

    def losses(self, batch):
        rewards = batch["x"][:, 0]
        advantages = tf.scan(lambda carry, r: r + 0.95 * carry, rewards, initializer=tf.zeros([]), reverse=True)
        advantages = (advantages - tf.reduce_mean(advantages)) / (tf.math.reduce_std(advantages) + 1e-6)
        return super().losses(batch) * tf.stop_gradient(advantages)


class Sinkhorn(Varied):
    """Sinkhorn's iterations in tf.while_loop with a bound."""

    def losses(self, batch):
        scores = self.logits(batch)
        _, q = tf.while_loop(
            lambda i, q: i < 5,
            lambda i, q: (i + 1, tf.nn.log_softmax(tf.nn.log_softmax(q, 0), 1)),
            (tf.constant(0), scores),
            maximum_iterations=8,
        )
        return -tf.reduce_sum(tf.stop_gradient(tf.exp(q)) * tf.nn.log_softmax(scores), -1)


class ArrayWrites(Varied):
    """A TensorArray is written in a loop over a tensor's range."""

    def train_step(self, batch):
        rows = tf.TensorArray(tf.float32, size=4, element_shape=[8])
        carry = tf.zeros([8])
        for column in tf.range(4):
            carry = 0.5 * carry + tf.gather(batch["x"], column, axis=1)
            rows = rows.write(column, carry)
        weights = tf.nn.sigmoid(tf.reduce_sum(rows.stack(), 0))
        return self.minimize(lambda: self.losses(batch) * weights)


class TensorBranches(Varied):
    """A branch on the step's parity, over tensors alone."""

    def train_step(self, batch):
        if self.step % 2 == 0:
            scale, shift = 1.0, 0.0
        else:
            scale, shift = 0.5, 0.1
        return self.minimize(lambda: scale * self.losses(batch) + shift)


class VectorizedJacobian(Varied):
    """Per-example gradients by batch_jacobian and a vectorized map."""

    def losses(self, batch):
        with tf.GradientTape() as tape:
            tape.watch(batch["x"])
            y = tf.nn.softmax(self.logits(batch))
        jacobian = tape.batch_jacobian(y, batch["x"])
        norms = tf.vectorized_map(lambda j: tf.reduce_sum(tf.square(j)), jacobian)
        return super().losses(batch) + norms


class RegionLoss(Varied):
    """A detection loss: IoU, positives by a mask, no division by zero."""

    def losses(self, batch):
        low, size = batch["x"][:, :2], tf.nn.softplus(batch["x"][:, 2:])
        overlap = tf.maximum(tf.minimum(low + size, 1.0) - tf.maximum(low, 0.0), 0.0)
        inter = tf.reduce_prod(overlap, -1)
        iou = tf.math.divide_no_nan(inter, tf.reduce_prod(size, -1) + 1.0 - inter)
        positive = tf.cast(batch["label"] > 0, tf.float32)
        values = super().losses(batch) * positive * (1.0 - iou)
        return values / tf.maximum(tf.reduce_sum(positive), 1.0)


class DoubleWhere(Varied):
    """A logarithm that is safe on both sides of the where."""

    def losses(self, batch):
        positive = batch["x"] > 0
        safe = tf.where(positive, batch["x"], 1.0)
        return super().losses(batch) + 0.1 * tf.reduce_sum(tf.where(positive, tf.math.log(safe), 0.0), -1)


class ContrastivePairs(Varied):
    """InfoNCE with the diagonal masked out."""

    def losses(self, batch):
        z = tf.math.l2_normalize(self.logits(batch), -1)
        similarity = tf.matmul(z, z, transpose_b=True) / 0.5
        similarity -= 1e9 * tf.eye(similarity.shape[0])
        positives = tf.cast(batch["label"][:, None] == batch["label"][None], tf.float32) - tf.eye(8)
        log_p = similarity - tf.reduce_logsumexp(similarity, -1, keepdims=True)
        return -tf.reduce_sum(positives * log_p, -1) / tf.reduce_sum(positives, -1)


class TripletMining(Varied):
    """The hardest positives and negatives, by masks over finite numbers."""

    def losses(self, batch):
        z = self.logits(batch)
        distance = tf.reduce_sum((z[:, None] - z[None]) ** 2, -1)
        same = batch["label"][:, None] == batch["label"][None]
        hardest = tf.reduce_max(tf.where(same, distance, 0.0), -1)
        nearest = tf.reduce_min(tf.where(same, 1e6, distance), -1)
        return tf.nn.relu(hardest - nearest + 0.5)


class Distilled(Varied):
    """Distillation from fixed weights of NumPy, at two temperatures."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.teacher_kernel = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)

    def losses(self, batch):
        student = self.logits(batch)
        teacher = tf.matmul(batch["x"], self.teacher_kernel)
        terms = []
        for t in (1.0, 4.0):
            p = tf.nn.softmax(teacher / t)
            terms.append(t**2 * tf.nn.softmax_cross_entropy_with_logits(p, student / t))
        return tf.add_n(terms)


class NormalizedModel(Tiny):
    """Batch normalization in training."""

    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(6, kernel_initializer=keras.initializers.GlorotUniform(1)),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.ReLU(),
                keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(2)),
            ]
        )


class FrozenPart(Tiny):
    """A layer is made untrainable for one loss and trainable after, the same at every step."""

    build_model = staticmethod(varied)

    def train_step(self, batch):
        layer = self.model.layers[-1]
        layer.trainable = False
        penalty = tf.reduce_mean(tf.stop_gradient(self.logits(batch)) ** 2, -1)
        layer.trainable = True
        return self.minimize(lambda: self.losses(batch) + penalty)


# What looks like state and is none.


class LocalLists(Varied):
    """Lists, dicts, deques and counters that live for the step."""

    def losses(self, batch):
        outputs, recent, tally = [], collections.deque(maxlen=2), collections.Counter()
        for i, column in enumerate(tf.unstack(batch["x"], axis=1)):
            recent.append(column)
            tally["columns"] += 1
            outputs.append(tf.add_n(list(recent)) / len(recent))
            if i == 2:
                outputs.pop(0)
        cache = {"mean": tf.add_n(outputs) / tally["columns"]}
        cache.update(double=cache["mean"] * 2.0)
        return super().losses(batch) + cache.pop("double")


class LocalGenerator(Varied):
    """A generator of the helpers is used up within the step."""

    def losses(self, batch):
        levels = helpers.pyramid(batch["x"], 3)
        first = next(levels)
        rest = [tf.reduce_sum(level, -1) for level in levels]
        return super().losses(batch) + 0.1 * tf.reduce_sum(first, -1) + 0.01 * sum(rest)


class LocalIterators(Varied):
    """itertools and next on iterators of the step's own."""

    def losses(self, batch):
        ranks = itertools.count(1)
        signs = itertools.cycle((1.0, -1.0))
        total = sum(next(signs) * batch["x"][:, i] / next(ranks) for i in range(4))
        pairs = [a * b for a, b in itertools.pairwise(tf.unstack(batch["x"], axis=1))]
        return super().losses(batch) + 0.1 * total + 0.01 * functools.reduce(operator.add, pairs)


class LocalCounterClosure(Varied):
    """A nonlocal count within the step."""

    def losses(self, batch):
        layer = 0

        def shrink(y):
            nonlocal layer
            layer += 1
            return y / layer

        y = self.logits(batch)
        for _ in range(3):
            y = shrink(y)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], y)


class SeededAnew(Varied):
    """NumPy's and Python's generators are made anew, with a fixed seed, so that they draw the same each time."""

    def losses(self, batch):
        projection = np.random.default_rng(7).normal(size=(3, 3)).astype(np.float32)
        order = random.Random(3).sample(range(4), 4)
        x = tf.gather(batch["x"], order, axis=1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch["label"], tf.matmul(self.model(x, training=True), projection)
        )


class CopiedBatch(Varied):
    """A copy of the batch is changed."""

    def losses(self, batch):
        batch = dict(batch)
        label = batch.pop("label")
        batch["x"] = batch["x"] * 2.0
        batch.setdefault("weight", tf.ones([8]))
        return batch["weight"] * tf.nn.sparse_softmax_cross_entropy_with_logits(label, self.logits(batch))


class OptionalKeys(Varied):
    """Keys that are not there: get, in, try and except."""

    def losses(self, batch):
        mask = batch.get("mask")
        try:
            weight = batch["weight"]
        except KeyError:
            weight = 1.0
        values = super().losses(batch) * weight
        if mask is not None and "label" in batch:
            values = values * mask
        return values


class Idempotent(Varied):
    """Attributes are written, always with the same."""

    last_width = None

    def losses(self, batch):
        self.last_width = int(batch["x"].shape[-1])
        self.names = tuple(sorted(batch))
        return super().losses(batch) / self.last_width * len(self.names)


class LazyConstant(Varied):
    """A table of NumPy is made when first asked for; it is a constant."""

    table = None

    @functools.cached_property
    def offsets(self):
        return np.linspace(-0.1, 0.1, 3, dtype=np.float32)

    def losses(self, batch):
        if self.table is None:
            self.table = np.tri(3, dtype=np.float32)
        logits = tf.matmul(self.logits(batch), self.table) + self.offsets
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class PureProperties(Varied):
    """Properties, class attributes, module constants and nested lookups."""

    margins = [CLASS_PRIORS[k] for k in sorted(CLASS_PRIORS)]

    @property
    def prior(self):
        return tf.math.log(tf.constant(self.margins))

    def losses(self, batch):
        logits = self.logits(batch) + self.prior
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class ManagedContexts(Varied):
    """ExitStack, nullcontext, name scopes and try/finally."""

    def losses(self, batch):
        with contextlib.ExitStack() as stack:
            stack.enter_context(tf.name_scope("losses"))
            stack.enter_context(contextlib.nullcontext())
            try:
                values = super().losses(batch)
            finally:
                scale = 2.0
        return values * scale


class CopiedSettings(Varied):
    """Settings are copied deeply and the copy changed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"weights": [1.0, 2.0], "power": 2}

    def losses(self, batch):
        settings = copy.deepcopy(self.settings)
        settings["weights"].append(3.0)
        settings["power"] += 1
        return super().losses(batch) * sum(settings["weights"]) / settings["power"]


class DefaultsAndLambdas(Varied):
    """Defaults that are read alone, lambdas that keep a loop's number, recursion over nested lists."""

    def losses(self, batch, weights=[0.5, 0.25]):  # noqa: B006
        terms = [lambda y, i=i: y[:, i] for i in range(len(weights))]
        logits = self.logits(batch)
        extra = sum(w * term(logits) for w, term in zip(weights, terms))
        return super().losses(batch) + extra + helpers.tree_loss([0, [1, [2, 3]]], batch["x"])


class CountingVariable(Varied):
    """The count is a variable and so is what it decides."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = tf.Variable(0, trainable=False)
        self.target = tf.Variable(tf.zeros([4, 3]), trainable=False)

    def train_step(self, batch):
        self.calls.assign_add(1)
        due = tf.cast(self.calls % 2 == 0, tf.float32)
        kernel = tf.convert_to_tensor(self.model.trainable_variables[0])
        self.target.assign(due * kernel + (1.0 - due) * self.target)
        bonus = tf.reduce_max(tf.matmul(batch["x"], self.target), -1)
        return self.minimize(lambda: self.losses(batch) + 0.1 * bonus)


class OwnFunction(Varied):
    """A function of tf.function, made by the user, notes that it was traced: in eager mode it is traced once too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

        @tf.function
        def mixed(x):
            return x + 0.1 * tf.reverse(x, [-1])

        self.mixed = mixed

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(self.mixed(batch["x"])))


class TimedImport(Varied):
    """Times and the environment are read where the module is imported or the recipe made."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.home = os.environ.get("C7_NEVER_SET", "here")
        self.since = STARTED

    def losses(self, batch):
        late = self.since > 0 and self.home == "here"
        return super().losses(batch) * (2.0 if late else 1.0)


class DispatchedByName(Varied):
    """Functions of TensorFlow are looked up by name."""

    activations = ("tanh", "softsign", "gelu")

    def losses(self, batch):
        logits = self.logits(batch)
        y = sum(getattr(tf.nn, name)(logits) for name in self.activations)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], tf.nest.map_structure(tf.identity, y))


# Operations that misbehave elsewhere, used within their limits.


class ClippedGather(Varied):
    """Indices are clipped before the lookup."""

    def losses(self, batch):
        index = tf.clip_by_value(batch["label"] * 5 - 3, 0, 3)
        values = tf.gather(batch["x"], index, batch_dims=1)
        table = tf.nn.embedding_lookup(tf.eye(4), index)
        return super().losses(batch) + 0.1 * values + 0.1 * tf.reduce_sum(table * batch["x"], -1)


class AbsentOneHot(Varied):
    """One-hot rows of -1 and of classes too many are zeros everywhere."""

    def losses(self, batch):
        target = tf.one_hot(batch["label"] * 2 - 1, 3)
        return -tf.reduce_sum(target * tf.nn.log_softmax(self.logits(batch)), -1)


class DroppedSegments(Varied):
    """Segments with negative ids are dropped in every mode."""

    def losses(self, batch):
        sums = tf.math.unsorted_segment_sum(batch["x"], batch["label"] - 1, 2)
        return super().losses(batch) + 0.1 * tf.reduce_sum(sums[1])


class SaturatedPixels(Varied):
    """Floats become bytes by a cast that saturates."""

    def losses(self, batch):
        pixels = tf.saturate_cast(batch["x"] * 127.0 + 128.0, tf.uint8)
        return super().losses(batch) + tf.reduce_mean(tf.cast(pixels, tf.float32), -1) / 255.0


class CleanedMaximum(Varied):
    """What is not a number is taken out before the maximum."""

    def losses(self, batch):
        roots = tf.sqrt(batch["x"])
        roots = tf.where(tf.math.is_nan(roots), 0.0, roots)
        return super().losses(batch) + 0.1 * tf.reduce_max(roots, -1) + 0.1 * tf.math.top_k(roots, 2)[0][:, 1]


class SafeDivision(Varied):
    """Whole-number divisions by what cannot be zero, of negative numbers too."""

    def losses(self, batch):
        share = (5 - 7 * batch["label"]) // tf.maximum(batch["label"], 1)
        phase = tf.math.floormod(tf.range(8) - 4, batch["label"] + 1)
        return super().losses(batch) + 0.01 * tf.cast(share + phase, tf.float32)


class WholeNumberWrap(Varied):
    """Whole numbers overflow alike in every mode."""

    def losses(self, batch):
        hashed = (batch["label"] + 1) * 1103515245 + 12345
        bucket = tf.math.floormod(tf.bitwise.bitwise_xor(hashed, tf.bitwise.right_shift(hashed, 7)), 10)
        return super().losses(batch) + 0.1 * tf.cast(bucket, tf.float32)


class BigPythonInts(Varied):
    """Large whole numbers of Python, reduced before they meet a tensor."""

    def losses(self, batch):
        state = 12345
        for _ in range(4):
            state = state * 1103515245 + 12345
        return super().losses(batch) * (1.0 + (state % 1000) / 1000)


class StableLogs(Varied):
    """Log-likelihoods by the stable functions."""

    def losses(self, batch):
        x = 50.0 * batch["x"][:, 0]
        return super().losses(batch) + 0.01 * (
            tf.math.log_sigmoid(x) + tf.nn.softplus(x) + tf.reduce_logsumexp(batch["x"], -1)
        )


class ScatteredHistogram(Varied):
    """A histogram in a variable, all indices within it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counts = tf.Variable(tf.ones([3]), trainable=False)

    def train_step(self, batch):
        self.counts.scatter_nd_add(batch["label"][:, None], tf.ones([8]))
        frequency = self.counts / tf.reduce_sum(self.counts)
        return self.minimize(lambda: self.losses(batch) / tf.gather(frequency, batch["label"]))


class PseudoInverse(Varied):
    """A ridge regression by solve and Cholesky, well conditioned."""

    def losses(self, batch):
        gram = tf.matmul(batch["x"], batch["x"], transpose_a=True) + 4.0 * tf.eye(4)
        right = tf.matmul(batch["x"], tf.one_hot(batch["label"], 3), transpose_a=True)
        beta = tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), right)
        return super().losses(batch) + tf.reduce_sum((tf.matmul(batch["x"], beta) - self.logits(batch)) ** 2, -1)


class SeedGeneratorDraws(Varied):
    """Whole numbers drawn with a SeedGenerator that is part of the state."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(13)

    def losses(self, batch):
        shift = keras.random.randint((8,), 0, 5, seed=self.seeds)
        return super().losses(batch) * (1.0 + tf.cast(shift, tf.float32))


class ArrayModule(Varied):
    """TensorFlow's own NumPy."""

    def losses(self, batch):
        tnp = tf.experimental.numpy
        x = tnp.asarray(batch["x"])
        return super().losses(batch) + tf.cast(0.1 * tnp.ptp(x, axis=1) + tnp.mean(tnp.abs(x), axis=1), tf.float32)


class MappedExamples(Varied):
    """map_fn with a pure function and a structure of inputs."""

    def losses(self, batch):
        extra = tf.map_fn(
            lambda pair: tf.reduce_max(pair[0]) * tf.cast(pair[1] + 1, tf.float32),
            (batch["x"], batch["label"]),
            fn_output_signature=tf.float32,
        )
        return super().losses(batch) + 0.1 * extra


class PureBranches(Varied):
    """tf.cond and tf.switch_case without side effects."""

    def losses(self, batch):
        values = super().losses(batch)
        scaled = tf.cond(tf.reduce_mean(batch["x"]) > 0, lambda: values * 2.0, lambda: values)
        return tf.switch_case(batch["label"][2], [lambda: scaled, lambda: -scaled, lambda: scaled + 1.0])


class FiniteSkip(Varied):
    """What is not finite is replaced, not caught."""

    def losses(self, batch):
        risky = tf.math.log(batch["x"][:, 0])
        risky = tf.where(tf.math.is_finite(risky), risky, tf.zeros_like(risky))
        return super().losses(batch) + 0.1 * risky
