"""Workers that others have started on several machines refuse to run different things."""

from __future__ import annotations

import contextlib
import json

import pytest

from modetrain.app import config_consensus
from modetrain.cluster.launcher.processes import free_ports
from tests.forked import forked

WORDS = (
    *(
        "recipe=mnist",
        "model=mlp",
        "mode=multiworker",
        "data.source=bundled",
        "data.batch_size=16",
        "data.eval_batches=1",
    ),
    "steps=4",
)


@pytest.fixture
def two(tmp_path):
    """Runs two workers, each with words of its own more; returns their exit codes and what they printed."""

    def run(*more, folders=(tmp_path, tmp_path)):
        addresses = [f"localhost:{port}" for port in free_ports(2)]
        with contextlib.ExitStack() as stack:
            started = []
            for index, words in enumerate(more):
                config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                words = [*WORDS, *words, f"run_dir={tmp_path / 'run'}"]
                process = forked(words, cwd=folders[index], env={"TF_CONFIG": json.dumps(config)})
                started.append(stack.enter_context(process))
            said = [process.communicate(timeout=600) for process in started]
            return [(process.returncode, out, err) for process, (out, err) in zip(started, said, strict=True)]

    return run


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ((), ("optimizer.learning_rate=0.5",), "optimizer.learning_rate is 0.001 for worker 0, and 0.5 for worker 1"),
        pytest.param(
            *(("callbacks.log.every=2",), ("callbacks.log.every=3",)),
            "callbacks.log.every is 2 for worker 0, and 3 for worker 1",
            marks=pytest.mark.long,
        ),
    ],
)
def test_another_setting_on_one_worker_is_refused_by_all(ours, theirs, told, two):
    for code, _, err in two(ours, theirs):
        assert code == 2, err
        assert f"the workers do not run the same: {told}. Start all of them with the same command" in err


def test_other_code_on_one_worker_is_refused_by_all(two, tmp_path):
    for name, loss in (("one", "1.0"), ("other", "2.0")):
        (tmp_path / name / "recipes").mkdir(parents=True)
        (tmp_path / name / "recipes" / "scaled.py").write_text(
            "from recipes.mnist import Digits\n\n\nclass Scaled(Digits):\n"
            f"    def train_step(self, batch):\n        return {{**super().train_step(batch), 'scale': {loss}}}\n"
        )
    words = ("recipe._target_=recipes.scaled.Scaled",)
    for code, _, err in two(words, words, folders=(tmp_path / "one", tmp_path / "other")):
        assert code == 2, err
        assert "the workers do not run the same: code of the recipe is " in err


def test_what_is_each_machines_own_may_differ(two):
    found = two(("watchdog.after=5m", "mode.startup_timeout=400"), ("mode.startup_timeout=500",))
    assert [code for code, _, _ in found] == [0, 0], found


def test_settings_are_compared_by_their_keys():
    config = {"steps": 3, "run_dir": "a", "data": {"dir": "b", "batch_size": 4}, "compare": {"modes": ["eager"]}}
    config["recipe"] = {"vocabulary": "/scratch/n1/v.txt", "extra": {}}
    told = {"steps": 3, "data.batch_size": 4, "compare.modes": ["eager"], "recipe.extra": {}}
    assert config_consensus.shared_settings(config) == told
