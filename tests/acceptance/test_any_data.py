"""Data of every kind keeps the promises: modes agree, replicas equal one device, and a resumed run is the same to the bit."""

from __future__ import annotations

import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain import Info, Mode, OptimizerSettings, Recipe, Trainer

X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)


class Rows:
    """Random access; the position is in the row."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"in": {"x": X[index]}, "y": X[index].sum(), "name": f"row {index}"}


def stream():
    yield from (Rows()[index] for index in range(len(X)))


KINDS = {
    "arrays": {"in": {"x": X}, "y": X.sum(axis=1), "name": np.array([f"row {i}" for i in range(len(X))])},
    "random access": Rows(),
    "stream": stream,
    "none": None,
}


class Sums(Recipe):
    """Learns to sum up three numbers, those of the data or drawn ones."""

    def numbers(self, batch):
        if "seed" not in batch:
            return batch["in"]["x"], batch["y"]
        # As many draws as examples: two replicas draw what one device does.
        x = tf.random.stateless_normal([batch["seed"].shape[0], 3], self.seed("x"))
        return x, tf.reduce_sum(x, axis=1)

    def prepare(self, batch, *, seed, training):
        assert ("name" in batch) != ("seed" in batch), "text is here, and stays here"
        return batch

    def train_step(self, batch):
        x, y = self.numbers(batch)
        return self.minimize(lambda: (self.model(x, training=True)[:, 0] - y) ** 2)

    def eval_step(self, batch):
        x, y = self.numbers(batch)
        return {"loss": (self.model(x)[:, 0] - y) ** 2}


def make() -> Recipe:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    return Sums(model=model, optimizer=OptimizerSettings(name="adam", learning_rate=0.1), info=Info(seed=3))


def trained(kind: str, mode: str | Mode, *, stops: tuple[int, ...] = (12,)):
    """The trainer after the last of `stops`, made from its own state at each stop."""
    data = KINDS[kind] if kind == "none" else {"train": KINDS[kind], "eval": KINDS[kind]}
    state, kept, trainer = None, {}, None
    for stop in stops:
        trainer = Trainer(make, data, mode=mode, steps=stop, batch_size=8)
        if state is not None:
            for name, variable in trainer.recipe.state().items():
                variable.assign(kept[name])
            trainer.load_state(state, step=stops[stops.index(stop) - 1])
        trainer.train()
        state, kept = trainer.state(), {name: variable.numpy() for name, variable in trainer.recipe.state().items()}
    return trainer


def weights(trainer) -> list[np.ndarray]:
    return [variable.numpy() for variable in trainer.recipe.model.trainable_variables]


@pytest.mark.parametrize("kind", KINDS)
def test_modes_agree_and_a_resumed_run_is_the_same_to_the_bit(kind):
    eager = trained(kind, "eager")
    wanted, loss = weights(eager), eager.evaluate()["loss"]
    for mode in ("graph", "xla"):
        whole = trained(kind, mode)
        for one, other in zip(weights(whole), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert whole.evaluate()["loss"] == pytest.approx(loss, rel=1e-5)
    resumed = trained(kind, "xla", stops=(5, 12))
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)


DATA = """
import numpy as np
from modetrain import Splits

def numbers(size: int = 40, *, scale: float = 1.0):
    x = np.arange(3.0 * size, dtype=np.float32).reshape(size, 3) / (3 * size) * scale
    split = {"x": x, "y": x.sum(axis=1)}
    return Splits({"train": split, "held": split}, width=3)
"""
RECIPE = """
import signal

import keras
from modetrain import Recipe

def linear(width, *, bias: bool = True):
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(1, use_bias=bias)])

def odd(height):
    return linear(height)

class Line(Recipe):
    def train_step(self, batch):
        return self.minimize(lambda: (self.model(batch["x"], training=True)[:, 0] - batch["y"]) ** 2)

    def eval_step(self, batch):
        return {"loss": (self.model(batch["x"])[:, 0] - batch["y"]) ** 2}
