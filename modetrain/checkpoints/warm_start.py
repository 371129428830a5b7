"""Initial values from a checkpoint that may fit only in part: `init_from.path=`, with patterns, and a list of what was taken.

Only values are taken: the step, the optimizers' counters and the data position are those of a new run.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modetrain.checkpoints import file
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files import run_folder
from modetrain.recipe import Recipe
from modetrain.settings import InitFromSettings

_MOST_LINES = 12

log = logging.getLogger(__name__)


def start(recipe: Recipe, settings: InitFromSettings) -> list[str]:
    """Assigns a recipe's variables their values from a checkpoint; logs what was taken.

    Args:
      recipe: the recipe.
      settings: the checkpoint and the patterns.

    Returns:
      The names of the variables that were taken.

    Raises:
      ConfigError: there is no checkpoint, a pattern matches no variable of the recipe, or nothing was taken.
    """
    if settings.path is None:
        return []
    path = _find_file(Path(settings.path))
    found = file.load(path)
    state = recipe.state()
    chosen = _select_variables(recipe, state, settings)
    taken, skipped = [], {}
    for name, variable in chosen.items():
        saved = found.arrays.get(name)
        why = "not in the checkpoint" if saved is None else file.misfit(saved, variable)
        if why is None:
            variable.assign(saved)
            taken.append(name)
        else:
            skipped[name] = why
    if not taken:
        raise ConfigError(
            f"init_from.path={path}: no variable could be taken. This run wants {_format_names(list(chosen))}; the checkpoint has "
            f"{_format_names(list(found.arrays))}. Type init_from.include=[PATTERN] with names that both have."
        )
    for optimizer in recipe.optimizers().values():  # averages begin at the weights, unless they were taken
        for average, variable in zip(optimizer.averages, optimizer.trainable, strict=False):
            if not any(state[name] is average for name in taken):
                average.assign(variable)
    log.info(f"init_from: {len(taken)} variables taken from {path} (step {found.step}): {_format_names(taken)}")
    for name, why in list(skipped.items())[:_MOST_LINES]:
        log.info(f"  not taken: {name}: {why}")
    if len(skipped) > _MOST_LINES:
        log.info(f"  not taken: and {len(skipped) - _MOST_LINES} more")
    missed = {name: chosen[name] for name in skipped}
    if moved := _find_moved(recipe, missed, {n: a for n, a in found.arrays.items() if n not in taken}, settings):
        lost, unused = moved
        log.warning(
            f"init_from: {len(lost)} variables of this run were not taken: {_format_names(lost)}. The checkpoint has "
            f"{len(unused)} unused ones of the same shapes: {_format_names(unused)}. Layers that have moved have other names, and "
            "equal names may belong to other layers. Type init_from.include=[PATTERN] to take only layers that have not "
            "moved, or build the model with the layers of that run."
        )
    return taken


def _find_moved(
    recipe: Recipe, missed: Mapping[str, Any], left: Mapping[str, Any], settings: InitFromSettings
) -> tuple[list[str], list[str]] | None:
    """Variables that were not taken, and unused values of the same shapes in the checkpoint."""
    others = recipe.optimizers()
    plain = [n for n in left if n.partition("/")[0] not in others and not _matches(n, settings.exclude or ())]
    unused = [n for n in plain if any(file.misfit(left[n], v) is None for v in missed.values())]
    lost = [n for n, v in missed.items() if any(file.misfit(left[one], v) is None for one in unused)]
    return (lost, unused) if lost else None


def _find_file(path: Path) -> Path:
    if path.suffix == ".npz":
        return path
    newest = run_folder.newest(path)
    if newest is None:
        raise ConfigError(
            f"init_from.path={path}: it has no checkpoint. Type init_from.path= with a run folder that has one, or "
            "with a checkpoint."
        )
    return newest


def _select_variables(recipe: Recipe, state: Mapping[str, Any], settings: InitFromSettings) -> dict[str, Any]:
    own = {id(v) for optimizer in recipe.optimizers().values() for v in optimizer.variables}
    plain = [name for name, v in state.items() if id(v) not in own and v.name != "seed_generator_state"]
    names = plain if settings.include is None else list(state)
    for key, patterns in (("include", settings.include), ("exclude", settings.exclude)):
        for pattern in patterns or ():
            if not fnmatch.filter(state, pattern):
                raise ConfigError(
                    f"init_from.{key}={pattern}: no variable of this run has such a name.{did_you_mean(pattern, state)} "
                    f"There are {_format_names(list(state))}."
                )
    included = [n for n in names if settings.include is None or _matches(n, settings.include)]
    return {name: state[name] for name in included if not _matches(name, settings.exclude or ())}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _format_names(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
