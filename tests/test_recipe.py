"""A recipe's steps are its author's own: several updates, own tapes, own variables, plain Python, in every mode alike."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain import Recipe
from modetrain.recipe import scale_images
from recipes.mnist import Digits, cross_entropy


def gradient(recipe, batch):
    """What TensorFlow itself says the gradients of the mean loss are."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(cross_entropy(batch["label"], recipe.model(scale_images(batch)["image"], training=True)))
    return tape.gradient(loss, [v.value for v in recipe.model.trainable_variables])


def after_sgd(recipe, batch, rate=0.5):
    return [v.numpy() - rate * g.numpy() for v, g in zip(recipe.model.trainable_variables, gradient(recipe, batch))]


def close(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["state", "seed", "models", "optimizers", "step"])
def test_a_name_of_the_librarys_own_is_refused(name, make_recipe):
    class Clashes(Digits):
        def __init__(self, **given):
            super().__init__(**given)
            setattr(self, name, {})

    with pytest.raises(AttributeError, match=rf"self\.{name} belongs to modetrain.Recipe: give your attribute"):
        make_recipe(Clashes)


# --- what minimize returns and updates -------------------------------------------------------------------------------


def test_minimize_returns_the_loss_before_the_update(mode, make_trainer, mlp, recorder):
    class Simple(Recipe):
        def train_step(self, batch):
            def loss():
                return (cross_entropy(batch["label"], self.model(batch["image"])), {"three": tf.constant(3.0)})

            found = self.minimize(loss)
            return {**found, "after": cross_entropy(batch["label"], self.model(batch["image"]))}

    seen = recorder()
    trainer = make_trainer(mode, Simple, model=mlp(dropout=0), steps=1, callbacks=[seen])
    batch = scale_images(trainer.data.batch(0))

    def loss():
        return float(tf.reduce_mean(cross_entropy(batch["label"], trainer.recipe.model(batch["image"]))))

    before = loss()
    trainer.train()
    assert seen.values("loss")[1] == pytest.approx(before, rel=1e-5)
    assert seen.values("after")[1] == pytest.approx(loss(), rel=1e-5)
    assert loss() < before
    assert seen.values("three")[1] == 3


def test_only_the_variables_asked_for_change(make_trainer, mlp):
    class Head(Digits):
        def train_step(self, batch):
            def loss():
                return cross_entropy(batch["label"], self.model(batch["image"]))

            return self.minimize(loss, variables=self.model.layers[-1].trainable_variables)

    trainer = make_trainer("graph", Head, model=mlp(dropout=0), steps=1)
    recipe = trainer.recipe
    wanted = after_sgd(recipe, trainer.data.batch(0))[2:]
    body = [w.copy() for w in recipe.model.get_weights()[:2]]
    trainer.train()
    close(recipe.model.get_weights(), [*body, *wanted])


def test_a_variable_that_is_listed_twice_moves_once(mode, make_trainer, mlp):
    """In the optimizer's list, in that of `minimize`, and in that of `apply`; the norm that clips counts it once too."""

    class Twice(Digits):
        def __init__(self, *, optimizer, **given):
            super().__init__(optimizer=lambda variables: optimizer([*variables[:2], *variables]), **given)

        def train_step(self, batch):
            weights = [*self.model.trainable_variables, *self.model.trainable_variables[1:]]

            def loss():
                return cross_entropy(batch["label"], self.model(batch["image"]))

            if mode != "eager":
                return self.minimize(loss, variables=weights)
            with tf.GradientTape() as tape:
                losses = loss()
                value = tf.reduce_mean(losses)
            self.apply(tape.gradient(value, [v.value for v in weights]), weights)
            return {"loss": losses}

    for accumulate in (1, 2):
        trainer = make_trainer(
            mode, Twice, model=mlp(dropout=0), steps=1, accumulate=accumulate, ema=0.9, clip_norm=0.1
        )
        recipe = trainer.recipe
        assert len(recipe.optimizer.trainable) == len(recipe.optimizer.averages) == 4
        before, gradients = recipe.model.get_weights(), gradient(recipe, trainer.data.batch(0))
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
        trainer.train()
        close(recipe.model.get_weights(), [v - 0.5 * g.numpy() * 0.1 / norm for v, g in zip(before, gradients)])


