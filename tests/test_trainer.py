"""A trainer runs straight to whatever step a callback wants, makes exactly `steps` updates, and ends cleanly."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import tensorflow as tf

from modetrain.callback import Callback
from modetrain.training.step_errors import NonFiniteError
from recipes.mnist import Digits, cross_entropy


def updates(trainer) -> int:
    return int(trainer.recipe.optimizer.updates.numpy())


# --- plan and run ----------------------------------------------------------------------------------------------------


# Compiling takes seconds, so not every number is tried under XLA.
CAPS = [(mode, cap) for mode in ("eager", "graph") for cap in (1, 5, 100)] + [("xla", 100)]


@pytest.mark.parametrize(("mode", "cap"), CAPS)
def test_a_callback_sees_exactly_the_steps_it_asked_for(mode, cap, make_trainer, recorder):
    odd, even = recorder(wants=[3, 7, 50]), recorder(every=20)
    trainer = make_trainer(mode, steps=53, callbacks=[odd, even], mode={"steps_per_call": cap})
    trainer.train()
    assert odd.looks == [3, 7, 50]
    assert even.looks == [20, 40]
    assert trainer.step == updates(trainer) == 53
    assert trainer.status == "completed"
    assert odd.calls[0][0] == 0
    assert odd.calls[-1][1] == 53
    assert all(before[1] == after[0] for before, after in zip(odd.calls, odd.calls[1:], strict=False))
    assert max(last - first for first, last in odd.calls) <= cap
    if cap == 100:
        assert odd.calls == [(0, 3), (3, 7), (7, 20), (20, 40), (40, 50), (50, 53)], "as few calls as can be"
    assert trainer.traces == (0 if mode == "eager" else 1)


@pytest.mark.parametrize(
    ("mode", "cap"), [("eager", 4), ("eager", "auto"), ("graph", 1), ("graph", 4), ("graph", "auto")]
)
def test_who_looks_and_how_far_a_call_goes_changes_no_bit(mode, cap, make_trainer, recorder):
    weights = []
    for callbacks, chosen in (([], "auto"), ([recorder(wants=[1, 2, 5, 9]), recorder(every=4)], cap)):
        trainer = make_trainer(mode, steps=11, callbacks=callbacks, mode={"steps_per_call": chosen}, name="adam")
        trainer.train()
        weights.append([v.numpy().tobytes() for v in trainer.recipe.state().values()])
    assert weights[0] == weights[1]


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_steps_are_updates(make_trainer, steps):
    trainer = make_trainer("graph", steps=steps, mode={"steps_per_call": 5})
    trainer.train()
    assert trainer.step == updates(trainer) == steps
    trainer.train()
    assert trainer.step == updates(trainer) == steps, "what is done is done"


def test_rows_arrive_once_each_and_in_order(make_trainer, recorder):
    seen = recorder()
    make_trainer("graph", steps=9, callbacks=[seen, recorder(wants=[2])], mode={"steps_per_call": 4}).train()
    assert seen.calls == [(0, 2), (2, 4), (4, 8), (8, 9)], "a block is finished before the next one begins"
    assert list(seen.values("loss")) == list(range(1, 10))


def test_an_eager_run_takes_one_step_a_call_unless_told_otherwise(make_trainer):
    assert make_trainer("eager").steps_per_call == 1
    assert make_trainer("eager", mode={"steps_per_call": 6}).steps_per_call == 6
    assert make_trainer("graph", steps=500).steps_per_call == 100
    assert make_trainer("graph", steps=12, step=4).steps_per_call == 8, "no more than are left"
    assert make_trainer("xla", mode={"steps_per_call": 6}).steps_per_call == 6


def test_callbacks_look_in_their_order_and_each_life_is_whole(make_trainer):
    events = []

    class Diary(Callback):
        def __init__(self, name, every):
            super().__init__(every=every)
            self.name = name

        def on_train_begin(self, trainer):
            events.append((self.name, "start", trainer.step))

        def on_step(self, trainer):
            events.append((self.name, "look", trainer.step))

        def on_train_end(self, trainer):
            events.append((self.name, "end", trainer.step, trainer.status))

    make_trainer("graph", steps=4, callbacks=[Diary("a", 2), Diary("b", 2), Diary("c", None)]).train()
    assert events == [
        *((name, "start", 0) for name in "abc"),
        *((name, "look", step) for step in (2, 4) for name in "ab"),
        *((name, "end", 4, "completed") for name in "abc"),
    ]


# --- results ---------------------------------------------------------------------------------------------------------


def test_results_are_means_over_the_last_hundred_steps(make_trainer):
    class Counting(Digits):
        def train_step(self, batch):
            return {"step": super().train_step(batch)["loss"] * 0 + tf.cast(self.step, tf.float32)}

    trainer = make_trainer("graph", Counting, steps=130, mode={"steps_per_call": 7})
    trainer.train()
    assert trainer.results["train"]["step"] == np.mean(range(30, 130))


def test_evaluation_is_exact_with_a_short_last_batch(mode, make_trainer, mlp, source):
    found = []
    for size in (23, 10):
        trainer = make_trainer(mode, model=mlp(dropout=0), data={"eval_batch_size": size})
        found.append(trainer.evaluate())
        assert trainer.results["eval"] == found[-1]
        assert trainer.history.evaluated == 0
    logits = trainer.recipe.model(source.eval["image"] / np.float32(255))
    expected = float(tf.reduce_mean(cross_entropy(tf.constant(source.eval["label"]), logits)))
    hits = np.mean(np.argmax(logits, axis=1) == source.eval["label"])
    for one in found:
        assert one == pytest.approx({"loss": expected, "accuracy": hits}, rel=1e-5)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_evaluation_disturbs_nothing(mode, make_trainer):
    class Look(Callback):
        def on_step(self, trainer):
            trainer.evaluate()

    states = []
    for callbacks in ([], [Look(every=3)]):
        trainer = make_trainer(mode, steps=8, callbacks=callbacks, ema=0.9, name="adam")
        trainer.train()
        states.append([v.numpy().tobytes() for v in trainer.recipe.state().values()])
    assert states[0] == states[1]


def test_evaluation_uses_the_averaged_weights_and_gives_the_others_back(make_trainer, mlp, source):
    trainer = make_trainer("graph", model=mlp(units=0, dropout=0), steps=5, ema=0.9)
    trainer.train()
    recipe = trainer.recipe
    weights = recipe.model.get_weights()
    kernel, bias = (average.numpy() for average in recipe.optimizer.averages)
    assert not np.allclose(weights[0], kernel)
    found = trainer.evaluate()
    logits = source.eval["image"].reshape(23, 16) / np.float32(255) @ kernel + bias
    wanted = float(tf.reduce_mean(cross_entropy(tf.constant(source.eval["label"]), tf.constant(logits))))
    assert found["loss"] == pytest.approx(wanted, rel=1e-5)
    assert all(map(np.array_equal, recipe.model.get_weights(), weights))


def test_the_weights_come_back_even_if_evaluation_fails(make_trainer):
    class Broken(Digits):
        def eval_step(self, batch):
            raise ZeroDivisionError

    trainer = make_trainer("eager", Broken, steps=2, ema=0.9)
    trainer.train()
    weights = trainer.recipe.model.get_weights()
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate()
    assert all(map(np.array_equal, trainer.recipe.model.get_weights(), weights))


# --- time ------------------------------------------------------------------------------------------------------------


def test_time_is_booked_where_it_was_spent(make_trainer):
    class Look(Callback):
        def on_step(self, trainer):
            trainer.evaluate()

    trainer = make_trainer("graph", steps=6, callbacks=[Look(every=6)], mode={"steps_per_call": 2})
    trainer.train()
    clock = trainer.timer
    assert all(clock.seconds[account] > 0 for account in ("compile", "data", "steps", "eval"))
    assert sum(clock.seconds.values()) <= clock.total
    assert (clock.read().steps, clock.read().calls) == (6, 3)
    assert clock.step_ms()["max"] < 1e3 * clock.seconds["compile"], "no tracing in the time of a step"


# --- how a run ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_stopped_run_ends_after_the_running_call(mode, make_trainer, recorder):
    class Stop(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step >= 4:
                trainer.stop(signal.SIGTERM)

    seen = recorder(wants=[8])
    trainer = make_trainer(mode, steps=20, callbacks=[Stop(), seen], mode={"steps_per_call": 3})
    trainer.train()
    assert (trainer.step, updates(trainer), trainer.status) == (6, 6, "stopped")
    assert trainer.stop_signal == signal.SIGTERM
    assert seen.looks == []


def test_stopped_at_the_last_step_is_completed(make_trainer):
    class Stop(Callback):
        def on_step(self, trainer):
            trainer.stop()

    trainer = make_trainer("graph", steps=6, callbacks=[Stop(every=6)])
    trainer.train()
    assert trainer.status == "completed"


class Failing(Callback):
    """Raises where it is told to."""

    def __init__(self, where):
        super().__init__(every=2)
        self.where = where

    def on_train_begin(self, trainer):
        self._maybe("start")

    def on_steps_end(self, trainer, rows):
        self._maybe("call")

    def on_step(self, trainer):
        self._maybe("look")

    def on_train_end(self, trainer):
        self._maybe("end")

    def _maybe(self, where):
        if where == self.where:
            raise ZeroDivisionError(where)


@pytest.mark.parametrize("where", ["start", "call", "look", "end"])
def test_a_callback_that_fails_fails_the_run_and_every_callback_ends(where, make_trainer):
    ended = []

    class Last(Callback):
        def on_train_end(self, trainer):
            ended.append(trainer.status)

    trainer = make_trainer("eager", steps=4, callbacks=[Last(), Failing(where), Last()])
    with pytest.raises(ZeroDivisionError, match=where):
        trainer.train()
    assert trainer.status == "failed"
    # What was never started is not ended; who ends knows how the steps went.
    assert ended == {"start": ["failed"], "end": ["completed", "completed"]}.get(where, ["failed", "failed"])


def test_the_first_failure_is_the_one_raised(make_trainer):
    class Step(Digits):
        def train_step(self, batch):
            raise KeyError("the step")

    with pytest.raises(KeyError, match="the step") as caught:
        make_trainer("eager", Step, steps=4, callbacks=[Failing("end")]).train()
    assert "modetrain: Failing.on_train_end failed too: ZeroDivisionError('end')" in caught.value.__notes__


class Exploding(Digits):
    """The loss after 6 updates is not finite; another metric never is."""

    def train_step(self, batch):
        found = super().train_step(batch)
        bad = tf.where(self.step == 6, np.float32(self.bad), 0.0)
        return {"perplexity": tf.fill([8], np.float32("inf")), "loss": found["loss"] + bad}

    bad = np.nan


@pytest.mark.parametrize(
    ("mode", "bad"), [("eager", np.nan), ("graph", np.nan), ("graph", np.inf), ("graph", -np.inf), ("xla", np.nan)]
)
def test_a_loss_that_is_not_finite_names_its_step_inside_a_call(mode, bad, make_trainer, recorder):
    seen = recorder()
    cls = type("Exploding", (Exploding,), {"bad": bad})
    trainer = make_trainer(mode, cls, steps=20, callbacks=[seen], mode={"steps_per_call": 5})
    with pytest.raises(NonFiniteError, match=rf"loss is {bad} in step 7 of 20 in mode={mode}") as caught:
        trainer.train()
    assert caught.value.step == 6
    assert seen.calls == [(0, 5)], "nobody is shown what came after"
    assert trainer.status == "failed"
    assert trainer.step == 5
