"""A loss or gradient that is not finite is found at its step in every mode, and the run does what the policy says."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.profile import Profile
from modetrain.checkpoints import file, resume
from modetrain.checkpoints.resume import ResumePoint
from modetrain.engine.metrics import StepMetrics
from modetrain.files import run_folder
from modetrain.settings import NonfiniteSettings
from modetrain.training.nonfinite import NonfiniteGuard
from modetrain.training.step_errors import NonFiniteError
from recipes.mnist import Digits, cross_entropy


class BadGradient(Digits):
    """The gradient after 6 updates is NaN, while the loss is as finite as ever."""

    def train_step(self, batch):
        gate = tf.cast(6 - self.step, tf.float32) ** 2  # no condition, which XLA would make a select of

        def loss():
            logits = self.model(batch["image"], training=True)
            size = tf.reduce_sum(tf.convert_to_tensor(self.model.trainable_variables[0]) ** 2)
            return cross_entropy(batch["label"], logits) + 1e-3 * tf.sqrt(gate * size)

        return self.minimize(loss)


class BadLoss(Digits):
    """The loss after 6 updates is infinite, while its gradient is as finite as ever."""

    def train_step(self, batch):
        def loss():
            logits = self.model(batch["image"], training=True)
            return cross_entropy(batch["label"], logits) + tf.where(self.step == 6, np.float32(np.inf), 0.0)

        return {"nll": self.minimize(loss)["loss"]}


class BadExample(Digits):
    """Whatever batch example 13 is in has a loss that is NaN."""

    def train_step(self, batch):
        bad = tf.where(tf.reduce_any(batch["index"] == 13), np.float32(np.nan), 0.0)

        def loss():
            return cross_entropy(batch["label"], self.model(batch["image"], training=True)) + bad

        return self.minimize(loss)


def state_of(trainer) -> dict[str, bytes]:
    trainer.recipe.seek(trainer.step)
    return {name: v.numpy().tobytes() for name, v in trainer.recipe.state().items()}


@pytest.fixture
def policy(make_trainer, make_recipe):
    """Builds trainers under a policy: `policy("skip", "graph", BadLoss, limit=2, steps=12)`."""

    def make(name, compile, cls, /, *, limit=5, seed=0, steps=10, **given):
        recipe = make_recipe(cls, steps=steps, seed=seed, nonfinite=name, **given.pop("optimizer", {}))
        settings = NonfiniteSettings(policy=name, limit=limit)
        return make_trainer(compile, recipe=recipe, steps=steps, nonfinite=settings, **given)

    return make


# --- found -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [BadGradient, BadLoss])
@pytest.mark.parametrize("optimizer", [{}, {"clip_norm": 1.0}, {"accumulate": 2}])
def test_the_step_is_named_inside_a_call(cls, optimizer, policy, recorder):
    seen = recorder()
    trainer = policy("stop", "graph", cls, callbacks=[seen], mode={"steps_per_call": 5}, optimizer=optimizer)
    with pytest.raises(NonFiniteError, match=r"a gradient is not finite.* in step 7 of 10 in mode=graph"):
        trainer.train()
    assert seen.calls == [(0, 5)], "nobody is shown what came after"
    assert not trainer.state_is_consistent


def test_it_is_found_in_every_mode(mode, policy):
    with pytest.raises(NonFiniteError, match=rf"in step 7 of 8 in mode={mode}") as caught:
        policy("stop", mode, BadGradient, steps=8).train()
    assert caught.value.step == 6
    assert "(loss is " in str(caught.value), "which is finite"


def test_a_metric_may_be_nan_whatever_its_name(policy, recorder):
    class Undefined(Digits):
        def train_step(self, batch):
            nan = tf.zeros([]) / 0.0
            return {**super().train_step(batch), "lossless_share": nan, "loss_ratio": nan, "my_loss": nan}

    for name in ("stop", "skip"):
        trainer = policy(name, "graph", Undefined, steps=2)
        trainer.train()
        assert (trainer.step, trainer.nonfinite.skipped) == (2, 0)
        assert np.isnan(trainer.results["train"]["lossless_share"])


def test_nobody_sees_the_flag(policy, recorder):
    seen = recorder()
    policy("stop", "graph", Digits, steps=3, callbacks=[seen]).train()
    assert set(seen.rows[0].names) == {"loss", "accuracy", "grad_norm"}


def test_ignored_it_costs_nothing_and_leads_to_nothing(policy):
    trainer = policy("ignore", "graph", BadGradient)
    trainer.train()
    assert trainer.step == 10
    assert not np.isfinite(trainer.recipe.model.get_weights()[0]).any()
    (built,) = trainer.programs.train._built.values()
    checked = [node for node in built.steps[0].graph.as_graph_def().node if node.op == "IsFinite"]
    assert len(checked) == 1, "that of the norm that is shown"


# --- skip ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [BadGradient, BadLoss])
def test_a_skipped_update_changes_nothing_and_is_counted(mode, cls, policy, recorder):
    seen = recorder()
    trainer = policy("skip", mode, cls, callbacks=[seen], mode={"steps_per_call": 4}, optimizer={"ema": 0.9})
    trainer.train()
    assert (trainer.step, int(trainer.recipe.optimizer.updates.numpy())) == (10, 9)
    assert trainer.nonfinite.skipped == 1
    assert seen.values("skipped") == {n: float(n == 7) for n in range(1, 11)}
    assert all(np.isfinite(value).all() for value in trainer.recipe.model.get_weights())
    if cls is BadLoss:
        assert 7 not in seen.values("nll"), "it would spoil the mean of its window"
        assert np.isfinite(trainer.results["train"]["nll"])


def test_the_first_skipped_update_is_said_and_later_ones_are_counted(policy):
    class Two(Digits):
        def train_step(self, batch):
            bad = tf.where((self.step == 3) | (self.step == 6), np.float32(np.nan), 0.0)
            return super().train_step({**batch, "image": batch["image"] + bad})

    trainer = policy("skip", "graph", Two, mode={"steps_per_call": 10})
    trainer.train()
    assert trainer.nonfinite.skipped == 2
    (line,) = [line for line in trainer.said if "skipped" in line]
    assert line.startswith("WARNING: ")
    assert "in step 4: its update is skipped (nonfinite.policy=skip)" in line


def test_the_state_before_a_skipped_update_is_the_state_after_it(policy):
    before = policy("skip", "graph", BadGradient, steps=6)
    before.train()
    after = policy("skip", "graph", BadGradient, steps=7, step=0)
    after.train()
    same = {n: v for n, v in state_of(before).items() if "seed" not in n}
    assert {n: v for n, v in state_of(after).items() if "seed" not in n} == same


def test_moving_averages_of_a_skipped_batch_are_not_taken(mode, policy):
    class BadPixels(Digits):
        def train_step(self, batch):
            bad = tf.where(self.step == 1, np.float32(np.nan), 0.0)
            return super().train_step({**batch, "image": batch["image"] + bad})

    def model(image_shape, classes):
        inputs = keras.Input(image_shape)
        x = layers.BatchNormalization()(layers.Flatten()(inputs))
        return keras.Model(inputs, layers.Dense(classes)(x))

    trainer = policy("skip", mode, BadPixels, steps=4, optimizer={"model": model})
    trainer.train()
    assert trainer.nonfinite.skipped == 1
    assert all(np.isfinite(value).all() for value in trainer.recipe.model.get_weights())


def test_more_than_the_limit_in_a_row_end_the_run(policy):
    class Always(BadLoss):
        def train_step(self, batch):
            return self.minimize(lambda: tf.reduce_sum(self.model(batch["image"])) * np.float32(np.nan))

    trainer = policy("skip", "graph", Always, limit=3, mode={"steps_per_call": 5})
    with pytest.raises(NonFiniteError, match=r"after nonfinite.limit=3 skipped updates in a row in step 4 of 10"):
        trainer.train()


def test_a_good_step_ends_the_row_and_the_count_survives_a_restart():
    def rows(first, bad):
        values = np.array([[[np.nan if one else 1.0, 8.0], [float(one), 1.0]] for one in bad])
        return StepMetrics(first=first, names=("loss", "nonfinite"), values=values)

    guard = NonfiniteGuard(NonfiniteSettings(policy="skip", limit=2))
    kept, found = guard.check(rows(0, [1, 1, 0, 1, 1]))
    assert found is None
    assert kept.names == ("loss",)
    assert kept.values[:, 0, 1].tolist() == [0, 0, 8, 0, 0]
    other = NonfiniteGuard(NonfiniteSettings(policy="skip", limit=2))
    other.load_state(guard.state())
    assert other.check(rows(5, [1]))[1].step == 5
    assert guard.check(rows(5, [0, 1]))[1] is None
    assert guard.skipped == 5


def test_with_loss_scaling_an_overflow_is_no_accident(policy):
    class Overflows(Digits):
        def train_step(self, batch):
            return self.minimize(lambda: 1e36 * tf.reduce_mean(self.model(batch["image"]), axis=1))

    trainer = policy("stop", "graph", Overflows, steps=3, optimizer={"loss_scaling": True, "learning_rate": 1e-38})
    trainer.train()
    assert float(trainer.recipe.optimizer.loss_scale.numpy()) < 2**15


# --- rollback --------------------------------------------------------------------------------------------------------


def keeping(**given):
    return Checkpoint(**{"every": 4, "keep": 9, "first": True, **given})


def test_it_goes_back_leaves_the_batches_out_and_ends_finite(mode, policy, tmp_path):
    trainer = policy("rollback", mode, BadExample, steps=9, callbacks=[keeping()], mode={"steps_per_call": 3})
    trainer.train()
    assert trainer.step == 9
    assert trainer.loader.skipped_batches, "in every epoch there is a bad batch"
    assert all(at % 4 == 0 and count >= 1 for at, count in trainer.loader.skipped_batches)
    assert all(np.isfinite(value).all() for value in trainer.recipe.model.get_weights())
    assert file.load(run_folder.newest(tmp_path)).meta["carry"]["left_out"] == [
        list(window) for window in trainer.loader.skipped_batches
    ]
    assert any("Going back to step" in line for line in trainer.said)


def test_resumed_anywhere_it_ends_where_the_whole_run_does(policy, tmp_path, settings):
    """Stopped before a rollback and after it, at a planned checkpoint and between two."""
    whole = policy("rollback", "eager", BadExample, steps=9, callbacks=[keeping()], folder=tmp_path / "whole")
    whole.train()
    for stop in (2, 4, 7):
        folder = tmp_path / f"stop-{stop}"
        callbacks = [keeping()]
        policy("rollback", "eager", BadExample, steps=stop, callbacks=callbacks, folder=folder).train()
        rest = policy("rollback", "eager", BadExample, steps=9, step=stop, callbacks=[keeping()], folder=folder)
        place = ResumePoint(folder=folder, checkpoints=(run_folder.newest(folder),))
        found = resume.restore(place, rest.recipe, settings())
        rest.load_state(found.meta["carry"], step=found.step)
        assert rest.step == stop
        rest.train()
        assert rest.loader.skipped_batches == whole.loader.skipped_batches, f"stopped at step {stop}"
        assert state_of(rest) == state_of(whole), f"stopped at step {stop}"


def test_a_profile_is_started_again_after_a_rollback(policy, tmp_path):
    callbacks = [Profile(at=1, steps=30), keeping()]
    trainer = policy("rollback", "graph", BadExample, steps=40, callbacks=callbacks)
    trainer.train()
    assert trainer.loader.skipped_batches
    assert trainer.status == "completed"


def test_going_back_to_one_checkpoint_is_bounded(policy):
    class Always(Digits):
        def train_step(self, batch):
            return {"loss": super().train_step(batch)["loss"] + np.float32(np.nan)}

    trainer = policy("rollback", "graph", Always, limit=3, callbacks=[keeping()])
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert re.search(
        r", after nonfinite.limit=3 rollbacks to step 0 in step \d of 10 in mode=graph\.$", str(caught.value)
    )
    assert len([line for line in trainer.said if "Going back" in line]) == 3


# --- checkpoints stay good -------------------------------------------------------------------------------------------


def test_weights_that_overflow_are_not_saved(policy, tmp_path):
    """The gradient of this step is finite, the loss of the next one is not, and in between there is a checkpoint."""
    trainer = policy(
        "stop", "eager", Digits, callbacks=[Checkpoint(every=1)], optimizer={"learning_rate": 3e38, "momentum": 0.9}
    )
    with pytest.raises((file.NotFiniteError, NonFiniteError)):
        trainer.train()
    for step in run_folder.steps(tmp_path):
        arrays = file.load(run_folder.checkpoint(tmp_path, step)).arrays
        assert all(np.isfinite(array).all() for name, array in arrays.items() if name.startswith("model/"))
