"""`-m` makes a run of every combination, each checked first, in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import modetrain
from modetrain.__main__ import main
from modetrain.app import sweep, sweep_run
from modetrain.config import hydra_main
from modetrain.errors import ConfigError
from modetrain.files import paths, quoting, run_folder

SMALL = ["recipe=mnist", "model=mlp", "data.source=bundled", "data.batch_size=8", "steps=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swept(words: list[str], folder: Path) -> list[tuple[str, ...]]:
    return [job.swept for job in sweep.plan(words, folder)]


def test_every_combination_is_a_job_and_the_last_key_varies_fastest(folder):
    words = ["mode=eager,graph,xla", "recipe=mnist", "optimizer.learning_rate=0.1,0.01"]
    jobs = sweep.plan(words, folder)
    assert [job.swept for job in jobs] == [
        (f"mode={mode}", f"optimizer.learning_rate={rate}")
        for mode in ("eager", "graph", "xla")
        for rate in ("0.1", "0.01")
    ]
    assert jobs[-1].overrides == ("mode=xla", "recipe=mnist", "optimizer.learning_rate=0.01")
    assert (jobs[-1].settings.mode.name, jobs[-1].settings.optimizer.learning_rate) == ("xla", 0.01)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=range(3)", ["seed=0", "seed=1", "seed=2"]),
        ("steps=range(10,31,10)", ["steps=10", "steps=20", "steps=30"]),
        ("seed=choice(4,5)", ["seed=4", "seed=5"]),
        ("optimizer=glob(ada*)", ["optimizer=adam", "optimizer=adamw"]),
        ("mode=glob(*,exclude=[e*,m*,t*])", ["mode=graph", "mode=xla"]),
        ("debug=nan,fast", ["debug=nan", "debug=fast"]),
        ("model.filters=[8],[8,16]", ["model.filters=[8]", "model.filters=[8,16]"]),
        ("seed=3", []),
    ],
)
def test_hydras_ways_to_give_several_values(folder, word, expected):
    found = swept(["recipe=mnist", word], folder)
    assert found == [(one,) for one in expected] if expected else found == [()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mode=eager,grahp"], ["job 1 (mode=grahp)", "Did you mean mode=graph?"]),
        (["seed=1,2", "optimizer.learning_rate=0.1,x"], ["job 1 (seed=1 optimizer.learning_rate=x)", "'x'"]),
        (["mode=graph,xla", "mode.strict=true"], ["job 1 (mode=xla)", "bitwise"]),
        (["seed=range(3,3)"], ["it has no value"]),
        (["optimizer.learning_rate=interval(0,1)"], ["an interval has no end", "range("]),
        (["mode=graph,xla", "mode=eager"], ["given twice"]),
        (["mode=glob(z*)"], ["it has no value"]),
        (["run_dir=a,a", "seed=1"], ["both would run in a"]),
        (["mode=graph,multiworker"], ["job 1", "run it by itself: mode=multiworker mode.workers=2 without -m"]),
        (["resume=latest", "mode=graph"], ["job 0", "no run in runs/mnist/graph"]),
    ],
)
def test_a_sweep_with_a_job_that_cannot_run_is_refused_before_any_runs(folder, capsys, words, expected):
    assert main(["-m", "recipe=mnist", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    for part in expected:
        assert part in err
    assert not (folder / "runs").exists()


def test_one_fault_of_all_jobs_is_reported_once(folder, capsys):
    assert main(["-m", "recipe=mnist", "seed=range(20)", "steps=x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_run_dir_becomes_a_folder_of_folders(folder):
    words = ["recipe=mnist", "mode=eager,graph", "data.train_split='train[:50%]',train", "run_dir=out"]
    jobs = sweep.plan(words, folder)
    assert [job.run_dir for job in jobs] == [
        "out/0-mode=eager,data.train_split=_train__50___",
        "out/1-mode=eager,data.train_split=train",
        "out/2-mode=graph,data.train_split=_train__50___",
        "out/3-mode=graph,data.train_split=train",
    ]
    assert jobs[0].settings.data.train_split == "train[:50%]"
    assert jobs[0].settings.run_dir == folder / "out/0-mode=eager,data.train_split=_train__50___"


def test_run_dir_can_itself_be_swept(folder):
    assert [job.run_dir for job in sweep.plan(["recipe=mnist", "run_dir=a,b"], folder)] == ["a", "b"]


def test_resume_latest_continues_each_modes_newest_run(folder):
    for mode in ("graph", "xla"):
        (folder / f"runs/mnist/{mode}/2030-01-01_00-00-00").mkdir(parents=True)
    jobs = sweep.plan(["recipe=mnist", "mode=graph,xla", "resume=latest"], folder)
    assert [job.settings.run_dir for job in jobs] == [
        folder / f"runs/mnist/{mode}/2030-01-01_00-00-00" for mode in ("graph", "xla")
    ]
    with pytest.raises(ConfigError, match="seed=1 and seed=2: both would run in"):
        sweep.plan(["recipe=mnist", "seed=1,2", "resume=latest"], folder)


def test_each_job_has_the_words_of_the_run_that_it_resumes(folder):
    for name in ("a", "b"):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "checkpoints/step-00000002.npz").touch()
        command = f"python -m modetrain recipe=mnist model=mlp model.hidden=[{len(name)}] seed={ord(name)}"
        (folder / name / "run.json").write_text(json.dumps({"command": command}))
    words = ["resume=a,b", "do=evaluate"]
    jobs = sweep.plan(words, folder)
    assert [(job.settings.seed, job.settings.do, job.settings.model_name) for job in jobs] == [
        (ord("a"), "evaluate", "mlp"),
        (ord("b"), "evaluate", "mlp"),
    ]
    _, for_hydra = sweep_run._for_hydra(words, paths.conf_dirs(folder))
    seen: list[int] = []
    own = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
    code = hydra_main.run(["--multirun", *for_hydra, *own], folder, (), lambda config: seen.append(len(config)))
    assert (code, len(seen)) == (0, 2)


def test_two_runs_started_in_one_second_get_two_folders(tmp_path):
    made = [run_folder.create(tmp_path, "mnist", "graph") for _ in range(5)]
    assert len(set(made)) == 5
    assert all(folder.is_dir() for folder in made)
    assert run_folder.find_latest(tmp_path, "mnist", "graph") == made[-1]


def test_cfg_job_prints_every_job(folder, capsys):
    assert main(["-m", "recipe=mnist", "mode=eager,graph", "--cfg", "job"]) == 0
    first, second = capsys.readouterr().out.split("---\n")
    assert "compile: eager" in first
    assert "compile: graph" in second


# --- real runs -------------------------------------------------------------------------------------------------------


def start(folder: Path, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(modetrain.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "modetrain", *words],
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


ENDS = """
import modetrain

