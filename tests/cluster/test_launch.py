"""Workers are started, watched and ended: real processes without TensorFlow, each told by a few lines what to do.

What a worker does is Python code that knows `me`, `attempt`, `ready()`, `fail(error)` and `lost()`.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from modetrain.__main__ import main
from modetrain.cluster.environment import from_environment
from modetrain.cluster.launcher import launch as launcher
from modetrain.cluster.launcher.output import Screen
from modetrain.cluster.launcher.processes import free_ports
from modetrain.cluster.launcher.supervisor import Limits
from modetrain.cluster.protocol import announce_failure, announce_ready, die_with_parent, read_report
from modetrain.errors import ConfigError

ROOT = Path(__file__).parents[2]
LIMITS = Limits(startup=20, grace=0.3, term=0.3, silence=1, stop=10, kill=5)

WORKER = """
import os, signal, sys, time
from modetrain.cluster import protocol as worker
from modetrain.errors import ConfigError

class UnavailableError(Exception): pass

me, attempt = int(os.environ["MODETRAIN_WORKER"]), int(os.environ["MODETRAIN_RESTART"])
def waiting(): worker.announce_waiting(os.environ)
def ready(): worker.announce_ready(os.environ)
def fail(error, code=None):
    try: raise error
    except Exception:
        worker.announce_failure(error, os.environ, code=code)
        raise
def lost(): fail(UnavailableError("Task 1 stopped sending heartbeats"))
def wait(seconds=300): time.sleep(seconds)
def kill(signum, who=None): os.kill(who or os.getpid(), signum)

worker.die_with_parent(os.environ)
exec(sys.argv[1])
"""

LAUNCHER = """
import sys
from pathlib import Path
from modetrain.cluster.launcher.launch import launch
from modetrain.cluster.launcher.supervisor import Limits

outcome = launch({command!r}, workers=2, folder=Path({folder!r}), restarts={restarts}, limits={limits!r})
sys.exit(outcome.code)
"""


PREFIX = "launcher: "


class Bench:
    """A folder, a program for workers, and what was shown and said."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stream = io.StringIO()
        (folder / "worker.py").write_text(WORKER)
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.environ.pop("PYTHONUNBUFFERED", None)

    def command(self, code: str) -> list[str]:
        return [sys.executable, str(self.folder / "worker.py"), code]

    def launch(self, code: str, *, workers: int = 2, limits: Limits = LIMITS, **given) -> launcher.Outcome:
        return launcher.launch(
            self.command(code),
            workers=workers,
            folder=self.folder,
            prefix=PREFIX,
            limits=limits,
            stream=self.stream,
            environ=self.environ,
            **given,
        )

    @property
    def said(self) -> list[str]:
        """The launcher's own lines."""
        return [line.removeprefix(PREFIX) for line in self.stream.getvalue().splitlines() if line.startswith(PREFIX)]

    def start(self, code: str, *, restarts: int = 0, command: list[str] | None = None, **given) -> subprocess.Popen:
        """Launches in a process of its own, which can be signalled and killed."""
        program = LAUNCHER.format(
            command=command or self.command(code), folder=str(self.folder), restarts=restarts, limits=LIMITS
        )
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **given}
        return subprocess.Popen([sys.executable, "-c", program], env=self.environ, **given)

    def log(self, worker: int) -> str:
        return (self.folder / "workers" / f"worker-{worker}.log").read_text()

    def wait_for(self, *names: str) -> None:
        until = time.monotonic() + 60
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < until, f"no {names}"
            time.sleep(0.02)

    def pid(self, worker: int) -> int:
        """Of a worker whose code has written it: `PID`."""
        self.wait_for(f"pid-{worker}")
        return int((self.folder / f"pid-{worker}").read_text())


PID = """
def note(name, text=""):
    with open(f"{os.path.dirname(sys.argv[0])}/.{name}", "w") as file: file.write(text)
    os.rename(file.name, f"{os.path.dirname(sys.argv[0])}/{name}")
note(f"pid-{me}", str(os.getpid()))
"""


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def gone(*pids: int, within: float = 5) -> bool:
    until = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


# --- what a worker is given ------------------------------------------------------------------------------------------


