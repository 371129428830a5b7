"""Evidence from the end of a worker: an exception that it reported, an exit code, a signal, or the loss of a peer.

A worker that lost a peer fails too, 2 to 10 s later, and is no cause; `modetrain.cluster.launcher.supervisor` decides.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Collection, Hashable, Mapping

from modetrain.cluster.protocol import Report
from modetrain.diagnostics.lost_peer import LOST_PEER

_MOST_NAMED = 4
# A signal to stop is no failure.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit codes of errors that all workers share: a wrong configuration, and a loss that is not finite.
_OF_ALL = (2, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exit:
    """The end of a worker's process.

    Attributes:
      at: when it was seen.
      code: its exit code, or minus the signal that killed it.
      log_tail: its last output.
      alive_at: when the process was last seen running; None if it never was.
    """

    at: float
    code: int
    log_tail: str = ""
    alive_at: float | None = None

    @property
    def signal(self) -> signal.Signals | None:
        """The signal behind the code: -9 from a process, 137 from a shell around it, 143 from a run that saved and left."""
        number = -self.code if self.code < 0 else self.code - 128
        return signal.Signals(number) if number in signal.valid_signals() else None

    @property
    def lost_a_peer(self) -> bool:
        """Whether its last output is an error about its peers."""
        # TensorFlow's C++ code aborts at some of these errors; code 2 is always a wrong configuration.
        failed = (self.code > 0 and self.code != 2 and self.signal is None) or self.signal == signal.SIGABRT
        return failed and LOST_PEER.search(self.log_tail) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """What ended a run of workers.

    Attributes:
      kind: `error` (an exception), `exit` (an exit code), `signal` (a crash), `stalled` (it stopped answering), `missing`
        (it never joined), `lost` (peers lost each other without a known reason).
      workers: the workers at fault, ascending; several if the same happened to several.
      what: what happened to them, as the rest of a sentence.
      at: when it showed first.
      code: the launch's exit code.
      repeats: whether it probably happens again after a restart.
      report: for an `error` the exception of the first of `workers`.
    """

    kind: str
    workers: tuple[int, ...]
    what: str
    at: float
    code: int = 1
    repeats: bool = False
    report: Report | None = None

    @property
    def sentence(self) -> str:
        """What happened, naming the workers."""
        if self.of_all and self.report is not None:
            return f"all workers stopped: {self.report.line}"
        return f"{format_workers(self.workers)} {self.what}"

    @property
    def of_all(self) -> bool:
        """Whether all workers find the error, in reduced values or in their shared settings."""
        return self.report is not None and _is_of_all(self.report)

    @property
    def rank(self) -> tuple[int, float, tuple[int, ...]]:
        """The smallest is the cause: first a loss that is not finite, then a wrong configuration, then the earliest.

        The first two have their own exit codes, and never follow from the end of another worker.
        """
        return (-self.code, self.at, self.workers)


def find_causes(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> list[Cause]:
    """All causes, the first one first; the same event on several workers is one cause."""
    found: dict[Hashable, list[int]] = {}
    for worker, report in sorted(reports.items()):
        if not report.lost_a_peer:
            alike = report.code if _is_of_all(report) else (report.type, report.line)
            found.setdefault(alike, []).append(worker)
    for worker, exit in sorted(exits.items()):
        # Such an exit is no cause: it has a report, was successful, followed a stop signal, or followed a lost peer.
        if not (worker in reports or exit.code == 0 or exit.signal in STOPS or exit.lost_a_peer):
            ended = ("exit", exit.code) if exit.signal is None else ("signal", exit.signal)
            found.setdefault(ended, []).append(worker)
    of_each = (
        _error(workers, [reports[worker] for worker in workers])
        if workers[0] in reports
        else _end(workers, [exits[worker] for worker in workers])
        for workers in found.values()
    )
    return sorted(of_each, key=lambda cause: cause.rank)


def _is_of_all(report: Report) -> bool:
    return report.code in _OF_ALL


def _error(workers: list[int], reports: list[Report]) -> Cause:
    return Cause(
        kind="error",
        workers=tuple(workers),
        what=f"failed: {reports[0].line}",
        at=min(report.at for report in reports),
        code=reports[0].code,
        repeats=True,
        report=reports[0],
    )


def _end(workers: list[int], exits: list[Exit]) -> Cause:
    """The cause for processes that ended alike without a report."""
    number, code = exits[0].signal, exits[0].code
    if number is None:
        at = min(exit.at for exit in exits)
        launch_code = code if code in _OF_ALL else 1
        return Cause(
            kind="exit", workers=tuple(workers), what=f"exited with code {code}", at=at, code=launch_code, repeats=True
        )
    # A crash is seen at the next poll, and other workers' reports since the last poll may follow from it. An abort may itself
    # follow from a lost peer, so it counts when it is seen.
    at = min(exit.at if number == signal.SIGABRT or exit.alive_at is None else exit.alive_at for exit in exits)
    was = "was" if len(workers) == 1 else "were"
    return Cause(kind="signal", workers=tuple(workers), what=f"{was} killed by {number.name}", at=at)


def find_consequences(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> list[tuple[float, int, str]]:
    """(time, worker, error) of all errors about lost peers, the earliest first."""
    found = [(report.at, worker, report.line) for worker, report in reports.items() if report.lost_a_peer]
    found += [
        (exit.at, worker, f"exit code {exit.code}")
        for worker, exit in exits.items()
        if worker not in reports and exit.lost_a_peer
    ]
    return sorted(found)


def format_workers(workers: Collection[int]) -> str:
    """`worker 1`, `workers 0, 2 and 3`, `workers 0 to 63`."""
    numbers = list(workers)
    if len(numbers) > _MOST_NAMED and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"workers {numbers[0]} to {numbers[-1]}"
    *most, last = map(str, numbers)
    return f"workers {', '.join(most)} and {last}" if most else f"worker {last}"
