"""What the end of a worker tells: an exception it reported, an exit code, a signal, or the loss of a peer.

Whoever lost a peer fails as well, 2 to 10 s later, and that is no cause; `modetrain.cluster.launcher.supervisor` decides what is.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Collection, Hashable, Mapping

from modetrain.cluster.protocol import Report
from modetrain.diagnostics.lost_peer import LOST_PEER

_MOST_NAMED = 4
# Being told to stop is no failure.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit codes of errors that no worker has alone: a wrong configuration, which all of them share, and a loss that is not finite.
_OF_ALL = (2, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exit:
    """The end of a worker's process.

    Attributes:
      at: when it was seen.
      code: its exit code, or minus the signal that killed it.
      log_tail: what it printed last.
      alive_at: when the process was last seen running; `at` where nobody looked before.
    """

    at: float
    code: int
    log_tail: str = ""
    alive_at: float | None = None

    @property
    def signal(self) -> signal.Signals | None:
        """The signal behind the code: -9 of a process, 137 of a shell around it, 143 of one that saved and left."""
        number = -self.code if self.code < 0 else self.code - 128
        return signal.Signals(number) if number in signal.valid_signals() else None

    @property
    def lost_a_peer(self) -> bool:
        """Whether what it printed last, without having reported an exception, is an error about its peers."""
        # TensorFlow's C++ side aborts at some of these errors; 2 is a wrong configuration, whatever its words.
        failed = (self.code > 0 and self.code != 2 and self.signal is None) or self.signal == signal.SIGABRT
        return failed and LOST_PEER.search(self.log_tail) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """What ended a run of workers.

    Attributes:
      kind: `error` (an exception), `exit` (an exit code), `signal` (a crash), `stalled` (it stopped answering), `missing`
        (it never joined), `lost` (peers lost each other and nobody says why).
      workers: whose fault it is, ascending; several where the same happened to several.
      what: what happened to them, as the rest of a sentence.
      at: when it showed first.
      code: the exit code that it stands for.
      repeats: whether it would happen again after a restart, as far as anyone can tell.
      report: the exception, for an `error`; that of the first of `workers`.
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
        """Whether it is an error that all workers find, in what they have reduced or in the settings that they share."""
        return self.report is not None and _is_of_all(self.report)

    @property
    def rank(self) -> tuple[int, float, tuple[int, ...]]:
        """The smallest is the cause: a loss that is not finite, a wrong configuration, and then the earliest.

        Those two have exit codes of their own, and neither follows from the end of another worker.
        """
        return (-self.code, self.at, self.workers)


def find_causes(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> list[Cause]:
    """All that is a cause by itself, the first one first; what happened to several workers alike is one cause."""
    found: dict[Hashable, list[int]] = {}
    for worker, report in sorted(reports.items()):
        if not report.lost_a_peer:
            alike = report.code if _is_of_all(report) else (report.type, report.line)
            found.setdefault(alike, []).append(worker)
    for worker, exit in sorted(exits.items()):
        # It has said why; it was done; it was told to; it lost a peer.
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
    """Of processes that ended alike and said nothing."""
    number, code = exits[0].signal, exits[0].code
    if number is None:
        at = min(exit.at for exit in exits)
        told = code if code in _OF_ALL else 1
        return Cause(
            kind="exit", workers=tuple(workers), what=f"exited with code {code}", at=at, code=told, repeats=True
        )
    # A crash is seen at the next look. What others said since the last one may follow from it, but TensorFlow aborts too.
    at = min(exit.at if number == signal.SIGABRT or exit.alive_at is None else exit.alive_at for exit in exits)
    was = "was" if len(workers) == 1 else "were"
    return Cause(kind="signal", workers=tuple(workers), what=f"{was} killed by {number.name}", at=at)


def find_consequences(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> list[tuple[float, int, str]]:
    """When which worker told of a lost peer, and how, the earliest first."""
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
