"""Variants in processes of their own: one process a job, which leaves its results in files.

Imports no TensorFlow.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.checkpoints import resume
from modetrain.cluster.launcher.launch import launch
from modetrain.cluster.launcher.supervisor import Limits
from modetrain.config import load as config
from modetrain.diagnostics import location
from modetrain.errors import ConfigError
from modetrain.files.quoting import key_of
from modetrain.settings import Settings
from modetrain.tools.child_process import describe_exit, run_module
from modetrain.tools.compare import runner
from modetrain.tools.compare.observation import ProcessDeath
from modetrain.tools.compare.runner import Runner, Task
from modetrain.tools.compare.store import ResultStore
from modetrain.tools.compare.variant_process import WRONG, Job

_MODULE = "modetrain.tools.compare.variant_process"
# The overrides and the environment variables of each change.
_WORDS: Mapping[str | None, tuple[str, ...]] = {
    "float64": ("mode.precision=float64",),
    "strict": ("mode.compile=graph", "mode.strict=true"),
}
_ENVIRON: Mapping[str | None, Mapping[str, str]] = {"onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"}}
_TENSORFLOWS = re.compile(r"[IWEF]\d{4} |WARNING: All log messages")
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


class Subprocesses(Runner):
    """Runs each task in a process of its own.

    Args:
      settings: of `do=compare`.
      words: overrides of each mode's run.
      config_dirs: as typed.
      where: the run folder, and what to begin from.
      store: in files.
      cwd: the folder to run in.
    """

    def __init__(
        self,
        settings: Settings,
        words: Mapping[str, tuple[str, ...]],
        config_dirs: Sequence[str],
        where: resume.ResumePoint,
        store: ResultStore,
        cwd: Path,
    ):
        super().__init__(store, settings.compare.modes[0])
        self._settings = settings
        self._words = words
        self._config_dirs = tuple(config_dirs)
        self._where = where
        self._cwd = cwd
        self._reference_compile = config.load(words[self.reference], cwd, config_dirs).mode.compile

    def perform(self, task: Task) -> Any:
        if (task.kind, task.change) == (runner.RERUN, "float64") and self._settings.mode.precision == "float64":
            return None
        return self._run(self._job(task))

    def _job(self, task: Task) -> Job:
        changed = _WORDS.get(task.change, ())
        words = [word for word in self._words[task.mode] if key_of(word) not in map(key_of, changed)]
        return Job(
            task=task,
            reference=self.reference,
            reference_compile=self._reference_compile,
            words=(*words, *changed),
            config_dirs=self._config_dirs,
            steps=self._settings.compare.steps,
            checkpoints=self._where.checkpoints,
            environ=_ENVIRON.get(task.change, {}),
        )

    def _run(self, job: Job) -> Any:
        assert self.store.folder is not None
        self.store.put(f"{job.name}/job", job)
        folder = self.store.folder / job.name
        log = folder / "output.log"
        settings = config.load(job.words, self._cwd, job.config_dirs)
        cause = None
        if settings.mode.strategy == "multiworker":
            code, cause = self._launch(job, settings, folder, log)
        else:
            code = run_module(_MODULE, str(self.store.folder), job.name, log=log, cwd=self._cwd)
        if code == 0 and self.store.has(f"{job.name}/result"):
            return self.store.get(f"{job.name}/result")
        if self.store.has(f"{job.name}/{WRONG}"):
            raise ConfigError(self.store.get(f"{job.name}/{WRONG}"))
        return self._death(job, code, cause, log.read_text(encoding="utf-8", errors="replace") if log.exists() else "")

    def _launch(self, job: Job, settings: Settings, folder: Path, log: Path) -> tuple[int, str | None]:
        """Runs the job on several workers; returns the exit code, and what ended it where something failed."""
        with open(log, "w", encoding="utf-8") as output:
            outcome = launch(
                [sys.executable, "-m", _MODULE, str(self.store.folder), job.name],
                workers=int(settings.mode.workers),
                folder=folder,
                limits=Limits(startup=settings.mode.startup_timeout),
                stream=output,
            )
        return outcome.code, outcome.cause

    def _death(self, job: Job, code: int, cause: str | None, output: str) -> ProcessDeath:
        # Lines of TensorFlow's own log only say what hardware there is.
        lines = [line.strip() for line in output.splitlines() if line.strip() and not _TENSORFLOWS.match(line)]
        # The innermost line comes first in a report of faulthandler, and so does the thread that was running.
        frames = [(file, int(number), name) for file, number, name in _FRAME.findall(output)]
        return ProcessDeath(
            how=cause or describe_exit(code),
            phase=self.store.get(f"{job.name}/phase", "setup"),
            # With several workers the cause says all, and the last line is that of a peer of the first to fail.
            tail=lines[-1] if lines and cause is None else "",
            place=location.innermost(reversed(frames)) if code < 0 else None,
        )