def test_keras_regularizers_count_once_however_many_parts(make_trainer, mlp):
    linear = mlp(units=0, dropout=0, regularizer=keras.regularizers.L2(0.1))
    for accumulate in (1, 4):
        trainer = make_trainer("graph", model=linear, steps=1, accumulate=accumulate)
        recipe = trainer.recipe
        kernel = recipe.model.get_weights()[0]
        wanted = after_sgd(recipe, trainer.data.batch(0))
        wanted[0] = wanted[0] - 0.5 * 0.2 * kernel
        trainer.train()
        close(recipe.model.get_weights(), wanted)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_tape_of_ones_own_and_apply_are_minimize(mode, make_trainer):
    class Own(Digits):
        def train_step(self, batch):
            with tf.GradientTape() as tape:
                losses = cross_entropy(batch["label"], self.model(batch["image"], training=True))
                loss = tf.reduce_mean(losses)
            self.apply(tape.gradient(loss, [v.value for v in self.model.trainable_variables]))
            return {"loss": losses}

    weights = []
    for cls in (Digits, Own):
        trainer = make_trainer(mode, cls, steps=5, name="adamw", clip_norm=0.1, ema=0.9, accumulate=2)
        trainer.train()
        weights.append(np.concatenate([v.numpy().ravel() for v in trainer.recipe.state().values()]))
    close(*[[w] for w in weights])


class Duel(Recipe):
    """Two models, two optimizers; the critic is updated three times a step. Each pulls a number towards the other's."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.player, self.critic = (keras.Variable(value, name=name) for value, name in ((8.0, "p"), (0.0, "c")))
        self.player_optimizer = optimizer([self.player], learning_rate=0.25)
        self.critic_optimizer = optimizer([self.critic])

    def train_step(self, batch):
        def distance():
            return tf.square(self.player.value - self.critic.value)

        for _ in range(3):
            critic = self.minimize(distance, optimizer=self.critic_optimizer)
        player = self.minimize(distance, optimizer=self.player_optimizer)
        return {"critic_loss": critic["loss"], "player_loss": player["loss"]}


def test_several_updates_in_a_step_take_effect_at_once_and_in_order(mode, make_trainer, recorder):
    seen = recorder()
    trainer = make_trainer(mode, Duel, steps=2, callbacks=[seen], learning_rate=0.125, watch_every=1)
    trainer.train()
    player, critic, losses, norms = 8.0, 0.0, [], []
    for _ in range(2):
        for _ in range(3):
            critic_loss, critic_norm = (player - critic) ** 2, 2 * abs(player - critic)
            critic += 0.25 * (player - critic)
        losses.append((critic_loss, (player - critic) ** 2))
        norms.append((critic_norm, 2 * abs(player - critic)))
        player -= 0.5 * (player - critic)
    assert float(trainer.recipe.player.numpy()) == pytest.approx(player)
    assert float(trainer.recipe.critic.numpy()) == pytest.approx(critic)
    found = zip(seen.values("critic_loss").values(), seen.values("player_loss").values())
    assert [*found] == [pytest.approx(pair) for pair in losses]
    found = zip(seen.values("grad_norm/critic").values(), seen.values("grad_norm/player").values())
    assert [*found] == [pytest.approx(pair) for pair in norms], "each optimizer shows its own norm, of its last update"
    assert [int(o.updates.numpy()) for o in trainer.recipe.optimizers().values()] == [2, 6]


# --- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_metrics_of_parts_are_those_of_the_whole_batch(mode, make_trainer, mlp, recorder):
    values = []
    for accumulate in (1, 4):
        seen = recorder()
        make_trainer(mode, model=mlp(dropout=0), steps=3, callbacks=[seen], accumulate=accumulate).train()
        values.append([*seen.values("loss").values(), *seen.values("accuracy").values()])
        assert all(
            rows.values[:, rows.names.index("accuracy"), 1].tolist() == [8] * len(rows.values) for rows in seen.rows
        )
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_each_part_draws_its_own_noise(make_trainer, recorder):
    class Noisy(Digits):
        def train_step(self, batch):
            noise = tf.random.stateless_uniform([], self.seed("noise"))
            return {**super().train_step(batch), "noise": noise, "square": noise**2}

    seen = recorder()
    make_trainer("graph", Noisy, steps=1, callbacks=[seen], accumulate=4).train()
    spread = seen.values("square")[1] - seen.values("noise")[1] ** 2
    assert spread > 1e-4, "four equal draws would have no variance"


# --- what a step may use ---------------------------------------------------------------------------------------------


class Watcher(Digits):
    """Returns what a step knows of itself, and counts steps in a variable of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False)

    def train_step(self, batch):
        self.count.assign_add(1)
        noise = tf.random.stateless_uniform([8], self.seed("noise"))
        other = tf.random.stateless_uniform([8], self.seed("other"))
        return {**super().train_step(batch), "step": self.step, "noise": noise, "other": other}

    def eval_step(self, batch):
        noise = tf.random.stateless_uniform([], self.seed("noise"))
        return {**super().eval_step(batch), "batch": self.step, "noise": noise}


