"""The flight recorder: what is needed to make a step again, kept while a run goes on, and written down where it fails.

Batches are functions of (seed, step), so nothing is kept of them. Of the state there is one copy in host memory, taken
anew as often as a two-hundredth of the time allows. Where a step fails, the steps since that copy are run once more by the
very program that ran them, which brings back the state right before it, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pdb
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modetrain.callback import Callback
from modetrain.checkpoints import capsule, file
from modetrain.engine.batching import Block
from modetrain.files import paths
from modetrain.training import state as carry

if TYPE_CHECKING:
    from modetrain.trainer import Trainer

_SELDOM = 1.0  # seconds at least between two copies
_SHARE = 200  # of the time, what copies may take
_PATIENCE = 60.0  # seconds that running steps once more may take


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Copy:
    step: int
    state: Mapping[str, np.ndarray]
    carry: Mapping[str, Any]


class Recorder(Callback):
    """Keeps a copy of the state, and writes capsules.

    Args:
      keep: so many capsules of a run are kept, the newest.
      config: the run's resolved configuration.
      made_on: see `record.made_on`.
    """

    def __init__(self, *, keep: int, config: Mapping[str, Any], made_on: Mapping[str, Any]):
        super().__init__()
        self._keep = keep
        self._config = config
        self._made_on = made_on
        self._copy: _Copy | None = None
        self._taken = 0.0
        self._pause = _SELDOM

    def start(self, run):
        self._take(run)

    def call(self, run, rows):
        if time.perf_counter() - self._taken >= self._pause:
            self._take(run)

    def rewind(self, run):
        self._take(run)

    def write(
        self, run: Trainer, step: int, *, why: str, said: str, method: str = "train_step", block: Block | None = None
    ) -> Path | None:
        """Writes the capsule of a step; returns where, or None if that was not to be done.

        Args:
          run: of which the step is. Where the step was begun, its state is not that of any step afterwards.
          step: which; of an evaluation the batch's number.
          why, said, method: see `Capsule`.
          block: of an evaluation, the batches that the failing one is among.
        """
        evaluating = method == "eval_step"
        copy: _Copy | None
        at, number = (run.step, step) if evaluating else (step, step)
        if evaluating or run.whole:  # no step was begun: the variables are those of the run's own step, and stay so
            copy = _Copy(step=run.step, state=file.copied(run.recipe.state()), carry=carry.of(run))
        else:
            copy = self._before(run, step)
        batch = None
        if method != "prepare":
            batch = _of_evaluation(block, number) if evaluating else _of_training(run, step)
        return self._save(run, copy, batch, step=at, number=number, why=why, said=said, method=method)

    def write_beside(self, run: Trainer, *, why: str, said: str) -> Path | None:
        """Writes a capsule of the step under way from another thread, with the state of the last copy."""
        step = run.step
        return self._save(
            run, self._copy, _of_training(run, step), step=step, number=step, why=why, said=said, method="train_step"
        )

    # --- private ----------------------------------------------------------------------------------------------------

    def _take(self, run: Trainer) -> None:
        if not run.replicas.chief:
            return
        start = time.perf_counter()
        self._copy = _Copy(step=run.step, state=file.copied(run.recipe.state()), carry=carry.of(run))
        self._taken = time.perf_counter()
        self._pause = max(_SELDOM, _SHARE * (self._taken - start))

    def _before(self, run: Trainer, step: int) -> _Copy | None:
        """The state before a step, or that of the last copy where running up to it is too much, or fails."""
        copy = self._copy
        step_s = (run.clock.step_ms() or {"p50": 0.0})["p50"] / 1e3
        if copy is None or run.replicas.workers > 1 or (step - copy.step) * step_s > _PATIENCE:
            return copy
        try:
            with unattended() if run.mode.compile == "eager" else contextlib.nullcontext():
                run.run_again(copy.state, copy.step, step)
        except Exception as error:
            run.say(f"the steps from {copy.step} to {step} could not be run once more ({type(error).__name__})")
            return copy
        return dataclasses.replace(copy, step=step, state=file.copied(run.recipe.state()))

    def _save(self, run: Trainer, copy: _Copy | None, batch, *, step: int, **given: Any) -> Path | None:
        if copy is None:
            return None
        made = capsule.Capsule(
            step=step,
            state_step=copy.step,
            state=copy.state,
            batch=batch,
            command=run.command,
            config=self._config,
            info=dataclasses.asdict(run.recipe.info),
            carry=copy.carry,
            made_on=self._made_on,
            **given,
        )
        path = capsule.path_of(run.folder, made)
        try:
            made.save(path)
            for old in capsule.in_folder(run.folder)[: -self._keep]:
                old.unlink(missing_ok=True)
        except OSError as error:
            run.say(f"WARNING: {path} could not be written: {error.strerror or error}")
            return None
        return path


@contextlib.contextmanager
def unattended() -> Iterator[None]:
    """Within this the user's Python neither prints nor stops in the debugger: it has done so in these steps already."""

    def go_on(*args: Any, **kwargs: Any) -> None:
        pass

    hook, set_trace = sys.breakpointhook, pdb.set_trace
    sys.breakpointhook = pdb.set_trace = go_on
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.breakpointhook, pdb.set_trace = hook, set_trace


def beside(run: Trainer, *, why: str, said: str) -> str | None:
    """Writes a capsule of the step under way while the run goes on; returns a line on it, if there is one. For any thread."""
    recorder = of(run)
    path = recorder.write_beside(run, why=why, said=said) if recorder is not None else None
    return f"to make the step under way once more: {replay_command(path)}" if path is not None else None


def replay_command(source: Path, *, step: int | None = None, replica: int | None = None) -> str:
    """The command that makes a step of a run once more, eagerly, and stops in it in the debugger.

    Args:
      source: a capsule or a run folder.
      step: which (updates completed before it); a capsule knows its own.
      replica: the part of it that this one has made; all of it by default.
    """
    words = [
        f"replay.from={paths.shown(source, Path.cwd())}",
        *([f"replay.step={step + 1}"] if step is not None else []),
        *([f"replay.replica={replica}"] if replica is not None else []),
    ]
    return shlex.join(["python", "-m", "modetrain", "do=replay", *words, "mode=eager"])


def of(run: Trainer) -> Recorder | None:
    """The recorder of a run, where it has one and this process may write."""
    found = next((callback for callback in run.callbacks if isinstance(callback, Recorder)), None)
    return found if run.replicas.chief else None


def _of_training(run: Trainer, step: int) -> dict[str, np.ndarray] | None:
    try:
        batch = run.data.batch(step + run.feed.passed_over)
    except Exception:  # it may be what has failed
        return None
    return {name: value.numpy() for name, value in batch.items()}


def _of_evaluation(block: Block | None, number: int) -> dict[str, np.ndarray] | None:
    if block is None:
        return None
    found = np.argwhere(block.numbers.numpy() == number)
    if not len(found):
        return None
    index, replica = found[0]
    return {name: value[index, 0, replica].numpy() for name, value in block.arrays.items()}
