"""Decides which worker failed first and what to do, from events alone; the caller gives the time.

    watch = Supervisor(workers=2, now=now)
    watch.ready(0, now); watch.failed(1, report); watch.exited(1, -9, now)      # events, as they are seen
    action = watch.next(now)                                                    # Action.WAIT, ..., Action.DONE

The order in which workers exit says little. A worker that lost a peer fails seconds later, and the worker whose code raised may
exit after it, or be killed first. So causes are a worker's own report, with its time and exit code, and a signal that killed
it. `evidence.Cause.rank` orders them. If there are only errors about lost peers, the silent worker is the cause. The
same events give the same verdict in any order.
"""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Collection

from modetrain.cluster.launcher.evidence import STOPS, Cause, Exit, find_causes, find_consequences, format_workers
from modetrain.cluster.protocol import Report

_INTERRUPTIONS = ("KeyboardInterrupt", "SystemExit")  # the exit code has the same information

# The progress of a worker that has not joined.
_FINISHED, _FROZEN, _STARTS, _WAITS = (
    "had finished before",
    "stopped answering",
    "never looked for the others",
    "waited",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How long the launcher waits, in seconds.

    Attributes:
      startup: for all workers to join.
      grace: for the others to end by themselves once a cause is known, before they get SIGTERM.
      term: from SIGTERM to SIGKILL.
      silence: from the first error about a lost peer until a silent worker counts as the lost one; longer than
        TensorFlow's heartbeats, which take about 10 s.
      stop: for all workers to save and exit after a signal to stop; before they have joined it is `grace`.
      kill: for killed workers to end.
    """

    startup: float = 120
    grace: float = 3
    term: float = 1
    silence: float = 20
    stop: float = 300
    kill: float = 10


class Action(enum.Enum):
    """What the launcher is to do now."""

    WAIT = "wait"
    FORWARD = "pass the signal on to all workers"
    TERMINATE = "send SIGTERM to those that still run"
    KILL = "send SIGKILL to those that still run"
    DONE = "done"


class Supervisor:
    """The state of the workers of one attempt, from the events.

    Args:
      workers: number of workers.
      now: the time at which they were started.
      limits: how long to wait.

    Attributes:
      cause: what ended the attempt, once it is known; None if nothing failed.
      known_at: when the cause was known.
      joined_at: when the last worker joined.
    """

    def __init__(self, workers: int, *, now: float, limits: Limits | None = None):
        self.cause: Cause | None = None
        self.known_at: float | None = None
        self.joined_at: float | None = None
        self._limits = limits or Limits()
        self._workers = range(workers)
        self._started = now
        self._waiting: set[int] = set()
        self._ready: set[int] = set()
        self._reports: dict[int, Report] = {}
        self._exits: dict[int, Exit] = {}
        self._signals: list[int] = []
        self._forwarded_at: float | None = None
        self._terminated_at: float | None = None
        self._killed_at: float | None = None

    # --- events

    def waiting(self, worker: int) -> None:
        """The worker waits for the others to join."""
        self._waiting.add(worker)

    def ready(self, worker: int, now: float) -> None:
        """The worker has joined the cluster."""
        self._ready.add(worker)
        if self.joined_at is None and len(self._ready) == len(self._workers):
            self.joined_at = now

    def failed(self, worker: int, report: Report) -> None:
        """The worker has reported the error that ends it; it may still run."""
        if report.type not in _INTERRUPTIONS and not self._acted_before(report.at):
            self._reports.setdefault(worker, report)

    def exited(self, worker: int, code: int, now: float, log_tail: str = "", *, alive_at: float | None = None) -> None:
        """The worker's process has ended: see `Exit`."""
        self._exits.setdefault(worker, Exit(at=now, code=code, log_tail=log_tail, alive_at=alive_at))

    def signalled(self, signum: int) -> None:
        """The launcher has received a signal to stop."""
        self._signals.append(signum)

    # --- what to do

    def next(self, now: float, frozen: Collection[int] = ()) -> Action:
        """What to do now; returns each action except WAIT and DONE once.

        Args:
          now: the time.
          frozen: workers whose processes are stopped (SIGSTOP); needed while `in_trouble`.
        """
        limits = self._limits
        if len(self._exits) == len(self._workers):
            self._settle(now)
            return Action.DONE
        if self._killed_at is not None:
            if now - self._killed_at < limits.kill:
                return Action.WAIT
            self._settle(now)
            return Action.DONE
        if len(self._signals) > 1:
            return self._kill(now)
        if self._signals and self._forwarded_at is None:
            self._forwarded_at = now
            return Action.FORWARD
        if self.cause is None:
            known = self._direct() or self._silent(now, frozen) or self._missing(now, frozen)
            self._know(known or self._left_behind(now, frozen), now)
        if self.cause is not None:
            assert self.known_at is not None
            if self.cause.kind in ("stalled", "missing"):  # waiting for it is useless
                return self._kill(now)
            if self._terminated_at is None and now - self.known_at >= limits.grace:
                self._terminated_at = now
                return Action.TERMINATE
            if self._terminated_at is not None and now - self._terminated_at >= limits.term:
                return self._kill(now)
            return Action.WAIT
        stops = [stop.at for stop in self._stops()] + [at for at in (self._forwarded_at,) if at is not None]
        # Before all have joined there is nothing to save, and workers that wait for one that has left wait for ever.
        if stops and now - min(stops) >= (limits.grace if self.joined_at is None else limits.stop):
            return self._kill(now)
        return Action.WAIT

    @property
    def in_trouble(self) -> bool:
        """Whether to check for frozen workers: some have lost a peer, or have ended, or are slow to join."""
        return self.cause is None and (self._first_loss is not None or self.joined_at is None or bool(self._exits))

    # --- the verdict, once done

    @property
    def code(self) -> int:
        """The exit code of the launch."""
        cause, codes = self.cause, [exit.code for exit in self._exits.values()]
        if cause is not None and cause.kind in ("error", "exit", "signal"):
            return cause.code
        all_left = len(codes) == len(self._workers)
        if self._signals:
            return 0 if all_left and not any(codes) else 128 + self._signals[0]
        if cause is not None or not all_left:
            return 1
        return 0 if self.stopped_by is None else 128 + self.stopped_by

    @property
    def restartable(self) -> bool:
        """Whether a restart of all workers may help, and no signal asked to stop."""
        return self.cause is not None and not self.cause.repeats and not self._signals

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that one worker received, after which all stopped by themselves."""
        if self.cause is not None or self._signals:
            return None
        # The largest of several signals, since the order of the ends says nothing.
        return max((stop.signal for stop in self._stops() if stop.signal is not None), default=None)

    @property
    def first_sign(self) -> float:
        """When the first sign of the cause was seen."""
        assert self.cause is not None
        return self.cause.at if self._first_loss is None else min(self.cause.at, self._first_loss)

    @property
    def others(self) -> list[Cause]:
        """The later causes."""
        assert self.cause is not None
        return [other for other in self._causes() if not {*other.workers} & {*self.cause.workers}]

    @property
    def followers(self) -> list[int]:
        """Workers that stopped because of the cause."""
        assert self.cause is not None
        if self.cause.of_all:
            return []
        own = {*self.cause.workers, *(worker for other in self.others for worker in other.workers)}
        done = {worker for worker, exit in self._exits.items() if exit.code == 0}
        return [worker for worker in self._workers if worker not in own | done]

    # --- evidence

    def _causes(self) -> list[Cause]:
        # An end after our own signal is no evidence.
        exits = {worker: exit for worker, exit in self._exits.items() if not self._acted_before(exit.at)}
        return find_causes(self._reports, exits)

    def _direct(self) -> Cause | None:
        return next(iter(self._causes()), None)

    def _stops(self) -> list[Exit]:
        """Exits of workers after a signal to stop that the launcher did not send for a cause, the earliest first."""
        stops = [exit for exit in self._exits.values() if exit.signal in STOPS and not self._acted_before(exit.at)]
        return sorted(stops, key=lambda exit: exit.at)

    @property
    def _first_loss(self) -> float | None:
        return next((at for at, _, _ in find_consequences(self._reports, self._exits)), None)

    def _silent(self, now: float, frozen: Collection[int]) -> Cause | None:
        """If all errors are consequences, the silent worker is the cause."""
        first = self._first_loss
        if first is None or self._stops():
            return None
        running = [worker for worker in self._workers if worker not in self._exits]
        silent = tuple(worker for worker in running if worker not in self._reports)
        suspects = tuple(worker for worker in silent if worker in frozen)
        if not suspects and now - first >= self._limits.silence:
            suspects = silent
        if suspects:
            return Cause(kind="stalled", workers=suspects, what="stopped answering", at=now)
        return None if silent else self._lost()

    def _lost(self) -> Cause:
        lost = find_consequences(self._reports, self._exits)
        lines = {worker: line for _, worker, line in lost}
        workers = tuple(sorted(lines))
        finished = [other for other, exit in self._exits.items() if exit.code == 0]
        after = f" after {format_workers(sorted(finished))} had finished" if finished else ""
        what = f"lost {'its' if len(workers) == 1 else 'their'} peers{after}: {lines[workers[0]]}"
        return Cause(kind="lost", workers=workers, what=what, at=lost[0][0])

    def _missing(self, now: float, frozen: Collection[int]) -> Cause | None:
        if self.joined_at is not None or self._signals or self._stops():
            return None
        waited = now - self._started
        stopped = tuple(worker for worker in frozen if worker not in self._exits)
        if stopped and waited >= self._limits.silence:
            return Cause(kind="stalled", workers=stopped, what="stopped answering before all had joined", at=now)
        if waited < self._limits.startup:
            return None
        how_far: dict[str, list[int]] = {}
        for worker in self._workers:
            if worker not in self._ready:
                how_far.setdefault(self._how_far(worker, frozen), []).append(worker)
        # Workers that only wait are not to blame, unless all wait.
        missing = [worker for far, workers in how_far.items() if far != _WAITS for worker in workers]
        to_blame_first = sorted(how_far.items(), key=lambda group: group[0] == _WAITS)
        progress = ", ".join(f"{format_workers(workers)} {far}" for far, workers in to_blame_first)
        return Cause(
            kind="missing",
            workers=tuple(sorted(missing or how_far[_WAITS])),
            what=f"did not join within {self._limits.startup:g} s ({progress})",
            at=now,
            repeats=_FINISHED in how_far or not missing,  # all waited: they are too many, or cannot reach each other
        )

    def _left_behind(self, now: float, frozen: Collection[int]) -> Cause | None:
        """A worker that froze while it ended: its peers have finished and lost nothing."""
        stopped = tuple(worker for worker in frozen if worker not in self._exits)
        if not stopped or not self._exits or self._signals or self._stops():
            return None
        if now - max(exit.at for exit in self._exits.values()) < self._limits.silence:
            return None
        return Cause(kind="stalled", workers=stopped, what="stopped answering after others had finished", at=now)

    def _how_far(self, worker: int, frozen: Collection[int]) -> str:
        if worker in self._exits:
            return _FINISHED
        if worker in frozen:
            return _FROZEN
        return _WAITS if worker in self._waiting else _STARTS

    # --- bookkeeping

    def _know(self, cause: Cause | None, now: float) -> None:
        if cause is not None:
            self.cause = cause
            self.known_at = now if self.known_at is None else self.known_at

    def _settle(self, now: float) -> None:
        """Decides finally: a report that was read last may be the earliest."""
        known = self.cause if self.cause is None or self.cause.kind != "lost" else self._lost()
        self._know(self._direct() or known or self._silent(now, ()), now)

    def _kill(self, now: float) -> Action:
        self._killed_at = now
        return Action.KILL

    def _acted_before(self, at: float) -> bool:
        """Whether an event at that time may be caused by the launcher's own signals."""
        acted = [when for when in (self._terminated_at, self._killed_at) if when is not None]
        return bool(acted) and at >= min(acted)
