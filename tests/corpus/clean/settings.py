"""Settings that nothing changes, and branches on them."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import os
import time

import keras
import tensorflow as tf

from modetrain import Callback
from tests.corpus import clean_helpers
from tests.corpus.base import Tiny, Varied


class ConfigAttribute(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.shift = 2
        self.smoothing = 0.1
        self.flags = {"double": True}

    def losses(self, batch):
        found = super().losses(batch) * (1.0 - self.smoothing)
        if self.flags["double"] and self.shift > 1:
            found = 2.0 * found
        return found


class SetUpByAMethod(Tiny):
    """What __init__ calls may assign."""

    def __init__(self, **given):
        super().__init__(**given)
        self.reset()

    def reset(self):
        self.gain = 1.5

    def losses(self, batch):
        return super().losses(batch) * self.gain


@dataclasses.dataclass(frozen=True)
class Weights:
    data: float = 1.0
    prior: float = 0.1


class FrozenDataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.weights = Weights()

    def losses(self, batch):
        return self.weights.data * super().losses(batch) + self.weights.prior


class LooksOnly(Callback):
    """A callback that reads a recipe and changes itself."""

    def on_step(self, trainer):
        self.shift = trainer.recipe.shift
        self.gain = 3.0


@dataclasses.dataclass(frozen=True)
class Options:
    smoothing: float = 0.1
    gamma: float = 2.0
    weights: tuple[float, ...] = (1.0, 2.0, 3.0)


class ReadsOptions(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.options = Options()

    def losses(self, batch):
        o = self.options
        target = tf.one_hot(batch["label"], 3) * (1.0 - o.smoothing) + o.smoothing / 3.0
        return keras.losses.categorical_crossentropy(target, self.logits(batch), from_logits=True)


def sparse_cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


@dataclasses.dataclass(frozen=True)
class Switches:
    temperature: float = 2.0
    penalise: bool = True
    names: tuple[str, ...] = ("entropy",)


class StaticOptions(Tiny):
    """Branches on a configuration."""

    options = Switches()

    def losses(self, batch):
        logits = self.logits(batch) / self.options.temperature
        losses = sparse_cross_entropy(batch["label"], logits)
        if self.options.penalise and "entropy" in self.options.names:
            losses += 0.1 * tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), 1)
        return losses


class OtherKey(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.state_ = {"scale": 0.5, "best": 0.0}

    def losses(self, batch):
        return super().losses(batch) * self.state_["scale"]


class Best(Callback):
    def on_step(self, trainer):
        trainer.recipe.state_["best"] = trainer.step


class Home(Tiny):
    def losses(self, batch):
        debug = os.environ.get("MY_DEBUG", "") == "1"
        losses = super().losses(batch)
        return losses * 2.0 if debug else losses


class SetsOther(Callback):
    def on_train_begin(self, trainer):
        os.environ["OTHER"] = "1"


class Optional(Tiny):
    def losses(self, batch):
        aux = getattr(self, "aux", None)
        weight = batch.get("weight", tf.ones([8]))
        losses = super().losses(batch) * weight
        return losses if aux is None else losses + aux


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


class DispatchedByName(Varied):
    """Functions of TensorFlow are looked up by name."""

    activations = ("tanh", "softsign", "gelu")

    def losses(self, batch):
        logits = self.logits(batch)
        y = sum(getattr(tf.nn, name)(logits) for name in self.activations)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], tf.nest.map_structure(tf.identity, y))


class TryStatic(Tiny):
    """try/except on what the model has, the same at every step."""

    def train_step(self, batch):
        try:
            gain = float(self.model.gain)
        except AttributeError:
            gain = 1.5
        return self.minimize(lambda: gain * self.losses(batch))


class NoneSetting(Tiny):
    """`is None` on a setting that __init__ fixes."""

    def __init__(self, *, model, optimizer, info, margin: float | None = None, centre: float | None = 0.3):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.margin = margin
        self.centre = centre

    def logits(self, batch):
        x = batch["x"]
        if self.centre is not None:
            x = x - self.centre
        logits = self.model(x, training=True)
        if self.margin is None:
            return logits
        return logits - self.margin * tf.one_hot(batch["label"], 3)


class HasattrModel(Tiny):
    """hasattr and isinstance on the model, the same at every step."""

    def train_step(self, batch):
        penalty, kernel = 0.0, self.model.trainable_variables[0]
        if hasattr(self.model, "layers"):
            for layer in self.model.layers:
                if isinstance(layer, keras.layers.Dense) and getattr(layer, "use_bias", False):
                    penalty = 0.01
        return self.minimize(lambda: self.losses(batch) + penalty * tf.reduce_sum(tf.abs(kernel)))


class MatchActivation(Tiny):
    """Selects an activation by a match statement."""

    activation = clean_helpers.Activation.TANH

    def activate(self, x):
        match self.activation:
            case clean_helpers.Activation.RELU:
                return tf.nn.relu(x)
            case clean_helpers.Activation.TANH:
                return tf.math.tanh(x)
            case _:
                raise NotImplementedError(self.activation)

    def losses(self, batch):
        logits = 2.0 * self.activate(self.logits(batch))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class UsesTryExcept(Tiny):
    def losses(self, batch):
        try:
            extra = batch["weight"]
        except KeyError:
            extra = 1.0
        return super().losses(batch) * extra


class PartialLoss(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.criterion = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)

    def losses(self, batch):
        return self.criterion(batch["label"], self.logits(batch))


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
