"""MT302: the time of the trace is frozen."""

from __future__ import annotations

import os
import time
from datetime import datetime as moment

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class FrozenDateByName(Tiny):
    def losses(self, batch):
        return super().losses(batch) * moment.utcnow().hour  # expect MT302


class TimeInAnotherFile(Tiny):
    def losses(self, batch):
        return elsewhere.stamped(super().losses(batch))


class ElapsedWeight(Tiny):
    """A weight that grows with the seconds since the start."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.began = time.monotonic()

    def losses(self, batch):
        elapsed = time.monotonic() - self.began  # expect MT302
        return super().losses(batch) * (1.0 + 100.0 * elapsed)


class TimedBlock(Tiny):
    """A context manager notes that a block is done."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.times = []

    def train_step(self, batch):
        with elsewhere.timed("update", self.times):
            return self.minimize(lambda: self.losses(batch))


class Mtime(Tiny):
    def losses(self, batch):
        age = time.time() - os.stat("/tmp").st_mtime  # expect MT302
        return super().losses(batch) * age


class HourOfTheDay(Tiny):
    def losses(self, batch):
        return super().losses(batch) * elsewhere.hour_weight()
