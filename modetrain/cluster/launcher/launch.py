"""Starts the workers of a run on this machine, watches them, and ends when all have ended; like torchrun.

    outcome = launch(
        [sys.executable, "-m", "modetrain", *words], workers=2, folder=run_dir,
        restarts=3, limits=Limits(startup=120),
        on_restart=lambda restart: Again(command=[*command, "resume=latest"], workers=2),
    )
    record["restarts"] = [dataclasses.asdict(restart) for restart in outcome.restarts]
    sys.exit(outcome.code)

Each worker finds TF_CONFIG in its environment and calls the three functions of `modetrain.cluster.protocol`. Worker 0's output is
shown at once, in a terminal if ours is one; all output is kept in `<folder>/workers/worker-<k>.log`. A first Ctrl-C or SIGTERM is
passed on to all workers, a second one ends them at once. `supervisor.py` decides what to do. Call it from the main
thread: that thread handles the signals, and the workers die with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from modetrain.cluster.launcher.evidence import STOPS, format_workers
from modetrain.cluster.launcher.output import Screen
from modetrain.cluster.launcher.processes import Attempt
from modetrain.cluster.launcher.supervisor import Limits, Supervisor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restart:
    """One restart of all workers.

    Attributes:
      attempt: 1 for the first restart.
      workers: the workers that caused it.
      cause: what happened, in a sentence.
      at_s: when the cause was known, in seconds since the launch.
      noticed_s: seconds from the first sign of trouble until the cause was known; for a worker that stopped answering, from
        its last sign of life.
      restarted_s: seconds from then until all workers had joined again; None if they never did.
    """

    attempt: int
    workers: tuple[int, ...]
    cause: str
    at_s: float
    noticed_s: float
    restarted_s: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Again:
    """How to continue after a restart.

    Attributes:
      command, workers: see `launch`.
      begin: where the workers start from, in words.
    """

    command: Sequence[str]
    workers: int
    begin: str = "the last checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a launch ended.

    Attributes:
      code: the exit code: 0 all done, 1 failed, 2 the configuration is wrong, 3 a loss or weights are not finite, 129, 130 or
        143 stopped by a signal.
      restarts: all restarts.
      cause: what ended it, in a sentence; None if nothing failed.
      traceback: the complete traceback of the exception that ended it, or None.
    """

    code: int
    restarts: tuple[Restart, ...] = ()
    cause: str | None = None
    traceback: str | None = None


def launch(
    command: Sequence[str],
    *,
    workers: int,
    folder: Path,
    restarts: int = 0,
    limits: Limits | None = None,
    environ: Mapping[str, str] | None = None,
    on_restart: Callable[[Restart], Again] | None = None,
    stream: TextIO | None = None,
    prefix: str = "",
) -> Outcome:
    """Runs `command` once for each worker until all are done; if one fails, reports which failed first.

    Args:
      command: the program and its words, the same for all workers.
      workers: number of workers.
      folder: the run folder; logs go to its `workers` folder, which is made.
      restarts: how often all workers are started again after one was killed, froze or did not join, or all lost each
        other. A worker's exception or exit code would repeat, so it ends the launch.
      limits: how long to wait.
      environ: the workers' environment, to which their own variables are added; this process's by default.
      on_restart: called before each restart; returns how to continue. Without it the same command starts again.
      stream: shows worker 0's output and the launcher's lines; standard output by default.
      prefix: begins each of the launcher's lines.

    Returns:
      How it ended. No worker runs any longer, whether it returns or raises.
    """
    assert workers > 0
    limits = limits or Limits()
    screen = Screen(stream or sys.stdout, prefix)
    started = time.monotonic()
    made: list[Restart] = []
    with _signals() as received:
        while True:
            with Attempt(command, workers, len(made), folder, environ, screen, received) as attempt:
                watch = attempt.watch(limits)
            if made and watch.joined_at is not None:
                took = watch.joined_at - started - made[-1].at_s
                made[-1] = dataclasses.replace(made[-1], restarted_s=round(took, 3))
            if received or not watch.restartable or len(made) >= restarts:
                break
            assert watch.cause is not None
            assert watch.known_at is not None
            silent_s = attempt.silent_s(watch.cause.workers, watch.known_at) if watch.cause.kind == "stalled" else None
            restart = Restart(
                attempt=len(made) + 1,
                workers=watch.cause.workers,
                cause=watch.cause.sentence,
                at_s=round(watch.known_at - started, 3),
                noticed_s=round(max(silent_s or 0.0, watch.known_at - watch.first_sign), 3),
            )
            made.append(restart)
            before = workers
            again = on_restart(restart) if on_restart else Again(command=command, workers=workers)
            command, workers = again.command, again.workers
            who = "all workers" if workers == before else f"{workers} instead of {before} workers"
            since = f" (its last sign of life was {silent_s:.0f} s ago)" if silent_s is not None else ""
            screen.write_line(
                f"restart {len(made)} of {restarts}: {restart.cause}{since}; {who} start again from {again.begin}"
            )
        _explain(watch, attempt, screen)
        if made and watch.restartable:
            screen.write_line(f"no restart is left: {restarts} of {restarts} were made")
    # A signal that comes after the workers have ended stops none, but forbids a restart.
    code = 128 + received[0] if received and watch.restartable else watch.code
    cause = watch.cause
    return Outcome(
        code=code,
        restarts=tuple(made),
        cause=cause.sentence if cause else None,
        traceback=cause.report.traceback if cause and cause.report else None,
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Within this SIGINT, SIGTERM and SIGHUP are collected; one that is ignored stays ignored (nohup)."""
    received: list[int] = []
    before = {signum: signal.getsignal(signum) for signum in STOPS}
    caught = [signum for signum, handler in before.items() if handler is not signal.SIG_IGN]
    for signum in caught:
        signal.signal(signum, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for signum in caught:
            signal.signal(signum, before[signum])


def _explain(watch: Supervisor, attempt: Attempt, screen: Screen) -> None:
    """Reports which worker failed first, its error, and which workers stopped because of it."""
    if watch.stopped_by is not None:
        screen.write_line(f"{watch.stopped_by.name} reached a worker: all workers have stopped")
    cause = watch.cause
    if cause is None:
        return
    report = cause.report
    first = report is not None and not cause.of_all
    screen.write_line(
        f"{format_workers(cause.workers)} failed first: {report.line}" if first and report else cause.sentence
    )
    for worker in cause.workers[:1] if report else cause.workers:  # an error is the same for all of them
        tail = attempt.tail(worker)
        expected = (report.text.strip() or report.type).splitlines() if report else []
        # Worker 0's output is shown already, unless the worker ended before it could print.
        if worker != 0 or any(line not in tail for line in expected):
            for line in ((report.text or report.traceback) if report else tail).splitlines():
                screen.write_line(f"[worker {worker}] {line}")
            screen.write_line(f"[worker {worker}] (its log: {attempt.log(worker)})")
    for other in watch.others:
        screen.write_line(
            f"{format_workers(other.workers)} failed too: {other.report.line}" if other.report else other.sentence
        )
    for worker in watch.followers:
        screen.write_line(f"worker {worker} stopped because of it")
