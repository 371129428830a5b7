"""Several runs from one command line, `-m mode=eager,graph,xla`: one after the other, each in a process of its own.

TensorFlow's global state (threads, kernels, what was compiled) leaks from one run into the next, so that runs which
share a process cannot be compared. Every job is checked before the first begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain import console as terminal
from modetrain.cluster import environment
from modetrain.config import arguments as command_line
from modetrain.config import load as config
from modetrain.config import overrides
from modetrain.errors import ConfigError
from modetrain.files import paths, quoting, run_folder, run_json
from modetrain.settings import Settings

# Columns of the table after the sweep: heading, key in run.json, format.
COLUMNS = (
    ("steps", "steps", "{}"),
    ("step p50 ms", "time.step_ms.p50", "{:.2f}"),
    ("compile s", "time.compile_s", "{:.1f}"),
    ("total s", "time.total_s", "{:.1f}"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep.

    Attributes:
      overrides: its overrides, without `run_dir`.
      swept: those of them that differ from job to job.
      run_dir: its folder; None has one made under runs/ when it starts.
      settings: what it was checked as.
    """

    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    run_dir: str | None
    settings: Settings

    @property
    def name(self) -> str:
        return " ".join(self.swept) or "the only one"


def plan(arguments: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> list[Job]:
    """Expands the values given for each key into jobs, and checks every one.

    Raises:
      ConfigError: any job cannot run, or two would share a run folder.
    """
    folders = paths.conf_dirs(cwd, config_dirs)
    combinations = list(_combinations(arguments, folders))
    jobs = []
    problems: dict[str, str] = {}
    for index, (chosen, swept) in enumerate(combinations):
        # ~run_dir names no folder, and is refused where the job is checked.
        run_dir = next((one for one in chosen if overrides.key_of(one) == "run_dir" and not one.startswith("~")), None)
        rest = [override for override in chosen if override != run_dir]
        folder = None
        if run_dir is not None:
            # One folder given for all jobs becomes a folder of folders.
            folder = overrides.value_of(run_dir)
            folder = folder if run_dir in swept else f"{folder}/{_folder_name(index, swept)}"
        try:
            words = [*rest, *([_run_dir(folder)] if folder else [])]
            settings = config.load(words, cwd, config_dirs)
            if settings.do in ("train", "evaluate"):
                environment.check(settings.mode, os.environ)
        except ConfigError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, f"job {index} ({' '.join(swept) or 'the only one'})")
            continue
        jobs.append(Job(overrides=tuple(rest), swept=tuple(swept), run_dir=folder, settings=settings))
    if problems:
        raise ConfigError("\n".join(f"{where}: {line}" for line, where in problems.items()))
    _check_folders(jobs)
    return jobs


def run(jobs: Sequence[Job], cwd: Path, config_dirs: Sequence[str] = ()) -> int:
    """Runs the jobs in order, prints a table that compares them, and returns the first exit code that is not 0.

    A signal ends the job under way, as it would end a single run, and with it the sweep.
    """
    results: list[tuple[Job, Path, int]] = []
    for index, job in enumerate(jobs):
        folder = _folder(job, cwd)
        shown = paths.shown(folder, cwd)
        words = [*job.overrides, quoting.override("run_dir", quoting.path_value(folder))]
        command = [sys.executable, "-m", "modetrain", *words, *command_line.folder_flags(config_dirs)]
        print(f"\n--- job {index} ({len(jobs)} in all): {job.name} -> {shown}", flush=True)
        code, stopped_by = _run_one(command, cwd)
        results.append((job, folder, code))
        if stopped_by is not None:
            print(f"\nstopped by {stopped_by.name}; jobs not started: {len(jobs) - index - 1}", flush=True)
            break
    _print_table(results, cwd)
    return next((code for _, _, code in results if code), 0)


def _combinations(arguments: Sequence[str], folders: Sequence[Path]) -> Iterator[tuple[list[str], list[str]]]:
    """Yields, for each job, its overrides and those of them that were swept."""
    choices: list[list[str]] = []
    swept: list[bool] = []
    for override in overrides.parse(arguments, folders, sweep=True):
        line = override.input_line or override.get_key_element()
        if not override.is_sweep_override():
            choices.append([line])
            swept.append(False)
            continue
        key = override.get_key_element()
        values = overrides.expand(override, folders)
        if not values:
            raise ConfigError(f"{line}: that is no value at all, so there is nothing to run. Type {key}=VALUE,VALUE.")
        choices.append([f"{key}={value}" for value in values])
        swept.append(True)
    for combination in itertools.product(*choices):
        yield list(combination), [one for one, varies in zip(combination, swept, strict=True) if varies]