def test_all_done(bench):
    outcome = bench.launch("ready(); print('worker', me)", workers=3)
    assert (outcome.code, outcome.restarts, outcome.cause, bench.said) == (0, (), None, [])
    assert bench.stream.getvalue() == "worker 0\n", "worker 0 alone is shown"
    for worker in range(3):
        head, *lines = bench.log(worker).splitlines()
        assert head.startswith(f"=== worker {worker} of 3, attempt 0, ")
        assert lines == [f"worker {worker}"]
    assert not list((bench.folder / "workers").glob(".*")), "the marks are tidied away"


def test_each_worker_knows_the_cluster_and_itself(bench):
    bench.launch("ready(); import json; print(json.dumps(dict(os.environ)))")
    found = [json.loads(bench.log(worker).splitlines()[1]) for worker in range(2)]
    clusters = [from_environment(environ) for environ in found]
    assert [(cluster.index, cluster.origin) for cluster in clusters] == [(0, "local"), (1, "local")]
    assert clusters[0].workers == clusters[1].workers
    assert all(address.startswith("127.0.0.1:") for address in clusters[0].workers)
    assert [(environ["MODETRAIN_WORKER"], environ["MODETRAIN_RESTART"]) for environ in found] == [
        ("0", "0"),
        ("1", "0"),
    ]


def test_ports_are_free_and_each_its_own():
    ports = free_ports(50)
    assert len(set(ports)) == 50


def test_in_a_process_that_nobody_launched_a_worker_has_nothing_to_tell(tmp_path):
    die_with_parent({})
    announce_ready({})
    assert announce_failure(ValueError("x"), {}) is None
    announce_failure(ValueError("x"), {"MODETRAIN_FAILURE_FILE": str(tmp_path / "no" / "folder")})


def test_what_a_worker_tells_first_counts(tmp_path):
    environ = {"MODETRAIN_FAILURE_FILE": str(tmp_path / "failed")}
    announce_failure(ValueError("x"), environ, code=3)
    assert announce_failure(ConfigError("y"), environ) == read_report(tmp_path / "failed")
    assert (read_report(tmp_path / "failed").line, read_report(tmp_path / "failed").code) == ("ValueError: x", 3)


def test_a_worker_that_refuses_its_words_tells_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MODETRAIN_FAILURE_FILE", str(tmp_path / "failed"))
    assert main(["recipe=mnist", "step=3"]) == 2
    report = read_report(tmp_path / "failed")
    assert (report.type, report.code) == ("ConfigError", 2)
    assert report.text.splitlines()[0] in capsys.readouterr().err


def test_a_process_that_leaves_at_once_leaves_nothing_unprinted():
    code = "from modetrain.cluster.protocol import leave; print('step 3', end=''); leave(7)"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stdout) == (7, "step 3")


# --- worker 0 is shown -----------------------------------------------------------------------------------------------


def test_output_is_shown_while_it_comes(bench):
    process = bench.start("ready(); print('first'); wait()")
    began = time.monotonic()
    assert process.stdout.readline() == "first\n"
    assert time.monotonic() - began < 60
    process.kill()
    process.wait()


def test_characters_and_lines_that_come_in_pieces_arrive_whole(bench):
    code = r"""
ready()
for piece in (b"caf\xc3", b"\xa9 \xe2\x82", b"\xac", b"\xff", b" no newline\xe2"):
    os.write(1, piece); time.sleep(0.05)
"""
    bench.launch(code)
    assert bench.stream.getvalue() == "café €\N{REPLACEMENT CHARACTER} no newline\N{REPLACEMENT CHARACTER}"
    log = (bench.folder / "workers" / "worker-0.log").read_bytes()
    assert log.endswith(b"caf\xc3\xa9 \xe2\x82\xac\xff no newline\xe2"), "the log has what was written"


def test_the_launchers_own_lines_begin_on_a_line_of_their_own():
    stream = io.StringIO()
    screen = Screen(stream)
    screen.write(b"step 3 caf\xc3")
    screen.write_line("restart 1 of 3")
    screen.write(b"\xa9\n")
    screen.write_line("done\nreally")
    assert stream.getvalue() == "step 3 caf\nrestart 1 of 3\né\ndone\nreally\n"


def test_what_cannot_be_shown_does_not_stop_a_run(bench):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    bench.stream = Gone()
    assert bench.launch("ready(); print('x' * 100_000)").code == 0
    assert len(bench.log(0)) > 100_000


