"""run.json: every key that outside scripts read is there, of the right type, and true."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping

import pytest
import tensorflow as tf
import yaml

from modetrain.app import record
from modetrain.checkpoints import file
from modetrain.files import run_folder, run_json
from recipes.mnist import Digits

NUMBER, TEXT = (int, float), str
KEYS = {
    "recipe": TEXT,
    "steps": int,
    "seed": int,
    "command": TEXT,
    "notes": list,
    "status": TEXT,
    "mode.requested": TEXT,
    "mode.effective.compile": TEXT,
    "mode.effective.strategy": TEXT,
    "mode.effective.replicas": int,
    "mode.effective.devices": list,
    "mode.effective.precision": TEXT,
    "mode.effective.steps_per_call": int,
    "mode.effective.deterministic": bool,
    "data.source": TEXT,
    "data.train_examples": int,
    "data.eval_examples": int,
    "results.train.loss": NUMBER,
    "results.train.accuracy": NUMBER,
    "results.eval.loss": NUMBER,
    "results.eval.accuracy": NUMBER,
    "results.state_digest": TEXT,
    "time.compile_s": NUMBER,
    "time.step_ms.p50": NUMBER,
    "time.step_ms.p90": NUMBER,
    "time.step_ms.max": NUMBER,
    "time.data_s": NUMBER,
    "time.eval_s": NUMBER,
    "time.checkpoint_s": NUMBER,
    "time.total_s": NUMBER,
    "examples_per_s": NUMBER,
    "traces": int,
    "versions.python": TEXT,
    "versions.modetrain": TEXT,
    "versions.tensorflow": TEXT,
    "versions.keras": TEXT,
}


def at(found, key):
    for part in key.split("."):
        found = found[part]
    return found


# --- of real runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_completed_run_has_every_key(mode, trainings, training):
    found = trainings(mode).json
    for key, kind in KEYS.items():
        assert isinstance(at(found, key), kind), key
        assert kind is bool or not isinstance(at(found, key), bool), key
    assert "error" not in found
    assert re.fullmatch("[0-9a-f]{64}", found["results"]["state_digest"])


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_what_it_says_is_true(mode, trainings):
    found = trainings(mode).json
    assert (found["recipe"], found["status"], found["seed"]) == ("mnist", "completed", 0)
    assert found["steps"] == found["steps_wanted"] == 24
    assert found["mode"]["requested"] == found["mode"]["effective"]["compile"] == mode
    assert found["mode"]["effective"]["precision"] == "float32"
    assert found["mode"]["effective"]["steps_per_call"] == (1 if mode == "eager" else 24)
    assert found["data"]["source"] == "bundled"
    assert (found["data"]["train_examples"], found["data"]["eval_examples"]) == (4000, 500)
    assert (found["time"]["compile_s"] > 0) is (mode != "eager")
    step_ms = found["time"]["step_ms"]
    assert 0 < step_ms["p50"] <= step_ms["p90"] <= step_ms["max"]
    accounts = [value for key, value in found["time"].items() if key not in ("step_ms", "total_s")]
    assert 0 < sum(accounts) <= found["time"]["total_s"] + 1e-3, "no second is in two accounts"


def test_results_are_those_in_tensorboard(trainings):
    run = trainings("graph")
    losses = run.scalars["train/loss"]
    assert run.json["results"]["train"]["loss"] == pytest.approx(sum(losses.values()) / 24, rel=1e-6)
    assert run.json["results"]["eval"]["loss"] == pytest.approx(run.scalars["eval/loss"][24], rel=1e-6)


def test_the_command_is_the_one_that_was_typed(trainings, training):
    words = trainings("graph").json["command"].split()
    assert words[:3] == ["python", "-m", "modetrain"]
    assert {"recipe=mnist", "steps=24", "mode=graph"} < set(words)


def test_the_digest_is_of_the_last_checkpoint(trainings):
    run = trainings("graph")
    found = file.load(run_folder.checkpoint(run.folder, 24))
    assert file.digest({name: tf.constant(array) for name, array in found.arrays.items()}) == run.digest


def test_the_configuration_lies_beside_it(trainings):
    kept = yaml.safe_load((trainings("xla").folder / "config.yaml").read_text())
    assert kept["mode"]["compile"] == "xla"
    assert kept["optimizer"]["ema"] == 0.9
    assert kept["steps"] == 24


# --- of runs that end otherwise --------------------------------------------------------------------------------------


@pytest.fixture
def kept(make_trainer, settings, source, tmp_path):
    """Trains, keeping a record; returns run.json as it was at the start and at the end, and the error."""

    def run(compile="graph", *given, **more):
        trainer = make_trainer(compile, *given, **more)
        keep = record.Record(tmp_path, settings(steps=trainer.steps))
        keep.follow(trainer, source)

        def read():
            return json.loads((tmp_path / "run.json").read_text())

        keep.write()
        before = read()
        try:
            trainer.train()
        except Exception as error:
            keep.write(error)
        else:
            keep.write()
        return before, read()

    return run


def test_while_it_runs_it_says_so(kept):
    before, after = kept(steps=3)
    assert (before["status"], before["steps"], before["results"]["state_digest"]) == ("running", 0, None)
    assert (after["status"], after["steps"]) == ("completed", 3)
    assert before["time"]["step_ms"] == {"p50": None, "p90": None, "max": None}, "nothing to tell yet"


def test_a_failed_run_says_what_happened(kept):
    class Broken(Digits):
        def train_step(self, batch):
            raise ValueError("too small")

    _, after = kept("eager", Broken, steps=3)
    assert (after["status"], after["error"], after["steps"]) == ("failed", "ValueError: too small", 0)
    assert after["results"]["state_digest"] is None


def test_a_run_that_failed_before_there_was_anything_has_a_record_too(settings, tmp_path):
    keep = record.Record(tmp_path, settings())
    keep.write(RuntimeError("no data"))
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["status"], found["error"]) == ("failed", "RuntimeError: no data")
    assert {key.split(".")[0] for key in KEYS} <= set(found)


def test_what_took_effect_is_read_from_what_was_built(make_trainer):
    """A trainer whose step was built otherwise than its mode says would be found out."""
    trainer = make_trainer("graph", steps=1)
    other = make_trainer("xla", steps=1)
    other.programs = dataclasses.replace(other.programs, train=trainer.programs.train)
    other.train()
    assert record.effective_mode(other)["compile"] == "graph"


def test_it_is_json_whatever_the_results_are(kept, tmp_path):
    class Undefined(Digits):
        def train_step(self, batch):
            return {**super().train_step(batch), "ratio": tf.constant(float("nan"))}

    kept("eager", Undefined, steps=1)
    strict = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert strict["results"]["train"]["ratio"] is None
    assert not list(tmp_path.glob(".*partial")), "it is replaced at once"


def test_versions_are_those_installed():
    found = record.versions()
    assert found["tensorflow"] == tf.__version__
    assert isinstance(found, Mapping)
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


def test_a_refused_resume_does_not_unmake_the_steps_made(settings, tmp_path):
    run_json.write(tmp_path, {"status": "completed", "steps": 60, "resumed_at": 20, "checkpoints": {"written": 3}})
    resumed = record.Record(tmp_path, settings(resume="latest", run_dir=tmp_path))
    resumed.write()
    resumed.write(ValueError("of another model"))
    found = run_json.read(tmp_path)
    assert (found["status"], found["steps"], found["checkpoints"]) == ("failed", 60, {"written": 3})
    assert run_folder.recorded_steps(tmp_path) == [60]
