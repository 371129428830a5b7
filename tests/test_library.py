"""modetrain as a library: `Trainer` on arrays, without Hydra, files or a run folder, and `modetrain.run`."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain import ConfigError, OptimizerSettings
from tests.conftest import ROOT

RATE = 0.5


class Regression(modetrain.Recipe):
    def train_step(self, batch):
        return self.minimize(lambda: tf.square(self.model(batch["x"], training=True)[:, 0] - batch["y"]))

    def eval_step(self, batch):
        return {"loss": tf.square(self.model(batch["x"], training=False)[:, 0] - batch["y"])}


def make(**settings) -> Regression:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    return Regression(model=model, optimizer=OptimizerSettings(**{"name": "sgd", "learning_rate": RATE, **settings}))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.array([1.0, 2.0, 3.0], np.float32)}


def test_a_trainer_on_arrays_makes_the_updates_that_numpy_makes(mode, data):
    """With a batch of all examples a step is plain gradient descent, whatever the order."""
    trainer = modetrain.Trainer(make(), {"train": data, "eval": data}, mode=mode, steps=5, batch_size=12)
    history = trainer.train()
    w, b = np.ones(3), 0.0
    for _ in range(5):
        error = data["x"] @ w + b - data["y"]
        w, b = w - RATE * 2 * error @ data["x"] / 12, b - RATE * 2 * error.mean()
    kernel, bias = trainer.recipe.model.get_weights()
    np.testing.assert_allclose(kernel[:, 0], w, rtol=1e-4)
    np.testing.assert_allclose(bias[0], b, rtol=1e-4)
    assert (trainer.status, trainer.step, list(history.train)) == ("completed", 5, [1, 2, 3, 4, 5])
    loss = np.square(data["x"] @ w + b - data["y"]).mean()
    assert trainer.evaluate()["loss"] == pytest.approx(loss, rel=1e-4)
    assert history.evaluations == {5: trainer.history.evaluation}


def test_a_schedule_decays_over_the_trainers_steps(data):
    trainer = modetrain.Trainer(make(schedule="linear"), data, steps=4, batch_size=12)
    rates = [float(trainer.recipe.optimizer.learning_rate(step)) for step in range(4)]
    assert rates[0] == pytest.approx(RATE)
    assert rates[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("seed", [None, 3])
def test_it_is_said_where_a_stream_is_not_exact(seed, data, caplog):
    stream = tf.data.Dataset.from_tensor_slices(data).shuffle(12, seed=seed, reshuffle_each_iteration=seed is None)
    modetrain.Trainer(make(), {"train": stream}, mode="eager", steps=1, batch_size=4)
    warned = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert [line.startswith("data: the training stream gives other examples") for line in warned] == [True] * (not seed)


def test_callbacks_are_objects(data, recorder):
    seen = recorder(every=2)
    modetrain.Trainer(make(), data, steps=6, batch_size=4, callbacks=[seen]).train()
    assert seen.looks == [2, 4, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "grph"}, r"mode=grph: it is one of eager, .* Did you mean 'graph'"),
        ({"mode": "multiworker"}, "the command line starts them"),
        ({"batch_size": 99}, "there are only 12 training examples"),
        ({"data": {"x": np.zeros([3, 3]), "y": np.zeros([2])}}, r"differ in their number of examples \(x 3, y 2\)"),
        ({"data": {"x": np.zeros([0, 3])}}, "hold no examples"),
        ({"mode": modetrain.Mode(name="graph", compile="graph", precision="float64")}, "Pass a function that makes"),
    ],
)
def test_what_cannot_run_is_refused(given, message, data):
    with pytest.raises(ConfigError, match=message):
        modetrain.Trainer(make(), **{"data": data, "steps": 3, "batch_size": 4, **given})


def test_evaluating_without_evaluation_examples_is_refused(data):
    with pytest.raises(ConfigError, match=r"data\['eval'\]"):
        modetrain.Trainer(make(), data, steps=3, batch_size=4).evaluate()


def test_replicas_want_a_function_that_makes_the_recipe_and_equal_one_device():
    """In a process of its own: devices of TensorFlow are split."""
    code = """
        import numpy as np, modetrain
        from modetrain.mode import Mode
        from tests.test_library import make
        x = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
        data = {"x": x, "y": x.sum(axis=1)}
        two = Mode(name="mirrored", compile="graph", strategy="mirrored", replicas=2, devices="cpu")
        many = modetrain.Trainer(make, data, mode=two, steps=5, batch_size=6)
        many.train()
        one = modetrain.Trainer(make(), data, mode="graph", steps=5, batch_size=6)
        one.train()
        for a, b in zip(many.recipe.model.get_weights(), one.recipe.model.get_weights()):
            np.testing.assert_allclose(a, b, rtol=1e-5)
        try:
            modetrain.Trainer(make(), data, mode=two, steps=5, batch_size=6)
        except modetrain.ConfigError as error:
            assert "Pass a function that makes the recipe" in str(error), error
        else:
            raise AssertionError("a recipe of one device was taken")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_run_is_the_command_line_from_python(tmp_path):
    """Twice in one process, once in a thread that is not the main one; what fails raises and exits nothing."""
    code = f"""
        import pathlib, threading, modetrain
        words = ("recipe=mnist", "model=mlp", "data.source=bundled", "callbacks.evaluate.every=0")
        folder = pathlib.Path({str(tmp_path)!r})
        # What a run sets globally is set back: the runs after it are what they are alone.
        mode = ("mode.strict=true", "mode.debug_data=true", "mode.deterministic=true", "mode.precision=float64")
        modetrain.run(*words, *mode, steps=1, run_dir=folder / "global")
        import keras, tensorflow as tf
        from tensorflow.python.data.ops import debug_mode
        from tensorflow.python.framework import config
        assert keras.config.floatx() == keras.config.dtype_policy().name == "float32"
        assert not debug_mode.DEBUG_MODE and not config.is_op_determinism_enabled()
        passes = tf.config.optimizer.get_experimental_options()
        assert all(passes[name] for name in ("arithmetic_optimization", "constant_folding", "remapping"))
        modetrain.run(*words, "check_numerics=true", steps=1, run_dir=folder / "checked")
        assert tf.math.is_nan(tf.constant(0.0) / 0.0), "it is checked no more"
        first = modetrain.run(*words, steps=3, run_dir=folder / "one")
        assert (first.status, list(first.history.train), first.folder) == ("completed", [1, 2, 3], folder / "one")
        assert first.results["eval"]["accuracy"] >= 0 and first.recipe.model.count_params()
        results = []
        train = lambda: results.append(modetrain.run(*words, "mode=eager", steps=3, run_dir=folder / "two"))
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        assert abs(results[0].history.train[3]["loss"] - first.history.train[3]["loss"]) < 1e-4
        for refused in (("recipe=mnist", "do=compare"), ("recipe=mnst",), ("recipe=mnist", "mode.strict=maybe")):
            try:
                modetrain.run(*refused)
            except modetrain.ConfigError:
                continue
            raise AssertionError(refused)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signals do not reach this run" in done.stdout
