"""`minimize` does the arithmetic it promises, alike in every mode: checked against the formulas, written out in NumPy."""

from __future__ import annotations

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain import Callback, Recipe
from modetrain.engine.optimizer import Optimizer
from modetrain.engine.schedule import learning_rate_at
from modetrain.errors import ConfigError
from modetrain.settings import OptimizerSettings
from recipes.mnist import Digits, cross_entropy

STEPS = 6


class Formulas:
    """Softmax regression trained by the textbook, in float64: what a recipe with a linear model should arrive at."""

    def __init__(self, weights, settings: OptimizerSettings):
        self.weights = [np.array(w, np.float64) for w in weights]
        self.settings = settings
        self.first = [np.zeros_like(w) for w in self.weights]
        self.second = [np.zeros_like(w) for w in self.weights]
        self.averages = [w.copy() for w in self.weights]

    def gradients(self, image, label):
        """(loss, gradients) of the mean over the batch."""
        x = np.reshape(image, [len(image), -1]).astype(np.float64) / 255
        logits = x @ self.weights[0] + self.weights[1]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(len(x)), label]).mean()
        p[np.arange(len(x)), label] -= 1
        return loss, [x.T @ p / len(x), p.mean(axis=0)]

    def step(self, number, batch):
        """One update; returns (loss, norm of the gradient before clipping)."""
        s = self.settings
        loss, gradients = self.gradients(batch["image"].numpy(), batch["label"].numpy())
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        if s.clip_norm is not None and norm > s.clip_norm:
            gradients = [g * s.clip_norm / norm for g in gradients]
        rate = float(learning_rate_at(s, number, STEPS))
        for i, g in enumerate(gradients):
            w = self.weights[i]
            w -= rate * s.weight_decay * w
            if s.name == "sgd":
                self.first[i] = s.momentum * self.first[i] - rate * g
                w += s.momentum * self.first[i] - rate * g if s.nesterov else self.first[i]
            else:
                self.first[i] = s.beta_1 * self.first[i] + (1 - s.beta_1) * g
                self.second[i] = s.beta_2 * self.second[i] + (1 - s.beta_2) * g**2
                corrected = rate * np.sqrt(1 - s.beta_2 ** (number + 1)) / (1 - s.beta_1 ** (number + 1))
                w -= corrected * self.first[i] / (np.sqrt(self.second[i]) + s.epsilon)
            if s.ema is not None:
                decay = min(s.ema, (1 + number) / (10 + number))
                self.averages[i] = decay * self.averages[i] + (1 - decay) * w
        return loss, norm


SETTINGS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.1},
    "adam": {"name": "adam", "learning_rate": 0.05},
    "adamw": {"name": "adamw", "learning_rate": 0.05, "weight_decay": 0.1, "beta_1": 0.8, "beta_2": 0.95},
    "clipped": {"clip_norm": 0.05},
    "never clipped": {"clip_norm": 100.0},
    "in 2 parts": {"accumulate": 2},
    "in 8 parts": {"accumulate": 8},
    "averaged": {"ema": 0.3},
    "cosine": {"schedule": "cosine", "warmup": 2, "final_fraction": 0.1},
    "everything": {
        "name": "adamw",
        "learning_rate": 0.05,
        "weight_decay": 0.1,
        "clip_norm": 0.05,
        "accumulate": 4,
        "ema": 0.3,
        "schedule": "linear",
        "warmup": 3,
    },
}
# Compiling takes seconds: under XLA the settings that change what is compiled, each once.
CASES = [(mode, name) for mode in ("eager", "graph") for name in SETTINGS]
CASES += [("xla", name) for name in ("nesterov", "everything")]


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_updates_are_those_of_the_formulas(mode, name, make_trainer, mlp, recorder):
    seen = recorder()
    settings = {"name": "sgd", "learning_rate": 0.5, **SETTINGS[name]}
    trainer = make_trainer(
        mode, model=mlp(units=0, dropout=0), steps=STEPS, callbacks=[seen], watch_every=1, **settings
    )
    optimizer = trainer.recipe.optimizer
    formulas = Formulas(trainer.recipe.model.get_weights(), OptimizerSettings(**settings))
    expected = [formulas.step(n, trainer.data.batch(n)) for n in range(STEPS)]
    trainer.train()

    losses, norms = zip(*expected, strict=True)
    np.testing.assert_allclose(list(seen.values("loss").values()), losses, rtol=1e-5)
    np.testing.assert_allclose(list(seen.values("grad_norm").values()), norms, rtol=1e-5)
    for found, wanted in zip(trainer.recipe.model.get_weights(), formulas.weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)
    averages = formulas.averages if settings.get("ema") else []
    for found, wanted in zip(optimizer.averages, averages, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=2e-6)
    assert int(optimizer.updates.numpy()) == STEPS
    for accumulator in optimizer.accumulators:
        assert not accumulator.numpy().any(), "nothing is left over for the next step"


