"""`do=compare` on the command line: each mode in a process of its own, then compare.json, compare.html and a table.

Imports no TensorFlow: only the processes of the modes do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from modetrain import console
from modetrain.checkpoints import resume
from modetrain.config import load as config
from modetrain.config.arguments import CommandLine
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files import paths
from modetrain.files.quoting import key_of
from modetrain.settings import Settings
from modetrain.tools.compare import html_page, table
from modetrain.tools.compare.comparison import Comparison
from modetrain.tools.compare.run_comparison import run_comparison
from modetrain.tools.compare.store import ResultStore
from modetrain.tools.compare.subprocesses import Subprocesses

log = logging.getLogger(__name__)

AGREE, DISAGREE = 0, 1
JSON = "compare.json"
SCHEMA = 1
# Replicas take part in these strategies, and this key says how many.
_REPLICAS = {"mirrored": "mode.replicas", "multiworker": "mode.workers"}


def run(settings: Settings, line: CommandLine, cwd: Path) -> int:
    """Compares the modes; returns the exit code: 0 they agree, 1 they do not.

    Args:
      settings: of `do=compare`, checked.
      line: what was typed.
      cwd: the folder to run in.

    Raises:
      ConfigError: a mode cannot run; before anything is run.
    """
    words = variant_words(settings, line, cwd)
    console.show_log()
    where = resume.find_folder(settings)
    folder = paths.format_path(where.folder, cwd)
    modes = _format_modes(settings.compare.modes)
    log.info(f"modetrain: recipe={settings.recipe_name} do=compare compare.modes={modes} -> {folder}")
    (where.folder / "config.yaml").write_text(
        yaml.safe_dump(dict(settings.resolved), sort_keys=False), encoding="utf-8"
    )
    working = where.folder / ".arms"
    shutil.rmtree(working, ignore_errors=True)  # left by a comparison that was killed
    store = ResultStore(working)
    with _ended_by_sigterm():
        comparison = run_comparison(
            Subprocesses(settings, words, line.config_dirs, where, store, cwd),
            settings.compare.modes,
            steps=settings.compare.steps,
            first_step=where.step or 0,
            draws=settings.compare.draws,
        )
    write(comparison, settings, where.folder, versions=store.get("versions", {}), input=store.get("input", {}))
    shutil.rmtree(working, ignore_errors=True)
    console.stdout().print(table.render(comparison))
    log.info(f"compare.json and compare.html: {folder}")
    return AGREE if comparison.agrees else DISAGREE


def variant_words(settings: Settings, line: CommandLine, cwd: Path) -> dict[str, tuple[str, ...]]:
    """The overrides of each mode's run, checked.

    Raises:
      ConfigError: there is no such mode, or the run cannot be made in it.
    """
    known = paths.find_options("mode", paths.conf_dirs(cwd, line.config_dirs))
    modes = f"compare.modes={_format_modes(settings.compare.modes)}"
    typed = [
        word
        for word in line.overrides
        if key_of(word) not in ("do", "mode", "run_dir", "resume") and not key_of(word).startswith("compare.")
    ]
    found = {}
    for mode in settings.compare.modes:
        if mode not in known:
            raise ConfigError(
                f"{modes}: there is no mode {mode!r}; mode is one of {', '.join(known)}.{did_you_mean(mode, known)}"
            )
        words = [*typed, f"mode={mode}"]
        try:
            key = _REPLICAS.get(config.load(words, cwd, line.config_dirs).mode.strategy)
            if key:
                words.append(f"{key}={settings.compare.replicas}")
                config.load(words, cwd, line.config_dirs)
        except ConfigError as error:
            raise ConfigError("\n".join(f"{modes}: {problem}" for problem in str(error).splitlines())) from None
        found[mode] = tuple(words)
    return found


def write(
    comparison: Comparison, settings: Settings, folder: Path, *, versions: Mapping[str, str], input: Mapping[str, Any]
) -> None:
    """Writes compare.json and compare.html.

    Args:
      comparison: what was found.
      settings: of `do=compare`.
      folder: the run folder.
      versions: of the packages that it ran with.
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
    (folder / JSON).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    title = f"recipe={settings.recipe_name}"
    (folder / html_page.NAME).write_text(
        html_page.render(comparison, title=title, command=settings.command, facts=versions),
        encoding="utf-8",
        errors="backslashreplace",  # a path may hold bytes that are no text
    )


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within this SIGTERM ends the comparison and its processes, as Ctrl-C does."""

    def stop(signum, frame):
        raise SystemExit(128 + signum)

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _format_modes(modes: Sequence[str]) -> str:
    return f"[{','.join(modes)}]"
