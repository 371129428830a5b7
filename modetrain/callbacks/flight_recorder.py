"""The flight recorder: keeps what a step needs to run again, and writes it to a capsule when a step fails.

Batches are functions of (seed, step), so the recorder keeps none. It keeps one copy of the state in host memory. Copies may
take a two-hundredth of the time. When a step fails, the same program runs the steps since that copy again, which restores the
state right before the failed step, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import pdb
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.callback import Callback, TrainerProtocol
from modetrain.checkpoints import capsule, file
from modetrain.config import arguments
from modetrain.diagnostics import tf_errors
from modetrain.engine.batching import StackedBatches
from modetrain.training.step_errors import NonFiniteError

log = logging.getLogger(__name__)

_MIN_PAUSE = 1.0  # seconds between two copies
_SHARE = 200  # copies may take 1 / 200 of the time
_PATIENCE = 60.0  # seconds that running steps again may take


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Copy:
    step: int
    state: Mapping[str, np.ndarray]
    carry: Mapping[str, Any]


class FlightRecorder(Callback):
    """Keeps a copy of the state, and writes capsules.

    Args:
      keep: number of the newest capsules to keep; 0 writes none, and commands name the run folder instead.
      config: the run's resolved configuration.
      made_on: see `record.made_on`.
      command: the command line of the run.
    """

    def __init__(self, *, keep: int, config: Mapping[str, Any], made_on: Mapping[str, Any], command: str = ""):
        super().__init__()
        self.keep = keep
        self._config = config
        self._made_on = made_on
        self._command = command
        self._copy: _Copy | None = None
        self._taken = 0.0
        self._pause = _MIN_PAUSE

    def on_train_begin(self, trainer):
        self._copy_state(trainer)

    def on_steps_end(self, trainer, metrics):
        if time.perf_counter() - self._taken >= self._pause:
            self._copy_state(trainer)

    def on_rollback(self, trainer):
        self._copy_state(trainer)

    def on_step_error(self, trainer, failure):
        """Writes the capsule of the failed step, and adds to its error the command that runs the step again.

        For a step that was never traced, the only state is the one that the run began with.
        """
        if not self._command:
            return
        error, method, names = failure.error, failure.method, trainer.programs.train.names
        nonfinite = isinstance(error, NonFiniteError)
        # A step may fail on one of several workers; an error in a trace, or a loss that is not finite, is on all of them.
        own = trainer.replicas.workers > 1 and trainer.replicas.local == 1 and not nonfinite
        replica = trainer.replicas.first if own and method == "train_step" and names else None
        path = None
        if self.keep and trainer.replicas.chief and (names or method != "train_step"):
            message = tf_errors.read(error)
            text = message.text if message is not None else f"{type(error).__name__}: {error}"
            why = "nonfinite" if nonfinite else "error"
            path = self.write(trainer, failure.step, why=why, said=text, method=method, block=failure.block)
        if path is None and method == "eval_step":
            return
        source, step = (trainer.folder, failure.step) if path is None else (path, None)
        command = replay_command(source, step=step, replica=replica)
        error.add_note(f"modetrain: to run that step again, line by line, in the debugger:\n  {command}")

    def write(
        self,
        trainer: TrainerProtocol,
        step: int,
        *,
        why: str,
        said: str,
        method: str = "train_step",
        block: StackedBatches | None = None,
    ) -> Path | None:
        """Writes the capsule of a step; returns its path, or None if it cannot be written.

        Args:
          trainer: the trainer. If the step has begun, the variables are not those of a step afterwards.
          step: the step; in an evaluation the batch's number.
          why, said, method: see `Capsule`.
          block: in an evaluation the batches that include the failed one.
        """
        evaluating = method == "eval_step"
        copy: _Copy | None
        at, number = (trainer.step, step) if evaluating else (step, step)
        if evaluating or trainer.state_is_consistent:  # no step has begun: the variables are those of the run's step
            copy = _Copy(step=trainer.step, state=file.copy_values(trainer.recipe.state()), carry=trainer.state())
        else:
            copy = self._state_before(trainer, step)
        batch = None
        if method != "prepare":
            batch = _evaluation_batch(block, number) if evaluating else _training_batch(trainer, step)
        return self._save(trainer, copy, batch, step=at, number=number, why=why, said=said, method=method)

    def write_beside(self, trainer: TrainerProtocol, *, why: str, said: str) -> Path | None:
        """Writes a capsule of the running step from another thread, with the state of the last copy."""
        step = trainer.step
        return self._save(
            trainer,
            self._copy,
            _training_batch(trainer, step),
            step=step,
            number=step,
            why=why,
            said=said,
            method="train_step",
        )

    # --- private ----------------------------------------------------------------------------------------------------

    def _copy_state(self, trainer: TrainerProtocol) -> None:
        if not trainer.replicas.chief or not self.keep:
            return
        start = time.perf_counter()
        self._copy = _Copy(step=trainer.step, state=file.copy_values(trainer.recipe.state()), carry=trainer.state())
        self._taken = time.perf_counter()
        self._pause = max(_MIN_PAUSE, _SHARE * (self._taken - start))

    def _state_before(self, trainer: TrainerProtocol, step: int) -> _Copy | None:
        """The state before a step; the last copy if running the steps since then takes too long, or fails."""
        copy = self._copy
        step_s = (trainer.timer.step_ms() or {"p50": 0.0})["p50"] / 1e3
        if copy is None or trainer.replicas.workers > 1 or (step - copy.step) * step_s > _PATIENCE:
            return copy
        try:
            with unattended() if trainer.mode.compile == "eager" else contextlib.nullcontext():
                _rerun(trainer, copy.state, copy.step, step)
        except Exception as error:
            log.info(f"the steps from {copy.step} to {step} could not be run again ({type(error).__name__})")
            return copy
        return dataclasses.replace(copy, step=step, state=file.copy_values(trainer.recipe.state()))

    def _save(self, trainer: TrainerProtocol, copy: _Copy | None, batch, *, step: int, **given: Any) -> Path | None:
        if copy is None:
            return None
        made = capsule.Capsule(
            step=step,
            state_step=copy.step,
            state=copy.state,
            batch=batch,
            command=self._command,
            config=self._config,
            info=dataclasses.asdict(trainer.recipe.info),
            carry=copy.carry,
            made_on=self._made_on,
            **given,
        )
        path = capsule.choose_path(trainer.folder, made)
        try:
            made.save(path)
            for old in capsule.list_capsules(trainer.folder)[: -self.keep]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning(f"{path} could not be written: {error.strerror or error}")
            return None
        return path


def _rerun(trainer: TrainerProtocol, variables: Mapping[str, np.ndarray], first: int, stop: int) -> None:
    """After a step has failed: runs from the state before step `first` to that before `stop`, by the same program.

    No callback is called. The run is over: its variables are not those of its own step any more.
    """
    for name, variable in trainer.recipe.state().items():
        variable.assign(variables[name])
    trainer.loader.reset()
    while first < stop:
        block = trainer.loader.block(first)
        lo, hi = first - block.first, min(block.length, stop - block.first)
        trainer.programs.train(block, lo, hi)
        first += hi - lo


@contextlib.contextmanager
def unattended() -> Iterator[None]:
    """Within this the user's Python neither prints nor stops in the debugger; it has done so in these steps already."""

    def do_nothing(*args: Any, **kwargs: Any) -> None:
        pass

    hook, set_trace = sys.breakpointhook, pdb.set_trace
    sys.breakpointhook = pdb.set_trace = do_nothing
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.breakpointhook, pdb.set_trace = hook, set_trace


