"""Which folder a run writes to, and which checkpoint it goes on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modetrain import checkpoint, paths
from modetrain.recipe import Recipe
from modetrain.settings import Settings

# What may change without changing what the same steps compute.
_HARMLESS = (
    "mode.name",
    "mode.steps_per_call",
    "mode.debug_data",
    "callbacks",
    "do",
    "debug",
    "notes",
    "run_dir",
    "resume",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run writes and what it goes on from.

    Attributes:
      folder: the run folder; exists.
      checkpoints: candidates to go on from, the best first; empty to start at step 0.
    """

    folder: Path
    checkpoints: tuple[Path, ...] = ()


def place(settings: Settings, say: Callable[[str], None]) -> Place:
    """Makes the run folder, or finds that of the run to go on with."""
    if settings.resume is None:
        folder = settings.run_dir or paths.new_run_dir(paths.RUNS, settings.recipe_name, settings.mode.name)
        folder.mkdir(parents=True, exist_ok=True)
        return Place(folder=folder)
    # `latest` without a run folder was resolved to one when the configuration was checked.
    owner = settings.run_dir if settings.resume == "latest" else Path(settings.resume)
    assert owner is not None
    found: tuple[Path, ...]
    if owner.suffix == ".npz":
        found, owner = (owner,), owner.parent.parent
    else:
        found = tuple(checkpoint.path_of(owner, step) for step in reversed(checkpoint.steps_of(owner)))
    folder = settings.run_dir or owner
    if settings.do == "evaluate" and folder == owner:  # the record of the training stays as it is
        folder = paths.new_run_dir(owner, "evaluate", settings.mode.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not found:
        say(f"resume={settings.resume}: {owner} holds no checkpoint yet; this run starts at step 0")
    return Place(folder=folder, checkpoints=found)


def restore(
    where: Place, recipe: Recipe, settings: Settings, say: Callable[[str], None]
) -> checkpoint.Checkpoint | None:
    """Restores the newest checkpoint that can be read; says which, and what this run does differently.

    Returns:
      The checkpoint, or None where there is none.

    Raises:
      CheckpointError: when none can be read, or it does not fit the recipe.
    """
    for path in where.checkpoints:
        try:
            found = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            if path == where.checkpoints[-1]:
                raise
            say(f"WARNING: {error} Going on from the checkpoint before it.")
            continue
        checkpoint.restore(found, recipe.state(), path)
        say(f"resumed at step {found.step} from {path}")
        changes = differences(found.meta.get("config", {}), settings.resolved) if settings.do == "train" else []
        for line in changes:
            say(f"  differs from the run it resumes: {line}")
        return found
    return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changes the trajectory between two configs: `key: old -> new`, one a line."""
    before, after = _flat(old), _flat(new)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    harmful = [key for key in changed if not any(key == h or key.startswith(f"{h}.") for h in _HARMLESS)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in harmful]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
