"""Promise 4: an eager run traces nothing, an xla run compiled what it says, and k can vary without a retrace."""

from __future__ import annotations

import sys

import pytest
import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

from modetrain.callback import Callback
from recipes.mnist import Digits, cross_entropy


class Graphs:
    """Counts the graphs that are built in a block, but for those of the input pipeline; it only looks on."""

    def __enter__(self):
        self.count = 0
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)

    def _called(self, frame, event, arg):
        if event == "call" and frame.f_code is FuncGraph.__init__.__code__:
            while frame is not None and "tensorflow/python/data/" not in frame.f_code.co_filename.replace("\\", "/"):
                frame = frame.f_back
            self.count += frame is None


class Values(Digits):
    """Looks at values wherever a user's code may be, as a person with a debugger would."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def train_step(self, batch):
        assert tf.executing_eagerly()
        self.seen.append((int(self.step), batch["image"].numpy().shape, self.seed("noise").numpy().shape))

        def loss():
            assert tf.executing_eagerly()
            losses = cross_entropy(batch["label"], self.model(batch["image"], training=True))
            self.seen.append(float(losses[0]))
            return losses

        return self.minimize(loss)

    def eval_step(self, batch):
        assert tf.executing_eagerly()
        return {"loss": float(tf.reduce_mean(cross_entropy(batch["label"], self.model(batch["image"]))))}


class Look(Callback):
    def on_step(self, trainer):
        trainer.evaluate()


@pytest.mark.parametrize("cap", ["auto", 4])
def test_an_eager_run_builds_no_graph_but_those_of_the_input_pipeline(cap, make_trainer):
    settings = {"name": "adamw", "clip_norm": 1.0, "ema": 0.9, "schedule": "cosine", "loss_scaling": True}
    trainer = make_trainer(
        "eager", Values, steps=6, callbacks=[Look(every=3)], watch_every=2, mode={"steps_per_call": cap}, **settings
    )
    with Graphs() as graphs:
        trainer.train()
    assert graphs.count == 0
    assert trainer.traces == 0
    assert trainer.programs.train.compiled is None
    assert [seen for seen in trainer.recipe.seen if isinstance(seen, tuple)] == [
        (step, (8, 4, 4, 1), (2,)) for step in range(6)
    ]
    assert len(trainer.recipe.seen) == 12


def test_an_eager_run_with_accumulation_builds_none_either(make_trainer):
    trainer = make_trainer("eager", Values, steps=2, accumulate=4)
    with Graphs() as graphs:
        trainer.train()
    assert graphs.count == 0
    assert [seen[1] for seen in trainer.recipe.seen if isinstance(seen, tuple)] == 8 * [(2, 4, 4, 1)]


def test_a_graph_run_builds_its_graphs_in_the_first_call_and_the_count_can_tell(make_trainer, recorder):
    counts = []

    class Count(Callback):
        def on_steps_end(self, trainer, rows):
            counts.append(graphs.count)

    seen = recorder(wants=[1, 4, 6, 30])
    trainer = make_trainer("graph", steps=33, callbacks=[Count(), seen], mode={"steps_per_call": 10})
    with Graphs() as graphs:
        trainer.train()
    assert {last - first for first, last in seen.calls} == {1, 2, 3, 4, 10}
    assert counts[0] > 0
    assert set(counts) == {counts[0]}
    assert trainer.traces == 1


# --- breakpoints, in a real process ----------------------------------------------------------------------------------

RECIPE = """
import tensorflow as tf

from modetrain import Recipe
from recipes.mnist import cross_entropy


class Stops(Recipe):
    def prepare(self, batch, *, seed, training):
        image = tf.cast(batch["image"], tf.float32) / 255.0
        if tf.executing_eagerly() and training and not self.prepared:
            self.prepared.append(1)
            breakpoint()
        return {**batch, "image": image}

    prepared = []

    def train_step(self, batch):
        def loss():
            losses = cross_entropy(batch["label"], self.model(batch["image"], training=True))
            if self.step == 1:
                breakpoint()
            return losses

        print("step", int(self.step), "mean", float(tf.reduce_mean(batch["image"])))
        return self.minimize(loss)

    def eval_step(self, batch):
        return {"loss": cross_entropy(batch["label"], self.model(batch["image"]))}
"""
CONFIG = """# @package _global_
# Stops in the debugger.
defaults:
  - override /model: mlp
recipe:
  _target_: recipes.stops.Stops
model:
  hidden: [4]
steps: 3
data:
  source: bundled
  eval_batches: 1
callbacks:
  checkpoint:
    best: loss
"""
TYPED = """p "prepare", image.numpy().shape, seed.numpy().dtype.name
continue
p "loss", losses.numpy().shape, int(self.step)
up
continue
"""


@pytest.fixture(scope="module")
def stopped(cli):
    cli.write({"recipes/stops.py": RECIPE, "conf/recipe/stops.yaml": CONFIG})
    return cli.run("recipe=stops", "mode=eager", "mode.debug_data=true", folder="stopped", typed=TYPED)


def test_breakpoints_stop_in_a_step_and_show_values(stopped):
    assert stopped.code == 0, stopped.err
    assert "('loss', (64,), 1)" in stopped.out
    assert stopped.out.count("step 0 mean 0.") == stopped.out.count("step 1 mean 0.") == 1, "print prints"


def test_breakpoints_stop_inside_dataset_map_and_show_values(stopped):
    assert "('prepare', (64, 28, 28, 1), 'int32')" in stopped.out


def test_what_a_run_with_breakpoints_did_is_on_record(stopped):
    found = stopped.json
    assert found["status"] == "completed"
    assert found["traces"] == 0
    assert found["mode"]["effective"]["compile"] == "eager"
    assert found["mode"]["effective"]["debug_data"] is True