def test_what_holds_the_output_open_does_not_hold_up_the_launch(bench):
    began = time.monotonic()
    outcome = bench.launch("ready(); import subprocess; subprocess.Popen(['sleep', '60']); print('left')")
    assert (outcome.code, bench.stream.getvalue()) == (0, "left\n")
    assert time.monotonic() - began < 50


def test_in_a_terminal_worker_0_has_a_terminal_of_the_same_size(bench):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (33, 77))
    code = "ready(); print('tty', os.get_terminal_size().columns) if sys.stdout.isatty() else print('pipe')"
    process = bench.start(code, stdout=theirs, stderr=theirs)
    assert process.wait(20) == 0
    os.close(theirs)
    assert b"tty 77\r\n" in os.read(ours, 1000)
    assert bench.log(0).endswith("\ntty 77\n"), "the log has no carriage returns of the terminal's"
    assert bench.log(1).endswith("\npipe\n")


# --- who failed first ------------------------------------------------------------------------------------------------


def test_the_first_failure_is_named_though_its_worker_exits_last(bench):
    # As with TensorFlow: its peer notices and exits while this worker waits for the cluster to shut down.
    code = """
ready()
if me == 1:
    try: fail(ValueError("the label is 11"))
    finally: wait(1.5)
wait(0.5); lost()
"""
    outcome = bench.launch(code, limits=Limits(startup=20, grace=5))
    assert outcome.code == 1
    assert outcome.cause == "worker 1 failed: ValueError: the label is 11"
    assert bench.said[0] == "worker 1 failed first: ValueError: the label is 11"
    assert "[worker 1] ValueError: the label is 11" in bench.said
    assert any(line.startswith('[worker 1]   File "') for line in bench.said), "its traceback"
    assert bench.said[-1] == "worker 0 stopped because of it"
    assert "[worker 0]" not in "\n".join(bench.said)


def test_a_failure_of_worker_0_is_shown_once(bench):
    code = "ready()\nif me == 0: fail(ValueError('the label is 11'))\nwait()"
    assert bench.launch(code).code == 1
    assert bench.said == ["worker 0 failed first: ValueError: the label is 11", "worker 1 stopped because of it"]
    assert bench.stream.getvalue().count("Traceback") == 1


def test_a_failure_of_worker_0_that_was_ended_before_it_could_print_is_shown(bench):
    code = """
ready()
if me == 0:
    try: fail(ValueError("the label is 11"))
    finally: wait()
wait()
"""
    bench.launch(code)
    assert "[worker 0] ValueError: the label is 11" in bench.said


def test_a_worker_that_lost_a_peer_leaves_at_once_and_hides_nothing(bench):
    code = """
ready()
if me == 1: wait(0.2); fail(ValueError("the label is 11"))
print("step 3", end="")
wait(0.5)
report = worker.announce_failure(UnavailableError("heartbeat"), os.environ)
import atexit; atexit.register(wait)
if report.lost_a_peer: worker.leave()
"""
    began = time.monotonic()
    bench.launch(code, limits=Limits(startup=20, grace=120))
    assert time.monotonic() - began < 60
    shown = bench.stream.getvalue()
    first = "step 3\nlauncher: worker 1 failed first: ValueError: the label is 11\nlauncher: [worker 1] Traceback"
    assert shown.startswith(first)
    assert "heartbeat" not in shown


def test_notes_and_causes_of_an_exception_are_shown(bench):
    code = """
ready()
if me == 0: wait()
try: 1 / 0
except ZeroDivisionError as error:
    other = KeyError("x"); other.add_note("modetrain: failed in step 7"); other.__cause__ = error
    fail(other)
"""
    bench.launch(code)
    assert "[worker 1] modetrain: failed in step 7" in bench.said
    assert "[worker 1] ZeroDivisionError: division by zero" in bench.said


def test_what_a_worker_printed_last_is_shown_where_it_says_no_more(bench):
    outcome = bench.launch("ready()\nif me == 1: print('é: no such file'); sys.exit(4)\nwait()")
    assert (outcome.code, outcome.cause) == (1, "worker 1 exited with code 4")
    assert "[worker 1] é: no such file" in bench.said


def test_a_wrong_configuration_has_its_own_code(bench):
    code = "if me == 1: print('modetrain: steps=x: ...', file=sys.stderr); sys.exit(2)\nwait()"
    outcome = bench.launch(code, restarts=3)
    assert (outcome.code, outcome.restarts) == (2, ())
    assert "[worker 1] modetrain: steps=x: ..." in bench.said
    assert bench.launch("fail(ConfigError('steps=x'))").code == 2


