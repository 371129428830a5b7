"""A trainer runs steps up to the next point that somebody asked to look at, and lets them look: plan -> run -> look.

"Step" is the number of updates completed. A callback says which step it next wants to see; the trainer runs straight
there in as few calls of the compiled program as the mode allows. `steps_per_call` is a cap; nothing needs to divide it.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from modetrain.callback import Callback
from modetrain.callbacks import rollback
from modetrain.checkpoints.file import Checkpoint, NotSavedError
from modetrain.data.dataset import Data
from modetrain.data.loader import Feed
from modetrain.engine.devices import Replicas
from modetrain.engine.metrics import Means
from modetrain.engine.program import Observe, Program
from modetrain.engine.rows import Recent, Rows
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.settings import NonfiniteSettings
from modetrain.training import state as carry
from modetrain.training.nonfinite import Nonfinite
from modetrain.training.step_errors import NonFiniteError, explain
from modetrain.training.stragglers import WorkerTimes
from modetrain.training.timer import Clock


class Trainer:
    """Trains a recipe in a mode.

    Args:
      recipe: what a step does.
      mode: how steps are run.
      replicas: where steps are run; one device by default.
      data: batches by step.
      steps: updates to have made at the end.
      callbacks: look at the run; called in this order.
      folder: the run folder, in which callbacks write.
      step: updates made already, when a run is resumed (`resume` brings back the rest).
      nonfinite: what a loss or gradient that is not finite leads to.
      watch_every: the gradient norm is computed at each multiple of this step number; 0 for never.
      clock: books the time.
      say: prints a line for the user.
      command: the command line of this run, for the message of an error.
      portable_draws: whether XLA draws eager's random numbers (see `draws.portable_works`).
      observe: by the name of a recipe's method, who watches its traces (see `Program`).

    Attributes, which callbacks may read: all of the above, and
      evaluation: means of the latest evaluation.
      evaluated: step of the latest evaluation, or None.
      status: `running`, `completed`, `stopped` or `failed`.
      telling: the callback that is called now, and its method; None amid a call.
      fresh: whether no call of a compiled program has begun yet: what is saved is all there is.
      whole: whether the variables are those after `step` updates: not amid a call, nor after one that failed.
      feed: hands out the batches.
      to_look: callbacks that want to look at this step and have not yet.
      workers: times of several workers, once the run has ended well.
      steps_per_call: the cap in effect.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        mode: Mode,
        replicas: Replicas | None = None,
        data: Data,
        steps: int,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
        step: int = 0,
        nonfinite: NonfiniteSettings | None = None,
        watch_every: int = 0,
        clock: Clock | None = None,
        say: Callable[[str], None] = print,
        command: str = "",
        portable_draws: bool = True,
        observe: Callable[[str], Observe] | None = None,
    ):
        assert data.cut.parts == recipe.micro_batches, "data is cut for another number of micro-batches"
        self.recipe = recipe
        self.mode = mode
        self.replicas = replicas or Replicas()
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
        self.nonfinite = Nonfinite(nonfinite or NonfiniteSettings(), say)
        self.evaluation: dict[str, float] = {}
        self.evaluated: int | None = None
        self.status = "running"
        self.fresh = self.whole = True
        self.telling: str | None = None
        self.workers: WorkerTimes | None = None
        self.stopped_by: int | None = None
        self._signal: int | None = None
        self._asked_to_save = self._save_now = False
        if mode.steps_per_call != "auto":
            self.steps_per_call = int(mode.steps_per_call)
        elif mode.compile == "eager":
            self.steps_per_call = 1
        else:  # a short run prepares no more batches than it has steps
            self.steps_per_call = max(1, min(data.steps_that_fit(), steps - step))
        self.train_program, self.eval_program = (
            Program(
                step,
                mode,
                replicas=self.replicas,
                state=recipe.state,
                portable=portable_draws,
                observe=observe(method) if observe is not None else None,
            )
            for method, step in (("train_step", recipe.run_train_step), ("eval_step", recipe.run_eval_step))
        )
        self.feed = Feed(data, self.steps_per_call, say=say)
        self.recent = Recent()
        self.to_look: list[Callback] = []
        self._wanted: list[int | None] = []

    # --- the loop ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Runs until `steps` updates are made, a signal stops the run, or a step fails.

        Raises:
          NonFiniteError: when a loss or gradient is NaN or infinite, and the policy has no other way.
          Exception: whatever a callback raises, or a step, the latter with a note on recipe, step, mode and batch.
        """
        started: list[Callback] = []
        failure: BaseException | None = None
        try:
            for callback in self.callbacks:
                started.append(callback)
                self._tell(callback, callback.start)
            self._look()  # where a callback failed to, the last time
            while self.step < self.steps and self.stopped_by is None:
                stop = self._plan()
                try:
                    self._run_to(stop)
                except NonFiniteError as error:
                    rollback.go_back(self, error)  # or raise it
                    continue
                self.to_look = [
                    c for c, wanted in zip(self.callbacks, self._wanted, strict=True) if wanted == self.step
                ]
                self._look()
            if self.replicas.workers > 1:
                self.workers = WorkerTimes.gather(self.replicas, self.clock.read())
            self.status = "completed" if self.step >= self.steps else "stopped"
        except BaseException as error:
            self.status = "failed"
            failure = error
        self._end(started, failure)

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Asks the run to end after the call under way, on all workers."""
        self._signal = signum
        if self.replicas.workers == 1:  # other workers have to be told first: see `_on_all_workers`
            self.stopped_by = signum

    def save(self) -> None:
        """Asks for a checkpoint after the call under way; the run goes on. On several workers any may be asked."""
        self._asked_to_save = True

    def run_again(self, state: Mapping[str, np.ndarray], first: int, stop: int) -> None:
        """After a step has failed: from the state before step `first` to that before step `stop`, by the same program.

        Nobody is told, and the run is over: its variables are not those of its own step any more.
        """
        self.whole = False
        for name, variable in self.recipe.state().items():
            variable.assign(state[name])
        self.feed.forget()
        while first < stop:
            block = self.feed.block(first)
            lo, hi = first - block.first, min(block.length, stop - block.first)
            self.train_program(block, lo, hi, self.watch_every)
            first += hi - lo

    def resume(self, found: Checkpoint) -> None:
        """Goes on from a checkpoint, whose variables are back already."""
        self.step, self.whole = found.step, True
        carry.bring_back(self, found.meta.get("carry", {}))

    def evaluate(self) -> dict[str, float]:
        """Means over every evaluation example, with the averaged weights where an optimizer keeps them."""
        means = Means()
        blocks, begun = self.data.eval_blocks(self.steps_per_call), 0
        with self.clock.book("eval"), self.recipe.averaged():
            while True:
                with explain(self, "prepare", None, functools.partial(int, begun), evaluating=True):
                    block = next(blocks, None)
                if block is None:
                    break
                begun = int(block.numbers[block.length - 1].numpy().max()) + 1
                with explain(self, "eval_step", block, self._reached(self.eval_program, block.first)):
                    if not self.eval_program.has(block):
                        with self.clock.book("compile"):
                            self.eval_program.prepare(block)
                    rows = self.eval_program(block, 0, block.length)
                means += Means.of(self.eval_program.names, rows[block.counted[: block.length]])
            everywhere = self.replicas.sum_over_workers(means.array())
        self.evaluation = Means.of(self.eval_program.names, everywhere).means()
        self.evaluated = self.step
        return self.evaluation

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The latest means: `train` over the last 100 steps, `eval` over all evaluation examples."""
        return {"train": self.recent.means(), "eval": self.evaluation}

    @property
    def traces(self) -> int:
        """How often a step was traced, training and evaluation together."""
        return self.train_program.traces + self.eval_program.traces

    # --- plan -> run -> look ----------------------------------------------------------------------------------------

    def _plan(self) -> int:
        self._wanted = [callback.next_step(self.step) for callback in self.callbacks]
        return min([self.steps, *(step for step in self._wanted if step is not None)])

    def _run_to(self, stop: int) -> None:
        while self.step < stop and self.stopped_by is None and not self._save_now:
            with self.clock.book("data"), explain(self, "prepare", None, lambda: self.feed.failing(self.step)):
                block = self.feed.block(self.step)
            lo = self.step - block.first
            hi = min(block.length, stop - block.first)
            with explain(self, "train_step", block, self._reached(self.train_program, self.step)):
                self.whole = False
                if not self.train_program.has(block):
                    with self.clock.book("compile"):
                        self.train_program.prepare(block)
                self.fresh = False
                # The marker is what makes the profiler see steps; it costs nothing while no profile is taken.
                with self.clock.book_steps(hi - lo), tf.profiler.experimental.Trace("train", step_num=self.step, _r=1):
                    values = self._on_all_workers(self.train_program(block, lo, hi, self.watch_every))
            rows = Rows(first=self.step, names=tuple(self.train_program.names), values=values)
            rows, found = self.nonfinite.look(rows)
            if found is not None:
                raise NonFiniteError(found, self, block)
            self.step += hi - lo
            self.whole = True
            self.recent.add(rows)
            for callback in self.callbacks:
                self._tell(callback, callback.call, rows)

    def _look(self) -> None:
        while self.to_look:
            self._tell(self.to_look[0], self.to_look[0].look)
            self.to_look = self.to_look[1:]
        if self._save_now:
            self._save_now = False
            for callback in self.callbacks:
                self._tell(callback, callback.save)

    def _end(self, started: Sequence[Callback], failure: BaseException | None) -> None:
        """Ends every callback that was started, whatever fails; the first failure is the one raised."""
        for callback in started:
            try:
                callback.end(self)
            except BaseException as error:
                if failure is None:
                    failure = error
                elif isinstance(error, NotSavedError):  # says itself what it is, and needs to be said once
                    if not isinstance(failure, NotSavedError):
                        failure.add_note(f"modetrain: {error}")
                else:
                    failure.add_note(f"modetrain: {type(callback).__name__}.end failed too: {error!r}")
        if failure is not None:
            self.status = "failed"
            raise failure

    # --- private ----------------------------------------------------------------------------------------------------

    def _tell(self, callback: Callback, method: Callable[..., None], *more: Rows) -> None:
        self.telling = f"{type(callback).__name__}.{method.__name__}"
        try:
            method(self, *more)
            self.telling = None
        except Exception as error:
            if not getattr(error, "__notes__", ()) and not isinstance(error, NotSavedError):
                error.add_note(f"modetrain: {type(callback).__name__}.{method.__name__} failed after step {self.step}")
            raise

    def _on_all_workers(self, rows: np.ndarray) -> np.ndarray:
        """Sums rows [steps, replicas, metrics, 2] over all replicas, and takes up what any worker was asked to do.

        Workers must end and save at one step, so that a signal to one of them counts only once all of them know.
        """
        here = rows.sum(axis=1, dtype=np.float64)
        asked, self._asked_to_save = self._asked_to_save, False
        everywhere = self.replicas.sum_over_workers(np.append(here, [self._signal is not None, asked]))
        if everywhere[-2]:
            self.stopped_by = self._signal or signal.SIGTERM
        self._save_now = bool(everywhere[-1])
        return everywhere[:-2].reshape(here.shape)

    def _reached(self, program: Program, first: int) -> Callable[[], int]:
        """Tells the step under way in `program`; an XLA program fails as a whole."""
        return lambda: first if self.mode.compile == "xla" else max(first, program.reached)