def test_the_gradient_norm_costs_nothing_where_nobody_looks(make_trainer, recorder):
    seen = recorder()
    make_trainer("graph", steps=10, callbacks=[seen], watch_every=4).train()
    assert list(seen.values("grad_norm")) == [4, 8]
    assert list(seen.values("loss")) == list(range(1, 11))


# --- loss scaling ----------------------------------------------------------------------------------------------------


def scale_of(optimizer) -> float:
    return float(optimizer.loss_scale.numpy())


def test_an_overflow_skips_the_update_and_halves_the_scale(mode, make_trainer, mlp, recorder):
    seen = recorder(every=1)
    trainer = make_trainer(
        mode, model=mlp(dropout=0, dtype="mixed_float16"), steps=12, loss_scaling=True, callbacks=[seen], ema=0.9
    )
    recipe, optimizer = trainer.recipe, trainer.recipe.optimizer
    optimizer.loss_scale.assign(2.0**24)  # the gradients of a mean over 8 examples overflow float16 above 2**19 or so
    weights = [recipe.model.get_weights()]
    seen.on_step = lambda trainer: weights.append(recipe.model.get_weights())
    trainer.train()

    skipped = [value == 1 for value in seen.values("skipped").values()]
    assert skipped[:3] == [True] * 3
    assert not all(skipped), "the scale comes down until gradients are finite"
    scales = [*seen.values("loss_scale").values(), scale_of(optimizer)]
    assert scales[0] == 2.0**24
    assert [after / before for before, after in itertools.pairwise(scales)] == [0.5 if one else 1.0 for one in skipped]
    unchanged = [all(map(np.array_equal, before, after)) for before, after in itertools.pairwise(weights)]
    assert unchanged == skipped, "a skipped update changes no weight, and no other update is lost"
    assert int(optimizer.updates.numpy()) == skipped.count(False)
    assert trainer.step == 12, "a skipped update still is a step"
    assert all(np.isfinite(variable.numpy()).all() for variable in optimizer.variables)


def test_an_average_follows_the_updates_of_its_own_variable(make_trainer, mlp):
    class Halves(Digits):
        """Two updates a step, each of half the variables."""

        def train_step(self, batch):
            def loss():
                return cross_entropy(batch["label"], self.model(batch["image"]))

            variables = self.model.trainable_variables
            self.minimize(loss, variables[:2])
            return self.minimize(loss, variables[2:])

    trainer = make_trainer("graph", Halves, model=mlp(dropout=0), steps=1, ema=0.05, learning_rate=0.1)
    before = [v.numpy() for v in trainer.recipe.model.trainable_variables]
    trainer.train()
    decay = min(0.05, 1 / 10)
    for old, new, average in zip(before, trainer.recipe.model.trainable_variables, trainer.recipe.optimizer.averages):
        np.testing.assert_allclose(average.numpy(), decay * old + (1 - decay) * new.numpy(), rtol=1e-5, atol=1e-7)