def test_a_worker_that_is_ended_before_it_exits_has_the_code_that_it_reported(bench):
    # As with TensorFlow, which waits at the end for peers that have left, or aborts.
    code = """
class NonFiniteError(Exception): pass
ready()
if me == 0: wait()
try: fail(NonFiniteError("loss is nan"), 3)
finally: wait()
"""
    outcome = bench.launch(code)
    assert (outcome.code, outcome.cause) == (3, "all workers stopped: NonFiniteError: loss is nan")


def test_an_error_that_all_raise_is_reported_once(bench):
    outcome = bench.launch("ready(); fail(ValueError('the label is 11'))", limits=Limits(startup=20, grace=60))
    assert outcome.cause == "workers 0 and 1 failed: ValueError: the label is 11"
    assert bench.said == ["workers 0 and 1 failed first: ValueError: the label is 11"]


def test_workers_that_continue_are_stopped_and_then_killed(bench):
    code = f"""{PID}
if me == 0: signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(1)))
if me == 1: signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
if me == 2: fail(ValueError("bad"))
wait()
"""
    limits = Limits(startup=20, grace=1, term=0.3, kill=60)
    assert bench.launch(code, workers=3, limits=limits).cause == "worker 2 failed: ValueError: bad"
    assert bench.log(0).splitlines()[-1] == "told"
    assert gone(*map(bench.pid, range(3)), within=0)
    assert bench.said[-2:] == ["worker 0 stopped because of it", "worker 1 stopped because of it"]


def test_who_does_not_join_is_named(bench):
    code = "print('I look for my peers')\nif me != 1: waiting()\nwait()"
    began = time.monotonic()
    outcome = bench.launch(code, workers=3, limits=Limits(startup=3))
    assert time.monotonic() - began < 60
    cause = "worker 1 did not join within 3 s (worker 1 never looked for the others, workers 0 and 2 waited)"
    assert (outcome.code, outcome.cause) == (1, cause)
    assert bench.said[:2] == [cause, "[worker 1] I look for my peers"]
    assert f"{bench.folder}/workers/worker-1.log" in bench.said[2]


def test_a_frozen_one_is_named_alone(bench):
    code = "waiting() if me != 1 else kill(signal.SIGSTOP)\nwait()"
    outcome = bench.launch(code, limits=Limits(startup=3, silence=20))
    assert outcome.cause == "worker 1 did not join within 3 s (worker 1 stopped answering, worker 0 waited)"


def test_marks_of_an_earlier_launch_count_for_nothing(bench):
    (bench.folder / "workers").mkdir()
    for worker in range(2):
        (bench.folder / "workers" / f".ready-{worker}-0").touch()
    (bench.folder / "workers" / ".failed-0-0").write_text("{")
    outcome = bench.launch("wait()", limits=Limits(startup=1))
    assert outcome.cause == "workers 0 and 1 did not join within 1 s (workers 0 and 1 never looked for the others)"


# --- restarts --------------------------------------------------------------------------------------------------------


def test_a_killed_worker_makes_all_start_again(bench):
    code = """
ready()
if attempt == 0 and me == 1: kill(signal.SIGKILL)
if attempt == 0: wait(0.3); lost()
print("done", attempt, sys.argv[2:])
"""
    told = []

    def on_restart(restart):
        told.append(restart)
        return launcher.Again(command=[*bench.command(code), "resume=latest"], workers=3, begin="step 7")

    outcome = bench.launch(code, restarts=3, on_restart=on_restart)
    assert (outcome.code, outcome.cause) == (0, None)
    (restart,) = outcome.restarts
    assert (restart.attempt, restart.workers, restart.cause) == (1, (1,), "worker 1 was killed by SIGKILL")
    assert 0 <= restart.noticed_s < 1
    assert 0 < restart.restarted_s < 20
    assert [(seen.attempt, seen.restarted_s) for seen in told] == [(1, None)]
    assert bench.said == [
        "restart 1 of 3: worker 1 was killed by SIGKILL; 3 instead of 2 workers start again from step 7"
    ]
    assert "=== worker 1 of 2, attempt 0" in bench.log(1)
    assert "=== worker 1 of 3, attempt 1" in bench.log(1), "the log goes on"
    assert "done 1 ['resume=latest']" in bench.stream.getvalue()
    assert (bench.folder / "workers" / "worker-2.log").exists()


