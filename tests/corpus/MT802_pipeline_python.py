"""MT802: Python that runs once in the input pipeline."""

from __future__ import annotations

import time

import numpy as np

from tests.corpus.base import Tiny


class NumpyNoise(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + np.random.rand(8, 4).astype("float32")}  # expect MT802


class PrepareCounts(Tiny):
    calls = 0

    def prepare(self, batch, *, seed, training):
        self.calls += 1  # expect MT802 MT201
        return {**batch, "x": batch["x"] * min(1.0, self.calls / 10)}


class PrepareRng(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rng = np.random.default_rng(0)

    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + self.rng.normal(size=4).astype(np.float32)}  # expect MT802 MT301


class PrepareClock(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] * (time.time() % 1.0)}  # expect MT802 MT302


class PreparePrints(Tiny):
    def prepare(self, batch, *, seed, training):
        print("preparing", batch["x"].shape)  # expect MT802
        return {**batch, "x": batch["x"] * 2.0}