class Ends(modetrain.Callback):
    def __init__(self, how):
        super().__init__(every=1)
        self.how = how

    def on_step(self, trainer):
        if self.how == "exit":
            raise SystemExit(0)
        trainer.stop() if self.how == "stop" else trainer.stop_early("the goal is reached")
"""


def test_jobs_run_in_processes_of_their_own_and_are_compared(folder):
    (folder / "ends.py").write_text(ENDS)
    own = ("+callbacks.ends._target_=ends.Ends", "+callbacks.ends.how=stop,exit,early")
    process = start(folder, "-m", *SMALL, "mode=eager", "run_dir=out dir", *own)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output  # the first that is not 0
    assert "job 0 (3 in all): +callbacks.ends.how=stop" in output
    assert "job 2 (3 in all): +callbacks.ends.how=early" in output  # a job that fails or stops does not stop the others
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("out dir/*/run.json"))]
    assert [record["status"] for record in records] == ["stopped", "failed", "completed"]
    assert [record["stopped_early"] for record in records] == [None, None, "the goal is reached"]
    assert [bool(record["results"]["eval"]) for record in records] == [False, False, True]
    assert "code of this run raised SystemExit, so the run has failed (exit code 1)" in output
    assert "completed at step 1 of 2 (stopped early: the goal is reached)" in output
    assert output.count("resume with:") == 1, "only the stopped job"
    assert "jobs not started" not in output
    table = output[output.index("the sweep") :]
    for part in ("stopped (exit 130)", "failed (exit 1)", "completed", "eval accuracy", "step p50 ms"):
        assert part in table
    assert "tensorboard --logdir 'out dir'" in output
    again = start(
        folder,
        *SMALL,
        "mode=eager",
        quoting.override("run_dir", "out dir/2-+callbacks.ends.how=early"),
        "resume=latest",
    )
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    assert "already finished (stopped early at step 1: the goal is reached)" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.sampled(1)
def test_a_signal_stops_the_job_and_the_sweep(folder, number):
    process = start(folder, "-m", *SMALL[:-1], "steps=1000000", "mode=graph", "seed=1,2")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, output
    assert "jobs not started: 1" in output
    runs = list(folder.glob("runs/mnist/graph/*/run.json"))
    assert [json.loads(path.read_text())["status"] for path in runs] == ["stopped"]
