"""Measures the time of a run by account; a measurement inside another one is not counted twice.

with timer.measure("eval"): ...
timer.seconds["eval"]
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimerReading:
    """The measurements up to a moment, or with `later - earlier` between two moments.

    Attributes:
      steps, calls: numbers of steps and calls.
      steps_s, data_s: seconds in steps, and waiting for data.
      cpu_s: processor time in steps, of all threads of this process.
    """

    steps: int = 0
    calls: int = 0
    steps_s: float = 0.0
    data_s: float = 0.0
    cpu_s: float = 0.0

    def __sub__(self, earlier: TimerReading) -> TimerReading:
        names = [field.name for field in dataclasses.fields(self)]
        return TimerReading(**{name: getattr(self, name) - getattr(earlier, name) for name in names})

    @property
    def busy_s(self) -> float:
        """Seconds in steps and waiting for data."""
        return self.steps_s + self.data_s


class Timer:
    """Accounts of time, and the durations of steps.

    Args:
      now: reads a monotonic time in seconds.
      start: when the run began, by the same time; the time since then goes to `import`.

    Attributes:
      seconds: seconds by account (`compile`, `data`, `steps`, `eval`, `checkpoint`, ...).
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter, *, start: float | None = None):
        self._now = now
        self._start = now() if start is None else start
        self._open: list[str] = []
        self._since = now()
        self._calls: list[tuple[float, int]] = []
        self._steps = 0
        self._cpu = 0.0
        self.seconds: dict[str, float] = defaultdict(float)
        if start is not None:
            self.seconds["import"] = self._since - start

    @contextlib.contextmanager
    def measure(self, account: str) -> Iterator[None]:
        """Adds the time of the `with` block to `account`; an enclosing measurement pauses meanwhile."""
        self._settle()
        self._open.append(account)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    @contextlib.contextmanager
    def measure_steps(self, count: int) -> Iterator[None]:
        """Measures one call of `count` steps, which ends at a true synchronisation point."""
        before, cpu = self.seconds["steps"], time.process_time()
        with self.measure("steps"):
            yield
        self._calls.append((self.seconds["steps"] - before, count))
        self._steps += count
        self._cpu += time.process_time() - cpu

    def read(self) -> TimerReading:
        """The measurements so far."""
        return TimerReading(
            steps=self._steps,
            calls=len(self._calls),
            steps_s=self.seconds["steps"],
            data_s=self.seconds["data"],
            cpu_s=self._cpu,
        )

    @property
    def doing(self) -> str | None:
        """The account that is measured now; any thread may read it."""
        try:
            return self._open[-1]
        except IndexError:
            return None

    @property
    def total(self) -> float:
        """Seconds since the run began."""
        return self._now() - self._start

    def step_ms(self, since: int = 0) -> dict[str, float]:
        """p50, p90 and max of the milliseconds a step, from call number `since` on.

        Each step of a call counts with the call's mean: steps inside a call cannot be measured.
        """
        calls = self._calls[since:]
        if not calls:
            return {}
        times = np.repeat([1e3 * seconds / count for seconds, count in calls], [count for _, count in calls])
        return {
            "p50": float(np.percentile(times, 50)),
            "p90": float(np.percentile(times, 90)),
            "max": float(times.max()),
        }

    def _settle(self) -> None:
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
