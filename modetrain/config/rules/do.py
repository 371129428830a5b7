"""Rules on what is done with a run: `do=evaluate`, `do=compare`, `do=replay`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modetrain.errors import nearest_multiple
from modetrain.files import run_folder
from modetrain.files.paths import format_path
from modetrain.schema import text
from modetrain.settings import Settings


def evaluate(settings: Settings) -> str | None:
    if settings.do != "evaluate":
        return None
    folder = settings.run_dir if settings.resume == "latest" else None
    if folder is not None and folder.is_dir() and not run_folder.steps(folder):
        return (
            f"do=evaluate resume=latest: {format_path(folder, Path.cwd())} has no checkpoint yet. Type run_dir= with the folder "
            "of a run that has one."
        )
    if settings.resume is not None:
        return None
    return (
        "do=evaluate without resume=: there are no weights to evaluate. Type do=evaluate resume=latest, or "
        "resume=PATH of a run folder or a checkpoint."
    )


def _once(modes: Sequence[str]) -> list[str]:
    """Each mode once, and two at least."""
    once = list(dict.fromkeys(modes))
    return once if len(once) > 1 else ["eager", "graph" if once == ["eager"] else once[0]]


def compare(settings: Settings) -> str | None:
    if settings.do != "compare":
        return None
    modes, count = settings.compare.modes, settings.compare.replicas
    if len(modes) == 1:
        return (
            f"compare.modes={text(modes)}: there is nothing to compare one mode with. Type "
            f"compare.modes={text(_once(modes))}."
        )
    twice = next((mode for mode in modes if modes.count(mode) > 1), None)
    if twice is not None:
        return (
            f"compare.modes={text(modes)}: {twice} is in it twice; every mode runs once. Type "
            f"compare.modes={text(_once(modes))}."
        )
    if settings.check_numerics:
        return (
            "check_numerics=true with do=compare: NaNs and infinities are compared as they come, and the check does not "
            "compile under XLA. Type check_numerics=false."
        )
    if settings.mode.name not in ("graph", *modes):
        return (
            f"mode={settings.mode.name} with do=compare: the modes are those of compare.modes={text(modes)}, so it would be "
            f"ignored. Type compare.modes={text(['eager', settings.mode.name])}."
        )
    several = [mode for mode in modes if mode in ("mirrored", "multiworker")]
    shares = count * settings.optimizer.accumulate
    if several and settings.data.batch_size % shares:
        nearest = nearest_multiple(settings.data.batch_size, shares)
        return (
            f"compare.replicas={count} with data.batch_size={settings.data.batch_size}: every replica of {several[0]} gets an "
            f"equal share of the batch, and {shares} does not divide it. Type data.batch_size={nearest}."
        )
    return None


def replay(settings: Settings) -> str | None:
    asked = {
        "from": settings.replay.path,
        "step": settings.replay.step,
        "replica": settings.replay.replica,
        "check": settings.replay.check or None,
    }
    if settings.do != "replay":
        given = next((name for name, value in asked.items() if value is not None), None)
        return given and f"replay.{given}= with do={settings.do}: only replay uses it. Type do=replay replay.from=."
    mode = settings.mode
    if mode.strategy != "one_device":
        return (
            f"mode={mode.name} with do=replay: replay runs a step on one device, which gives what all replicas gave "
            "together. Type mode=eager, mode=graph or mode=xla."
        )
    if settings.resume is not None:
        return "resume= with do=replay: replay.from= says what to begin from. Leave resume out."
    return None