def _folder_name(index: int, swept: Sequence[str]) -> str:
    """A folder name that tells the jobs apart: `0-mode=eager,optimizer.learning_rate=0.1`."""
    text = re.sub(r"[^\w.,=+-]", "_", ",".join(swept))[:120]
    return f"{index}-{text}" if text else str(index)


def _run_dir(folder: str) -> str:
    """The override of a job's folder; what was typed as an interpolation stays one."""
    return quoting.override("run_dir", folder, interpolated=True)


def _folder(job: Job, cwd: Path) -> Path:
    """The job's run folder: the one it continues, the one it was given, or a new one."""
    if job.settings.run_dir is not None:
        return job.settings.run_dir
    return run_folder.new(cwd / run_folder.RUNS, job.settings.recipe_name, job.settings.mode.name)


def _check_folders(jobs: Sequence[Job]) -> None:
    seen: dict[Path, Job] = {}
    for job in jobs:
        folder = job.settings.run_dir
        if folder is None:
            continue
        if folder in seen:
            fix = "resume=PATH of a run, which starts a new one from it" if job.run_dir is None else "run_dir=FOLDER"
            raise ConfigError(
                f"{seen[folder].name} and {job.name}: both would run in {paths.shown(folder, Path.cwd())}, where one "
                f"would overwrite the other. Type {fix}."
            )
        seen[folder] = job


def _run_one(command: Sequence[str], cwd: Path) -> tuple[int, signal.Signals | None]:
    """Runs one process to its end; returns its exit code (128 + n for signal n) and the signal that stops the sweep."""
    stopped_by: list[signal.Signals] = []
    with _signals(stopped_by) as children:
        process = subprocess.Popen(command, cwd=cwd)
        children.append(process)
        code = process.wait()
    code = 128 - code if code < 0 else code
    if not stopped_by and code in (129, 130, 143):
        stopped_by.append(signal.Signals(code - 128))
    return code, stopped_by[0] if stopped_by else None


@contextlib.contextmanager
def _signals(stopped_by: list[signal.Signals]) -> Iterator[list[subprocess.Popen]]:
    """Hands SIGINT and SIGTERM on to the child, which ends as a single run would, with a checkpoint."""
    children: list[subprocess.Popen] = []

    def hand_on(number: int, frame: object) -> None:
        stopped_by.append(signal.Signals(number))
        # Ctrl-C in a terminal reaches the child too; a second signal would end it at once, without a checkpoint.
        if number == signal.SIGINT and _in_terminal():
            return
        for child in children:
            child.send_signal(number)

    old = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _in_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno() if sys.__stdin__ else 0) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _print_table(results: Sequence[tuple[Job, Path, int]], cwd: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    runs = [run_json.read(folder) for _, folder, _ in results]
    metrics = list(dict.fromkeys(name for run in runs for name in _numbers(_get(run, "results.eval"))))
    table = Table(title="the sweep", title_justify="left")
    table.add_column("job", overflow="fold")
    table.add_column("status", overflow="fold")
    for heading in (*(f"eval {name}" for name in metrics), *(heading for heading, _, _ in COLUMNS)):
        table.add_column(heading, justify="right", overflow="fold")
    for (job, _, code), run in zip(results, runs, strict=True):
        status = str(run.get("status", "not started")) + ("" if code == 0 else f" (exit {code})")
        evaluated = _numbers(_get(run, "results.eval"))
        cells = [f"{evaluated[name]:.4f}" if name in evaluated else "" for name in metrics]
        for _, key, form in COLUMNS:
            value = _get(run, key)
            cells.append(form.format(value) if isinstance(value, int | float) else "")
        table.add_row("\n".join(job.swept) or job.name, status, *cells)
    # Off a terminal rich would cut the table to 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table, markup=False)
    together = Path(os.path.commonpath([folder for _, folder, _ in results]))
    say = terminal.plain(console)
    say("see their curves with:")
    say(f"  {command_line.tensorboard(together)}")


def _get(run: Any, key: str) -> Any:
    for part in key.split("."):
        run = run.get(part) if isinstance(run, Mapping) else None
    return run


def _numbers(found: Any) -> dict[str, float]:
    return {name: value for name, value in (found or {}).items() if isinstance(value, int | float)}
