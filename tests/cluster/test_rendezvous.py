"""Workers that nobody launched wait for each other: who does not come is named in time, and signals end the waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from modetrain.cluster.launcher.processes import free_ports

ROOT = Path(__file__).parents[2]

# What TensorFlow would do is left out: it is seen whether it would be come to.
WAITS = """
import os, signal, sys
from modetrain import console
from modetrain.cluster import rendezvous as joining

console.show_log()

before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
try:
    with joining.join_workers(os.environ, within=float(sys.argv[1])):
        print("all there", flush=True)
        exec(sys.argv[2])
except joining.NotJoinedError as error:
    sys.exit(f"{error}")
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
"""
JOINS = """
import os, signal, time
from modetrain.mode import Mode
from modetrain.app.build import connect_devices

replicas = connect_devices(Mode(name="multiworker", compile="graph", strategy="multiworker"))
print("joined", replicas.worker, replicas.workers, flush=True)
time.sleep(60)
"""


class Cluster:
    """Addresses, and the processes that are started at them."""

    def __init__(self, workers: int = 2):
        self.addresses = [f"localhost:{port}" for port in free_ports(workers)]
        self.processes: list[subprocess.Popen] = []

    def start(self, index: int, *command: str, cwd: Path | None = None) -> subprocess.Popen:
        config = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}}
        environ = {**os.environ, "TF_CONFIG": json.dumps(config), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environ,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def waits(self, index: int, within: float = 30, then: str = "") -> subprocess.Popen:
        return self.start(index, "-c", WAITS, str(within), then)


@pytest.fixture
def cluster():
    made = Cluster()
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def _goes_on(lines: Iterable[str]) -> bool:
    """Reads until all are there. On a slow machine a worker may be waited for so long that it is said."""
    for line in lines:
        if line == "all there\n":
            return True
        assert " waits for worker " in line
    return False


def test_all_go_on_once_all_are_there(cluster):
    first = cluster.waits(0)
    time.sleep(1)
    assert first.poll() is None
    second = cluster.waits(1)
    for process in (first, second):
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert _goes_on(out.splitlines(keepends=True))


def test_who_does_not_come_is_waited_for_aloud_and_named(cluster):
    out, err = cluster.waits(1, within=7).communicate(timeout=20)
    who = f"worker 0 at {cluster.addresses[0]} (Connection refused)"
    assert out == f"worker 1 waits for {who}; at most 7 s (mode.startup_timeout)\n"
    assert err.startswith(f"worker 1 has waited 7 s for {who}. Start what is missing, ")


def test_only_who_is_missing_is_named():
    three = Cluster(3)
    waiting = [three.waits(index, within=2) for index in (0, 2)]
    for process in waiting:
        _, err = process.communicate(timeout=20)
        assert f"has waited 2 s for worker 1 at {three.addresses[1]} (Connection refused). " in err


def test_a_frozen_worker_is_not_there(cluster):
    frozen = cluster.waits(1)
    time.sleep(1)
    frozen.send_signal(signal.SIGSTOP)
    _, err = cluster.waits(0, within=3).communicate(timeout=20)
    assert f"for worker 1 at {cluster.addresses[1]} (does not answer). " in err


def test_an_address_that_is_taken_is_said(cluster):
    cluster.waits(0)
    time.sleep(1)
    _, err = cluster.waits(0).communicate(timeout=20)
    assert f"worker 0 cannot listen at its address {cluster.addresses[0]}: Address already in use. " in err


def test_a_peer_that_is_lost_while_tensorflow_joins_does_not_hold_it_for_ever(cluster):
    cluster.waits(1)
    holds_the_lock = "import ctypes; ctypes.PyDLL(None).sleep(60)"
    process = cluster.waits(0, within=1, then=holds_the_lock)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Timeout (0:00:10)!" in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("then", ["wait", "import ctypes; ctypes.PyDLL(None).sleep(60)"], ids=["waiting", "joining"])
def test_signals_end_it_at_once(cluster, signum, then):
    process = cluster.waits(0, then=then)
    if then != "wait":
        cluster.waits(1)
        assert _goes_on(process.stdout)
    time.sleep(1)
    process.send_signal(signum)
    assert process.wait(5) == -signum


def test_on_the_command_line(cluster, tmp_path):
    words = ("recipe=mnist", "mode=multiworker", "data.source=bundled", "mode.startup_timeout=1", "run_dir=mine")
    process = cluster.start(0, "-m", "modetrain", *words, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(f"modetrain: worker 0 has waited 1 s for worker 1 at {cluster.addresses[1]} ")


def test_once_joined_sigterm_is_no_longer_tensorflows(cluster):
    both = [cluster.start(index, "-c", JOINS) for index in (0, 1)]
    for index, process in enumerate(both):
        assert process.stdout.readline() == f"joined {index} 2\n"
    both[1].send_signal(signal.SIGTERM)
    assert both[1].wait(5) == -signal.SIGTERM
