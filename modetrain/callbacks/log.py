"""Writes training metrics, learning rate, gradient norm and speed to TensorBoard, and a line to the screen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from modetrain.callback import Callback
from modetrain.engine.metrics import RunningMeans
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.training import figures
from modetrain.training.stragglers import WorkerTimes
from modetrain.training.timer import TimerReading

log = logging.getLogger(__name__)

# Metrics of an optimizer, not of the recipe.
_OF_OPTIMIZER = ("grad_norm", "loss_scale", "skipped")


class Log(Callback):
    """Writes a point for every window of `every` steps, the exact mean over the window.

    Windows are taken from the results of calls, so a short window needs no more calls: with `every=1` each step has its
    point, even if a call runs many steps.

    Args:
      every: steps in a window.
      events: writes the scalars.
      lines: also log a line for each window (without a progress bar).
    """

    def __init__(self, *, every: int, events: TensorBoardWriter, lines: bool):
        super().__init__()
        self._window = self.grad_norm_every = every
        self._events = events
        self._lines = lines
        self._means = RunningMeans()
        self._read = TimerReading()

    def on_steps_end(self, trainer, metrics):
        last = metrics.first + len(metrics.values)
        ends = range((metrics.first // self._window + 1) * self._window, last + 1, self._window)
        rates = _learning_rates(trainer, ends)
        taken = 0
        for n, end in enumerate(ends):
            self._add_steps(metrics, taken, end - metrics.first)
            self._write_point(trainer, end, {tag: rate[n] for tag, rate in rates.items()})
            self._means = RunningMeans()
            taken = end - metrics.first
        self._add_steps(metrics, taken, len(metrics.values))
        if ends:
            self._write_speed(trainer)

    def on_train_end(self, trainer):
        # The open window of a stopped run continues when it is resumed. A completed run that is extended later has a point
        # for its last window already.
        if self._means.pairs and (trainer.status == "completed" or not trainer.state_is_consistent):
            self._write_point(
                trainer, trainer.step, {tag: rate[0] for tag, rate in _learning_rates(trainer, [trainer.step]).items()}
            )
            self._write_speed(trainer)
        self._events.flush()

    def state(self, trainer):
        self._events.flush()  # the points before a checkpoint's step must be on the disk
        sums = {name: value.tolist() for name, value in self._means.sums.items()}
        return {
            "window": {name: list(pair) for name, pair in self._means.pairs.items()},
            **({"sums": sums} if sums else {}),
        }

    def load_state(self, state):
        pairs = {name: (total, count) for name, (total, count) in state["window"].items()}
        sums = {name: np.array(value, np.float64) for name, value in state.get("sums", {}).items()}
        self._means = RunningMeans(pairs=pairs, sums=sums)

    def on_rollback(self, trainer):
        self._events.rewind(trainer.step)

    def _add_steps(self, metrics, start: int, stop: int) -> None:
        if start < stop:
            sums = {name: value[start:stop] for name, value in metrics.sums.items()}
            self._means = self._means.add_steps(metrics.names, metrics.values[start:stop], sums)

    def _write_point(self, trainer, step: int, rates: Mapping[str, float]) -> None:
        means = self._means.means()
        if self._means.sums:
            made = figures.summarize(trainer.recipe, trainer.programs.train.layout, self._means.sums)
            means |= figures.numbers(made)
        families = {name: "optimizer" if name.split("/")[0] in _OF_OPTIMIZER else "train" for name in means}
        values = {f"{families[name]}/{name}": value for name, value in means.items()}
        self._events.scalars({**values, **rates}, step)
        if self._lines:
            metrics = [f"{name} {value:.4f}" for name, value in means.items() if families[name] == "train"]
            log.info(f"step {step}/{trainer.steps}: {', '.join(metrics)}")

    def _write_speed(self, trainer) -> None:
        timer, now = trainer.timer, trainer.timer.read()
        spent = now - self._read
        values = {"speed/compile_s": timer.seconds["compile"], "speed/traces": trainer.traces}
        values |= {f"speed/step_ms_{name}": value for name, value in timer.step_ms(self._read.calls).items()}
        if spent.steps and spent.busy_s > 0:
            values["speed/data_wait_ms"] = 1e3 * spent.data_s / spent.steps
            values["speed/examples_per_s"] = spent.steps * trainer.data.settings.batch_size / spent.busy_s
        if trainer.replicas.workers > 1 and trainer.status != "failed":  # it waits for all workers; one may have ended
            workers = WorkerTimes.gather(trainer.replicas, spent)
            spreads = workers.spread()
            values |= {f"workers/{kind}_{name}": v for kind, spread in spreads.items() for name, v in spread.items()}
            values["workers/slowest"] = -1 if workers.slowest is None else workers.slowest
        self._events.scalars(values, trainer.step)
        self._read = now


def _learning_rates(trainer, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """The learning rates of the updates that completed `steps`, by optimizer tag.

    It computes all steps at once: a few TensorFlow operations for each point would cost more than everything else here.
    """
    if not steps:
        return {}
    found = {}
    for name, optimizer in trainer.recipe.optimizers().items():
        tag = "optimizer/learning_rate" + ("" if name == "optimizer" else f"/{name.removesuffix('_optimizer')}")
        rates = optimizer.learning_rate(tf.constant(steps, tf.int64) - 1)
        found[tag] = np.broadcast_to(rates, len(steps))  # a constant rate is a scalar
    return found
