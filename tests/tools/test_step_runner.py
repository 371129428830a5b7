"""Single steps: what a step runner computes is what training computes."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.mode import Mode
from modetrain.tools.step_runner import StepRunner
from recipes.mnist import Digits
from tests.corpus.base import batches, made
from tests.corpus.clean.recipes import OptimizerOfKeras


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


def test_variables_have_the_same_names_in_every_recipe_that_is_built_and_those_of_a_checkpoint_are_loaded():
    """Keras names the slots of its optimizers by a count of the layers that the process has made."""
    arrays = {name: np.stack([batch[name] for batch in batches()]) for name in batches()[0]}
    first, second = (StepRunner(made(OptimizerOfKeras), Mode(name="eager", compile="eager"), arrays) for _ in range(2))
    first.run(0)
    second.run(0)
    saved = first.recipe.state()
    assert saved.keys() != second.recipe.state().keys(), "or this test is not needed"
    assert first.read().keys() == second.read().keys()
    second.load({name: np.full(variable.shape, 2, str(variable.dtype)) for name, variable in saved.items()})
    assert all((value == 2).all() for value in second.read().values())
