"""`do=compare` on the command line: each mode in a process of its own, then compare.json, compare.html and a table.

Imports no TensorFlow: that is for the processes of the modes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from modetrain import config, paths, resume
from modetrain.command_line import CommandLine
from modetrain.comparison import place
from modetrain.comparison.cause import Explanation
from modetrain.comparison.child import Job
from modetrain.comparison.conduct import Death, conduct
from modetrain.comparison.findings import Comparison
from modetrain.comparison.seen import ArmReport
from modetrain.comparison.shelf import Shelf
from modetrain.errors import ConfigError, did_you_mean
from modetrain.launch import launch
from modetrain.settings import Settings
from modetrain.verdict import Limits

AGREE, DISAGREE = 0, 1
JSON = "compare.json"
SCHEMA = 1

# What each variant of an arm changes.
_CHANGED = {"float64": ("mode.precision=float64",), "strict": ("mode.compile=graph", "mode.strict=true"), "onednn": ()}
_CHANGES = {"float64": ("mode.precision",), "strict": ("mode.compile", "mode.strict"), "onednn": ()}
_ENVIRON = {"onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"}}
_TENSORFLOWS = re.compile(r"[IWEF]\d{4} |WARNING: All log messages")
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


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
    console = Console() if sys.stdout.isatty() else Console(width=120)
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    where = resume.place(settings, say)
    shown = paths.shown(where.folder, cwd)
    say(
        f"modetrain: recipe={settings.recipe_name} do=compare compare.modes={_listed(settings.compare.modes)} -> {shown}"
    )
    (where.folder / "config.yaml").write_text(yaml.safe_dump(dict(settings.resolved), sort_keys=False))
    working = where.folder / ".arms"
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
    versions = runner.shelf.get("versions") if runner.shelf.has("versions") else {}
    write(comparison, settings, where.folder, versions)
    shutil.rmtree(working, ignore_errors=True)
    say(str(comparison))
    return AGREE if comparison.agrees else DISAGREE


def arm_words(settings: Settings, line: CommandLine, cwd: Path) -> dict[str, tuple[str, ...]]:
    """The overrides of each mode's run, every one checked.

    Raises:
      ConfigError: there is no such mode, or the run cannot be made in it.
    """
    folders = paths.conf_dirs(cwd, line.config_dirs)
    known = paths.options("mode", folders)
    typed = [word for word in line.overrides if _key(word) not in ("do", "mode", "run_dir", "resume")]
    typed = [word for word in typed if not _key(word).startswith("compare.")]
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


def write(comparison: Comparison, settings: Settings, folder: Path, versions: Mapping[str, str]) -> None:
    """Writes compare.json."""
    described = {
        "schema": SCHEMA,
        "recipe": settings.recipe_name,
        "command": settings.command,
        "seed": settings.seed,
        "batch_size": settings.data.batch_size,
        **comparison.to_json(),
        "versions": dict(versions),
    }
    (folder / JSON).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")


class Processes:
    """Runs each arm in a process of its own.

    Args:
      settings: of `do=compare`.
      words: overrides of each mode's run.
      config_dirs: as typed.
      where: the run folder, and what to begin from.
      shelf: in files.
      cwd: the folder to run in.
    """

    def __init__(
        self,
        settings: Settings,
        words: dict[str, tuple[str, ...]],
        config_dirs: Sequence[str],
        where: resume.Place,
        shelf: Shelf,
        cwd: Path,
    ):
        self.shelf = shelf
        self._settings = settings
        self._words = words
        self._config_dirs = tuple(config_dirs)
        self._where = where
        self._cwd = cwd
        self._reference_compile = config.load(words[settings.compare.modes[0]], cwd, config_dirs).mode.compile

    def lead(self, mode: str) -> ArmReport | Death:
        return self._run(self._job("lead", mode))

    def follow(self, mode: str) -> ArmReport | Death:
        return self._run(self._job("follow", mode))

    def floors(self, numbers: Sequence[int], draws: int) -> dict[int, dict[str, float]] | Death:
        return self._run(self._job("floors", self._settings.compare.modes[0], numbers=numbers, draws=draws))

    def variant(self, mode: str, change: str, numbers: Sequence[int]) -> ArmReport | Death | None:
        if change == "float64" and self._settings.mode.precision == "float64":
            return None
        job = self._job("follow", mode, numbers=numbers)
        words = [word for word in job.words if _key(word) not in _CHANGES[change]]
        return self._run(
            dataclasses.replace(
                job, arm=f"{mode}@{change}", words=(*words, *_CHANGED[change]), environ=_ENVIRON.get(change, {})
            )
        )

    def explain(self, mode: str, number: int) -> Explanation | None:
        found = self._run(self._job("explain", mode, numbers=[number]))
        return None if isinstance(found, Death) else found

    def _job(self, task: str, mode: str, *, numbers: Sequence[int] = (), draws: int | None = None) -> Job:
        compare = self._settings.compare
        return Job(
            task=task,
            arm=mode,
            reference=compare.modes[0],
            reference_compile=self._reference_compile,
            words=self._words[mode],
            config_dirs=self._config_dirs,
            steps=compare.steps,
            draws=draws or compare.draws,
            numbers=tuple(numbers),
            checkpoints=self._where.checkpoints,
        )

    def _run(self, job: Job):
        self.shelf.put(f"{job.name}/job", job)
        folder = self.shelf.folder
        assert folder is not None
        command = [sys.executable, "-m", "modetrain.comparison.child", str(folder), job.name]
        log = folder / job.name / "output.log"
        settings = config.load(job.words, self._cwd, job.config_dirs)
        if settings.mode.strategy == "multiworker":
            code = self._launch(command, int(settings.mode.workers), folder / job.name, settings)
        else:
            with open(log, "wb") as output:
                process = subprocess.Popen(command, cwd=self._cwd, stdout=output, stderr=subprocess.STDOUT)
                with _ended(process):
                    code = process.wait()
        if code == 0 and self.shelf.has(f"{job.name}/result"):
            return self.shelf.get(f"{job.name}/result")
        phase = self.shelf.get(f"{job.name}/phase") if self.shelf.has(f"{job.name}/phase") else "setup"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = log.read_text(errors="replace") if log.exists() else ""
        # Lines of TensorFlow's own log say what hardware there is.
        last = [line.strip() for line in said.splitlines() if line.strip() and not _TENSORFLOWS.match(line)]
        # The innermost line comes first in such a report, and so does the thread that was running.
        frames = [(file, int(number), name) for file, number, name in _FRAME.findall(said)]
        where = place.innermost(reversed(frames)) if code < 0 else None
        return Death(how=how, phase=phase, tail=last[-1] if last else "", place=where)

    def _launch(self, command: Sequence[str], workers: int, folder: Path, settings: Settings) -> int:
        with open(folder / "output.log", "w") as output:
            return launch(
                command,
                workers=workers,
                folder=folder,
                say=lambda line: print(line, file=output, flush=True),
                limits=Limits(startup=settings.mode.startup_timeout),
                stream=output,
            ).code


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Within this the process lives; whatever ends the block ends it."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


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


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _listed(modes: Sequence[str]) -> str:
    return f"[{','.join(modes)}]"