def test_a_skipped_update_leaves_no_trace_in_slots_averages_and_accumulators(make_trainer, mlp):
    class Spoiled(Digits):
        """The gradients of step 2 are not finite, though its loss is."""

        def train_step(self, batch):
            def loss():
                good = tf.where(self.step == 2, 0.0, 1.0)
                weight = tf.reduce_sum(self.model.trainable_variables[0])
                return cross_entropy(batch["label"], self.model(batch["image"])) + tf.sqrt(good * weight**2)

            return self.minimize(loss)

    settings = {"name": "adam", "learning_rate": 0.05, "ema": 0.9, "accumulate": 2}
    trainer = make_trainer(
        "graph", Spoiled, model=mlp(dropout=0), steps=3, loss_scaling=True, mode={"steps_per_call": 1}, **settings
    )
    optimizer = trainer.recipe.optimizer
    trainer.steps = 2
    trainer.train()
    held = {name: value.numpy().copy() for name, value in trainer.recipe.state().items()}
    trainer.steps = 3
    trainer.train()
    changed = {
        name.rpartition("/")[2]
        for name, value in trainer.recipe.state().items()
        if not np.array_equal(value.numpy(), held[name])
    }
    assert changed == {"loss_scale", "good"}
    assert scale_of(optimizer) == 2.0**14


def test_the_scale_doubles_after_many_good_updates_and_never_falls_below_one(make_trainer, mlp):
    trainer = make_trainer("graph", model=mlp(dropout=0), steps=3, loss_scaling=True, mode={"steps_per_call": 1})
    optimizer = trainer.recipe.optimizer
    good = next(variable for variable in optimizer.variables if variable.name == "good")
    good.assign(1998)
    found = []
    for trainer.steps in (1, 2, 3):
        trainer.train()
        found.append((scale_of(optimizer), int(good.numpy())))
    assert found == [(2.0**15, 1999), (2.0**16, 0), (2.0**16, 1)]

    class Hopeless(Digits):
        def train_step(self, batch):
            return self.minimize(
                lambda: tf.reduce_sum(tf.sqrt(0.0 * self.model.trainable_variables[0])),
                variables=self.model.trainable_variables[:1],
            )

    trainer = make_trainer("graph", Hopeless, steps=20, loss_scaling=True)
    trainer.train()
    assert scale_of(trainer.recipe.optimizer) == 1.0


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_where_nothing_overflows_scaling_changes_nothing(mode, make_trainer, mlp):
    weights = []
    for scaling in (False, True):
        trainer = make_trainer(mode, model=mlp(dropout=0), steps=4, loss_scaling=scaling, momentum=0.9)
        trainer.train()
        weights.append(np.concatenate([w.ravel() for w in trainer.recipe.model.get_weights()]))
    np.testing.assert_allclose(*weights, rtol=1e-6, atol=1e-7)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_callback_that_changes_the_learning_rate_ends_the_run_in_every_mode(mode, make_trainer, make_recipe):
    """A compiled step would keep the old one, and TensorBoard would show the new one."""

    def settings(optimizer):
        optimizer.settings = dataclasses.replace(optimizer.settings, learning_rate=1e-5)

    def rate(optimizer):
        optimizer.learning_rate = lambda step: 1e-5

    def steps(optimizer):
        optimizer.steps = 1000

    class Changes(Callback):
        def __init__(self, change):
            super().__init__(every=2)
            self.change = change

        def on_step(self, trainer):
            self.change(trainer.recipe)

    for change in (settings, rate, steps):
        trainer = make_trainer(mode, callbacks=[Changes(lambda recipe, change=change: change(recipe.optimizer))])
        with pytest.raises(
            AttributeError, match=rf"{'learning_rate' if change is rate else change.__name__} cannot be"
        ):
            trainer.train()
        assert trainer.step == 2
    trainer = make_trainer(
        mode, callbacks=[Changes(lambda recipe: setattr(recipe, "optimizer", make_recipe().optimizer))]
    )
    with pytest.raises(RuntimeError, match=r"Changes.on_step has replaced an optimizer of Digits"):
        trainer.train()


