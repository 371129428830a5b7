"""run.json: what was asked for, what took effect, and what came of it; outside scripts read it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import tensorflow as tf

from modetrain import checkpoint
from modetrain.settings import Settings
from modetrain.sources import Source
from modetrain.trainer import Trainer

_PACKAGES = ("modetrain", "tensorflow", "keras", "tensorflow-datasets", "hydra-core", "numpy")


def effective_mode(run: Trainer) -> dict[str, Any]:
    """What took effect, read from the run itself rather than from the settings."""
    mode = run.mode
    compiled = run.train_program.compiled
    return {
        "compile": {None: mode.compile, True: "xla", False: "graph"}[compiled],
        "strategy": mode.strategy,
        "replicas": 1,
        "devices": [device.name for device in tf.config.list_logical_devices(_device_type())],
        "precision": mode.precision,
        "steps_per_call": run.steps_per_call,
        "xla_program": run.train_program.unit,
        "deterministic": mode.deterministic,
        "strict": mode.strict,
        "debug_data": mode.debug_data,
        "portable_draws": run.portable_draws,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed (run from a checkout)"
    return found


def describe(run: Trainer, settings: Settings, source: Source, error: BaseException | None = None) -> dict[str, Any]:
    """The contents of run.json at this moment."""
    clock = run.clock
    busy = clock.seconds["steps"] + clock.seconds["data"]
    described: dict[str, Any] = {
        "recipe": settings.recipe_name,
        "steps": run.step,
        "steps_wanted": run.steps,
        "seed": settings.seed,
        "command": settings.command,
        "status": run.status,
        "mode": {"requested": settings.mode.name, "effective": effective_mode(run)},
        "data": {
            "source": source.kind,
            "description": source.description,
            "name": settings.data.name,
            "batch_size": settings.data.batch_size,
            "train_examples": len(source.train["label"]),
            "eval_examples": run.data.eval_examples,
        },
        "results": {**run.results, "state_digest": None},
        "time": {
            "compile_s": clock.seconds["compile"],
            "step_ms": clock.step_ms(),
            "data_s": clock.seconds["data"],
            "steps_s": clock.seconds["steps"],
            "eval_s": clock.seconds["eval"],
            "checkpoint_s": clock.seconds["checkpoint"],
            "setup_s": clock.seconds["setup"],
            "total_s": clock.total,
        },
        "examples_per_s": clock.steps * settings.data.batch_size / busy if busy else None,
        "traces": run.traces,
        "versions": versions(),
    }
    if run.status in ("completed", "stopped"):
        # Where the seed generators stand is a function of the step, whatever evaluation drew from them.
        run.recipe.seek(run.step)
        described["results"]["state_digest"] = checkpoint.digest(run.recipe.state())
    if error is not None:
        described["error"] = f"{type(error).__name__}: {error}"
    return described


def write(path: Path, described: dict[str, Any]) -> None:
    """Replaces the file at once, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(described, indent=2, default=str) + "\n")
    os.replace(partial, path)


def _device_type() -> str:
    return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
