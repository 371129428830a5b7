"""Signals save, stop, or end a run at once, however long the running call takes: real ones, to real processes."""

from __future__ import annotations

import logging
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from modetrain.app import signals
from modetrain.callback import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.files import run_folder, run_json


class Sends(Callback):
    """Sends this process a signal after a step, as a scheduler would."""

    def __init__(self, step, signum):
        super().__init__()
        self.step, self.signum = step, signum

    def on_steps_end(self, trainer, rows):
        if trainer.step == self.step:
            os.kill(os.getpid(), self.signum)
            until = time.monotonic() + 10
            while (
                not any(signal.Signals(self.signum).name in line for line in trainer.said) and time.monotonic() < until
            ):
                time.sleep(0.001)


def train(trainer):
    with signals.signals_to(trainer):
        trainer.train()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_stops_after_the_call(signum, make_trainer, tmp_path):
    trainer = make_trainer("eager", steps=9, callbacks=[Sends(4, signum), Checkpoint(every=None)])
    train(trainer)
    assert (trainer.status, trainer.step, trainer.stop_signal) == ("stopped", 4, signum)
    assert run_folder.steps(tmp_path) == [4]


def test_sigusr1_saves_and_goes_on(make_trainer, tmp_path, recorder):
    looks = recorder(every=5)
    callbacks = [Sends(3, signal.SIGUSR1), looks, Checkpoint(every=None)]
    trainer = make_trainer("eager", steps=9, callbacks=callbacks)
    train(trainer)
    assert (trainer.status, trainer.step) == ("completed", 9)
    assert run_folder.steps(tmp_path) in ([3, 9], [4, 9]), "after the running call, or the next one"
    assert looks.looks == [5]
    assert any("saving a checkpoint on request" in line for line in trainer.said)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_counts_where_nobody_reads_what_is_said(signum, make_trainer, tmp_path):
    class Broken(logging.Handler):
        def emit(self, record):
            if "SIG" in record.getMessage():
                raise BrokenPipeError

    class Sends(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step == 3:
                os.kill(os.getpid(), signum)
                time.sleep(0.3)

    trainer = make_trainer("eager", steps=9, callbacks=[Sends(), Checkpoint(every=None)])
    log, broken = logging.getLogger("modetrain.app.signals"), Broken()
    log.addHandler(broken)
    try:
        train(trainer)
    finally:
        log.removeHandler(broken)
    assert run_folder.steps(tmp_path)[0] in (3, 4)


def test_a_hangup_that_is_ignored_stays_ignored(make_trainer):
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        class Sends(Callback):
            def on_steps_end(self, trainer, rows):
                os.kill(os.getpid(), signal.SIGHUP)

        trainer = make_trainer("eager", steps=3, callbacks=[Sends()])
        train(trainer)
        assert (trainer.status, trainer.said) == ("completed", [])
    finally:
        signal.signal(signal.SIGHUP, before)


SLOW_TO_TRACE = """
import time

from recipes.mnist import Digits


class Slow(Digits):
    def train_step(self, batch):
        for _ in range(6000):
            time.sleep(0.05)
        return super().train_step(batch)
"""


def test_a_run_that_is_still_traced_has_nothing_to_save_and_ends_at_once(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "slow.py").write_text(SLOW_TO_TRACE)
    words = ["recipe=mnist", "recipe._target_=recipes.slow.Slow", "model=mlp", "data.source=bundled", "run_dir=run"]
    command = [sys.executable, "-m", "modetrain", *words]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("mode: "):
            break
    time.sleep(1)
    run.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert "no step was made" in run.stdout.read()
    assert run.wait() == 143
    assert time.monotonic() - began < 60
    kept = run_json.read(tmp_path / "run")
    assert (kept["status"], kept["steps"]) == ("stopped", 0)


LOST = """
import sys, time
from modetrain import console as output
from modetrain.app import signals

output.outlive_readers()

class Run:
    asked, not_started = None, False

    def stop(self, signum):
        self.asked = signum

run = Run()
output.show_log()
with signals.signals_to(run):
    print("running", flush=True)
    until = time.monotonic() + 20
    while run.asked is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.2)
    print("a line of the log", flush=True)  # the terminal is gone
    sys.stderr.write("and one of an error")
sys.exit(128 + run.asked)
"""


def test_a_terminal_that_is_closed_stops_the_run_and_breaks_nothing():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", LOST])
    while b"running" not in os.read(terminal, 1000):
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP


def test_afterwards_signals_are_what_they_were(make_trainer):
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    train(make_trainer("eager", steps=1))
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    assert signal.set_wakeup_fd(-1) == -1


STUCK = """
import sys, threading
from modetrain import console
from modetrain.app import signals

class Run:
    not_started = False

    def stop(self, signum):
        print("asked to stop", flush=True)

console.show_log()
with signals.signals_to(Run()):
    print("running", flush=True)
    import ctypes
    ctypes.PyDLL(None) and ctypes.CDLL(None).sleep(60)  # C code, during which no handler of Python's runs
print("over", flush=True)
"""


def test_a_second_one_ends_at_once_even_within_c_code():
    # sleep() itself would end at a signal: what is blocked in the main thread goes to the other one.
    code = STUCK.replace("sleep(60)", "pause()").replace(
        "    import ctypes", "    import ctypes, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked to stop\n"
    assert process.stdout.readline() == "SIGTERM: stopping after this call; once more to stop at once\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM: stopping at once\n"
    assert process.wait(10) == 128 + signal.SIGTERM
    assert process.stdout.read() == ""
