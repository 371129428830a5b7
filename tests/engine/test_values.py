"""What a step returns: weights that fit their values, sums that stay exact, and what is refused in a sentence."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from modetrain import OptimizerSettings, Recipe, Sum, Trainer, Weighted
from modetrain.engine.metrics import RunningMeans, StepMetrics, pack_row
from modetrain.errors import ConfigError
from modetrain.settings import NonfiniteSettings
from modetrain.training.nonfinite import NonfiniteGuard

N = 11
DATA = {"x": np.linspace(-1, 1, 2 * N).reshape(N, 2).astype(np.float32), "y": np.ones(N, np.float32)}


class Line(Recipe):
    def __init__(self, **given):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        super().__init__(model=model, optimizer=OptimizerSettings(name="sgd", learning_rate=0.1), **given)
        self.calls = keras.Variable(0.0, trainable=False, name="calls")

    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch))

    def loss(self, batch):
        return (self.model(batch["x"])[:, 0] - batch["y"]) ** 2

    def eval_step(self, batch):
        self.calls.assign_add(1.0)
        return {"count": Sum(tf.ones([], tf.int32)), "last": Sum(self.calls.value)}


def evaluated(cls, splits=("eval",)):
    data = {"train": DATA, **{name: {key: value[:6] for key, value in DATA.items()} for name in splits}}
    trainer = Trainer(cls(), data, mode="graph", steps=1, batch_size=4)
    return trainer, trainer.evaluate()


@pytest.mark.parametrize("weights", [np.ones(4), np.ones((4, 2)), np.ones((3, 4))])
def test_weights_have_the_dimensions_of_their_values(weights):
    """[4] for [4, 4] would be the weights of positions, though they are meant for examples."""
    with pytest.raises(ValueError, match="as many dimensions"):
        pack_row({"a": Weighted(tf.ones([4, 4]), weights)}, 4)


@pytest.mark.parametrize("weights", [3.0, np.ones((4, 1)), np.ones((1, 4), bool), np.ones((4, 4), np.int64)])
def test_weights_of_any_dtype_broadcast(weights):
    row = pack_row({"a": Weighted(tf.ones([4, 4]), weights)}, 4).numpy()
    assert row.tolist() == [[16.0 * np.max(weights)] * 2]


def test_whole_numbers_are_summed_exactly():
    row = pack_row({"loss": tf.ones([4]), "count": Sum(tf.constant([2**24 + 1, 3]))}, 4)
    assert row.numpy()[1].tolist() == [2**24 + 1, 3]


def test_an_evaluation_may_return_nothing_but_sums_and_each_split_begins_with_the_same_state():
    trainer, found = evaluated(Line, ("val", "test"))
    assert found["val/count"] == found["test/count"] > 1
    assert found["val/last"] == found["test/last"]
    assert trainer.recipe.calls.numpy() == 0.0


def test_a_sum_whose_shape_differs_between_batches_is_named():
    """One example alone would broadcast without an error."""

    class PerExample(Line):
        def eval_step(self, batch):
            return {"each": Sum(self.loss(batch))}

        def summarize(self, sums):
            return {"each": sums["each"].sum()}

    with pytest.raises(ConfigError, match=r"'each', a Sum of shape .4,., and one of shape .2,. for another batch"):
        evaluated(PerExample)
    with pytest.raises(ConfigError, match="same shape in every step"):
        RunningMeans(sums={"each": np.ones(4)}) + RunningMeans(sums={"each": np.ones(1)})


def test_a_summarize_that_fails_is_named():
    class Fails(Line):
        def summarize(self, sums):
            return {"typo": sums["typo"]}

    with pytest.raises(KeyError) as caught:
        evaluated(Fails)
    assert caught.value.__notes__ == ["modetrain: failed in Fails.summarize, which got the sums {count: (), last: ()}"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda losses: Sum(tf.reduce_sum(losses)), "the loss is a Sum"),
        (lambda losses: Weighted(losses, 1.0) + 1.0, "add a term to its values"),
    ],
)
def test_a_loss_that_is_no_mean_is_refused(loss, message):
    class Wrong(Line):
        def loss(self, batch):
            return loss(super().loss(batch))

    with pytest.raises(TypeError, match=message):
        Trainer(Wrong(), {"train": DATA}, mode="eager", steps=1, batch_size=4).train()


def test_a_skipped_step_leaves_out_the_whole_of_a_sum_that_is_not_finite():
    """Half of it would be a wrong figure; a sum of a step that was not skipped stays as it is."""
    values = np.array([[[1.0, 1], [0, 1]], [[np.nan, 1], [1, 1]], [[1.0, 1], [0, 1]]])
    sums = {"perplexity": np.array([[2.0, 1], [np.nan, 1], [np.inf, 1]])}
    metrics = StepMetrics(first=0, names=("loss", "nonfinite"), values=values, sums=sums)
    kept, found = NonfiniteGuard(NonfiniteSettings(policy="skip")).check(metrics)
    assert found is None
    assert kept.sums["perplexity"].tolist() == [[2, 1], [0, 0], [np.inf, 1]]
