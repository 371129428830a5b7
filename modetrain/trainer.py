"""A trainer runs steps up to the next point that somebody asked to look at, and lets them look: plan -> run -> look.

"Step" is the number of updates completed. A callback says which step it next wants to see; the trainer runs straight
there in as few calls of the compiled program as the mode allows. `steps_per_call` is a cap; nothing needs to divide it.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from modetrain.callbacks import Callback
from modetrain.clock import Clock
from modetrain.data import Block, Data
from modetrain.failure import NonFiniteError, explain
from modetrain.metrics import Means
from modetrain.mode import Mode
from modetrain.program import Program
from modetrain.recipe import Recipe

# results["train"] is the mean over so many last steps.
_RECENT = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What a call of the program returned.

    Attributes:
      first: steps completed before the call.
      names: the metrics.
      values: float [steps, metrics, 2] of (total, count).
    """

    first: int
    names: tuple[str, ...]
    values: np.ndarray


class Trainer:
    """Trains a recipe in a mode.

    Args:
      recipe: what a step does.
      mode: how steps are run.
      data: batches by step.
      steps: updates to have made at the end.
      callbacks: look at the run; called in this order.
      folder: the run folder, in which callbacks write.
      step: updates made already, when a run is resumed.
      watch_every: the gradient norm is computed at each multiple of this step number; 0 for never.
      clock: books the time.
      say: prints a line for the user.
      command: the command line of this run, for the message of an error.
      portable_draws: whether XLA draws eager's random numbers (see `draws.portable_works`).

    Attributes, which callbacks may read: all of the above, and
      results: {"train": {...}, "eval": {...}}, the latest means.
      evaluated: step of the latest evaluation, or None.
      status: `running`, `completed`, `stopped` or `failed`.
      steps_per_call: the cap in effect.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        mode: Mode,
        data: Data,
        steps: int,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
        step: int = 0,
        watch_every: int = 0,
        clock: Clock | None = None,
        say: Callable[[str], None] = print,
        command: str = "",
        portable_draws: bool = True,
    ):
        self.recipe = recipe
        self.mode = mode
        self.data = data
        self.steps = steps
        self.callbacks = list(callbacks)
        self.folder = folder or Path()
        self.step = step
        self.watch_every = watch_every
        self.clock = clock or Clock()
        self.say = say
        self.command = command
        self.portable_draws = portable_draws
        self.results: dict[str, dict[str, float]] = {"train": {}, "eval": {}}
        self.evaluated: int | None = None
        self.status = "running"
        self.stopped_by: int | None = None
        auto = 1 if mode.compile == "eager" and mode.steps_per_call == "auto" else mode.steps_per_call
        self.steps_per_call = data.steps_per_call(auto)
        self.train_program = Program(recipe.run_train_step, mode, state=recipe.state, portable=portable_draws)
        self.eval_program = Program(recipe.run_eval_step, mode, state=recipe.state, portable=portable_draws)
        self._blocks: Iterator[Block] | None = None
        self._block: Block | None = None
        self._wanted: list[int | None] = []
        self._recent: list[Rows] = []

    # --- the loop ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Runs until `steps` updates are made, a signal stops the run, or a step fails.

        Raises:
          NonFiniteError: when a loss is NaN or infinite.
          Exception: whatever a step or a callback raises, with a note on recipe, step, mode and batch.
        """
        started: list[Callback] = []
        failure: BaseException | None = None
        try:
            for callback in self.callbacks:
                started.append(callback)
                callback.start(self)
            while self.step < self.steps and self.stopped_by is None:
                stop = self._plan()
                self._run_to(stop)
                self._look()
            self.status = "completed" if self.step >= self.steps else "stopped"
        except BaseException as error:
            self.status = "failed"
            failure = error
        self._end(started, failure)

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Asks the run to end after the call under way."""
        self.stopped_by = signum

    def evaluate(self) -> dict[str, float]:
        """Means over every evaluation example, with the averaged weights where an optimizer keeps them."""
        means = Means()
        with self.clock.book("eval"), self.recipe.averaged():
            for block in self.data.eval_blocks(self.steps_per_call):
                with self._explained(block, 0, block.length, training=False):
                    if not self.eval_program.has(block.arrays):
                        with self.clock.book("compile"):
                            self.eval_program.prepare(block.arrays, block.first)
                    rows = self.eval_program(block.arrays, block.first, 0, block.length)
                means += Means.of(self.eval_program.names, rows)
        self.results["eval"] = means.means()
        self.evaluated = self.step
        return self.results["eval"]

    @property
    def traces(self) -> int:
        """How often a step was traced, training and evaluation together."""
        return self.train_program.traces + self.eval_program.traces

    # --- plan -> run -> look ----------------------------------------------------------------------------------------

    def _plan(self) -> int:
        self._wanted = [callback.next_step(self.step) for callback in self.callbacks]
        return min([self.steps, *(step for step in self._wanted if step is not None)])

    def _run_to(self, stop: int) -> None:
        while self.step < stop and self.stopped_by is None:
            block = self._current_block()
            lo = self.step - block.first
            hi = min(block.length, stop - block.first)
            with self._explained(block, lo, hi, training=True):
                if not self.train_program.has(block.arrays):
                    with self.clock.book("compile"):
                        self.train_program.prepare(block.arrays, block.first)
                # The marker is what makes the profiler see steps; it costs nothing while no profile is taken.
                with self.clock.book_steps(hi - lo), tf.profiler.experimental.Trace("train", step_num=self.step, _r=1):
                    values = self.train_program(block.arrays, block.first, lo, hi, self.watch_every)
            rows = Rows(first=self.step, names=tuple(self.train_program.names), values=values)
            self._check_finite(rows)
            self.step += hi - lo
            self._remember(rows)
            for callback in self.callbacks:
                callback.call(self, rows)

    def _look(self) -> None:
        for callback, wanted in zip(self.callbacks, self._wanted, strict=True):
            if wanted == self.step:
                callback.look(self)

    def _end(self, started: Sequence[Callback], failure: BaseException | None) -> None:
        """Ends every callback that was started, whatever fails; the first failure is the one raised."""
        for callback in started:
            try:
                callback.end(self)
            except BaseException as error:
                self.status = "failed"
                if failure is None:
                    failure = error
                else:
                    failure.add_note(f"modetrain: {type(callback).__name__}.end failed too: {error!r}")
        if failure is not None:
            raise failure

    # --- private ----------------------------------------------------------------------------------------------------

    def _current_block(self) -> Block:
        if self._block is None or self.step >= self._block.first + self._block.length:
            with self.clock.book("data"):
                if self._blocks is None:
                    self._blocks = self.data.train_blocks(self.step, self.steps_per_call)
                self._block = next(self._blocks)
        return self._block

    def _check_finite(self, rows: Rows) -> None:
        finite = np.isfinite(rows.values[:, :, 0])
        for index, name in enumerate(rows.names):
            # Other metrics may well be infinite or undefined; a loss may not.
            if "loss" in name and not finite[:, index].all():
                step = rows.first + int(np.argmin(finite[:, index]))
                raise NonFiniteError(name, step, float(rows.values[step - rows.first, index, 0]), self)

    def _remember(self, rows: Rows) -> None:
        self._recent.append(rows)
        excess = sum(len(r.values) for r in self._recent) - _RECENT
        while excess >= len(self._recent[0].values):
            excess -= len(self._recent.pop(0).values)
        parts = [
            Means.of(r.names, r.values[excess if i == 0 and excess > 0 else 0 :]) for i, r in enumerate(self._recent)
        ]
        self.results["train"] = sum(parts, Means()).means()

    def _explained(self, block: Block, lo: int, hi: int, *, training: bool):
        program = self.train_program if training else self.eval_program
        return explain(
            self, program, {name: array[0] for name, array in block.arrays.items()}, block.first + lo, training
        )
