"""The folder that a run writes to, and the checkpoint that it resumes from."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.checkpoints import file
from modetrain.errors import ConfigError
from modetrain.files import run_folder, run_json
from modetrain.files.quoting import shell_path_override
from modetrain.keys import KEYS, affects
from modetrain.settings import Settings

if TYPE_CHECKING:
    from modetrain.recipe import Recipe

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """The folder that a run writes to and the checkpoints that it may resume from.

    Attributes:
      folder: the run folder; exists.
      checkpoints: candidates to resume from, the best first; empty to start at step 0.
    """

    folder: Path
    checkpoints: tuple[Path, ...] = ()

    @property
    def step(self) -> int | None:
        """Step of the first candidate that exists, by its name."""
        return next((run_folder.step_of(path) for path in self.checkpoints if path.exists()), None)

    def holds(self) -> bool:
        """Whether the first candidate that exists is whole."""
        path = next((path for path in self.checkpoints if path.exists()), None)
        try:
            return path is not None and file.load(path).step >= 0
        except file.CheckpointError:
            return False

    def ended(self, settings: Settings) -> str | None:
        """How the run in the folder has ended, if it made all the steps that are wanted or stopped early; else None."""
        found = run_json.read(self.folder)
        early, wanted = found.get("stopped_early"), found.get("steps_wanted")
        whole = self.step == settings.steps
        stopped = early and self.step == found.get("steps") and isinstance(wanted, int) and settings.steps <= wanted
        if found.get("status") != "completed" or not (whole or stopped) or not self.holds():
            return None
        return f"{settings.steps} steps" if whole else f"stopped early at step {self.step}: {early}"


def find_folder(settings: Settings) -> ResumePoint:
    """Makes the run folder, or finds the folder of the run to resume.

    Raises:
      ConfigError: the folder cannot be made.
    """
    try:
        return _find_folder(settings)
    except OSError as error:
        raise ConfigError(
            f"run_dir={settings.run_dir or run_folder.RUNS}: the run folder cannot be made ({error.strerror}). Type run_dir= "
            "with a folder you may write to."
        ) from error


def _find_folder(settings: Settings) -> ResumePoint:
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
        # A checkpoint that the index lists and that was removed is reported, and the one before is used.
        found = tuple(run_folder.checkpoint(owner, step) for step in reversed(file.known_steps(owner)))
    folder = settings.run_dir or owner
    if settings.do != "train" and folder == owner:  # the training's record must not change
        folder = run_folder.create(owner, settings.do, settings.mode.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not found:
        log.info(f"resume={settings.resume}: {owner} holds no checkpoint yet; this run starts at step 0")
    return ResumePoint(folder=folder, checkpoints=found)


def restore(
    where: ResumePoint,
    recipe: Recipe,
    settings: Settings,
    *,
    facts: Mapping[str, Any] | None = None,
    made_of: Mapping[str, Any] | None = None,
) -> file.CheckpointFile | None:
    """Restores the newest checkpoint that can be read; logs which one, and what this run does differently.

    Args:
      where: the checkpoints.
      recipe: the recipe to restore.
      settings: this run's settings.
      facts: what must not have changed: with other examples, step 1,000 is another step.
      made_of: the fingerprint of this run (see `fingerprint.py`).

    Returns:
      The checkpoint, or None if there is none.

    Raises:
      CheckpointError: none can be read, or it does not fit the recipe; the message lists what this run does differently.
    """
    for path in where.checkpoints:
        try:
            found = file.load(path)
        except file.CheckpointError as error:
            if path == where.checkpoints[-1]:
                raise file.CheckpointError(f"{error}{_suggest(where, settings)}") from error
            log.warning(f"{error} Resuming from the checkpoint before it.")
            continue
        if facts is not None and settings.do == "train":
            check_facts(found, facts, f"resume={settings.resume}")
        if problem := file.check_index(path.parent):
            log.warning(f"{problem}: a checkpoint file of another step or run would not be detected")
        changes = [
            f"  differs from the run it resumes: {line}" for line in _find_changes(found, settings, made_of or {})
        ]
        from modetrain.engine.variables import find_added_states  # imports TensorFlow; a launcher reads records too

        try:
            zeros = file.restore(found, recipe.state(), path, zero_if_missing=find_added_states(recipe))
        except file.CheckpointError as error:  # the changed settings may explain it
            raise file.CheckpointError("\n".join([str(error), *changes])) from None
        log.info(f"resumed at step {found.step} from {path}")
        if zeros:
            log.info(f"  not in this checkpoint, so they start at zero: {', '.join(zeros)}")
        for line in changes if settings.do == "train" else ():
            log.info(line)
        return found
    return None


def _suggest(where: ResumePoint, settings: Settings) -> str:
    """What the user can type if no checkpoint is whole."""
    folder = where.checkpoints[-1].parent
    run = folder.parent
    if settings.resume is not None and settings.resume.endswith(".npz"):
        there = [step for step in run_folder.steps(run) if run_folder.checkpoint(run, step) != where.checkpoints[-1]]
        return f" Type {shell_path_override('resume', run)} to resume from the newest whole one in it." if there else ""
    count, best = len(where.checkpoints), run_folder.best(run)
    none = f"None of the {count} checkpoints in {folder} is" if count > 1 else f"No other checkpoint in {folder} is"
    new = f"{shell_path_override('run_dir', f'{run}-2')} without resume= for a new run"
    other = new if settings.do == "train" else "resume= with another run"
    try:
        step = file.load(best).step
    except file.CheckpointError:
        return f"\n{none} left whole. Type {other}."
    go_on = f"Type {shell_path_override('resume', best)} to resume from it"
    return f"\n{none} left whole; {best.name}, of step {step}, is whole. {go_on}, or {other}."


def _find_changes(found: file.CheckpointFile, settings: Settings, made_of: Mapping[str, Any]) -> list[str]:
    before = found.meta.get("fingerprint", {})
    others = [name for name, now in made_of.items() if before.get(name, now) != now]
    splits = f"data.train_split={settings.data.train_split} and data.eval_split={settings.data.eval_split}"
    return [
        *find_differences(found.meta.get("config", {}), settings.resolved),
        *(
            f"{name}: {before[name]} -> {made_of[name]}" + (f", by the labels of {splits}" if name == "classes" else "")
            for name in others
        ),
    ]


def check_facts(found: file.CheckpointFile, facts: Mapping[str, Any], given: str) -> None:
    """Refuses a checkpoint that was trained on other examples.

    Raises:
      ConfigError: the examples are others.
    """
    for name, was in found.meta.get("facts", {}).items():
        if facts.get(name) != was:
            raise ConfigError(
                f"{given}: that run had {name} {was}, this one has {facts.get(name)}, so its steps would use other "
                "examples. Type that run's data.source= (see its run.json)"
                + (", or start a new run without resume=." if given.startswith("resume=") else ".")
            )


def find_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences of two configs that change results: `key: old -> new`, one a line."""
    before, after = ({key: value for key, value in flatten(one).items() if value != {}} for one in (old, new))
    for key in after.keys() - before.keys():  # a key that an older version did not have was its default
        if key in KEYS and after[key] == KEYS[key].default:
            before[key] = after[key]
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
