"""From a run folder, a checkpoint or a capsule of an earlier state to the capsule of one step: the steps between are run.

They run as they ran then: compiled alike, on one device. Where the run had one device too, that is bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from modetrain.app import record, session
from modetrain.app.build import connect_devices
from modetrain.checkpoints import file, resume
from modetrain.checkpoints.capsule import Capsule
from modetrain.data.loader import BatchLoader
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.mode import Mode
from modetrain.settings import Settings, WatchdogSettings
from modetrain.tools.inspect.python_state.snapshot import restore_python_state
from modetrain.tools.replay.source import Origin
from modetrain.trainer import Trainer
from modetrain.training.timer import Timer


def mode_of(origin: Origin, mode: Mode) -> Mode:
    """How the run's steps were compiled, on the device of this replay."""
    was = origin.config["mode"]
    return dataclasses.replace(
        mode,
        name=was["compile"],
        compile=was["compile"],
        strict=was["strict"],
        steps_per_call=was["steps_per_call"],
        guards=was.get("guards", "auto"),
    )


def trainer_at(
    origin: Origin, settings: Settings, number: int, say: Callable[[str], None], *, mode: Mode | None = None
) -> Trainer:
    """A trainer of the run that has made `number` updates.

    Args:
      origin: the run.
      settings: of the replay.
      number: how many updates.
      say: prints a line.
      mode: how to run the steps that are missing; as the run did by default.

    Raises:
      ConfigError: the run has nothing to begin from, or its data is not to be had here.
      NonFiniteError: a step before the one that is wanted is not finite already.
    """
    base = _base(origin, number, say)
    quiet = dataclasses.replace(
        settings,
        mode=mode or mode_of(origin, settings.mode),
        callbacks={},
        watchdog=WatchdogSettings(after=0, heartbeat=0),
        command="",
    )
    where = resume.ResumePoint(folder=origin.folder or Path())
    replicas = connect_devices(quiet.mode)
    trainer, source = session.build(quiet, where, replicas, Timer(), Console(), TensorBoardWriter(None))
    if base is not None:
        resume.check_facts(base, session.facts_of(source), f"replay.from={settings.replay.path}")
        file.restore(base, trainer.recipe.state(), origin.path)
        trainer.load_state(base.meta.get("carry", {}), step=base.step)
    windows = _windows(origin, trainer.loader.skipped_batches, say)
    if trainer.step < number:
        say(f"  from step {trainer.step} on, {number - trainer.step} steps in mode={quiet.mode.name}")
    # What a run left out after going back (nonfinite.policy=rollback) is left out from that step on.
    stops = {*(at for at, _ in windows if trainer.step < at < number), number}
    if trainer.recipe.prepares:  # a block of batches may not reach beyond: the one that is wanted may be what fails
        stops.add(trainer.step + (number - trainer.step) // trainer.steps_per_call * trainer.steps_per_call)
    for stop in sorted(stops - {trainer.step} | {number}):
        length = (
            min(trainer.steps_per_call, max(stop - trainer.step, 1))
            if trainer.recipe.prepares
            else trainer.steps_per_call
        )
        trainer.loader = BatchLoader(trainer.data, length)
        trainer.loader.skipped_batches = [(at, count) for at, count in windows if at <= trainer.step]
        trainer.steps = stop
        with _python_of_the_first_step(trainer):
            trainer.train()
    trainer.loader.skipped_batches = [(at, count) for at, count in windows if at <= number]
    return trainer


def _python_of_the_first_step(trainer: Trainer) -> contextlib.AbstractContextManager[None]:
    """Within it steps run; what a trace has changed of Python's own state is put back then, for no step of the run changed it.

    Eager steps change it each time, as they did in the run.
    """
    return contextlib.nullcontext() if trainer.mode.compile == "eager" else restore_python_state(trainer.recipe)


def capsule_at(trainer: Trainer, origin: Origin) -> Capsule:
    """The capsule of the step that a trainer would make next."""
    batch = trainer.data.batch(trainer.step + trainer.loader.skipped_count)
    return Capsule(
        step=trainer.step,
        state_step=trainer.step,
        method="train_step",
        state=file.copied(trainer.recipe.state()),
        batch={name: value.numpy() for name, value in batch.items()},
        number=trainer.step,
        why="replayed",
        said="",
        command=origin.command,
        config=origin.config,
        info=dataclasses.asdict(trainer.recipe.info),
        carry={},
        made_on={**record.made_on(trainer.replicas), "replicas": origin.replicas or 1},
    )


def _base(origin: Origin, number: int, say: Callable[[str], None]) -> file.CheckpointFile | None:
    """What to go on from: the newest state of a step up to `number`; None for the run's own beginning."""
    if origin.capsule is not None:
        made = origin.capsule
        return file.CheckpointFile(step=made.state_step, arrays=made.state, meta={"carry": made.carry})
    if origin.path.is_file():
        return file.load(origin.path)
    for step in reversed([step for step in run_folder.steps(origin.path) if step <= number]):
        try:
            return file.load(run_folder.checkpoint(origin.path, step))
        except file.CheckpointError as error:
            say(f"WARNING: {error} Beginning from the checkpoint before it.")
    if origin.config.get("resume") or (origin.config.get("init_from") or {}).get("path"):
        raise ConfigError(
            f"{origin.path}: it has no checkpoint of a step up to {number}, and that run did not begin from its recipe's own "
            "values. Type replay.from= with the run or checkpoint that it began from."
        )
    return None


def _windows(origin: Origin, known: Sequence[tuple[int, int]], say: Callable[[str], None]) -> list[tuple[int, int]]:
    """All batches that the run left out, as far as it is known: its newest checkpoint knows of later ones too."""
    newest = run_folder.newest(origin.folder) if origin.folder is not None else None
    carried = []
    if newest is not None:
        try:
            carried = file.load(newest).meta.get("carry", {}).get("left_out", [])
        except file.CheckpointError as error:
            say(f"WARNING: {error} Batches that the run left out may be missed.")
    return [(at, count) for at, count in max(carried, known, key=len)]