"""
FILES = {
    "numbers_data.py": DATA,
    "recipes/line.py": RECIPE,
    "conf/data/numbers.yaml": "_target_: numbers_data.numbers\nsize: 40\nbatch_size: 8\n",
    "conf/model/line.yaml": "_target_: recipes.line.linear\n",
    "conf/model/odd.yaml": "_target_: recipes.line.odd\n",
    "conf/recipe/line.yaml": (
        "# @package _global_\ndefaults:\n- override /data: numbers\n- override /model: line\n"
        "steps: 4\nrecipe:\n  _target_: recipes.line.Line\n"
    ),
}


def test_a_data_function_on_the_command_line(cli):
    """Its parameters are keys, its splits are named, and what it knows reaches a model by the name of a parameter."""
    cli.write(FILES)
    done = cli.run("recipe=line", "data.size=20", "data.eval_splits={a:held,b:'held[:50%]'}", folder="runs/a")
    assert done.code == 0, done.err
    assert done.json["data"]["train_examples"] == 20
    assert done.json["data"]["eval_examples"] == 30
    assert set(done.json["results"]["eval"]) == {"a/loss", "b/loss"}
    assert "numbers_data.numbers (20 train, 20 a, 10 b)" in done.out
    assert "the checkpoint with the best a/loss is kept" in done.out
    plain = cli.run("recipe=line", folder="runs/b")
    assert plain.code == 0, plain.err
    assert "the data has no evaluation split, so nothing is evaluated" in plain.out
    for words, said in {
        ("data.size=x", "+data.sise=3"): "has no argument 'sise', it takes size, scale. Did you mean data.size?",
        (
            "model=odd",
        ): "model.height is missing: recipes.line.odd needs it, and the data set has nothing of that name; it has",
    }.items():
        wrong = cli.run("recipe=line", *words, folder="runs/c")
        assert (wrong.code, said in wrong.err) == (2, True), wrong.err
    assert modetrain.Splits({}, width=3).facts == {"width": 3}


STREAMED = """
import modetrain
import tensorflow as tf

def numbers():
    def train():
        x = tf.data.Dataset.range(50).map(lambda n: {"x": tf.random.stateless_uniform([3], [n, 1])})
        return x.shuffle(50, seed=2).map(lambda one: {**one, "y": tf.reduce_sum(one["x"])})
    return modetrain.Splits({"train": train}, width=3)
"""


def test_a_run_on_a_stream_that_is_killed_continues_to_the_bit(cli):
    cli.write(
        {**FILES, "streamed.py": STREAMED, "conf/data/streamed.yaml": "_target_: streamed.numbers\nbatch_size: 8\n"}
    )
    words = (
        "recipe=line",
        "data=streamed",
        "steps=300",
        "mode.steps_per_call=1",
        "callbacks.checkpoint.every=1",
    )
    whole = cli.run(*words, folder="runs/whole")
    assert whole.code == 0, whole.err
    assert "the position in a stream is re-read" in whole.out
    assert "the training stream gives other" not in whole.out
    assert (whole.json["data"]["position"], whole.json["data"]["reproducible"]) == ("re-read", True)
    killed = cli.signal_after(9, signal.SIGKILL, *words, folder="runs/killed")
    assert killed.code == -signal.SIGKILL
    again = cli.run(*words, "resume=latest", folder="runs/killed")
    assert again.code == 0, again.err
    assert again.json["results"]["state_digest"] == whole.json["results"]["state_digest"]


def test_a_mixture_on_the_command_line(cli):
    """Each source is a data function with keys of its own; what they hold apart from `train` is evaluated by name."""
    cli.write(
        {
            **FILES,
            "conf/data/both.yaml": (
                "defaults:\n- mixture\nsources:\n  few:\n    _target_: numbers_data.numbers\n    size: 10\n"
                "  many:\n    _target_: numbers_data.numbers\n    size: 40\n    scale: 2.0\nbatch_size: 8\n"
            ),
        }
    )
    words = ("recipe=line", "data=both", "data.sources.few.size=20")
    named = ("+data.weights={few: 1, many: 3}", "data.eval_splits={few: few_held, many: many_held}")
    done = cli.run(*words, *named, folder="runs/mixed")
    assert done.code == 0, done.err
    assert (done.json["data"]["train_examples"], done.json["data"]["eval_examples"]) == (60, 60)
    assert set(done.json["results"]["eval"]) == {"few/loss", "many/loss"}
    assert done.json["data"]["position"] == "exact"
    wrong = cli.run(*words, "+data.weights={few: 0, many: 3}", folder="runs/mixed2")
    assert (wrong.code, "few of the mixture has the weight 0" in wrong.err) == (2, True), wrong.err
