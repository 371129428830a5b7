"""Runs the steps between an earlier state and one step: from a run folder, a checkpoint or a capsule to that step's capsule.

The steps run as they ran then: compiled alike, on one device. Where the run had one device too, they are equal bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from modetrain.app import record, session
from modetrain.app.build import connect_devices
from modetrain.checkpoints import file, resume
from modetrain.checkpoints.capsule import Capsule
from modetrain.data.loader import BatchLoader
from modetrain.engine.variables import find_added_states
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.mode import Mode
from modetrain.settings import Settings, WatchdogSettings
from modetrain.tools.inspect.python_state.snapshot import restore_python_state
from modetrain.tools.replay.source import ReplaySource
from modetrain.trainer import Trainer
from modetrain.training.timer import Timer

log = logging.getLogger(__name__)


def train_up_to(source: ReplaySource, settings: Settings, number: int, *, mode: Mode | None = None) -> Trainer:
    """A trainer of the run that has made `number` updates.

    Args:
      source: the run.
      settings: of the replay.
      number: how many updates.
      mode: how the missing steps run; as in the run by default.

    Raises:
      ConfigError: the run has nothing to begin from, or its data is not there.
      NonFiniteError: a step before the one that is wanted is not finite already.
    """
    start = _earlier_state(source, number)
    quiet = dataclasses.replace(
        settings,
        mode=mode or _mode_of_run(source, settings.mode),
        callbacks={},
        watchdog=WatchdogSettings(after=0, heartbeat=0),
        command="",
    )
    where = resume.ResumePoint(folder=source.folder or Path())
    replicas = connect_devices(quiet.mode)
    with _only_warnings():
        trainer, data = session.build(quiet, where, replicas, Timer(), Console(), TensorBoardWriter(None))
    if start is not None:
        resume.check_facts(start, session.data_facts(data), f"replay.from={settings.replay.path}")
        file.restore(start, trainer.recipe.state(), source.path, zero_if_missing=find_added_states(trainer.recipe))
        trainer.load_state(start.meta.get("carry", {}), step=start.step)
    skipped = _skipped_batches(source, trainer.loader.skipped_batches)
    if trainer.step < number:
        log.info(f"  from step {trainer.step} on, {number - trainer.step} steps in mode={quiet.mode.name}")
    # What a run skipped after going back (nonfinite.policy=rollback) is skipped from that step on.
    stops = {*(at for at, _ in skipped if trainer.step < at < number), number}
    length = trainer.steps_per_call
    if trainer.recipe.prepares:  # no block reaches beyond the wanted batch, which may be the one that fails
        stops.add(trainer.step + (number - trainer.step) // length * length)
    for stop in sorted(stops - {trainer.step} | {number}):
        block_length = min(length, max(stop - trainer.step, 1)) if trainer.recipe.prepares else length
        trainer.loader = BatchLoader(trainer.data, block_length)
        trainer.loader.skipped_batches = [(at, count) for at, count in skipped if at <= trainer.step]
        trainer.steps = stop
        with _python_restored(trainer), _only_warnings():
            trainer.train()
    trainer.loader.skipped_batches = [(at, count) for at, count in skipped if at <= number]
    return trainer


def make_capsule(trainer: Trainer, source: ReplaySource) -> Capsule:
    """The capsule of the step that a trainer would make next."""
    batch = trainer.data.batch(trainer.step + trainer.loader.skipped_count)
    return Capsule(
        step=trainer.step,
        state_step=trainer.step,
        method="train_step",
        state=file.copy_values(trainer.recipe.state()),
        batch={name: value.numpy() for name, value in batch.items()},
        number=trainer.step,
        why="replayed",
        said="",
        command=source.command,
        config=source.config,
        info=dataclasses.asdict(trainer.recipe.info),
        carry={},
        made_on={**record.made_on(trainer.replicas), "replicas": source.replicas or 1},
    )


def _mode_of_run(source: ReplaySource, mode: Mode) -> Mode:
    """How the run's steps were compiled, on the device of this replay."""
    was = source.config["mode"]
    return dataclasses.replace(
        mode,
        name=was["compile"],
        compile=was["compile"],
        strict=was["strict"],
        steps_per_call=was["steps_per_call"],
        guards=was.get("guards", "auto"),
    )


def _python_restored(trainer: Trainer) -> contextlib.AbstractContextManager[None]:
    """Within it compiled steps run; at its end Python's own state is as before, since no step of the run changed it.

    Tracing changes it. Eager steps change it each time, as they did in the run.
    """
    return contextlib.nullcontext() if trainer.mode.compile == "eager" else restore_python_state(trainer.recipe)


@contextlib.contextmanager
def _only_warnings() -> Iterator[None]:
    """Within this the library logs warnings alone: how a run begins and goes on is no news in a replay."""
    library = logging.getLogger("modetrain")
    level = library.level
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.setLevel(level)


def _earlier_state(source: ReplaySource, number: int) -> file.CheckpointFile | None:
    """The newest state of a step up to `number`; None for the beginning of the run."""
    if source.capsule is not None:
        made = source.capsule
        return file.CheckpointFile(step=made.state_step, arrays=made.state, meta={"carry": made.carry})
    if source.path.is_file():
        return file.load(source.path)
    for step in reversed([step for step in run_folder.steps(source.path) if step <= number]):
        try:
            return file.load(run_folder.checkpoint(source.path, step))
        except file.CheckpointError as error:
            log.warning(f"{error} Beginning from the checkpoint before it.")
    if source.config.get("resume") or (source.config.get("init_from") or {}).get("path"):
        raise ConfigError(
            f"{source.path}: it has no checkpoint of a step up to {number}, and that run did not begin from its recipe's own "
            "values. Type replay.from= with the run or checkpoint that it began from."
        )
    return None


def _skipped_batches(source: ReplaySource, known: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """All batches that the run skipped, as far as it is known: its newest checkpoint knows of later ones too."""
    newest = run_folder.newest(source.folder) if source.folder is not None else None
    carried = []
    if newest is not None:
        try:
            carried = file.load(newest).meta.get("carry", {}).get("left_out", [])
        except file.CheckpointError as error:
            log.warning(f"{error} Batches that the run left out may be missed.")
    return [(at, count) for at, count in max(carried, known, key=len)]
