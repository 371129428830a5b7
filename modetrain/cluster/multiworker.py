"""`mode=multiworker` on the command line: finds which worker this process is, or starts all workers on this machine.

    code = multiworker.start(settings, line, cwd)    # None: this process is a worker, TF_CONFIG is set, continue

Imports no TensorFlow: a launcher needs none, and a worker must set TF_CONFIG before it imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import time
from pathlib import Path

from modetrain import console
from modetrain.checkpoints import resume
from modetrain.cluster import protocol
from modetrain.cluster.environment import ORIGIN_TEXTS, check, from_environment
from modetrain.cluster.launcher.launch import Again, Restart, launch
from modetrain.cluster.launcher.supervisor import Limits
from modetrain.config import arguments, overrides
from modetrain.config.arguments import CommandLine
from modetrain.data.sources import arrays
from modetrain.errors import ConfigError
from modetrain.files import paths, quoting, run_folder, run_json
from modetrain.settings import Settings

_LEAVE = {
    "TF_CONFIG": "type `unset TF_CONFIG`",
    "slurm": "type it without srun",
    "kubernetes": "unset MODETRAIN_WORKERS, MODETRAIN_JOB and MODETRAIN_SERVICE",
}
# Memory that a joined worker does not share: measured 0.31 GiB; all workers share as much again.
_WORKER_MEMORY = int(0.3 * 2**30)
_LAUNCHER_KEYS = ("run_dir", "resume", "mode.workers")

log = logging.getLogger(__name__)


def start(settings: Settings, line: CommandLine, cwd: Path) -> int | None:
    """Sets up this process as a worker, or starts all workers here and waits for their end.

    Args:
      settings: the run's settings, checked.
      line: the command line.
      cwd: the folder to run in.

    Returns:
      The exit code of all workers, or None in a worker.

    Raises:
      ConfigError: see `check`; or the cluster and the number of workers contradict each other.
    """
    cluster = from_environment(os.environ)
    wanted = settings.mode.workers
    if cluster is None:
        check(settings.mode, os.environ)
        return _launch(settings, int(wanted), line, cwd)
    count = len(cluster.workers)
    if wanted != "auto" and cluster.origin != "local":
        # Either may be left over: from a shell where a cluster was tried, or from the command for one machine.
        here = f"To start {wanted} workers on this machine {_LEAVE[cluster.origin]}; to be that worker leave mode.workers out."
        raise ConfigError(
            f"mode.workers={wanted}: {ORIGIN_TEXTS[cluster.origin]} that this process is worker {cluster.index} of {count} "
            f"({', '.join(cluster.workers[:4])}{', ...' if count > 4 else ''}), and such a worker starts none. {here}"
        )
    if settings.run_dir is None and count > 1:
        raise ConfigError(
            "mode=multiworker without run_dir=: each worker would choose a folder of its own. Type run_dir= with a folder "
            "that all machines see."
        )
    os.environ["TF_CONFIG"] = cluster.tf_config()
    return None


def _check_memory(workers: int, settings: Settings) -> None:
    free = arrays.free_memory()
    if workers * _WORKER_MEMORY <= free:
        return
    parts = settings.data.batch_size // settings.optimizer.accumulate
    fit = [fewer for fewer in range(1, workers) if fewer * _WORKER_MEMORY <= free and parts % fewer == 0]
    raise ConfigError(
        f"mode.workers={workers}: a worker needs at least {_WORKER_MEMORY / 2**30:.1f} GiB before it has a model, together "
        f"{workers * _WORKER_MEMORY / 2**30:.0f} GiB, and {free / 2**30:.1f} GiB of memory are free on this machine. Type "
        f"mode.workers={max(fit, default=1)} or fewer; docs/reference/clusters.md says how to run on several machines."
    )


def _launch(settings: Settings, workers: int, line: CommandLine, cwd: Path) -> int:
    if line.pdb:
        raise ConfigError(
            "--pdb with mode=multiworker: workers have no terminal to stop at. Type mode=mirrored or mode=eager."
        )
    _check_memory(workers, settings)
    began = time.time()
    console.show_log()
    where = resume.find_folder(settings)
    kept = [word for word in line.overrides if overrides.key_of(word) not in _LAUNCHER_KEYS]
    begin = settings.resume
    if begin == "latest" and settings.run_dir != where.folder:
        begin = str(settings.run_dir)

    def command(workers: int, resume_from: str | None) -> list[str]:
        own = {"run_dir": str(where.folder), "mode.workers": workers, "resume": resume_from}
        written = [quoting.override(key, value) for key, value in own.items() if value is not None]
        return [sys.executable, "-m", "modetrain", *kept, *written, *arguments.folder_flags(line.config_dirs)]

    def on_restart(restart: Restart) -> Again:
        after = settings.mode.restart_workers
        count = workers if after == "auto" else int(after)
        newest = run_folder.newest(where.folder)
        # An earlier checkpoint may be of a branch that this run leaves.
        made_one = newest is not None and newest.stat().st_mtime > began
        if made_one or begin is None:
            where_from = (
                f"step {run_folder.step_of(newest)}" if newest is not None else "step 0: there is no checkpoint yet"
            )
            return Again(command=command(count, "latest"), workers=count, begin=where_from)
        return Again(
            command=command(count, begin), workers=count, begin=f"resume={begin}: no later checkpoint is there yet"
        )

    log.info(f"modetrain: {workers} workers on this machine -> {paths.format_path(where.folder, cwd)}")
    outcome = launch(
        command(workers, begin),
        workers=workers,
        folder=where.folder,
        prefix="modetrain: ",
        restarts=settings.mode.restarts,
        limits=Limits(startup=settings.mode.startup_timeout),
        environ={**os.environ, protocol.COMMAND: settings.command},
        on_restart=on_restart,
    )
    changes: dict[str, object] = {"restarts": [dataclasses.asdict(restart) for restart in outcome.restarts]}
    if outcome.cause is not None:
        changes |= {"status": "failed", "error": outcome.cause}
        # The cause, from any worker: another worker may have written there that it lost this one.
        logs = paths.format_path(where.folder / run_folder.WORKERS, cwd)
        with contextlib.suppress(OSError):
            (where.folder / run_folder.ERROR).write_text(
                outcome.traceback or f"{outcome.cause}\nThe output of all workers: {logs}\n", encoding="utf-8"
            )
    run_json.update(where.folder, changes)
    return outcome.code