def test_restarts_are_bounded(bench):
    outcome = bench.launch("ready()\nif me == 1: kill(signal.SIGSEGV)\nwait()", restarts=2)
    assert (outcome.code, outcome.cause) == (1, "worker 1 was killed by SIGSEGV")
    assert [restart.attempt for restart in outcome.restarts] == [1, 2]
    all_again = "all workers start again from the last checkpoint"
    assert bench.said[:3] == [
        f"restart 1 of 2: worker 1 was killed by SIGSEGV; {all_again}",
        f"restart 2 of 2: worker 1 was killed by SIGSEGV; {all_again}",
        "worker 1 was killed by SIGSEGV",
    ]
    assert bench.said[-1] == "no restart is left: 2 of 2 were made"


def test_an_exception_would_come_again(bench):
    outcome = bench.launch("ready()\nif me == 1: fail(ValueError('bad'))\nwait()", restarts=3)
    assert (outcome.code, outcome.restarts) == (1, ())


@pytest.mark.parametrize("told", [True, False], ids=["where the system tells", "by its silence"])
def test_a_frozen_worker_is_found_and_replaced(bench, told, monkeypatch):
    if not told:
        monkeypatch.setattr("modetrain.cluster.launcher.processes.Attempt._frozen", lambda self: set())
    code = f"""{PID}
ready()
if attempt == 0 and me == 1: kill(signal.SIGSTOP)
if attempt == 0: wait(0.3); lost()
print("done")
"""
    outcome = bench.launch(code, restarts=1)
    assert (outcome.code, outcome.restarts[0].cause) == (0, "worker 1 stopped answering")
    assert (outcome.restarts[0].noticed_s >= LIMITS.silence) == (not told)
    assert outcome.restarts[0].restarted_s is not None
    assert "done" in bench.stream.getvalue()


def test_a_worker_that_freezes_after_its_peers_have_finished_is_replaced(bench):
    outcome = bench.launch("ready()\nif attempt == 0 and me == 1: kill(signal.SIGSTOP)\nprint('done')", restarts=1)
    assert (outcome.code, outcome.restarts[0].cause) == (0, "worker 1 stopped answering after others had finished")


def test_how_long_a_frozen_worker_was_silent_is_measured_from_its_last_sign_of_life(bench):
    (bench.folder / "heartbeat-worker-1.json").write_text('{"time": 1000.0}')  # of an earlier run
    beats = (
        f"import json; open('{bench.folder}/heartbeat-worker-1.json', 'w').write(json.dumps({{'time': time.time()}}))"
    )
    code = f"""
ready()
if attempt == 0 and me == 1: {beats}; wait(2); kill(signal.SIGSTOP)
if attempt == 1 and me == 1: kill(signal.SIGSTOP)
if attempt < 2: wait(3); lost()
"""
    outcome = bench.launch(code, restarts=2, limits=Limits(startup=20, silence=20))
    assert outcome.code == 0
    first, second = outcome.restarts
    assert 2.5 < first.noticed_s < 10
    assert bench.said[0].startswith(
        f"restart 1 of 2: worker 1 stopped answering (its last sign of life was {first.noticed_s:.0f} s ago); all workers"
    )
    assert 2.5 < second.noticed_s < 10, "it told that it was ready, and nothing since"
    assert bench.said[1].startswith("restart 2 of 2: worker 1 stopped answering (its last sign of life was ")


def test_a_worker_that_does_not_join_gets_another_chance(bench):
    code = "if attempt == 1 or me == 0: ready()\nif attempt == 0: wait()"
    outcome = bench.launch(code, restarts=1, limits=Limits(startup=3))
    assert (outcome.code, outcome.restarts[0].cause) == (
        *(0, "worker 1 did not join within 3 s (worker 1 never looked for the others)"),
    )


def test_one_worker_told_to_stop_stops_all_and_nothing_is_started_again(bench):
    code = """
ready()
if me == 1: sys.exit(143)
wait(0.3); sys.exit(143)
"""
    outcome = bench.launch(code, restarts=3)
    assert (outcome.code, outcome.restarts, outcome.cause) == (143, (), None)
    assert bench.said == ["SIGTERM reached a worker: all workers have stopped"]


