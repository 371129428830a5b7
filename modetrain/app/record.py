"""run.json: what the settings asked for, what took effect, and the results; outside scripts read it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import traceback
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import yaml

from modetrain.checkpoints import file
from modetrain.data.source import Source
from modetrain.diagnostics import tf_errors
from modetrain.engine import xla_random
from modetrain.engine.devices import Replicas
from modetrain.files import run_folder, run_json
from modetrain.settings import Settings
from modetrain.trainer import Trainer
from modetrain.version import VERSION

_MOST_SKIPPED = 100  # examples that are listed; all are counted
_PACKAGES = ("tensorflow", "keras", "tensorflow-datasets", "hydra-core", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version(), "modetrain": VERSION}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def made_on(replicas: Replicas) -> dict[str, Any]:
    """Versions, threads and devices: the last bits of a result depend on them."""
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    return {
        "versions": versions(),
        "threads": threads,
        "devices": list(replicas.devices),
        "replicas": replicas.count,
    }


class Record:
    """Writes run.json, config.yaml and, if a run fails, error.txt.

    Args:
      folder: the run folder.
      settings: the run's settings.
      worker: number of this process; the first of several workers writes the record, and each its own error.

    Attributes:
      error: the file for the complete error.
    """

    def __init__(self, folder: Path, settings: Settings, *, worker: int = 0):
        self._chief = worker == 0
        self._folder = folder
        self._settings = settings
        self._trainer: Trainer | None = None
        self._source: Source | None = None
        self._resumed_at = 0
        # Until it resumes, the record keeps the values of the run before: a refused resume must lose nothing.
        before = run_json.read(folder) if settings.resume is not None else {}
        self._before: dict[str, Any] = {key: before[key] for key in ("steps", "checkpoints") if key in before}
        self.error = run_folder.worker_file(folder, run_folder.ERROR, worker)
        self.error.unlink(missing_ok=True)  # the error of the run that is resumed
        if self._chief:
            (folder / run_folder.CONFIG).write_text(
                yaml.safe_dump(dict(settings.resolved), sort_keys=False), encoding="utf-8"
            )

    def follow(self, trainer: Trainer, source: Source) -> None:
        """From now on the record describes this trainer."""
        self._trainer, self._source, self._resumed_at = trainer, source, trainer.step

    def write(self, error: BaseException | None = None) -> None:
        """Replaces run.json at once, so that a reader never sees half of it."""
        if error is not None:
            try:
                text = "".join(traceback.format_exception(error))
                self.error.write_text(text, encoding="utf-8", errors="backslashreplace")
            except OSError as trouble:  # a full disk: the error itself matters more
                error.add_note(f"modetrain: {self.error} could not be written: {trouble.strerror}")
        if not self._chief:
            return
        settings = self._settings
        described: dict[str, Any] = {
            "recipe": settings.recipe_name,
            "steps": 0,
            "steps_wanted": settings.steps,
            "resumed_at": self._resumed_at,
            "seed": settings.seed,
            "command": settings.command,
            "notes": list(settings.notes),
            "status": "running",
            "stopped_early": None,
            "mode": {"requested": settings.mode.name},
            "data": None,
            "results": None,
            "time": None,
            "examples_per_s": None,
            "traces": None,
            "versions": versions(),
            **self._before,
        }
        if self._trainer is not None and self._source is not None:
            described |= _describe_run(self._trainer, settings, self._source)
        if error is not None:
            message = tf_errors.read(error)
            text = f"{type(error).__name__}: {error}" if message is None else message.text
            described |= {"status": "failed", "error": text}
        try:
            run_json.write(self._folder, described)
        except OSError as trouble:
            if error is None:
                raise
            error.add_note(f"modetrain: {self._folder} could not be written to: {trouble.strerror}")


def _describe_run(trainer: Trainer, settings: Settings, source: Source) -> dict[str, Any]:
    timer = trainer.timer
    spent = timer.read()
    digest, skipped = None, source.skipped()
    if trainer.status in ("completed", "stopped"):
        # The state of the seed generators is a function of the step; evaluation may have changed it.
        trainer.recipe.seek(trainer.step)
        digest = file.digest(trainer.recipe.state())
    return {
        "steps": trainer.step,
        "steps_wanted": trainer.steps,
        "notes": [*settings.notes, *trainer.replicas.notes],
        "status": trainer.status,
        "stopped_early": trainer.stopped_early if trainer.status == "completed" else None,
        "mode": {"requested": settings.mode.name, "effective": effective_mode(trainer)},
        "data": {
            "source": source.kind,
            "description": source.description,
            "name": settings.data.name,
            "batch_size": settings.data.batch_size,
            "train_examples": trainer.data.train_examples,
            "eval_examples": trainer.data.eval_examples,
            "position": trainer.data.position,
            "reproducible": trainer.data.reproducible,
            "lengths": list(trainer.data.lengths),
            "class_names": source.facts.get("class_names"),
            "skipped": {"count": len(skipped), "examples": skipped[:_MOST_SKIPPED]},
        },
        "results": {**trainer.results, "state_digest": digest},
        "time": {
            "compile_s": timer.seconds["compile"],
            "step_ms": timer.step_ms() or dict.fromkeys(("p50", "p90", "max")),
            "data_s": timer.seconds["data"],
            "steps_s": timer.seconds["steps"],
            "eval_s": timer.seconds["eval"],
            "checkpoint_s": timer.seconds["checkpoint"],
            "import_s": timer.seconds["import"],
            "setup_s": timer.seconds["setup"],
            "total_s": timer.total,
        },
        "nonfinite": {
            "skipped": trainer.nonfinite.skipped,
            "left_out": [list(window) for window in trainer.loader.skipped_batches],
        },
        "system": None,
        "checkpoints": None,
        **{key: value for callback in trainer.callbacks for key, value in callback.summary().items()},
        "workers": {**trainer.history.worker_times.spread(), "slowest": trainer.history.worker_times.slowest}
        if trainer.history.worker_times is not None
        else None,
        "examples_per_s": spent.steps * settings.data.batch_size / spent.busy_s if spent.busy_s else None,
        "traces": trainer.traces,
    }


def effective_mode(trainer: Trainer) -> dict[str, Any]:
    """The mode that took effect, read from the run itself and not from the settings."""
    mode = trainer.mode
    program = trainer.programs.train if trainer.programs.train.compiled is not None else trainer.programs.eval
    compiled = program.compiled
    return {
        "compile": {None: mode.compile, True: "xla", False: "graph"}[compiled],
        "strategy": mode.strategy,
        "replicas": trainer.replicas.count,
        "workers": trainer.replicas.workers,
        "devices": trainer.replicas.devices,
        "precision": keras.config.dtype_policy().name,
        "steps_per_call": trainer.steps_per_call,
        "xla_program": program.unit,
        "deterministic": mode.deterministic,
        "strict": mode.strict,
        "debug_data": mode.debug_data,
        "portable_draws": mode.compile != "xla" or xla_random.is_portable(),
    }
