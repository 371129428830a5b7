"""The jobs of a sweep, by Hydra's sweeper and launcher: each in a process of its own, then a table that compares them.

TensorFlow's global state (threads, kernels, what was compiled) leaks from one run into the next, so that runs which share a
process cannot be compared.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain import console as terminal
from modetrain.app import check, sweep
from modetrain.config import arguments as command_line
from modetrain.config import hydra_main, overrides
from modetrain.files import paths, quoting, run_folder, run_json

# Columns of the table after the sweep: heading, key in run.json, format.
COLUMNS = (
    ("steps", "steps", "{}"),
    ("step p50 ms", "time.step_ms.p50", "{:.2f}"),
    ("compile s", "time.compile_s", "{:.1f}"),
    ("total s", "time.total_s", "{:.1f}"),
)
_STOP = "stop"  # a file that is there once no further job is to begin
# Hydra makes no folders and no log files: each run has its own.
_QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")

_NO_RECIPE = "~recipe"  # for Hydra, where each job resumes a run and has its recipe


def run(jobs: Sequence[sweep.Job], arguments: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> int:
    """Has Hydra launch the jobs, prints a table that compares them, and returns the first exit code that is not 0.

    A signal to this process ends the running jobs, as it would end a single run, and with them the sweep. A job that stops by
    itself (`stop_after=`, `trainer.stop()`) or that alone is sent a signal ends as one job.
    """
    folders = paths.conf_dirs(cwd, [*config_dirs, *overrides.search_path(arguments)])
    fixed, words = _for_hydra(arguments, folders)
    parent = _run_dir(arguments) or cwd / run_folder.RUNS
    parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=".sweep-", dir=parent))
    own = (f"hydra.sweep.dir={working}", "hydra.sweep.subdir=${hydra.job.num}", *_QUIET)
    task = functools.partial(_launched, jobs, fixed, cwd, tuple(config_dirs), working, os.getpid())
    with _stoppable(working):
        code = hydra_main.run(["--multirun", *words, *map(_quoted, own)], cwd, config_dirs, task)
    results = _results(working)
    shutil.rmtree(working, ignore_errors=True)
    done = [result for result in results if "code" in result]
    codes = [result["code"] for result in done if result["code"]]
    if code in (130, 143):
        name = signal.Signals(code - 128).name
        print(f"\nstopped by {name}; jobs not started: {max(0, len(jobs) - len(results))}", flush=True)
    if done:
        _print_table(done, cwd)
    return next(iter(codes), code)


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    return word if key.startswith("hydra/") or "${" in value or value == "null" else quoting.override(key, value)


def _run_dir(arguments: Sequence[str]) -> Path | None:
    """The folder of all jobs, where one was given."""
    typed = [word for word in arguments if word.startswith("run_dir=") and "," not in word]
    return paths.expand(overrides.value_of(typed[0]), Path.cwd()) if typed else None


def _for_hydra(arguments: Sequence[str], folders: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The overrides that all jobs share, and those that Hydra is to sweep over and to compose."""
    known, fixed, words = overrides.groups(folders), [], []
    for override in overrides.parse(arguments, folders, sweep=True):
        line, key, group = overrides.line(override), override.get_key_element(), override.key_or_group in known
        if override.is_hydra_override():
            words += [] if quoting.key_of(line) == "hydra.searchpath" else [line]
        elif override.is_discrete_sweep():
            values = overrides.expand(override, folders)
            words.append(f"{key}={','.join(overrides.option(value) if group else value for value in values)}")
        elif override.is_sweep_override():
            words.append(line)
        else:
            fixed.append(line)
            words += [overrides.for_hydra(override)] if group else []
    if not any(quoting.key_of(word) == "recipe" for word in [*fixed, *words]):
        words.append(_NO_RECIPE)
    return fixed, words