# --- signals ---------------------------------------------------------------------------------------------------------

SAVES = f"""{PID}
def save(signum, frame):
    print("told", signum, flush=True); wait(0.3); print("saved", flush=True); sys.exit(128 + signum)
signal.signal(signal.SIGINT, save); signal.signal(signal.SIGTERM, save)
ready(); note(f"ready-{{me}}"); wait()
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_all_workers_once_and_they_may_save(bench, signum, code):
    process = bench.start(SAVES, restarts=3)
    bench.wait_for("ready-0", "ready-1")
    process.send_signal(signum)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    for worker in range(2):
        assert bench.log(worker).splitlines()[1:] == [f"told {int(signum)}", "saved"]
    assert f"{signum.name}: all workers save and stop; once more ends them at once" in out
    assert "restart" not in out


def test_a_signal_while_workers_are_started_starts_no_more(bench):
    program = LAUNCHER.replace("workers=2", "workers=400")
    program = program.format(command=bench.command("wait()"), folder=str(bench.folder), restarts=3, limits=LIMITS)
    process = subprocess.Popen([sys.executable, "-c", program], env=bench.environ, stdout=subprocess.PIPE, text=True)
    bench.wait_for("workers/worker-0.log")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert len(list((bench.folder / "workers").glob("worker-*.log"))) < 300


def test_a_second_signal_ends_them_at_once(bench):
    process = bench.start(SAVES.replace("wait(0.3)", "wait(30)"))
    bench.wait_for("ready-0", "ready-1")
    pids = [bench.pid(worker) for worker in range(2)]
    process.send_signal(signal.SIGINT)
    until = time.monotonic() + 60
    while "told 2" not in bench.log(1):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert gone(*pids, within=0)


def test_ctrl_c_in_a_terminal_reaches_workers_once(bench):
    ours, theirs = os.openpty()
    process = bench.start(
        SAVES,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )
    bench.wait_for("ready-0", "ready-1")
    os.write(ours, b"\x03")
    assert process.wait(20) == 130
    assert [bench.log(worker).splitlines().count("told 2") for worker in range(2)] == [1, 1]


# --- no orphans ------------------------------------------------------------------------------------------------------

HANGS = f"{PID}\nready(); note(f'ready-{{me}}'); wait()"


def killed(bench: Bench, process: subprocess.Popen, *, frozen: bool = False) -> list[int]:
    bench.wait_for("ready-0", "ready-1")
    pids = [bench.pid(worker) for worker in range(2)]
    if frozen:
        os.kill(pids[1], signal.SIGSTOP)
    assert all(map(alive, pids))
    process.kill()
    process.wait()
    return pids


def test_no_worker_outlives_a_killed_launcher(bench):
    assert gone(*killed(bench, bench.start(HANGS)))


def test_no_frozen_worker_outlives_a_killed_launcher(bench):
    assert gone(*killed(bench, bench.start(HANGS), frozen=True))


def test_no_worker_outlives_a_killed_launcher_behind_a_shell(bench):
    program = f'{sys.executable} {bench.folder}/worker.py "$0"; echo ended'  # two commands, so that sh stays
    assert gone(*killed(bench, bench.start("", command=["sh", "-c", program, HANGS])))


def test_no_worker_outlives_a_launcher_that_was_killed_before_it_began(bench):
    late = WORKER.replace("worker.die_with_parent", f"{PID}\nnote(f'ready-{{me}}'); wait(1)\nworker.die_with_parent")
    (bench.folder / "worker.py").write_text(late)
    assert gone(*killed(bench, bench.start("note(f'began-{me}'); wait()")))
    assert not list(bench.folder.glob("began-*"))


def test_no_worker_is_left_where_the_launcher_fails(bench, monkeypatch):
    def fail(screen, line):
        raise BrokenPipeError(line)

    monkeypatch.setattr(Screen, "write_line", fail)
    with pytest.raises(BrokenPipeError, match="SIGTERM: all workers save and stop"):
        bench.launch(f"""{PID}
while me == 0 and not os.path.exists(f"{{os.path.dirname(sys.argv[0])}}/pid-1"): wait(0.05)
if me == 0: kill(signal.SIGTERM, os.getppid())
wait()
""")
    assert gone(bench.pid(0), bench.pid(1), within=0)


def test_signals_are_handled_as_before_when_all_is_done(bench):
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    bench.launch("ready()")
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
