"""Writes training metrics, learning rate, gradient norm and speed to TensorBoard, and a line to the screen."""

from __future__ import annotations

import tensorflow as tf

from modetrain.callbacks import Callback
from modetrain.metrics import Means

# What an optimizer shows is not a metric of the recipe's.
_OF_OPTIMIZER = ("grad_norm", "loss_scale", "skipped")


class Log(Callback):
    """A point for every window of `every` steps, each the exact mean over the window.

    Windows are cut from what calls return, so that a short window costs no calls: with `every=1` each step has its
    point, however many steps a call runs.

    Args:
      every: steps a window.
      writer: where scalars go.
      lines: also say a line a window (where no progress bar does).
    """

    def __init__(self, *, every: int, writer: tf.summary.SummaryWriter, lines: bool):
        super().__init__()
        self._window = every
        self._writer = writer
        self._lines = lines
        self._means = Means()
        self._booked = 0
        self._calls = 0
        self._data = 0.0
        self._steps_time = 0.0

    def call(self, run, rows):
        step, taken = rows.first, 0
        with self._writer.as_default():
            while taken < len(rows.values):
                count = min(self._window - step % self._window, len(rows.values) - taken)
                self._means += Means.of(rows.names, rows.values[taken : taken + count])
                step, taken = step + count, taken + count
                if step % self._window == 0:
                    self._point(run, step)
            if run.step // self._window > rows.first // self._window:
                self._speed(run)

    def end(self, run):
        if self._means.pairs:
            with self._writer.as_default():
                self._point(run, run.step)
                self._speed(run)
        self._writer.flush()

    def _point(self, run, step: int) -> None:
        means = self._means.means()
        self._means = Means()
        for name, value in means.items():
            family = "optimizer" if name.split("/")[0] in _OF_OPTIMIZER else "train"
            tf.summary.scalar(f"{family}/{name}", value, step=step)
        for name, optimizer in run.recipe.optimizers().items():
            tag = "optimizer/learning_rate" + ("" if name == "optimizer" else f"/{name.removesuffix('_optimizer')}")
            tf.summary.scalar(tag, float(optimizer.learning_rate(step - 1)), step=step)
        if self._lines:
            shown = [f"{name} {value:.4f}" for name, value in means.items() if name.split("/")[0] not in _OF_OPTIMIZER]
            run.say(f"step {step}/{run.steps}: {', '.join(shown)}")

    def _speed(self, run) -> None:
        clock = run.clock
        tf.summary.scalar("speed/compile_s", clock.seconds["compile"], step=run.step)
        tf.summary.scalar("speed/traces", run.traces, step=run.step)
        for name, value in clock.step_ms(self._calls).items():
            tf.summary.scalar(f"speed/step_ms_{name}", value, step=run.step)
        steps = clock.steps - self._booked
        waited = clock.seconds["data"] - self._data
        busy = clock.seconds["steps"] - self._steps_time + waited
        if steps and busy > 0:
            tf.summary.scalar("speed/data_wait_ms", 1e3 * waited / steps, step=run.step)
            tf.summary.scalar("speed/examples_per_s", steps * run.data.settings.batch_size / busy, step=run.step)
        self._booked, self._calls = clock.steps, clock.calls
        self._data, self._steps_time = clock.seconds["data"], clock.seconds["steps"]