def test_step_and_seed_are_functions_of_the_step(mode, make_trainer, recorder):
    runs = []
    for seed, cap in ((0, 4), (1, 4)) if mode == "xla" else ((0, 1), (0, 4), (1, 4)):
        seen = recorder()
        trainer = make_trainer(mode, Watcher, steps=6, seed=seed, callbacks=[seen], mode={"steps_per_call": cap})
        trainer.train()
        assert list(seen.values("step").values()) == list(range(6)), "updates completed before the step"
        assert int(trainer.recipe.count.numpy()) == 6, "a variable of the step's own is assigned once a step"
        runs.append([*seen.values("noise").values(), *seen.values("other").values()])
        assert len(set(runs[-1])) == 12, "each step and each name draws other numbers"
    assert runs[0] == runs[-2], "however many steps a call runs"
    assert not set(runs[-2]) & set(runs[-1])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_in_evaluation_the_step_is_the_number_of_the_batch(mode, make_trainer):
    found = make_trainer(mode, Watcher).evaluate()
    assert found["batch"] == pytest.approx((0 * 10 + 1 * 10 + 2 * 3) / 23)


@pytest.mark.parametrize("use", ["step", "seed", "minimize", "apply"])
def test_outside_of_a_step_there_is_none(make_recipe, use):
    recipe = make_recipe()
    uses = {
        "step": lambda: recipe.step,
        "seed": lambda: recipe.seed("noise"),
        "minimize": lambda: recipe.minimize(lambda: tf.reduce_sum(recipe.model.trainable_variables[0] ** 2)),
        "apply": lambda: recipe.apply([tf.zeros(v.shape) for v in recipe.model.trainable_variables]),
    }
    with pytest.raises(RuntimeError, match="only inside train_step or eval_step"):
        uses[use]()


class Python(Digits):
    """`if` and `for` over tensors, in the step, in its loss function and in functions that both call."""

    def train_step(self, batch):
        def loss():
            losses = cross_entropy(batch["label"], self.model(batch["image"], training=True))
            if self.step % 2 == 0:
                losses = 2.0 * losses
            return once(losses)

        found = self.minimize(loss)
        power = tf.constant(1.0)
        for _ in tf.range(self.step):
            power = double(power)
        return {**found, "power": power}


def once(x):
    if tf.reduce_sum(x) < 0.0:
        return 0.0 * x
    return x


def double(x):
    if x > 4.0:
        return x + 1.0
    return 2.0 * x


def test_plain_python_over_tensors_works_in_steps_and_loss_functions(mode, make_trainer, mlp, recorder):
    seen = recorder()
    make_trainer(mode, Python, model=mlp(dropout=0), steps=6, callbacks=[seen], learning_rate=1e-9).train()
    assert list(seen.values("power").values()) == [1, 2, 4, 8, 9, 10]
    halves = [value / (2 if n % 2 == 0 else 1) for n, value in enumerate(seen.values("loss").values())]
    plain = recorder()
    make_trainer("eager", model=mlp(dropout=0), steps=6, callbacks=[plain], learning_rate=1e-9).train()
    assert halves == pytest.approx(list(plain.values("loss").values()), rel=1e-5)


@pytest.mark.parametrize("name", ["grad_norm"])
def test_a_name_that_the_library_reports_itself_is_refused(make_trainer, name):
    class Clash(Digits):
        def train_step(self, batch):
            return {**super().train_step(batch), name: tf.constant(1.0)}

    with pytest.raises(ValueError, match=f"a step must not return {name}"):
        make_trainer("eager", Clash, steps=1).train()


@pytest.mark.parametrize("given", ["to minimize", "to apply", "as self.optimizer"])
def test_a_keras_optimizer_is_refused_with_what_to_write(given, make_trainer):
    class Own(Digits):
        def __init__(self, **given_):
            super().__init__(**given_)
            self.mine = keras.optimizers.Adam()
            if given == "as self.optimizer":
                self.optimizer = self.mine

        def train_step(self, batch):
            def loss():
                return tf.reduce_sum(self.model(batch["image"], training=True), axis=-1)

            if given == "to apply":
                return self.apply([], optimizer=self.mine) or {"loss": 0.0}
            return self.minimize(loss, optimizer=None if given == "as self.optimizer" else self.mine)

    with pytest.raises(
        TypeError, match=r"Adam, which does not support .* Make it in __init__ with optimizer\(variables, name="
    ):
        make_trainer("graph", Own, steps=1).train()


