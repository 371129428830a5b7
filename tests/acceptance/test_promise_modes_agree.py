"""Promise 1: the same recipe, seed and data give the same weights in every mode; on one mode they are bit-equal.

From the command line, each run in a process of its own: a CNN with batch normalisation and dropout on augmented images.
"""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.data.source import Source

# Rounding in another order moves the loss in its sixth digit or later, and from step to step a little further.
FIRST_STEP = 1e-5
ALL_STEPS = 5e-4


def losses(run):
    found = run.scalars["train/loss"]
    assert list(found) == list(range(1, 25)), "one point a step"
    return np.array(list(found.values()))


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_the_loss_curve_is_that_of_eager_mode(mode, trainings):
    eager, other = losses(trainings("eager")), losses(trainings(mode))
    np.testing.assert_allclose(other[0], eager[0], rtol=FIRST_STEP)
    np.testing.assert_allclose(other, eager, rtol=ALL_STEPS)
    assert np.ptp(eager) > 0.1, "a curve, and no line"


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_the_weights_are_those_of_eager_mode(mode, trainings):
    eager, other = (np.load(trainings(name).folder / "checkpoints" / "step-00000024.npz") for name in ("eager", mode))
    assert eager.files == other.files
    for name in eager.files:
        if name.startswith("model/"):
            if "seed_generator" in name:
                assert np.array_equal(eager[name], other[name])
            else:
                np.testing.assert_allclose(other[name], eager[name], atol=2e-3, err_msg=name)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_evaluation_agrees_too(mode, trainings):
    wanted, found = (trainings(name).json["results"]["eval"] for name in ("eager", mode))
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_the_same_seed_gives_the_same_bits(mode, trainings):
    """In another process, and with another number of steps a call."""
    one, other = trainings(mode), trainings(f"{mode} again")
    assert one.json["mode"]["effective"]["steps_per_call"] != other.json["mode"]["effective"]["steps_per_call"]
    assert one.digest == other.digest
    assert losses(one).tolist() == losses(other).tolist()


def test_another_seed_gives_other_weights(trainings):
    assert trainings("graph").digest != trainings("other seed").digest
    assert not np.isclose(losses(trainings("graph")), losses(trainings("other seed")), rtol=1e-3).all()


def test_a_strict_graph_is_bitwise_equal_to_eager_mode(trainings):
    assert trainings("strict").digest == trainings("eager").digest
    assert losses(trainings("strict")).tolist() == losses(trainings("eager")).tolist()


def test_in_float64_the_modes_agree_to_its_last_digits(make_trainer, mlp, recorder, source):
    """What float32 might hide among its roundings shows here: a draw, an order, a wrong step."""
    exact = Source(kind="folder", train={**source.train, "image": source.train["image"] / 255.0}, evals=source.evals)
    curves, weights = {}, {}
    for mode in ("eager", "graph", "xla"):
        seen = recorder()
        settings = {"name": "adamw", "learning_rate": 0.05, "clip_norm": 0.5, "schedule": "cosine", "warmup": 2}
        trainer = make_trainer(
            mode, model=mlp(dtype="float64"), steps=8, callbacks=[seen], data={"source": exact}, **settings
        )
        trainer.train()
        curves[mode] = list(seen.values("loss").values())
        weights[mode] = np.concatenate([w.ravel() for w in trainer.recipe.model.get_weights()])
    for mode in ("graph", "xla"):
        np.testing.assert_allclose(curves[mode], curves["eager"], rtol=1e-12)
        np.testing.assert_allclose(weights[mode], weights["eager"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_each_was_what_it_says(mode, trainings):
    effective = trainings(mode).json["mode"]["effective"]
    assert effective["compile"] == mode
    assert effective["xla_program"] == ("step" if mode == "xla" else None)
    assert effective["portable_draws"] is True
    assert trainings(mode).json["traces"] == (0 if mode == "eager" else 2)
