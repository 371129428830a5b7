"""First values come from another run by name and pattern, and it is said what was taken, what was not, and why."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.checkpoints import file, warm_start
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.settings import InitFromSettings


@pytest.fixture
def other(make_trainer, tmp_path):
    """A run folder with a checkpoint of step 3, and its recipe."""
    trainer = make_trainer("eager", steps=3, folder=tmp_path / "other", name="adam", ema=0.9)
    trainer.train()
    path = run_folder.checkpoint(tmp_path / "other", 3)
    file.save(path, trainer.recipe.state(), step=3, meta={})
    return trainer.recipe


@pytest.fixture
def start(said):
    """Takes initial values; returns the names of the variables and the lines that are logged."""

    def run(recipe, folder, **patterns):
        said.clear()
        return warm_start.start(recipe, InitFromSettings(path=str(folder), **patterns)), list(said)

    return run


def weights(recipe):
    return [v.numpy() for v in recipe.model.trainable_variables]


def same(one, two):
    return all(map(np.array_equal, one, two))


def test_all_weights_come_and_nothing_of_the_optimizer(other, make_recipe, tmp_path, start):
    recipe = make_recipe(seed=5, name="adam", ema=0.9)
    taken, said = start(recipe, tmp_path / "other")
    assert same(weights(recipe), weights(other))
    assert same([v.numpy() for v in recipe.optimizer.averages], weights(other)), "averages begin at the weights"
    assert int(recipe.optimizer.updates.numpy()) == 0
    assert not any(name.startswith("optimizer/") for name in taken)
    assert said[0].startswith(f"init_from: {len(taken)} variables taken from {tmp_path / 'other'}")
    assert taken[0] in said[0]


def test_another_head_is_left_as_it_is_and_that_is_said(other, make_recipe, mlp, tmp_path, start):
    recipe = make_recipe(model=mlp(units=9), seed=5)
    before = weights(recipe)
    with pytest.raises(ConfigError, match=r"no variable could be taken.*init_from.include="):
        start(recipe, tmp_path / "other", include=("model/0/*",))
    taken, said = start(recipe, tmp_path / "other")
    assert taken == ["model/4/bias"], "that of the 3 classes fits both"
    assert same(weights(recipe)[:3], before[:3])
    assert "  not taken: model/0/kernel: float32 (16, 5) in the checkpoint, float32 (16, 9) in this run" in said


def test_layers_that_have_moved_are_said_plainly(other, make_recipe, mlp, tmp_path, start):
    """Without the dropout, whose seed is a variable, those behind it have other names."""
    taken, said = start(make_recipe(model=mlp(dropout=0.0)), tmp_path / "other")
    assert taken == ["model/0/kernel", "model/1/bias"]
    (warning,) = [line for line in said if line.startswith("WARNING")]
    assert "of this run were not taken: model/2/kernel, model/3/bias." in warning
    assert "shapes: model/3/kernel, model/4/bias." in warning
    assert "init_from.include=" in warning
    _, said = start(make_recipe(model=mlp(dropout=0.0)), tmp_path / "other", exclude=("model/[23]/*",))
    assert not [line for line in said if line.startswith("WARNING")], "excluded on purpose"
    _, said = start(make_recipe(model=mlp(units=9)), tmp_path / "other")
    assert not [line for line in said if line.startswith("WARNING")], "of another size, not moved"


def test_patterns_choose(other, make_recipe, tmp_path, start):
    recipe = make_recipe(seed=5, name="adam", ema=0.9)
    taken, _ = start(recipe, tmp_path / "other", include=("model/*", "optimizer/*average*"), exclude=("*/bias",))
    assert "model/0/kernel" in taken
    assert not [name for name in taken if name.endswith("/bias")]
    assert [name for name in taken if "average" in name]
    state = other.state()
    for name in taken:
        assert np.array_equal(recipe.state()[name].numpy(), state[name].numpy())


@pytest.mark.parametrize("patterns", [{"include": ("modle/*",)}, {"exclude": ("nothing",)}])
def test_a_pattern_that_matches_nothing_is_refused(patterns, other, make_recipe, tmp_path, start):
    with pytest.raises(ConfigError, match="no variable of this run has such a name"):
        start(make_recipe(), tmp_path / "other", **patterns)


def test_a_damaged_one_is_refused(other, make_recipe, tmp_path, start):
    path = run_folder.checkpoint(tmp_path / "other", 3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is damaged"):
        start(make_recipe(), path)


def test_without_a_path_nothing_happens(make_recipe):
    recipe = make_recipe()
    before = weights(recipe)
    assert warm_start.start(recipe, InitFromSettings()) == []
    assert same(weights(recipe), before)
