"""The process of one arm: `python -m modetrain.tools.compare.variant_process FOLDER JOB`.

A process each, because XLA can end one, because TensorFlow's switches are global, and because memory and times are
then an arm's own. What it is to do is on the shelf in FOLDER, and there it leaves what it found.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.app import check
from modetrain.cluster import protocol
from modetrain.config import load as config
from modetrain.errors import ConfigError
from modetrain.settings import Settings
from modetrain.tools.compare.store import Shelf

if TYPE_CHECKING:
    from modetrain.tools.compare.variant import Arm


WRONG = "wrong"  # on the shelf: why the configuration of a job cannot run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a process is to do.

    Attributes:
      task: `lead`, `follow`, `floors`, `explain` or `tracing`.
      arm: name of the arm.
      reference: name of the reference.
      words: overrides of the arm's run.
      config_dirs: as on the command line.
      reference_compile: its `mode.compile`.
      steps, draws: as configured.
      numbers: the steps that a task is about, where not all.
      checkpoints: what to begin from, the best first; none is the start.
      environ: environment variables to set.
    """

    task: str
    arm: str
    reference: str
    reference_compile: str
    words: tuple[str, ...]
    config_dirs: tuple[str, ...] = ()
    steps: int
    draws: int
    numbers: tuple[int, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of this job, on the shelf."""
        return f"{self.arm}/{self.task}"


def main(folder: str, name: str) -> int:
    """Does the job of that name; returns the exit code."""
    protocol.die_with_parent(os.environ)
    faulthandler.enable()  # whatever signal ends this process, the lines it was at are printed
    shelf = Shelf(Path(folder))
    job: Job = shelf.get(f"{name}/job")
    settings = config.load(job.words, Path.cwd(), job.config_dirs)
    os.environ.update(job.environ)
    settings.mode.set_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        chief, arm = build(job, settings, shelf)
        result = _do(job, arm, shelf if chief else _ReadOnly(shelf.folder))
    except Exception as error:
        told = protocol.announce_failure(error, os.environ)
        if told is not None and told.lost_a_peer:
            protocol.leave()
        raise
    if chief:
        shelf.put(f"{name}/result", result)
    return 0


def build(job: Job, settings: Settings, shelf: Shelf) -> tuple[bool, Arm]:
    """Makes the arm; tells whether this process is the one that keeps what is found."""
    from modetrain.app import record
    from modetrain.app.build import connect_devices, info_of, make_recipe
    from modetrain.checkpoints import resume
    from modetrain.data.dataset import Data
    from modetrain.data.sources import load as sources
    from modetrain.engine import tf_setup
    from modetrain.tools.compare import speed
    from modetrain.tools.compare.variant import Arm

    replicas = connect_devices(settings.mode)
    try:
        check.code(job.words, Path.cwd(), job.config_dirs)
    except ConfigError as error:
        shelf.put(f"{job.name}/{WRONG}", str(error))
        raise
    protocol.announce_ready(os.environ)
    tf_setup.set_for(settings.mode, settings.seed)
    source = sources.load(settings.data, say=print)
    recipe = make_recipe(settings, info_of(settings, source), replicas=replicas)
    place = resume.ResumePoint(folder=Path(), checkpoints=job.checkpoints)
    restored = resume.restore(place, recipe, settings, print)
    first = restored.step if restored else 0
    if not shelf.has("batches"):
        prepare = recipe.prepare if recipe.prepares else None
        data = Data(source, settings.data, seed=settings.seed, prepare=prepare)
        block = next(data.train_blocks(first, job.steps))
        # [steps, 1, 1, examples, ...]: one device, one micro-batch.
        shelf.put("batches", {key: value.numpy()[:, 0, 0] for key, value in block.arrays.items()})
        shelf.put("input", speed.input_cost(data, first, job.steps))
        shelf.put("data", source.description)
        shelf.put("versions", record.versions())
    arm = Arm(recipe, settings.mode, shelf.get("batches"), first=first, replicas=replicas)
    return replicas.chief, arm


def _do(job: Job, arm: Arm, shelf: Shelf) -> Any:
    from modetrain.tools.compare import lockstep, speed, tasks

    def say(phase: str) -> None:
        shelf.put(f"{job.name}/phase", phase)

    if job.task == "floors":
        layout = shelf.get(f"{job.reference}/report").layout
        return lockstep.floors(arm, shelf, job.reference, job.numbers, layout, draws=job.draws, first_draw=1000)
    if job.task == "explain":
        from modetrain.tools.compare import explain

        (number,) = job.numbers
        if job.arm == job.reference:
            return explain.impurity(arm, shelf, job.reference, number)
        return explain.difference(arm, shelf, job.reference, number, job.reference_compile)
    if job.task == "tracing":
        from modetrain.tools.compare import explain

        return explain.tracing(arm, job.numbers[0])
    if job.task == "lead":
        report = tasks.lead(arm, shelf, job.arm, draws=job.draws, say=say)
    else:
        report = tasks.follow(arm, shelf, job.arm, job.reference, numbers=job.numbers or None, say=say)
    if report.time is not None:
        report = dataclasses.replace(
            report, time=dataclasses.replace(report.time, peak_memory_mb=speed.peak_memory_mb())
        )
    shelf.put(f"{job.arm}/report", report)
    return report


class _ReadOnly(Shelf):
    """The shelf of a worker that is not the chief: what all of them found is kept once."""

    def put(self, name: str, thing: Any) -> None:
        self._here[name] = thing

    def get(self, name: str) -> Any:
        return self._here[name] if name in self._here else super().get(name)

    def has(self, name: str) -> bool:
        return name in self._here or super().has(name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
