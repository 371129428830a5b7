"""Starts the workers of a run on this machine, watches them, and ends with all of them; like torchrun.

    outcome = launch(
        [sys.executable, "-m", "modetrain", *words], workers=2, folder=run_dir, say=print,
        restarts=3, limits=Limits(startup=120),
        on_restart=lambda restart: Again(command=[*command, "resume=latest"], workers=2),
    )
    record["restarts"] = [dataclasses.asdict(restart) for restart in outcome.restarts]
    sys.exit(outcome.code)

Each worker finds TF_CONFIG in its environment and calls the three functions of `modetrain.cluster.protocol`. Worker 0's output is
shown as it comes, in a terminal if ours is one; all output is kept in `<folder>/workers/worker-<k>.log`. Ctrl-C and SIGTERM
are passed on to all workers once, and a second one ends them at once. What is to be done when is decided by
`supervisor.py`. Call it from the main thread: signals are handled there, and the workers' lives are tied to it.
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
      workers: which were the cause.
      cause: what happened, in a sentence.
      at_s: when the cause was known, in seconds since the launch.
      noticed_s: from the first sign of trouble until the cause was known; of a worker that stopped answering, from its
        last sign of life, where it gave any.
      restarted_s: from then until all workers had joined again; None where they never did.
    """

    attempt: int
    workers: tuple[int, ...]
    cause: str
    at_s: float
    noticed_s: float
    restarted_s: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Again:
    """How to go on after a restart.

    Attributes:
      command, workers: see `launch`.
      begin: where from, in words.
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
      restarts: the restarts it took.
      cause: what ended it, in a sentence; None where nothing failed.
      traceback: of the exception that ended it, complete; None where it was none.
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
    say: Callable[[str], None],
    restarts: int = 0,
    limits: Limits | None = None,
    environ: Mapping[str, str] | None = None,
    on_restart: Callable[[Restart], Again] | None = None,
    stream: TextIO | None = None,
) -> Outcome:
    """Runs `command` once for each worker until all are done, and says who failed first where one fails.

    Args:
      command: the program and its words, the same for all workers.
      workers: how many.
      folder: the run folder; logs go to its `workers` folder, which is made.
      say: prints one line of the launcher's own.
      restarts: how often all workers are started again after one was killed, froze or did not join, or all lost each
        other. Exceptions and exit codes of a worker's own would come again, and end the launch.
      limits: how long to wait for what.
      environ: the workers' environment, to which theirs is added; this process's by default.
      on_restart: told of each restart before it is made; returns how to go on. Without it, the same again.
      stream: where worker 0's output is shown; standard output by default.

    Returns:
      How it ended. No worker runs any more, whether it returns or raises.
    """
    assert workers > 0
    limits = limits or Limits()
    screen = Screen(stream or sys.stdout, say)
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
            screen.say(
                f"restart {len(made)} of {restarts}: {restart.cause}{since}; {who} start again from {again.begin}"
            )
        _explain(watch, attempt, screen)
        if made and watch.restartable:
            screen.say(f"no restart is left: {restarts} of {restarts} were made")
    # A signal that came after the workers had ended found nobody to stop, but it forbids to start them again.
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
    """Collects SIGINT, SIGTERM and SIGHUP instead of dying by them; one that is ignored stays ignored (nohup)."""
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
    """Says who failed first, shows what it left, and says who stopped because of it."""
    if watch.stopped_by is not None:
        screen.say(f"{watch.stopped_by.name} reached a worker: all workers have stopped")
    cause = watch.cause
    if cause is None:
        return
    report = cause.report
    first = report is not None and not cause.of_all
    screen.say(f"{format_workers(cause.workers)} failed first: {report.line}" if first and report else cause.sentence)
    for worker in cause.workers[:1] if report else cause.workers:  # an error is the same for all of them
        tail = attempt.tail(worker)
        told = (report.told.strip() or report.type).splitlines() if report else []
        # Worker 0's output has been shown, unless it was ended before it could print.
        if worker != 0 or any(line not in tail for line in told):
            for line in ((report.told or report.traceback) if report else tail).splitlines():
                screen.say(f"[worker {worker}] {line}")
            screen.say(f"[worker {worker}] (its log: {attempt.log(worker)})")
    for other in watch.others:
        screen.say(
            f"{format_workers(other.workers)} failed too: {other.report.line}" if other.report else other.sentence
        )
    for worker in watch.followers:
        screen.say(f"worker {worker} stopped because of it")