def _launched(
    jobs: Sequence[sweep.Job],
    fixed: Sequence[str],
    cwd: Path,
    config_dirs: tuple[str, ...],
    working: Path,
    parent: int,
    config: Any,
) -> float | int:
    """One job, wherever the launcher runs it: a process of its own. Returns the loss of its evaluation, for sweepers."""
    from hydra.core.hydra_config import HydraConfig

    if (working / _STOP).exists():
        return 0
    hydra = HydraConfig.get()
    index, keys = int(hydra.job.num), {quoting.key_of(word) for word in fixed}
    own = [
        word for word in hydra.overrides.task if not word.startswith(_NO_RECIPE) and quoting.key_of(word) not in keys
    ]
    swept = tuple(map(_plain, own))
    job = next((one for one in jobs if one.swept == swept), None)
    if job is None:  # of a sweeper that chooses values itself
        job = sweep.make_job(index, [*fixed, *swept], swept, cwd, config_dirs, check.load)
    folder = _folder(job, cwd)
    shown = paths.format_path(folder, cwd)
    words = [*job.overrides, quoting.override("run_dir", quoting.path_value(folder))]
    command = [sys.executable, "-m", "modetrain", *words, *command_line.folder_flags(config_dirs)]
    count = f" ({len(jobs)} in all)" if job in jobs else ""
    print(f"\n--- job {index}{count}: {job.name} -> {shown}", flush=True)
    file = working / f"{index}.json"
    described = {"index": index, "swept": job.swept, "folder": str(folder)}
    code, stopped_by = _run_one(
        command, cwd, lambda pid: file.write_text(json.dumps({**described, "pid": pid}), encoding="utf-8")
    )
    file.write_text(json.dumps({**described, "code": code}), encoding="utf-8")
    if stopped_by is not None and os.getpid() == parent:
        raise SystemExit(128 + stopped_by)
    return _numbers(_get(run_json.read(folder), "results.eval")).get("loss", code)


def _plain(word: str) -> str:
    """An override as `plan` has it: the quotes are Hydra's where a group's option needs them."""
    key, _, value = word.partition("=")
    return f"{key}={value[1:-1]}" if "." not in key and re.fullmatch(r"'[\w./-]*'", value) else word


def _results(working: Path) -> list[dict[str, Any]]:
    found = [json.loads(file.read_text(encoding="utf-8")) for file in working.glob("*.json")]
    return sorted(found, key=lambda one: one["index"])


@contextlib.contextmanager
def _stoppable(working: Path) -> Iterator[None]:
    """Within this SIGINT and SIGTERM end the jobs that a launcher runs elsewhere, each as a single run would end.

    While a job runs in this process, they go to that (`_signals`).
    """

    def running() -> list[int]:
        return [one["pid"] for one in _results(working) if "code" not in one and _is_alive(one["pid"])]

    def stop(number: int, frame: object) -> None:
        (working / _STOP).touch()
        for pid in running() if number != signal.SIGINT or not _in_terminal() else ():
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        while running():
            time.sleep(0.1)
        raise SystemExit(128 + number)

    with _handled(stop):
        yield


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _folder(job: sweep.Job, cwd: Path) -> Path:
    """The job's run folder: the one it continues, the one it was given, or a new one."""
    if job.settings.run_dir is not None:
        return job.settings.run_dir
    return run_folder.create(cwd / run_folder.RUNS, job.settings.recipe_name, job.settings.mode.name)


def _run_one(command: Sequence[str], cwd: Path, started: Callable[[int], object]) -> tuple[int, signal.Signals | None]:
    """Runs one process to its end; returns its exit code (128 + n for signal n) and the signal that stopped the sweep."""
    stopped_by: list[signal.Signals] = []
    with _signals(stopped_by) as children:
        process = subprocess.Popen(command, cwd=cwd)
        children.append(process)
        started(process.pid)
        code = process.wait()
    return 128 - code if code < 0 else code, stopped_by[0] if stopped_by else None


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

    with _handled(hand_on):
        yield children


def _in_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno() if sys.__stdin__ else 0) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _print_table(results: Sequence[Mapping[str, Any]], cwd: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    runs = [run_json.read(Path(result["folder"])) for result in results]
    metrics = list(dict.fromkeys(name for run in runs for name in _numbers(_get(run, "results.eval"))))
    table = Table(title="the sweep", title_justify="left")
    table.add_column("job", overflow="fold")
    table.add_column("status", overflow="fold")
    for heading in (*(f"eval {name}" for name in metrics), *(heading for heading, _, _ in COLUMNS)):
        table.add_column(heading, justify="right", overflow="fold")
    for result, run in zip(results, runs, strict=True):
        code = result["code"]
        status = str(run.get("status", "not started")) + ("" if code == 0 else f" (exit {code})")
        evaluated = _numbers(_get(run, "results.eval"))
        cells = [f"{evaluated[name]:.4f}" if name in evaluated else "" for name in metrics]
        for _, key, form in COLUMNS:
            value = _get(run, key)
            cells.append(form.format(value) if isinstance(value, int | float) else "")
        table.add_row("\n".join(result["swept"]) or "the only one", status, *cells)
    # Off a terminal rich would cut the table to 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table, markup=False)
    together = Path(os.path.commonpath([result["folder"] for result in results]))
    print_line = terminal.plain(console)
    print_line("see their curves with:")
    print_line(f"  {command_line.tensorboard(together)}")


def _get(run: Any, key: str) -> Any:
    for part in key.split("."):
        run = run.get(part) if isinstance(run, Mapping) else None
    return run


def _numbers(found: Any) -> dict[str, float]:
    return {name: value for name, value in (found or {}).items() if isinstance(value, int | float)}