def write_capsule_beside(trainer: TrainerProtocol, *, why: str, said: str) -> str | None:
    """Writes a capsule of the running step while the run continues; returns two lines with its command, or None.

    Any thread may call it.
    """
    recorder = find_recorder(trainer)
    path = recorder.write_beside(trainer, why=why, said=said) if recorder is not None else None
    return f"to run this step again:\n  {replay_command(path)}" if path is not None else None


def replay_command(source: Path, *, step: int | None = None, replica: int | None = None) -> str:
    """The command that runs a step of a run again, eagerly, and stops in it in the debugger.

    Args:
      source: a capsule or a run folder.
      step: the step (updates completed before it); a capsule has its own.
      replica: runs only this replica's part of the step; all of it by default.
    """
    pairs = {
        "do": "replay",
        "replay.from": source,
        "replay.step": step + 1 if step is not None else None,
        "replay.replica": replica,
        "mode": "eager",
    }
    return arguments.printed({key: value for key, value in pairs.items() if value is not None})


def find_recorder(trainer: TrainerProtocol) -> FlightRecorder | None:
    """The recorder of a run, if it has one and this process may write."""
    found = next((callback for callback in trainer.callbacks if isinstance(callback, FlightRecorder)), None)
    return found if found is not None and found.keep and trainer.replicas.chief else None


def _training_batch(trainer: TrainerProtocol, step: int) -> dict[str, np.ndarray] | None:
    try:
        batch = trainer.data.batch(step + trainer.loader.skipped_count)
    except Exception:  # making the batch may be what failed
        return None
    return {name: value.numpy() for name, value in batch.items()}


def _evaluation_batch(block: StackedBatches | None, number: int) -> dict[str, np.ndarray] | None:
    if block is None:
        return None
    found = np.argwhere(block.numbers.numpy() == number)
    if not len(found):
        return None
    index, replica = found[0]
    return {name: value[index, 0, replica].numpy() for name, value in block.arrays.items()}
