"""Replicas agree with one device; one device is wrapped in nothing.

What needs several devices is in `on_replicas.py` and runs in a process of its own, for how a CPU is split is global.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modetrain.app.build import connect_devices
from modetrain.engine.devices import Replicas, format_devices, mean_over_replicas, replica_number
from modetrain.errors import ConfigError
from modetrain.mode import Mode

HERE = Path(__file__).parent


def test_several_replicas(request):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_replicas.py")]
    if request.config.getoption("--long"):
        command.append("--long")
    done = subprocess.run(command, cwd=HERE.parent.parent, env=os.environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_many_devices_are_shown_by_the_first_and_the_last():
    assert format_devices(["/device:CPU:0"]) == "/device:CPU:0"
    assert format_devices([f"/device:CPU:{n}" for n in range(4)]).count(",") == 3
    assert format_devices([f"/device:CPU:{n}" for n in range(64)]) == "/device:CPU:0 to 63"
    workers = [f"/job:worker/task:{worker}/device:GPU:{n}" for worker in range(12) for n in range(2)]
    assert format_devices(workers) == "/job:worker/task:0/device:GPU:0 to 11/device:GPU:1"


def test_one_device_is_wrapped_in_nothing():
    replicas = Replicas.for_mode(Mode(name="graph", compile="graph"))
    assert replicas.strategy is None
    assert (replicas.count, replicas.local, replicas.first, replicas.workers, replicas.chief) == (1, 1, 0, 1, True)
    assert replicas.run(lambda given: given + 1, [41]) == [42]
    assert replica_number() == 0
    tensors = [tf.constant(1.0), tf.constant([2.0])]
    assert [a is b for a, b in zip(mean_over_replicas(tensors), tensors, strict=True)] == [True, True]
    assert replicas.sum_over_workers(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert replicas.gather_from_workers([3.0]).tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": "gpu"}, r"mode.devices=gpu: TensorFlow finds no GPU here. Type mode.devices=cpu"),
        (
            {"replicas": 100, "strategy": "mirrored"},
            r"mode.replicas=100 on logical CPUs: .* Type mode.replicas=4; at most 64",
        ),
        ({"devices": (0, 2), "strategy": "mirrored"}, r"mode.devices=\[0, 2\]: there is no GPU 0"),
        ({"strategy": "tpu", "compile": "xla"}, r"mode=tpu: neither mode.tpu= nor TPU_NAME .* Type mode.tpu=local"),
        pytest.param(
            {"strategy": "tpu", "compile": "xla", "tpu": "local"},
            r"mode.tpu=local: no TPU answers \(TPUs not found in the cluster\). Type mode.tpu= with another name",
            marks=pytest.mark.long,  # TensorFlow looks for more than a minute
        ),
        (
            {"strategy": "tpu", "compile": "xla", "tpu": "nonsense"},
            r"mode.tpu=nonsense: no TPU answers \(a name is looked up in Google Cloud.*\). Type mode.tpu= with another name",
        ),
        (
            {"strategy": "tpu", "compile": "xla", "tpu": "grpc://127.0.0.1:1"},
            r"mode.tpu=grpc://127.0.0.1:1: no TPU answers \(Connection refused\). Type mode.tpu= with another name",
        ),
        (
            {"strategy": "tpu", "compile": "xla", "tpu": "grpc://127.0.0.1"},
            r"mode.tpu=grpc://127.0.0.1: no TPU answers \(an address is grpc://HOST:PORT\)",
        ),
        (
            {"strategy": "tpu", "compile": "xla", "tpu": "grpc://127.0.0.1:99999"},
            r"mode.tpu=grpc://127.0.0.1:99999: no TPU answers \(an address is grpc://HOST:PORT\)",
        ),
        (
            {"strategy": "mirrored", "compile": "xla", "replicas": 2, "xla_unit": "step"},
            r"mode.xla_unit=step on several replicas that are CPUs: .* Leave mode.xla_unit out",
        ),
    ],
)
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_devices_that_are_not_there_are_refused(given, message, monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(ConfigError, match=message):
        Replicas.for_mode(Mode(**{"name": "mine", "compile": "graph", **given}))


@pytest.mark.parametrize(("name", "strategy"), [("graph", "one_device"), ("mirrored", "mirrored")])
def test_a_cluster_that_a_mode_ignores_is_reported(name, strategy, monkeypatch):
    mode = Mode(name=name, strategy=strategy, compile="graph", replicas=1, devices="cpu")
    others = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    monkeypatch.setenv("TF_CONFIG", others)
    (note,) = connect_devices(mode).notes
    assert note == (
        f"WARNING: TF_CONFIG says that this is worker 1 of 2, but mode={name} runs only in this process. Type "
        "mode=multiworker to run in all of them"
    )
    for none in ("", others.replace(', "b:1"', "").replace("1}", "0}")):
        monkeypatch.setenv("TF_CONFIG", none)
        assert connect_devices(mode).notes == ()
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with monkeypatch.context() as within:  # what contradicts itself there, TensorFlow does not read
        for variable, value in (("JOB_COMPLETION_INDEX", "3"), ("MODETRAIN_WORKERS", "2")):
            within.setenv(variable, value)
        (note,) = connect_devices(mode).notes
        assert note.startswith(f"mode={name} ignores the cluster that the environment describes, which is wrong: ")
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    if strategy == "one_device":
        assert (
            connect_devices(mode).notes[0].startswith("mode=graph ignores the cluster that the environment describes")
        )
    else:  # TensorFlow reads it there too, and fails
        with pytest.raises(ConfigError, match="TF_CONFIG: nonsense"):
            connect_devices(mode)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_a_single_replica_that_was_not_requested_is_reported(cli):
    words = ("recipe=mnist", "model=mlp", "mode=mirrored", "steps=1", "data.source=bundled", "callbacks.evaluate=null")
    told = "this machine has no GPU: mode=mirrored has one replica, the CPU. Type mode.replicas=2 to rehearse two"
    run = cli.run(*words, folder="alone")
    assert run.code == 0, run.err
    assert f"  {told}\n" in run.out
    assert run.json["notes"] == [told]
    asked = cli.run(*words, "mode.replicas=1", folder="asked")
    assert asked.json["mode"]["effective"]["replicas"] == 1
    assert asked.json["notes"] == []
