"""Single steps: what a step runner computes is what training computes."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.mode import Mode
from modetrain.tools.step_runner import StepRunner
from recipes.mnist import Digits


@pytest.fixture
def runner(make_recipe, make_data):
    """Makes a runner of two steps, the first of them number 3 of a run."""

    def make(mode, method="train_step"):
        data = make_data()
        steps = [data.batch(number) for number in (3, 4)]
        batches = {name: np.stack([step[name].numpy() for step in steps]) for name in steps[0]}
        return StepRunner(make_recipe(Digits), Mode(name=mode, compile=mode), batches, method=method, first=3)

    return make


def test_a_step_is_the_one_that_training_makes(mode, runner, make_trainer):
    """Dropout is a function of the step's number, so the number counts as well as state and batch."""
    trainer = make_trainer(mode, Digits, steps=4)
    trainer.train()
    single = runner(mode)
    before = make_trainer(mode, Digits, steps=3)
    before.train()
    single.load({name: variable.numpy() for name, variable in before.recipe.state().items()})
    metrics = single.run(0)
    assert np.isfinite(metrics["loss"])
    expected = {name: variable.numpy() for name, variable in trainer.recipe.state().items()}
    for name, value in single.read().items():
        if value.dtype.kind == "f":
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_state_that_was_read_is_loaded_again(runner):
    single = runner("eager")
    before = single.read()
    single.run(0)
    assert any((value != before[name]).any() for name, value in single.read().items())
    single.load(before)
    assert all((value == before[name]).all() for name, value in single.read().items())


def test_an_evaluation_step_changes_no_weights(runner):
    single = runner("graph", method="eval_step")
    before = single.read()
    assert np.isfinite(single.run(1)["loss"])
    assert all((value == before[name]).all() for name, value in single.read().items() if value.dtype.kind == "f")
