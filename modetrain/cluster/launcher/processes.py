"""The worker processes of one attempt on this machine: starts them, acts as the supervisor decides, and ends all of them.

No process outlives the context, and none outlives this process (`modetrain.cluster.protocol`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modetrain.cluster import protocol as protocol
from modetrain.cluster.environment import Cluster
from modetrain.cluster.launcher.output import OutputTee, Screen
from modetrain.cluster.launcher.supervisor import Action, Limits, Supervisor
from modetrain.files import quoting, run_folder
from modetrain.files.lock import HEARTBEAT

# Ports below those that Linux uses for outgoing connections: a worker binds its port seconds after it was chosen.
_PORTS = range(20_000, 32_000)
_POLL_EVERY = 0.05  # seconds
_TAIL = 40  # lines
_MARKS = ("waiting", "ready", "failed")  # files by which workers report their progress


class Attempt:
    """The processes of one attempt; leaving the context ends those that still run.

    Args:
      command: the program and its words, the same for all workers.
      workers: number of workers.
      number: 0 for the first attempt, 1 after the first restart.
      folder: the run folder; logs go to its `workers` folder.
      environ: the workers' environment, to which their own variables are added; this process's by default.
      screen: shows worker 0's output.
      received: signals to the launcher so far; after the first one, no more workers are started.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        number: int,
        folder: Path,
        environ: Mapping[str, str] | None,
        screen: Screen,
        received: Sequence[int],
    ):
        self._command = list(command)
        self._number = number
        self._folder = folder / run_folder.WORKERS
        self._environ = dict(os.environ if environ is None else environ)
        self._screen = screen
        self._received = received
        self._addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(workers))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log_starts: list[int] = []
        self._exited: set[int] = set()
        self._alive_at: dict[int, float] = {}
        self._started = time.time()
        self._tee: OutputTee | None = None
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Attempt:
        self._folder.mkdir(parents=True, exist_ok=True)
        # An earlier launch in this folder may have been killed.
        self._remove_marks()
        self._pipe = os.pipe()
        try:
            for worker in range(len(self._addresses)):
                self._start(worker)
                if self._received:  # starting many workers takes a while
                    break
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        if self._tee is not None:
            self._tee.end()
        for descriptor in self._pipe or ():
            os.close(descriptor)
        self._remove_marks()

    def watch(self, limits: Limits) -> Supervisor:
        """Watches until all have ended, and acts as the supervisor decides."""
        watch = Supervisor(len(self._processes), now=time.monotonic(), limits=limits)
        passed_on = 0
        while True:
            self._look(watch)
            for signum in self._received[passed_on:]:
                watch.signalled(signum)
                passed_on += 1
            action = watch.next(time.monotonic(), self._frozen() if watch.in_trouble else ())
            if action is Action.DONE:
                return watch
            if action is Action.FORWARD:
                name = signal.Signals(self._received[0]).name
                self._screen.write_line(f"{name}: all workers save and stop; once more ends them at once")
                self._signal(self._received[0])
            elif action is Action.TERMINATE:
                self._signal(signal.SIGTERM)
            elif action is Action.KILL:
                self._kill()
            time.sleep(_POLL_EVERY)

    def silent_s(self, workers: Sequence[int], now: float) -> float:
        """How long before `now` (monotonic) the first of these workers gave its last sign of life."""
        last = min((self._last_sign(worker) for worker in workers), default=time.time())
        return max(0.0, time.time() - last - (time.monotonic() - now))

    def _last_sign(self, worker: int) -> float:
        """When a worker last wrote anything in this attempt, as `time.time()` measures."""
        signs = [self._started]
        for file in (*(self._mark(what, worker) for what in _MARKS), self.log(worker)):
            with contextlib.suppress(OSError):
                signs.append(file.stat().st_mtime)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            beat = run_folder.worker_file(self._folder.parent, HEARTBEAT, worker)
            signs.append(float(json.loads(beat.read_text(encoding="utf-8"))["time"]))
        return max(signs)

    def log(self, worker: int) -> Path:
        """The file of a worker's output."""
        return self._folder / f"worker-{worker}.log"

    def tail(self, worker: int) -> str:
        """The last lines that a worker printed in this attempt."""
        with self.log(worker).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_starts[worker], size - 16_384))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-_TAIL:])

    def _start(self, worker: int) -> None:
        assert self._pipe is not None
        words = quoting.join(self._command).replace("\n", " ")  # the head of a log is one line
        head = f"=== worker {worker} of {len(self._addresses)}, attempt {self._number}"
        head += f", {datetime.datetime.now():%Y-%m-%d %H:%M:%S}, {self._addresses[worker]}: {words}\n"
        log = self.log(worker).open("ab")
        log.write(head.encode())
        log.flush()
        self._log_starts.append(log.tell())
        if worker == 0:
            self._tee = OutputTee(self._screen, log)
            output = self._tee.writer
        else:
            output = log.fileno()
        mine = {
            "TF_CONFIG": Cluster(workers=self._addresses, index=worker, origin="local").tf_config(),
            protocol.INDEX: str(worker),
            protocol.RESTART: str(self._number),
            protocol.WAITING_FILE: str(self._mark("waiting", worker).absolute()),
            protocol.READY_FILE: str(self._mark("ready", worker).absolute()),
            protocol.FAILURE_FILE: str(self._mark("failed", worker).absolute()),
            protocol.LAUNCHER: f"{os.getpid()}:{self._pipe[0]}:{os.fstat(self._pipe[0]).st_ino}",
        }
        try:
            process = subprocess.Popen(
                self._command,
                # Otherwise Python buffers output to a pipe or a file: it would not be live, and a kill would lose it.
                env={"PYTHONUNBUFFERED": "1", **self._environ, **mine},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal reaches only the launcher, which passes it on
                pass_fds=[self._pipe[0]],
            )
        finally:
            if worker == 0:
                os.close(output)
            else:
                log.close()
        self._processes.append(process)

    def _remove_marks(self) -> None:
        for what in _MARKS:
            for mark in self._folder.glob(f".{what}-*"):
                mark.unlink(missing_ok=True)

    def _mark(self, what: str, worker: int) -> Path:
        return self._folder / f".{what}-{worker}-{self._number}"

    def _look(self, watch: Supervisor) -> None:
        # Exits last: a worker reports a lost peer after that peer has ended.
        for worker in range(len(self._processes)):
            if worker not in self._exited:
                self._read_marks(worker, watch)
        for worker, process in enumerate(self._processes):
            if worker in self._exited:
                continue
            now = time.monotonic()
            if process.poll() is None:
                self._alive_at[worker] = now
                continue
            self._read_marks(worker, watch)  # it may have written some since the last poll
            self._exited.add(worker)
            alive_at = self._alive_at.get(worker)
            watch.exited(worker, process.returncode, time.monotonic(), self.tail(worker), alive_at=alive_at)

    def _read_marks(self, worker: int, watch: Supervisor) -> None:
        if self._mark("waiting", worker).exists():
            watch.waiting(worker)
        if self._mark("ready", worker).exists():
            watch.ready(worker, time.monotonic())
        if (report := protocol.read_report(self._mark("failed", worker))) is not None:
            watch.failed(worker, report)

    def _running(self) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        return ((n, process) for n, process in enumerate(self._processes) if process.poll() is None)

    def _frozen(self) -> set[int]:
        """Workers that are stopped (SIGSTOP), if the system shows it."""
        found = set()
        for worker, process in self._running():
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
                if status.rpartition(")")[2].split()[0] in ("T", "t"):
                    found.add(worker)
        return found

    def _signal(self, signum: int) -> None:
        for _, process in self._running():
            process.send_signal(signum)

    def _kill(self) -> None:
        for _, process in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all processes that it has started


def free_ports(count: int) -> list[int]:
    """Unused ports of this machine."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(ports) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    assert len(ports) == count
    return ports
