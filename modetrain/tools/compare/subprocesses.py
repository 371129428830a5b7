"""Arms in processes of their own: one process a job, which leaves what it found on the shelf in files.

Imports no TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modetrain.checkpoints import resume
from modetrain.cluster.launcher.launch import launch
from modetrain.cluster.launcher.supervisor import Limits
from modetrain.config import load as config
from modetrain.diagnostics import location
from modetrain.errors import ConfigError
from modetrain.files.quoting import key_of
from modetrain.settings import Settings
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.observation import ArmReport
from modetrain.tools.compare.runner import Death
from modetrain.tools.compare.store import Shelf
from modetrain.tools.compare.variant_process import WRONG, Job

# What each variant of an arm changes.
_CHANGED: Mapping[str, tuple[str, ...]] = {
    "float64": ("mode.precision=float64",),
    "strict": ("mode.compile=graph", "mode.strict=true"),
    "onednn": (),
    "again": (),
}
_ENVIRON = {"onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"}}
_TENSORFLOWS = re.compile(r"[IWEF]\d{4} |WARNING: All log messages")
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


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
        where: resume.ResumePoint,
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
        return self._run(_changed(self._job("follow", mode, numbers=numbers), change))

    def explain(self, mode: str, number: int, change: str | None = None) -> Explanation | None:
        job = self._job("explain", mode, numbers=[number])
        found = self._run(job if change is None else _changed(job, change))
        return None if isinstance(found, Death) else found

    def tracing(self, mode: str, number: int) -> Explanation | None:
        found = self._run(self._job("tracing", mode, numbers=[number]))
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
        command = [sys.executable, "-m", "modetrain.tools.compare.variant_process", str(folder), job.name]
        log = folder / job.name / "output.log"
        settings = config.load(job.words, self._cwd, job.config_dirs)
        cause = None
        if settings.mode.strategy == "multiworker":
            code, cause = self._launch(command, int(settings.mode.workers), folder / job.name, settings)
        else:
            with open(log, "wb") as output:
                process = subprocess.Popen(command, cwd=self._cwd, stdout=output, stderr=subprocess.STDOUT)
                with _ended(process):
                    code = process.wait()
        if code == 0 and self.shelf.has(f"{job.name}/result"):
            return self.shelf.get(f"{job.name}/result")
        if self.shelf.has(f"{job.name}/{WRONG}"):
            raise ConfigError(self.shelf.get(f"{job.name}/{WRONG}"))
        phase = self.shelf.get(f"{job.name}/phase") if self.shelf.has(f"{job.name}/phase") else "setup"
        how = cause or (signal.Signals(-code).name if code < 0 else f"exit code {code}")
        said = log.read_text(errors="replace") if log.exists() else ""
        # Lines of TensorFlow's own log say what hardware there is.
        last = [line.strip() for line in said.splitlines() if line.strip() and not _TENSORFLOWS.match(line)]
        # The innermost line comes first in such a report, and so does the thread that was running.
        frames = [(file, int(number), name) for file, number, name in _FRAME.findall(said)]
        where = location.innermost(reversed(frames)) if code < 0 else None
        # Of several workers the cause says all, and the last line is that of a peer of the first to fail.
        return Death(how=how, phase=phase, tail=last[-1] if last and cause is None else "", place=where)

    def _launch(self, command: Sequence[str], workers: int, folder: Path, settings: Settings) -> tuple[int, str | None]:
        """Runs the job on several workers; returns the exit code, and what ended it where something failed."""
        with open(folder / "output.log", "w") as output:
            outcome = launch(
                command,
                workers=workers,
                folder=folder,
                say=lambda line: print(line, file=output, flush=True),
                limits=Limits(startup=settings.mode.startup_timeout),
                stream=output,
            )
        return outcome.code, outcome.cause


def _changed(job: Job, change: str) -> Job:
    """The job of a variant of its arm."""
    changed = _CHANGED[change]
    words = [word for word in job.words if key_of(word) not in map(key_of, changed)]
    environ = _ENVIRON.get(change, {})
    return dataclasses.replace(job, arm=f"{job.arm}@{change}", words=(*words, *changed), environ=environ)


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Within this the process lives; whatever ends the block ends it."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
