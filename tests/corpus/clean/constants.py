"""Constants: of NumPy, of modules and closures, cached ones."""

from __future__ import annotations

import functools
import os
import time
import typing

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import clean_helpers
from tests.corpus.base import Tiny, Varied

SCALE = 2.0

TABLE = {"a": 1.0, "b": 2.0}

rng = np.random.default_rng(0)

WEIGHTS = rng.normal(size=3).astype("float32")


class ClosureConstants(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        scale, shift = 0.5, (1.0, 2.0)
        self.transform = lambda x: x * scale + shift[0]

    def losses(self, batch):
        return self.transform(super().losses(batch))


class GlobalConstants(Tiny):
    def losses(self, batch):
        return super().losses(batch) * SCALE * TABLE["a"] + tf.reduce_sum(WEIGHTS) * 0.0


class LazyConstant(Tiny):
    table = None

    def losses(self, batch):
        if self.table is None:
            self.table = np.linspace(0.0, 1.0, 8).astype("float32")
        return super().losses(batch) * self.table


class CachedConstants(Tiny):
    @staticmethod
    @functools.lru_cache
    def window(size):
        return np.ones(size, np.float32)

    def losses(self, batch):
        return super().losses(batch) * self.window(8)


class SortedNames(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        for name in sorted({"b", "a"}):
            found = found + TABLE[name]
        return found


class KnowsByIdentity(Tiny):
    def losses(self, batch):
        known = {id(v): n for n, v in enumerate(self.model.trainable_variables)}
        return super().losses(batch) * float(len(known))


class NumpyOnConstants(Tiny):
    def logits(self, batch):
        window = np.hanning(6)[1:-1].astype(np.float32)
        rotation = np.linalg.qr(np.arange(16, dtype=np.float32).reshape(4, 4) + np.eye(4, dtype=np.float32))[0]
        return self.model((batch["x"] * window) @ rotation, training=True)


class FixedProjection(Tiny):
    def logits(self, batch):
        projection = np.random.RandomState(42).randn(4, 4).astype(np.float32)
        return self.model(batch["x"] @ projection, training=True)


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


class UsesSetsOfNumbers(Tiny):
    def losses(self, batch):
        allowed = {1, 2, 3}
        found = super().losses(batch)
        for n in allowed:
            found = found + 0.0 * n
        return found if len({"a", "b"}) == 2 and "a" in {"a"} else -found


class UsesMemo(Tiny):
    _cache: typing.ClassVar[dict] = {}

    def grid(self, size):
        if size not in self._cache:
            self._cache[size] = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype("float32")
        return self._cache[size]

    def losses(self, batch):
        return super().losses(batch) + self.grid(2).sum()


class UsesCachedProperty(Tiny):
    @functools.cached_property
    def weights_of_classes(self):
        return np.array([1.0, 2.0, 3.0], np.float32)

    def losses(self, batch):
        return super().losses(batch) * tf.gather(self.weights_of_classes, batch["label"])


class CachesNumpy(Tiny):
    @functools.cached_property
    def table(self) -> np.ndarray:
        return np.sin(np.arange(8, dtype=np.float32))[:, None]

    def losses(self, batch):
        return super().losses({**batch, "x": batch["x"] + self.table})


@functools.lru_cache
def window(n: int) -> np.ndarray:
    return np.hanning(n + 2)[1:-1].astype(np.float32)


class CachesAWindow(Tiny):
    def losses(self, batch):
        return super().losses({**batch, "x": batch["x"] * window(4)})


class FilledCache(Tiny):
    """The cache is filled in __init__, and only read in the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        rng = np.random.default_rng(info.seed)
        self.projections = {}
        for name in ("left", "right"):
            self.projections[name] = tf.constant(rng.normal(size=(4, 4)).astype(np.float32))

    def logits(self, batch):
        x = batch["x"]
        for name in sorted(self.projections):
            x = tf.tanh(x @ self.projections[name])
        return self.model(x, training=True)


class CachedMask(Tiny):
    """A cached_property that depends on the settings alone."""

    @functools.cached_property
    def mask(self):
        return np.array([1.0, 1.0, 0.0, 1.0], np.float32) * (1.0 if self.info.seed == 0 else 0.5)

    def logits(self, batch):
        return self.model(batch["x"] * self.mask, training=True)


class PositionsBySine(Tiny):
    @staticmethod
    @functools.lru_cache
    def table(length: int) -> np.ndarray:
        return np.stack([np.sin(np.arange(length) / 10.0**k) for k in range(4)], -1).astype(np.float32)

    def losses(self, batch):
        return super().losses({**batch, "x": batch["x"] + self.table(8)})


STARTED = time.time()


class DefaultsAndLambdas(Varied):
    """Defaults that are read alone, lambdas that keep a loop's number, recursion over nested lists."""

    def losses(self, batch, weights=[0.5, 0.25]):  # noqa: B006
        terms = [lambda y, i=i: y[:, i] for i in range(len(weights))]
        logits = self.logits(batch)
        extra = sum(w * term(logits) for w, term in zip(weights, terms))
        return super().losses(batch) + extra + clean_helpers.tree_loss([0, [1, [2, 3]]], batch["x"])


class TimedImport(Varied):
    """Times and the environment are read where the module is imported or the recipe made."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.home = os.environ.get("CORPUS_NEVER_SET", "here")
        self.since = STARTED

    def losses(self, batch):
        late = self.since > 0 and self.home == "here"
        return super().losses(batch) * (2.0 if late else 1.0)
