"""Which folder a run writes to, and which checkpoint it goes on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.checkpoints import file
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.files.quoting import shell_path_override
from modetrain.keys import affects
from modetrain.settings import Settings

if TYPE_CHECKING:
    from modetrain.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run writes and what it goes on from.

    Attributes:
      folder: the run folder; exists.
      checkpoints: candidates to go on from, the best first; empty to start at step 0.
    """

    folder: Path
    checkpoints: tuple[Path, ...] = ()

    @property
    def step(self) -> int | None:
        """Step of the first candidate that is there, by its name."""
        return next((run_folder.step_of(path) for path in self.checkpoints if path.exists()), None)

    def holds(self) -> bool:
        """Whether the first candidate that is there is whole."""
        path = next((path for path in self.checkpoints if path.exists()), None)
        try:
            return path is not None and file.load(path).step >= 0
        except file.CheckpointError:
            return False


def place(settings: Settings, say: Callable[[str], None]) -> ResumePoint:
    """Makes the run folder, or finds that of the run to go on with.

    Raises:
      ConfigError: the folder cannot be made.
    """
    try:
        return _place(settings, say)
    except OSError as error:
        raise ConfigError(
            f"run_dir={settings.run_dir or run_folder.RUNS}: the run folder cannot be made ({error.strerror}). Type run_dir= "
            "with a folder you may write to."
        ) from error


def _place(settings: Settings, say: Callable[[str], None]) -> ResumePoint:
    if settings.resume is None:
        what = settings.mode.name if settings.do != "compare" else "compare"
        folder = settings.run_dir or run_folder.create(run_folder.RUNS, settings.recipe_name, what)
        folder.mkdir(parents=True, exist_ok=True)
        return ResumePoint(folder=folder)
    # `latest` without a run folder was resolved to one when the configuration was checked.
    owner = settings.run_dir if settings.resume == "latest" else Path(settings.resume)
    assert owner is not None
    found: tuple[Path, ...]
    if owner.suffix == ".npz":
        found, owner = (owner,), owner.parent.parent
    else:
        # One that the index lists and somebody has taken away is missed, and the one before is used.
        found = tuple(run_folder.checkpoint(owner, step) for step in reversed(file.known_steps(owner)))
    folder = settings.run_dir or owner
    if settings.do != "train" and folder == owner:  # the record of the training stays as it is
        folder = run_folder.create(owner, settings.do, settings.mode.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not found:
        say(f"resume={settings.resume}: {owner} holds no checkpoint yet; this run starts at step 0")
    return ResumePoint(folder=folder, checkpoints=found)


def restore(
    where: ResumePoint,
    recipe: Recipe,
    settings: Settings,
    say: Callable[[str], None],
    *,
    facts: Mapping[str, Any] | None = None,
    made_of: Mapping[str, Any] | None = None,
) -> file.CheckpointFile | None:
    """Restores the newest checkpoint that can be read; says which, and what this run does differently.

    Args:
      where: what to restore from.
      recipe: what to restore.
      settings: of this run.
      say: prints a line.
      facts: what must be as it was: on other examples, step 1,000 is another step.
      made_of: the fingerprint of this run (see `fingerprint.py`).

    Returns:
      The checkpoint, or None where there is none.

    Raises:
      CheckpointError: when none can be read, or it does not fit the recipe, then with what this run does differently.
    """
    for path in where.checkpoints:
        try:
            found = file.load(path)
        except file.CheckpointError as error:
            if path == where.checkpoints[-1]:
                raise file.CheckpointError(f"{error}{_suggest(where, settings)}") from error
            say(f"WARNING: {error} Going on from the checkpoint before it.")
            continue
        if facts is not None and settings.do == "train":
            check_facts(found, facts, f"resume={settings.resume}")
        if problem := file.check_index(path.parent):
            say(f"WARNING: {problem}: whether a whole file is that of another step or run is not found out this time")
        changes = [
            f"  differs from the run it resumes: {line}" for line in _find_changes(found, settings, made_of or {})
        ]
        try:
            file.restore(found, recipe.state(), path)
        except file.CheckpointError as error:  # which setting it was is in this list, if in any
            raise file.CheckpointError("\n".join([str(error), *changes])) from None
        say(f"resumed at step {found.step} from {path}")
        for line in changes if settings.do == "train" else ():
            say(line)
        return found
    return None


def _suggest(where: ResumePoint, settings: Settings) -> str:
    """What can be typed where no checkpoint is whole."""
    folder = where.checkpoints[-1].parent
    run = folder.parent
    if settings.resume is not None and settings.resume.endswith(".npz"):
        there = [step for step in run_folder.steps(run) if run_folder.checkpoint(run, step) != where.checkpoints[-1]]
        return f" Type {shell_path_override('resume', run)} to go on from the newest whole one in it." if there else ""
    count, best = len(where.checkpoints), run_folder.best(run)
    none = f"None of the {count} checkpoints in {folder} is" if count > 1 else f"No other checkpoint in {folder} is"
    new = f"{shell_path_override('run_dir', f'{run}-2')} without resume= for a new run"
    other = new if settings.do == "train" else "resume= with another run"
    try:
        step = file.load(best).step
    except file.CheckpointError:
        return f"\n{none} left whole. Type {other}."
    go_on = f"Type {shell_path_override('resume', best)} to go on from it"
    return f"\n{none} left whole; {best.name}, of step {step}, is whole. {go_on}, or {other}."


def _find_changes(found: file.CheckpointFile, settings: Settings, made_of: Mapping[str, Any]) -> list[str]:
    before = found.meta.get("fingerprint", {})
    others = [name for name, now in made_of.items() if before.get(name, now) != now]
    return [
        *find_differences(found.meta.get("config", {}), settings.resolved),
        *(f"{name}: {before[name]} -> {made_of[name]}" for name in others),
    ]


def check_facts(found: file.CheckpointFile, facts: Mapping[str, Any], given: str) -> None:
    """Refuses to go on from a checkpoint with other examples.

    Raises:
      ConfigError: they are others.
    """
    for name, was in found.meta.get("facts", {}).items():
        if facts.get(name) != was:
            raise ConfigError(
                f"{given}: that run had {name} {was}, this one has {facts.get(name)}, so its steps would be made of other "
                "examples. Type data.source= as it was there (see its run.json)"
                + (", or start a new run without resume=." if given.startswith("resume=") else ".")
            )


def find_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changes the trajectory between two configs: `key: old -> new`, one a line."""
    before, after = ({key: value for key, value in flatten(one).items() if value != {}} for one in (old, new))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed if "numbers" in affects(key)]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's values by their keys: `{"optimizer.learning_rate": 0.001, ...}`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
