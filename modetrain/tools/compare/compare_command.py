"""`do=compare` on the command line: each mode in a process of its own, then compare.json, compare.html and a table.

Imports no TensorFlow: that is for the processes of the modes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from modetrain import console as terminal
from modetrain.checkpoints import resume
from modetrain.config import load as config
from modetrain.config.arguments import CommandLine
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files import paths
from modetrain.files.quoting import key_of
from modetrain.settings import Settings
from modetrain.tools.compare import html_page, table
from modetrain.tools.compare.comparison import Comparison
from modetrain.tools.compare.run_comparison import conduct
from modetrain.tools.compare.store import Shelf
from modetrain.tools.compare.subprocesses import Processes

AGREE, DISAGREE = 0, 1
JSON = "compare.json"
SCHEMA = 1


def run(settings: Settings, line: CommandLine, cwd: Path) -> int:
    """Compares the modes; returns the exit code: 0 they agree, 1 they do not.

    Args:
      settings: of `do=compare`, checked.
      line: what was typed.
      cwd: the folder to run in.

    Raises:
      ConfigError: a mode cannot run; before anything is run.
    """
    words = arm_words(settings, line, cwd)
    console = terminal.stdout()
    say = terminal.plain(console)
    where = resume.place(settings, say)
    shown = paths.shown(where.folder, cwd)
    say(
        f"modetrain: recipe={settings.recipe_name} do=compare compare.modes={_listed(settings.compare.modes)} -> {shown}"
    )
    (where.folder / "config.yaml").write_text(yaml.safe_dump(dict(settings.resolved), sort_keys=False))
    working = where.folder / ".arms"
    shutil.rmtree(working, ignore_errors=True)  # of a comparison that was killed
    runner = Processes(settings, words, line.config_dirs, where, Shelf(working), cwd)
    with _stoppable():
        comparison = conduct(
            runner,
            settings.compare.modes,
            steps=settings.compare.steps,
            first_step=where.step or 0,
            draws=settings.compare.draws,
            say=lambda text: say(f"  {text}"),
        )
    facts = {name: runner.shelf.get(name) if runner.shelf.has(name) else {} for name in ("versions", "input")}
    write(comparison, settings, where.folder, **facts)
    shutil.rmtree(working, ignore_errors=True)
    console.print(table.of(comparison))
    say(f"compare.json and compare.html: {shown}")
    return AGREE if comparison.agrees else DISAGREE


def arm_words(settings: Settings, line: CommandLine, cwd: Path) -> dict[str, tuple[str, ...]]:
    """The overrides of each mode's run, every one checked.

    Raises:
      ConfigError: there is no such mode, or the run cannot be made in it.
    """
    folders = paths.conf_dirs(cwd, line.config_dirs)
    known = paths.options("mode", folders)
    typed = [word for word in line.overrides if key_of(word) not in ("do", "mode", "run_dir", "resume")]
    typed = [word for word in typed if not key_of(word).startswith("compare.")]
    found = {}
    for mode in settings.compare.modes:
        if mode not in known:
            raise ConfigError(
                f"compare.modes={_listed(settings.compare.modes)}: there is no mode {mode!r}; mode is one of "
                f"{', '.join(known)}.{did_you_mean(mode, known)}"
            )
        words = [*typed, f"mode={mode}"]
        try:
            strategy = config.load(words, cwd, line.config_dirs).mode.strategy
            several = {"mirrored": "mode.replicas", "multiworker": "mode.workers"}.get(strategy)
            if several:
                words.append(f"{several}={settings.compare.replicas}")
                config.load(words, cwd, line.config_dirs)
        except ConfigError as error:
            lines = [f"compare.modes={_listed(settings.compare.modes)}: {line}" for line in str(error).splitlines()]
            raise ConfigError("\n".join(lines)) from None
        found[mode] = tuple(words)
    return found


def write(
    comparison: Comparison, settings: Settings, folder: Path, *, versions: Mapping[str, str], input: Mapping[str, Any]
) -> None:
    """Writes compare.json and compare.html.

    Args:
      comparison: what came of it.
      settings: what was asked for.
      folder: the run folder.
      versions: of what it was run with.
      input: what making batches costs.
    """
    described = {
        "schema": SCHEMA,
        "recipe": settings.recipe_name,
        "command": settings.command,
        "seed": settings.seed,
        "batch_size": settings.data.batch_size,
        "input": dict(input),
        **comparison.to_json(),
        "versions": dict(versions),
    }
    (folder / JSON).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
    shown = html_page.of(comparison, title=f"recipe={settings.recipe_name}", command=settings.command, facts=versions)
    (folder / html_page.NAME).write_text(shown)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the comparison and its processes, as Ctrl-C does."""

    def stop(signum, frame):
        raise SystemExit(128 + signum)

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _listed(modes: Sequence[str]) -> str:
    return f"[{','.join(modes)}]"