def test_an_optimizer_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"no variables: a model has none before it is built.*model.build\(shape\)"):
        Optimizer([], OptimizerSettings(name="sgd", learning_rate=0.1), steps=1)


def test_variables_an_optimizer_was_not_made_for_are_refused_by_name(mode, make_trainer):
    class Stranger(Digits):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.optimizer = Optimizer(self.model.trainable_variables[:2], self.optimizer.settings, steps=1)

        def train_step(self, batch):
            def loss():
                return cross_entropy(batch["label"], self.model(batch["image"]))

            return self.minimize(loss, variables=self.model.trainable_variables)

    trainer = make_trainer(mode, Stranger, steps=1)
    with pytest.raises(ValueError, match=r"the optimizer was not made for dense_\d+/kernel, dense_\d+/bias"):
        trainer.train()


def test_a_loss_that_depends_on_nothing_is_refused(mode, make_trainer):
    class Constant(Digits):
        def train_step(self, batch):
            logits = self.model(batch["image"])  # outside of the function: the tape does not see it
            return self.minimize(lambda: cross_entropy(batch["label"], logits))

    with pytest.raises(ValueError, match="no variable has a gradient: .* inside the function given to minimize"):
        make_trainer(mode, Constant, steps=1).train()


def test_a_variable_without_a_gradient_is_warned_of_and_left_alone(mode, make_trainer, mlp):
    class Frozen(Digits):
        def train_step(self, batch):
            def loss():
                kernel, bias = self.model.trainable_variables
                x = tf.reshape(batch["image"], [-1, 16])
                return cross_entropy(batch["label"], x @ kernel + tf.stop_gradient(bias))

            return self.minimize(loss)

    trainer = make_trainer(
        mode, Frozen, model=mlp(units=0, dropout=0), steps=2, name="adamw", weight_decay=0.1, accumulate=2
    )
    trainer.recipe.model.trainable_variables[1].assign([1.0, 2.0, 3.0])
    with pytest.warns(UserWarning, match=r"no gradient for dense_?\d*/bias"):
        trainer.train()
    assert trainer.recipe.model.get_weights()[1].tolist() == [1.0, 2.0, 3.0]


def test_an_optimizer_used_twice_with_accumulation_is_refused(mode, make_trainer):
    class Twice(Recipe):
        def train_step(self, batch):
            def loss():
                return cross_entropy(batch["label"], self.model(batch["image"]))

            self.minimize(loss)
            return self.minimize(loss)

    trainer = make_trainer(mode, Twice, steps=1, accumulate=2)
    with pytest.raises(ValueError, match=r"uses one optimizer twice with optimizer.accumulate=2: .*accumulate=1"):
        trainer.train()
    trainer = make_trainer(mode if mode != "xla" else "graph", Twice, steps=3)
    trainer.train()
    assert int(trainer.recipe.optimizer.updates.numpy()) == 6, "without accumulation it is two updates a step"


def test_a_variable_that_is_not_keras_s_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"got gate:0, which is no Keras variable. Make it with keras.Variable"):
        Optimizer([tf.Variable(1.0, name="gate")], OptimizerSettings(name="sgd", learning_rate=0.1), steps=1)


def test_weights_of_two_dtypes_are_clipped_by_one_norm(make_trainer, recorder):
    def narrow_head(image_shape, classes):
        inner = keras.layers.Dense(5)(keras.layers.Flatten()(inputs := keras.Input(image_shape)))
        return keras.Model(inputs, keras.layers.Dense(classes, dtype="bfloat16")(inner))

    class Shows(Digits):
        def train_step(self, batch):
            return self.minimize(lambda: cross_entropy(batch["label"], tf.cast(self.model(batch["image"]), tf.float32)))

    norms = []
    for mode in ("eager", "graph"):
        look = recorder()
        make_trainer(mode, Shows, model=narrow_head, steps=1, clip_norm=0.05, callbacks=[look]).train()
        norms.append(look.values("grad_norm")[1])
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)
    assert norms[0] > 0.05