@pytest.mark.parametrize("step", ["train_step", "eval_step"])
def test_a_step_that_was_not_written_is_missed_by_name(make_trainer, step):
    trainer = make_trainer("graph", Recipe, steps=1)
    with pytest.raises(NotImplementedError, match=rf"Recipe has no {step}\(self, batch\)"):
        trainer.train() if step == "train_step" else trainer.evaluate()


def test_images_are_scaled_and_nothing_else_is():
    batch = {
        "image": tf.constant([[[0, 51, 255]]], tf.uint8),
        "codes": tf.constant([[7, 200]], tf.uint8),
        "float": tf.constant([[[3.0]]]),
        "label": tf.constant([3]),
    }
    found = scale_images(batch)
    np.testing.assert_allclose(found["image"], [[[0, 0.2, 1]]], rtol=1e-6)
    for name in ("codes", "float", "label"):
        assert found[name] is batch[name]


# --- state -----------------------------------------------------------------------------------------------------------


def test_every_variable_is_state_once_and_by_a_name_that_stays(make_recipe):
    class Rich(Digits):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.same_model = self.model
            self.own = tf.Variable(1.0)
            self.table = {"a": [tf.Variable(2.0), tf.Variable(3.0)]}
            self.seeds = keras.random.SeedGenerator(1)
            self.words = ["not", "a", "variable"]

    recipe = make_recipe(Rich, name="adam", ema=0.9, accumulate=2)
    state = recipe.state()
    assert list(state) == list(make_recipe(Rich, name="adam", ema=0.9, accumulate=2).state()), "from run to run"
    assert len({id(variable) for variable in state.values()}) == len(state)
    assert {"own", "table/a/0", "table/a/1", "seeds/state"} < set(state)
    kinds = {}
    for name in state:
        kinds.setdefault(name.split("/")[0], []).append(name.rpartition("/")[2])
    assert kinds["model"] == ["kernel", "bias", "seed_generator_state", "kernel", "bias"]
    assert sorted(kinds["optimizer"]) == sorted(
        ["updates", "weight"] + 4 * ["mean", "square", "average", "accumulator"]
    )
    assert "same_model" not in kinds


def test_averaged_weights_are_exchanged_and_given_back(make_recipe):
    recipe = make_recipe(ema=0.9)
    plain = recipe.model.get_weights()
    for n, average in enumerate(recipe.optimizer.averages):
        average.assign(tf.fill(average.shape, float(n)))
    with recipe.averaged() as any_averages:
        assert any_averages
        assert [w.ravel()[0] for w in recipe.model.get_weights()] == [0, 1, 2, 3]
    assert all(map(np.array_equal, plain, recipe.model.get_weights()))
    with pytest.raises(ZeroDivisionError), recipe.averaged():
        raise ZeroDivisionError
    assert all(map(np.array_equal, plain, recipe.model.get_weights()))
    with make_recipe().averaged() as any_averages:
        assert not any_averages


def test_weights_are_a_function_of_the_seed(make_recipe):
    weights = [np.concatenate([w.ravel() for w in make_recipe(seed=s).model.get_weights()]) for s in (0, 0, 1)]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_optimizers_are_found_wherever_state_is(make_trainer, mlp):
    """In a list or a dict too: what belongs to a step's optimizers (parts, averages, names) holds for all of them."""

    class Listed(Digits):
        def __init__(self, *, model, optimizer, info):
            self.info = info
            self.model = model(info.image_shape, info.classes)
            self.by_part = {"all": [optimizer(self.model.trainable_variables)]}

        def train_step(self, batch):
            def loss():
                return cross_entropy(batch["label"], self.model(batch["image"]))

            return self.minimize(loss, optimizer=self.by_part["all"][0])

    weights = []
    for cls in (Digits, Listed):
        trainer = make_trainer("graph", cls, model=mlp(dropout=0), steps=3, accumulate=2, ema=0.5)
        trainer.train()
        with trainer.recipe.averaged():
            weights.append(trainer.recipe.model.get_weights())
    close(*weights)
    assert list(trainer.recipe.optimizers()) == ["by_part/all/0"]
