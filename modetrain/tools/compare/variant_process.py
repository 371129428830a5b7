"""The process of one variant: `python -m modetrain.tools.compare.variant_process FOLDER JOB`.

Each variant has a process of its own: XLA can end one, TensorFlow's switches are global, and memory and times are then the
variant's own. Its job is in the store in FOLDER, and its results go there.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modetrain.app import check
from modetrain.cluster import protocol
from modetrain.config import load
from modetrain.errors import ConfigError
from modetrain.settings import Settings
from modetrain.tools.child_process import set_environment
from modetrain.tools.compare.observation import VariantReport
from modetrain.tools.compare.runner import Task
from modetrain.tools.compare.store import ReadOnlyStore, ResultStore

if TYPE_CHECKING:
    from modetrain.tools.compare.variant import Variant


WRONG = "wrong"  # in the store: why the configuration of a job cannot run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A task, and the run that it is done in.

    Attributes:
      task: what to do.
      reference: name of the reference.
      reference_compile: its `mode.compile`.
      words: overrides of the variant's run.
      config_dirs: as on the command line.
      steps: how many the comparison has.
      checkpoints: what to begin from, the best first; without any, from the start.
      environ: environment variables to set.
    """

    task: Task
    reference: str
    reference_compile: str
    words: tuple[str, ...]
    config_dirs: tuple[str, ...]
    steps: int
    checkpoints: tuple[Path, ...]
    environ: Mapping[str, str]

    @property
    def name(self) -> str:
        """The job's name in the store."""
        return f"{self.task.variant}/{self.task.kind}"


def main(folder: str, name: str) -> int:
    """Does the job of that name; returns the exit code."""
    protocol.die_with_parent(os.environ)
    faulthandler.enable()  # where a signal ends this process, its lines are printed
    store = ResultStore(Path(folder))
    job: Job = store.get(f"{name}/job")
    settings = load.load(job.words, Path.cwd(), job.config_dirs)
    set_environment(settings.mode, job.environ)
    try:
        variant = _build(job, settings, store)
        if not variant.replicas.chief:  # all workers find the same, and the chief keeps it
            store = ReadOnlyStore(store.folder)
        store.put(f"{name}/result", _perform(job, variant, store))
    except Exception as error:
        announced = protocol.announce_failure(error, os.environ)
        if announced is not None and announced.lost_a_peer:
            protocol.leave()
        raise
    return 0


def _build(job: Job, settings: Settings, store: ResultStore) -> Variant:
    from modetrain.app import record
    from modetrain.app.build import connect_devices, load_source, make_data, make_info, make_recipe
    from modetrain.checkpoints import resume
    from modetrain.engine import tf_setup
    from modetrain.tools.compare import speed
    from modetrain.tools.compare.variant import Variant

    replicas = connect_devices(settings.mode)
    try:
        check.code(job.words, Path.cwd(), job.config_dirs)
    except ConfigError as error:
        store.put(f"{job.name}/{WRONG}", str(error))
        raise
    protocol.announce_ready(os.environ)
    tf_setup.apply(settings.mode, settings.seed)
    source = load_source(settings)
    recipe = make_recipe(settings, make_info(settings, source), replicas=replicas)
    restored = resume.restore(resume.ResumePoint(folder=Path(), checkpoints=job.checkpoints), recipe, settings)
    first = restored.step if restored else 0
    if not store.has("batches"):
        data = make_data(settings, source, recipe).with_one_length()
        block = next(data.train_blocks(first, job.steps))
        # [steps, 1, 1, examples, ...]: one micro-batch on one device.
        batches = {key: value.numpy()[:, 0, 0] for key, value in block.arrays.items()}
        if replicas.chief:
            store.put("input", speed.input_cost(data, first, job.steps))
            store.put("versions", record.versions())
            store.put("batches", batches)
    else:
        batches = store.get("batches")
    return Variant(recipe, settings.mode, batches, first=first, replicas=replicas)


def _perform(job: Job, variant: Variant, store: ResultStore):
    from modetrain.tools.compare import speed, tasks

    result = tasks.perform(
        job.task,
        variant,
        store,
        reference=job.reference,
        reference_compile=job.reference_compile,
        on_phase=lambda phase: store.put(f"{job.name}/phase", phase),
    )
    if isinstance(result, VariantReport) and result.time is not None:
        time = dataclasses.replace(result.time, peak_memory_mb=speed.peak_memory_mb())
        result = dataclasses.replace(result, time=time)
        store.put(f"{job.task.variant}/report", result)
    return result


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
