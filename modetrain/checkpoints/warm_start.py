"""First values from a checkpoint that need not fit in all: `init_from.path=`, with patterns, and a list of what was taken.

Nothing but values comes along: the step, the optimizers' counters and the data position are those of a new run.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modetrain.checkpoints import file
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files import run_folder
from modetrain.recipe import Recipe
from modetrain.settings import InitFromSettings

_MOST_LINES = 12


def start(recipe: Recipe, settings: InitFromSettings, say: Callable[[str], None]) -> list[str]:
    """Gives a recipe's variables the values that a checkpoint has for them.

    Args:
      recipe: whose state it is.
      settings: where from, and which.
      say: prints a line.

    Returns:
      The names of the variables that were taken.

    Raises:
      ConfigError: no checkpoint, a pattern that no variable of the recipe matches, or nothing taken.
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
            f"init_from.path={path}: no variable could be taken. This run asks for {_format_names(list(chosen))}; the checkpoint has "
            f"{_format_names(list(found.arrays))}. Type init_from.include=[PATTERN] with names that both have."
        )
    for optimizer in recipe.optimizers().values():  # averages begin at the weights, unless they were asked for
        for average, variable in zip(optimizer.averages, optimizer.trainable, strict=False):
            if not any(state[name] is average for name in taken):
                average.assign(variable)
    say(f"init_from: {len(taken)} variables taken from {path} (step {found.step}): {_format_names(taken)}")
    for name, why in list(skipped.items())[:_MOST_LINES]:
        say(f"  not taken: {name}: {why}")
    if len(skipped) > _MOST_LINES:
        say(f"  not taken: and {len(skipped) - _MOST_LINES} more")
    missed = {name: chosen[name] for name in skipped}
    if moved := _find_moved(recipe, missed, {n: a for n, a in found.arrays.items() if n not in taken}, settings):
        lost, unused = moved
        say(
            f"WARNING: init_from: {len(lost)} variables of this run were not taken: {_format_names(lost)}. The checkpoint has "
            f"{len(unused)} of the same shapes that were not used: {_format_names(unused)}. Layers that have moved have other "
            "names, and those of the same name may be others too. Type init_from.include=[PATTERN] to take only those that "
            "stand where they stood, or build the model with the layers of that run."
        )
    return taken


def _find_moved(
    recipe: Recipe, missed: Mapping[str, Any], left: Mapping[str, Any], settings: InitFromSettings
) -> tuple[list[str], list[str]] | None:
    """Variables that were not taken, and values of their shapes in the checkpoint that no variable was given."""
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
            f"init_from.path={path}: there is no checkpoint in it. Type init_from.path= with a run folder that has one, or "
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
