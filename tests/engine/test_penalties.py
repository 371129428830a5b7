"""Each penalty of Keras counts exactly once, whichever way a recipe writes it; the right values are plain Keras's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain import Recipe
from modetrain.errors import ConfigError
from modetrain.recipe import scale_images
from recipes.mnist import cross_entropy


class AddsLoss(keras.layers.Layer):
    """Adds two terms, one of them computed from a weight of its own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale", regularizer=lambda w: 0.05 * w * w)

    def call(self, x):
        self.add_loss(0.3 * tf.square(self.scale - 2.0))
        self.add_loss(0.1 * tf.reduce_mean(tf.square(x)))
        return x * self.scale


class HalfL2(keras.regularizers.L2):
    """A regularizer of the user's own, on top of Keras's."""

    def __call__(self, x):
        return 0.5 * super().__call__(x)


def penalized(image_shape, classes):
    x = inputs = keras.Input(image_shape)
    x = keras.layers.Dense(4, "tanh", kernel_regularizer=HalfL2(0.2), name="body")(keras.layers.Flatten()(x))
    x = keras.Sequential([keras.Input((4,)), AddsLoss(), keras.layers.Dense(4, activity_regularizer="l2")])(x)
    return keras.Model(inputs, keras.layers.Dense(classes, kernel_regularizer="l1", bias_regularizer="l2")(x))


class Base(Recipe):
    def train_step(self, batch):
        return self.minimize(lambda: self.objective(batch))

    def own(self, batch):
        return cross_entropy(batch["label"], self.model(batch["image"], training=True))


class Leaves(Base):
    def objective(self, batch):
        return self.own(batch)


class AddsAll(Base):
    def objective(self, batch):
        return tf.reduce_mean(self.own(batch)) + tf.add_n(self.model.losses)


class AddsToEach(Base):
    def objective(self, batch):
        return self.own(batch) + sum(self.model.losses)


class AddsOfOneLayer(Base):
    def objective(self, batch):
        return self.own(batch) + tf.add_n(self.model.get_layer("body").losses)


class AddsByHand(Base):
    """By the variable's own regularizer, and by the layer's."""

    def objective(self, batch):
        loss, body = self.own(batch), self.model.get_layer("body")
        weights = self.model.layers[-1].trainable_variables
        return loss + body.kernel_regularizer(body.kernel) + tf.add_n([v.regularizer(v) for v in weights])


class OnlyShows(Base):
    """Reads the penalties, and does not add them."""

    def objective(self, batch):
        return self.own(batch), {"penalty": tf.add_n(self.model.losses)}


class AddsOldOnes(Base):
    """Reads them outside of the loss, where they have no gradient."""

    def train_step(self, batch):
        penalty = tf.add_n([v.regularizer(v) for v in self.model.trainable_variables if v.regularizer is not None])
        return self.minimize(lambda: self.own(batch) + penalty)


class ComputesLoss(Base):
    """By the loss that Keras computes for a compiled model, which holds all penalties."""

    def __init__(self, **given):
        super().__init__(**given)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(loss=loss)

    def objective(self, batch):
        return self.model.compute_loss(y=batch["label"], y_pred=self.model(batch["image"], training=True))


RECIPES = [Leaves, AddsAll, AddsToEach, AddsOfOneLayer, AddsByHand, OnlyShows, AddsOldOnes, ComputesLoss]


def plain_keras(recipe, batch, penalties=sum):
    """The weights after one update of 0.5 by what Keras's own training minimizes."""
    batch = scale_images(batch)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(cross_entropy(batch["label"], recipe.model(batch["image"], training=True)))
        loss += penalties(recipe.model.losses)
    weights = recipe.model.trainable_variables
    return [v.numpy() - 0.5 * g.numpy() for v, g in zip(weights, tape.gradient(loss, [v.value for v in weights]))]


@pytest.mark.parametrize("cls", RECIPES)
def test_each_penalty_counts_once(cls, make_trainer):
    modes = ("eager", "graph", "xla") if cls in (Leaves, AddsAll) else ("eager", "graph")
    for mode in modes if cls not in (AddsToEach, AddsOfOneLayer, AddsOldOnes) else ("graph",):
        trainer = make_trainer(mode, cls, model=penalized, steps=1)
        wanted = plain_keras(trainer.recipe, trainer.data.batch(0))
        trainer.train()
        for variable, value in zip(trainer.recipe.model.trainable_variables, wanted, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6, err_msg=f"{mode} {variable.path}")


def test_a_weighted_penalty_stays_as_it_is_written(make_trainer):
    class Halves(Base):
        def objective(self, batch):
            return self.own(batch) + 0.5 * tf.add_n(self.model.losses)

    trainer = make_trainer("graph", Halves, model=penalized, steps=1)
    wanted = plain_keras(trainer.recipe, trainer.data.batch(0), lambda losses: 0.5 * sum(losses))
    trainer.train()
    for variable, value in zip(trainer.recipe.model.trainable_variables, wanted, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)


class Two(Recipe):
    """Two models; the update of the first one runs the second, whose penalties are no business of it."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.front = keras.Sequential([keras.Input(info.image_shape), keras.layers.Dense(1, kernel_regularizer="l2")])
        self.back = model(info.image_shape, info.classes)
        self.optimizer = optimizer(self.front.trainable_variables)

    def train_step(self, batch):
        return self.minimize(lambda: cross_entropy(batch["label"], self.back(self.front(batch["image"]))))


def test_a_penalty_of_a_model_that_is_not_updated_counts_not(make_trainer):
    trainer = make_trainer("graph", Two, model=penalized, steps=1)
    recipe, batch = trainer.recipe, scale_images(trainer.data.batch(0))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(cross_entropy(batch["label"], recipe.back(recipe.front(batch["image"]))))
        loss += sum(recipe.front.losses)
    weights = recipe.front.trainable_variables
    wanted = [v.numpy() - 0.5 * g.numpy() for v, g in zip(weights, tape.gradient(loss, [v.value for v in weights]))]
    trainer.train()
    for variable, value in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)


class AddsInside(keras.layers.Layer):
    """Adds a term in a branch, or takes it out of there as the message says."""

    outside = False

    def call(self, x):
        def term():
            found = 0.1 * tf.reduce_mean(tf.square(x))
            if not self.outside:
                self.add_loss(found)
            return found

        found = tf.cond(tf.reduce_sum(x) < 1e9, term, lambda: 0.0)
        if self.outside:
            self.add_loss(found)
        return x


class AddsOutside(AddsInside):
    outside = True


def test_a_term_that_is_added_inside_a_branch_is_refused_where_it_is_traced(make_trainer):
    def net(layer):
        return lambda shape, classes: keras.Sequential(
            [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(4), layer(), keras.layers.Dense(classes)]
        )

    def weights(mode, layer):
        trainer = make_trainer(mode, Leaves, model=net(layer), steps=1)
        trainer.train()
        return trainer.recipe.model.get_weights()

    with pytest.raises(ConfigError, match=r"\(AddsInside\) adds a loss inside a branch.*test_penalties.py:\d+"):
        weights("graph", AddsInside)
    for one, other in zip(weights("eager", AddsInside), weights("graph", AddsOutside), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
