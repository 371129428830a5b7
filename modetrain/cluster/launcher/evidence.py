"""What the end of a worker tells: an exception it reported, an exit code, a signal, or the loss of a peer.

Whoever lost a peer fails as well, 2 to 10 s later, and that is no cause; `modetrain.cluster.launcher.supervisor` decides what is.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Collection, Iterator, Mapping

from modetrain.cluster.protocol import Report
from modetrain.diagnostics.lost_peer import LOST_PEER

_MOST_NAMED = 4
# Being told to stop is no failure.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exit:
    """The end of a worker's process.

    Attributes:
      at: when it was seen.
      code: its exit code, or minus the signal that killed it.
      log_tail: what it printed last.
    """

    at: float
    code: int
    log_tail: str = ""

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
      workers: whose fault it is; several only where several are missing or stalled.
      what: what happened to them, as the rest of a sentence.
      at: when it showed.
      repeats: whether it would happen again after a restart, as far as anyone can tell.
      report: the exception, for an `error`.
    """

    kind: str
    workers: tuple[int, ...]
    what: str
    at: float
    repeats: bool = False
    report: Report | None = None

    @property
    def sentence(self) -> str:
        """What happened, naming the workers."""
        if self.of_all and self.report is not None:
            return f"all workers stopped: {self.report.line}"
        return f"{named(self.workers)} {self.what}"

    @property
    def of_all(self) -> bool:
        """Whether it is an error that all workers find at once, whoever tells of it first: what they reduced is not finite."""
        return self.report is not None and self.report.type == "NonFiniteError"


def causes(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> list[Cause]:
    """All that is a cause by itself, the earliest first."""
    return sorted(_causes(reports, exits), key=lambda cause: (cause.at, cause.workers))


def _causes(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> Iterator[Cause]:
    for worker, report in reports.items():
        if not report.lost_a_peer:
            what = f"failed: {report.line}"
            yield Cause(kind="error", workers=(worker,), what=what, at=report.at, repeats=True, report=report)
    for worker, exit in exits.items():
        # It has said why; it was done; it was told to; it lost a peer.
        if worker in reports or exit.code == 0 or exit.signal in STOPS or exit.lost_a_peer:
            continue
        if exit.signal is not None:
            yield Cause(kind="signal", workers=(worker,), what=f"was killed by {exit.signal.name}", at=exit.at)
        else:
            what = f"exited with code {exit.code}"
            yield Cause(kind="exit", workers=(worker,), what=what, at=exit.at, repeats=True)


def consequences(reports: Mapping[int, Report], exits: Mapping[int, Exit]) -> list[tuple[float, int, str]]:
    """When which worker told of a lost peer, and how, the earliest first."""
    found = [(report.at, worker, report.line) for worker, report in reports.items() if report.lost_a_peer]
    found += [
        (exit.at, worker, f"exit code {exit.code}")
        for worker, exit in exits.items()
        if worker not in reports and exit.lost_a_peer
    ]
    return sorted(found)


def named(workers: Collection[int]) -> str:
    """`worker 1`, `workers 0, 2 and 3`, `workers 0 to 63`."""
    numbers = list(workers)
    if len(numbers) > _MOST_NAMED and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"workers {numbers[0]} to {numbers[-1]}"
    *most, last = map(str, numbers)
    return f"workers {', '.join(most)} and {last}" if most else f"worker {last}"
