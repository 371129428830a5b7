"""A trainer runs steps up to the next one that a callback wants, then calls the callbacks: plan -> run -> look.

    trainer = Trainer(recipe, {"train": arrays, "eval": arrays}, mode="graph", steps=200)
    history = trainer.train()

"Step" is the number of updates completed. A callback returns the next step that it wants; the trainer runs straight there
with as few calls of the compiled program as the mode allows. `steps_per_call` is a maximum; nothing needs to divide it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from modetrain.callback import Callback
from modetrain.data.loader import BatchLoader
from modetrain.engine import tf_setup
from modetrain.engine.batching import StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.metrics import StepMetrics
from modetrain.engine.program import StepPrograms
from modetrain.errors import ConfigError
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.settings import NonfiniteSettings
from modetrain.training import assembly
from modetrain.training import state as training_state
from modetrain.training.callback_list import CallbackList
from modetrain.training.evaluation import evaluate
from modetrain.training.history import History
from modetrain.training.nonfinite import NonfiniteGuard
from modetrain.training.requests import Requests
from modetrain.training.step_errors import NonFiniteError, explain, failing_step
from modetrain.training.timer import Timer


class Trainer:
    """Trains a recipe in a mode.

    Args:
      recipe: what a step does; or a function that makes it, called within the scope of the replicas. A mode with several
        replicas needs a function.
      data: a `Data` or a `Source`; or a training split, without evaluation; or splits by name, `{"train": ..., "eval": ...}`, of
        which all but `train` are evaluated. A split is a dict of arrays, an object with `len()` and `[i]`, a `tf.data.Dataset`
        or a generator function. None: a batch has nothing but seeds.
      mode: how steps are run: a name (`eager`, `graph`, `xla`, `mirrored`) or a `Mode`.
      steps: number of updates at the end of the run.
      batch_size: examples in a batch, if `data` is no `Data`.
      bucket: lengths; batches of examples that vary in length are padded to the smallest that holds the longest of them.
      callbacks: observe the run, called in this order.
      folder: the folder that callbacks write to; None if none writes.
      nonfinite: the policy for a loss or gradient that is not finite.
      replicas: where steps run; the mode's by default.
      timer: measures where the time goes.

    Attributes:
      recipe, mode, replicas, data, steps, callbacks, folder, timer: as given, or made from the arguments.
      step: updates completed.
      status: `running`, `completed`, `stopped` or `failed`.
      history: metrics by step, and the results of evaluations.
      nonfinite: counts skipped updates.
      not_started: whether no call of a compiled program has begun, so that nothing is unsaved.
      state_is_consistent: whether the variables are those after `step` updates: not within a call, nor after a failed one.
      loader: loads the batches.
      programs: the two steps, wrapped for the mode.

    Raises:
      ConfigError: the recipe, the data and the mode do not fit together.
    """

    def __init__(
        self,
        recipe: Recipe | Callable[[], Recipe],
        data: Any,
        *,
        mode: str | Mode = "graph",
        steps: int,
        batch_size: int = 32,
        bucket: Sequence[int] | None = None,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
        nonfinite: NonfiniteSettings | None = None,
        replicas: Replicas | None = None,
        timer: Timer | None = None,
    ):
        self.mode = Mode.from_preset(mode) if isinstance(mode, str) else mode
        self.replicas = replicas or assembly.replicas_for(self.mode)
        self.nonfinite = NonfiniteGuard(nonfinite or NonfiniteSettings())
        policy = self.nonfinite.settings.policy
        self.recipe = assembly.make_recipe(recipe, self.replicas, self.mode, steps=steps, nonfinite=policy)
        self.data = assembly.make_data(
            data, self.recipe, self.replicas, self.mode, batch_size=batch_size, bucket=bucket
        )
        self.steps = steps
        self.step = 0
        self.callbacks = CallbackList(callbacks)
        self.folder = folder or Path()
        self.timer = timer or Timer()
        self.status = "running"
        self.history = History()
        self.programs = StepPrograms.for_recipe(self.recipe, self.mode, self.replicas)
        self.loader = BatchLoader(self.data, assembly.steps_per_call(self.mode, self.data, steps))
        self._requests = Requests(self.replicas)
        wanted = [callback.grad_norm_every for callback in self.callbacks if callback.grad_norm_every]
        self._grad_norm_every = min([*wanted, steps]) if wanted else 0
        self.state_is_consistent = self.not_started = True

    # --- the loop ---------------------------------------------------------------------------------------------------

    def train(self) -> History:
        """Runs until `steps` updates are made, a signal or a callback stops the run, or a step fails.

        Raises:
          NonFiniteError: a loss or gradient is NaN or infinite, and the policy ends the run.
          Exception: the error of a callback or a step; a step's has notes on recipe, step, mode and batch.
        """
        with tf_setup.precision(self.mode):
            return self._train()

    def evaluate(self) -> dict[str, float]:
        """Means over every evaluation example, with the averaged weights where an optimizer keeps them.

        Raises:
          ConfigError: there are no evaluation examples.
        """
        if not self.data.evaluations:
            raise ConfigError(
                "there are no evaluation examples: pass them as data['eval'], or name their split: data.eval_split=."
            )
        with tf_setup.precision(self.mode):
            numbers, figures = evaluate(self, steps_per_call=self.steps_per_call)
        self.history.add_evaluation(self.step, numbers, figures)
        return numbers

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Requests the end of the run after this call of the program, on all workers. Any thread may call it.

        The run can be resumed, as after a signal. `stop_early` ends a run that has reached its goal.
        """
        self._requests.request_stop(signum)

    def stop_early(self, why: str = "a callback asked for it") -> None:
        """Ends the run after this call of the program as completed, with a last evaluation. Any thread may call it.

        Args:
          why: for the summary and `run.json`.
        """
        self._requests.request_early_stop(str(why) or "a callback asked for it")

    def save(self) -> None:
        """Requests a checkpoint after this call of the program; the run continues. Any thread may call it."""
        self._requests.request_save()

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint besides the variables, as JSON."""
        return training_state.collect(self)

    def load_state(self, state: Mapping[str, Any], *, step: int) -> None:
        """Continues from `step`; the variables must be those of that step already.

        Args:
          state: what `state` returned.
          step: updates completed.
        """
        self.step, self.state_is_consistent = step, True
        if self.mode.steps_per_call == "auto":  # prepare no more batches than steps are left
            self.loader.length = max(1, min(self.loader.length, self.steps - step))
        training_state.load(self, state)

    # --- what callbacks and reports read ----------------------------------------------------------------------------

    @property
    def steps_per_call(self) -> int:
        """The most steps of one call of the program."""
        return self.loader.length

    @property
    def stop_signal(self) -> int | None:
        """The signal that stops the run, or None."""
        return self._requests.stop_signal

    @property
    def stopped_early(self) -> str | None:
        """Why the run has ended before its last step although it is completed (`stop_early`), or None."""
        return self._requests.stopped_early if self.step < self.steps else None

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The latest means: `train` over the last 100 steps, `eval` over all evaluation examples."""
        return self.history.results

    @property
    def traces(self) -> int:
        """How often a step was traced, training and evaluation together."""
        return self.programs.train.traces + self.programs.eval.traces

    # --- plan -> run -> look ----------------------------------------------------------------------------------------

    def _train(self) -> History:
        failure: BaseException | None = None
        self.status = "running"
        try:
            self.callbacks.on_train_begin(self)
            self.callbacks.call_pending(self)
            while self.step < self.steps and not self._requests.ended:
                try:
                    self._run_to(self.callbacks.next_step(self.step, self.steps))
                except NonFiniteError as error:
                    if not self.callbacks.on_nonfinite(self, error):
                        raise
                    continue
                self.callbacks.on_step(self)
                if self._requests.save:
                    self._requests.save = False
                    self.callbacks.on_save(self)
            if self.replicas.workers > 1:
                from modetrain.training.stragglers import WorkerTimes

                self.history.worker_times = WorkerTimes.gather(self.replicas, self.timer.read())
            whole = self.step >= self.steps or self.stopped_early is not None
            self.status = "completed" if whole else "stopped"
        except BaseException as error:
            self.status = "failed"
            failure = error
        failure = self.callbacks.on_train_end(self, failure)
        if failure is not None:
            self.status = "failed"
            raise failure
        return self.history

    def _run_to(self, stop: int) -> None:
        while self.step < stop and not self._requests.ended and not self._requests.save:
            with (
                self.timer.measure("data"),
                explain(self, "prepare", None, lambda: self.loader.find_failing_step(self.step)),
            ):
                block = self.loader.block(self.step)
            metrics = self._run_block(block, self.step - block.first, min(block.length, stop - block.first))
            metrics, found = self.nonfinite.check(metrics)
            if found is not None:
                raise NonFiniteError(found, self, block)
            self.step += len(metrics.values)
            self.state_is_consistent = True
            self.history.add_steps(metrics)
            self.callbacks.on_steps_end(self, metrics)

    def _run_block(self, block: StackedBatches, lo: int, hi: int) -> StepMetrics:
        """One call of the program: the steps of batches lo .. hi-1."""
        program = self.programs.train
        with explain(self, "train_step", block, failing_step(self.mode, program, self.step)):
            self.state_is_consistent = False
            if not program.has(block):
                with self.timer.measure("compile"):
                    program.prepare(block)
            self.not_started = False
            # The profiler needs the marker to see steps; it costs nothing without a profile.
            with self.timer.measure_steps(hi - lo), tf.profiler.experimental.Trace("train", step_num=self.step, _r=1):
                values = self._requests.sum_over_workers(program(block, lo, hi, self._grad_norm_every))
        return StepMetrics.from_rows(self.step, program.layout, values)
