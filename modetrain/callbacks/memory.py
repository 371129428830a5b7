"""Monitors slow changes of a long run: growing memory, or growing time a step."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from modetrain.callback import Callback
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.training.timer import TimerReading

_STATM = Path("/proc/self/statm")
_MB = 2**20


@dataclasses.dataclass(kw_only=True)
class Trend:
    """A quantity over the run.

    Attributes:
      first: value after the first window, when everything is warm.
      last, most: latest value, and the greatest.
    """

    first: float
    last: float
    most: float

    def add(self, value: float) -> None:
        """Adds the next value."""
        self.last, self.most = value, max(self.most, value)


class MemoryMonitor(Callback):
    """Writes `system/rss_mb` and `system/slowdown` to TensorBoard; `trends` goes into run.json.

    Args:
      every: steps in a window; values are read after the call that completes a window.
      events: writes the scalars.

    Attributes:
      trends: `rss_mb` and `step_ms`, after two windows.
    """

    def __init__(self, *, every: int, events: TensorBoardWriter):
        super().__init__()
        self._window = every
        self._events = events
        self._read = TimerReading()
        self._windows = 0
        self.trends: dict[str, Trend] = {}

    def summary(self):
        return {"system": {name: dataclasses.asdict(trend) for name, trend in self.trends.items()}}

    def on_steps_end(self, trainer, metrics):
        if trainer.step // self._window == metrics.first // self._window:
            return
        spent = trainer.timer.read() - self._read
        self._read = trainer.timer.read()
        self._windows += 1
        values = {"rss_mb": resident_mb()}
        # The first window includes one-time costs: caches, pools, the first batches.
        if self._windows > 1 and spent.steps:
            values["step_ms"] = 1e3 * spent.busy_s / spent.steps
        for name, value in values.items():
            if self._windows > 1:
                self.trends.setdefault(name, Trend(first=value, last=value, most=value)).add(value)
        scalars = {"system/rss_mb": values["rss_mb"]}
        if (steps := self.trends.get("step_ms")) is not None and steps.first:
            scalars["system/slowdown"] = steps.last / steps.first
        self._events.scalars(scalars, trainer.step)


def resident_mb() -> float:
    """Megabytes of memory that this process holds; 0 if the system does not report it."""
    try:
        pages = int(_STATM.read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB
