"""Rules on what lies in files: run folders and checkpoints."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from modetrain.files import run_folder
from modetrain.files.lock import find_holder
from modetrain.files.paths import format_path
from modetrain.files.quoting import shell_path_override
from modetrain.settings import Settings


def run_dir(settings: Settings) -> str | None:
    if settings.run_dir is None and settings.resume is not None:
        return None
    target = settings.run_dir or Path.cwd() / run_folder.RUNS
    named = _path(target)
    there = next(path for path in (target, *target.parents) if path.exists())
    if not there.is_dir():
        file = _path(there)
        return f"run_dir={named}: {file} is a file, no run folder can be made there. Type run_dir= with another path."
    # Of several workers one has the lock already while the others begin.
    if settings.do == "train" and settings.mode.strategy != "multiworker" and (problem := find_holder(target)):
        return problem
    try:  # tried for real: of a file system that is read-only or no place for files, rights tell nothing
        os.rmdir(tempfile.mkdtemp(prefix=".modetrain-", dir=there))
    except OSError as error:
        return (
            f"run_dir={named}: nothing can be made in {_path(there)} ({error.strerror}). Type run_dir= with a folder you "
            "may write to."
        )
    if settings.resume is None and run_folder.holds_run(target):
        return (
            f"run_dir={named}: it already holds a run, which would be overwritten. Type resume=latest to continue it, "
            f"or {_other(target)} for a new one."
        )
    other = Path(settings.resume) if settings.resume not in (None, "latest") else None
    if other is not None and run_folder.holds_run(target) and target != run_folder.owner(other):
        return (
            f"run_dir={named} resume={_path(other)}: {named} already holds another run, which would be "
            f"overwritten. Type {shell_path_override('run_dir', target)} resume=latest to continue that one, or "
            f"{_other(target)} for a new one."
        )
    return None


def rollback(settings: Settings) -> str | None:
    if settings.nonfinite.policy != "rollback" or settings.callbacks.get("checkpoint") is not None:
        return None
    return (
        "nonfinite.policy=rollback without callbacks.checkpoint: there would be nothing to go back to. Type "
        "nonfinite.policy=skip, or leave callbacks.checkpoint as it is."
    )


def init_from(settings: Settings) -> str | None:
    first = settings.init_from
    if first.path is None:
        given = "include" if first.include is not None else "exclude" if first.exclude is not None else None
        return given and (
            f"init_from.{given}= without init_from.path=: there is nothing to take values from. Type init_from.path= with a run "
            "folder or a checkpoint."
        )
    return _no_checkpoint("init_from.path", Path(first.path), "a run folder")


def resume(settings: Settings) -> str | None:
    given = settings.resume
    if given is None:
        return None
    if given == "latest":
        if settings.run_dir is None:
            parent = f"runs/{settings.recipe_name}/{settings.mode.name}"
            start = "Leave resume out to start one, or type" if settings.do == "train" else "Type"
            return f"resume=latest: there is no run in {parent} to continue. {start} resume=PATH of a run folder."
        if settings.do == "train":
            return _lost(settings.run_dir)
        if not settings.run_dir.is_dir():
            return (
                f"do={settings.do} resume=latest with run_dir={_path(settings.run_dir)}: there is no such folder. Type "
                "run_dir= with the folder of a run."
            )
        return None
    return _no_checkpoint("resume", Path(given), "latest, or the path of a run folder")


def _no_checkpoint(key: str, path: Path, instead: str) -> str | None:
    """Why a path is neither a checkpoint nor the folder of a run that has one."""
    given = f"{key}={_path(path)}"
    if not path.exists():
        return f"{given}: there is no such file or folder. Type {key}= with {instead}."
    if path.is_file():
        right = path.suffix == ".npz"
        return (
            None
            if right
            else f"{given}: a checkpoint is a file step-NUMBER.npz. Type {key}= with one, or a run folder."
        )
    if run_folder.steps(path):
        return None
    if path.name == run_folder.CHECKPOINTS:
        return f"{given}: name the run folder or one checkpoint in it. Type {shell_path_override(key, path.parent)}."
    where = f"{_path(path)}/{run_folder.CHECKPOINTS}"
    return f"{given}: there is no checkpoint in {where}. Type {key}= with the folder of a run that has one, or leave it out."


def further(settings: Settings) -> str | None:
    if settings.do != "train" or settings.resume is None:
        return None
    given = settings.run_dir if settings.resume == "latest" else Path(settings.resume)
    file = given if given is None or given.suffix == ".npz" else run_folder.newest(given)
    made = run_folder.step_of(file) if file is not None and file.exists() else None
    if made is None or made <= settings.steps:
        return None
    resume = settings.resume if settings.resume == "latest" else _path(settings.resume)
    return (
        f"steps={settings.steps} with resume={resume}: that run has made {made} steps already. Type steps= with more than "
        f"{made}, or resume= with an earlier checkpoint."
    )


def _lost(folder: Path) -> str | None:
    """A run that has made steps is not begun again in its own folder, over its record, because its checkpoints are gone."""
    made, best = max(run_folder.recorded_steps(folder), default=0), run_folder.best(folder)
    if run_folder.steps(folder) or not made:
        return None
    on = f"{shell_path_override('resume', best)} to go on from the best one, which is left, " if best.exists() else ""
    return (
        f"resume=latest: {_path(folder)} held a run that has made {made} steps, and none of its checkpoints is in "
        f"{_path(folder / run_folder.CHECKPOINTS)} any more: the run would begin again at step 0, over its record and its "
        f"curves. Type {on}{_other(folder)} without resume= for a new run, or delete {_path(folder)}."
    )


def _other(folder: Path) -> str:
    """The override for a new folder beside one that is taken."""
    return shell_path_override("run_dir", f"{folder}-2")


def _path(path: Path | str) -> str:
    return format_path(Path(path), Path.cwd())
