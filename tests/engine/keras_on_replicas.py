"""What Keras scales by itself is right on replicas, and Keras is as it was elsewhere: run by `test_tf_internals.py`, in a process
with two logical CPUs. Right values are NumPy's."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses

from modetrain.callback import Callback
from modetrain.engine.devices import Replicas
from modetrain.engine.tf_internals import keras_scales_nothing
from modetrain.recipe import Recipe

(_cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def mirrored():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())


ONE, TWO = Replicas(), Replicas(mirrored())
RATE = 0.01
RUNS = [
    pytest.param("graph", ONE, id="one-graph"),
    *[pytest.param(compile, TWO, id=f"two-{compile}") for compile in ("eager", "graph", "xla")],
]
LONG_BUT_TWO = dict.fromkeys(["one-graph", "two-xla"], pytest.mark.long)


# --- NumPy's values, one for each example -----------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(x):
    return x / np.sqrt(np.maximum((x**2).sum(-1, keepdims=True), 1e-12))


def cross_entropies(y, z):
    return -np.log((softmax(z) * y).sum(-1))


class Users(losses.Loss):
    """A loss of the user's own."""

    def call(self, y, z):
        return tf.reduce_sum(tf.abs(y - z), axis=-1)


LOSSES = {
    "SparseCategoricalCrossentropy": (lambda **r: losses.SparseCategoricalCrossentropy(True, **r), cross_entropies),
    "CategoricalCrossentropy": (lambda **r: losses.CategoricalCrossentropy(True, **r), cross_entropies),
    "BinaryCrossentropy": (
        lambda **r: losses.BinaryCrossentropy(True, **r),
        lambda y, z: (np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - y * z).mean(-1),
    ),
    "MeanSquaredError": (losses.MeanSquaredError, lambda y, z: ((y - z) ** 2).mean(-1)),
    "MeanAbsoluteError": (losses.MeanAbsoluteError, lambda y, z: np.abs(y - z).mean(-1)),
    "Huber": (
        losses.Huber,
        lambda y, z: np.where(np.abs(y - z) < 1, (y - z) ** 2 / 2, np.abs(y - z) - 0.5).mean(-1),
    ),
    "CosineSimilarity": (losses.CosineSimilarity, lambda y, z: -(unit(y) * unit(z)).sum(-1)),
    "Users": (Users, lambda y, z: np.abs(y - z).sum(-1)),
}
REDUCTIONS = ("sum", "sum_over_batch_size", "mean", "mean_with_sample_weight", "none", None)
REDUCED = {
    "sum": lambda each, weights: (weights * each).sum(),
    "mean_with_sample_weight": lambda each, weights: (weights * each).sum() / weights.sum(),
}


def reduced(reduction, each, weights):
    return REDUCED.get(reduction, lambda each, weights: (weights * each).mean())(each, weights)


def logits(images):
    """Some logits of examples, by what is the same in NumPy and TensorFlow."""
    return images[:, 0, :3, 0] * 4.0 - 2.0


def in_order(batch, *, seed, training):
    """A batch in the order of its examples, so that both replicas have the same weights in sum."""
    order = tf.argsort(batch["index"])
    return {name: tf.gather(value, order) for name, value in batch.items()}


class Values(Recipe):
    """Returns the value of every loss object."""

    def train_step(self, batch):
        z, labels = logits(batch["image"]), batch["label"]
        weights = 1.0 + tf.cast(batch["index"] % 2, tf.float32)
        found = {}
        for name, (make, _) in LOSSES.items():
            y = labels if name.startswith("Sparse") else tf.one_hot(labels, 3)
            for reduction in REDUCTIONS:
                found[f"{name} {reduction}"] = make(reduction=reduction)(y, z)
                found[f"{name} {reduction} weighted"] = make(reduction=reduction)(y, z, weights)
        return found

    eval_step = train_step


def values_of(split, batches, *, sums):
    """What `Values` returns on batches of examples, weighted by their sizes."""
    y, z = np.eye(3)[split["label"]], logits(split["image"] / 255.0)
    found = {}
    for name, (_, numpy) in LOSSES.items():
        for reduction in REDUCTIONS:
            for suffix, weights in (("", np.ones(len(y))), (" weighted", 1.0 + split["index"] % 2)):
                values = [reduced(reduction, numpy(y[part], z[part]), weights[part]) for part in batches]
                mean = np.average(values, weights=[part.stop - part.start for part in batches])
                found[f"{name} {reduction}{suffix}"] = mean * (sums if reduction == "sum" else 1.0)
    return found


def trained(make_trainer, recorder, compile, cls, where, *, prepare=None, **given):
    """A trainer after one step on the whole training set, and what the step returned."""
    seen = recorder()
    data = {"batch_size": 40, "eval_batch_size": 10, "prepare": prepare}
    trainer = make_trainer(compile, cls, replicas=where, steps=1, callbacks=[seen], data=data, **given)
    trainer.train()
    return trainer, {name: seen.values(name).get(1) for name in seen.rows[0].names}


@pytest.mark.parametrize(
    ("compile", "where"),
    [pytest.param(*run.values, id=run.id, marks=LONG_BUT_TWO.get(run.id, ())) for run in RUNS],
)
def test_loss_objects_have_the_values_of_the_whole_batch(compile, where, make_trainer, recorder, mlp, source):
    """But for a sum in training, which is the mean of the replicas' sums: see docs/many-devices.md."""

    trainer, in_training = trained(make_trainer, recorder, compile, Values, where, model=mlp(), prepare=in_order)
    whole = values_of(source.train, [slice(0, 40)], sums=1 / where.count)
    assert in_training == pytest.approx(whole, rel=1e-4, abs=1e-5)
    by_batches = values_of(source.eval, [slice(0, 10), slice(10, 20), slice(20, 23)], sums=1.0)
    assert trainer.evaluate() == pytest.approx(by_batches, rel=1e-4, abs=1e-5)


# --- updates ----------------------------------------------------------------------------------------------------------


class Linear:
    """A linear softmax model in NumPy, with the whole training set as its batch."""

    def __init__(self, trainer, source):
        self.x = source.train["image"].reshape(40, -1) / 255.0
        self.y = np.eye(3)[source.train["label"]]
        self.before = [v.numpy().astype(np.float64) for v in trainer.recipe.model.trainable_variables]
        self.z = self.x @ self.before[0] + self.before[1]
        self.loss = cross_entropies(self.y, self.z).mean()
        self.of_loss = (softmax(self.z) - self.y) / 40  # gradient for the logits

    def updated(self, gradient, rate=RATE):
        weights, bias = self.before
        return [weights - rate * self.x.T @ gradient, bias - rate * gradient.sum(0)]


def assert_updated(trainer, wanted):
    for variable, value in zip(trainer.recipe.model.trainable_variables, wanted, strict=True):
        copies = (
            trainer.replicas.strategy.experimental_local_results(variable.value)
            if trainer.replicas.strategy
            else [variable]
        )
        for copy in copies:
            np.testing.assert_allclose(copy.numpy(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("compile", "where"), RUNS)
@pytest.mark.parametrize(
    ("reduction", "accumulate"),
    [
        *[("sum", 2), ("sum_over_batch_size", 2), (None, 1)],
        *[pytest.param(name, 1, marks=pytest.mark.long) for name in ("sum", "sum_over_batch_size", "none", "mean")],
        pytest.param("mean_with_sample_weight", 1, marks=pytest.mark.long),
    ],
)
def test_an_update_is_that_of_the_whole_batch(
    compile, where, reduction, accumulate, make_trainer, recorder, mlp, source
):
    class Trains(Recipe):
        def train_step(self, batch):
            loss = losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
            return self.minimize(lambda: loss(batch["label"], self.model(batch["image"], training=True)))

    model = mlp(units=0, dropout=0.0)
    # The weights before: a recipe's weights are a function of the seed.
    numpy = Linear(make_trainer(compile, Trains, model=model), source)
    trainer, seen = trained(
        make_trainer, recorder, compile, Trains, where, model=model, learning_rate=RATE, accumulate=accumulate
    )
    times = 40 / where.count / accumulate if reduction == "sum" else 1.0
    assert seen["loss"] == pytest.approx(numpy.loss * times, rel=1e-5)
    assert_updated(trainer, numpy.updated(numpy.of_loss * times))


class AddsLoss(layers.Layer):
    def call(self, z):
        self.add_loss(0.3 * tf.reduce_mean(z**2))
        return z


def with_losses(image_shape, classes):
    """A linear model with an activity regularizer and a loss that a layer adds."""
    x = keras.Input(image_shape)
    z = layers.Dense(classes, activity_regularizer=keras.regularizers.L2(0.1))(layers.Flatten()(x))
    return keras.Model(x, AddsLoss()(z))


class Compiled(Recipe):
    """Has its model compute the loss."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.model.compile(loss=losses.SparseCategoricalCrossentropy(from_logits=True))

    def loss(self, batch, training):
        z = self.model(batch["image"], training=training)
        return self.model.compute_loss(x=batch["image"], y=batch["label"], y_pred=z, training=training)

    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch, True))

    def eval_step(self, batch):
        return {"loss": self.loss(batch, False)}


class AddsThem(Compiled):
    """Adds the model's losses to a loss object."""

    def loss(self, batch, training):
        z = self.model(batch["image"], training=training)
        return losses.SparseCategoricalCrossentropy(from_logits=True)(batch["label"], z) + tf.add_n(self.model.losses)


@pytest.mark.parametrize(("compile", "where"), RUNS)
@pytest.mark.parametrize("cls", [Compiled, AddsThem])
def test_a_models_own_losses_count_once(compile, where, cls, make_trainer, recorder, source):
    numpy = Linear(make_trainer(compile, cls, model=with_losses), source)
    trainer, seen = trained(make_trainer, recorder, compile, cls, where, model=with_losses, learning_rate=RATE)
    z = numpy.z
    assert seen["loss"] == pytest.approx(numpy.loss + 0.1 * (z**2).sum() / 40 + 0.3 * (z**2).mean(), rel=1e-5)
    wanted = numpy.updated(numpy.of_loss + 0.2 * z / 40 + 0.6 * z / z.size)
    assert_updated(trainer, wanted)
    z = source.eval["image"].reshape(23, -1) / 255.0 @ wanted[0] + wanted[1]
    own = 0.1 * (z**2).sum() / 23 + 0.3 * (z**2).mean()
    right = cross_entropies(np.eye(3)[source.eval["label"]], z).mean() + own
    assert trainer.evaluate()["loss"] == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize(("compile", "where"), RUNS[:-1])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_keras_optimizer_by_hand_takes_the_mean(compile, where, scaled, make_trainer, recorder, mlp, source):
    """As before, when halved losses were summed; with a loss of one's own, too."""

    class ByHand(Recipe):
        def __init__(self, *, model, optimizer, info):
            super().__init__(model=model, optimizer=optimizer, info=info)
            plain = keras.optimizers.SGD(RATE)
            self.sgd = keras.optimizers.LossScaleOptimizer(plain, initial_scale=4.0) if scaled else plain
            self.sgd.build(self.model.trainable_variables)

        def train_step(self, batch):
            variables = self.model.trainable_variables
            with tf.GradientTape() as tape:
                loss = losses.SparseCategoricalCrossentropy(from_logits=True)(
                    batch["label"], self.model(batch["image"])
                )
                to_lower = self.sgd.scale_loss(loss)
            self.sgd.apply(tape.gradient(to_lower, [v.value for v in variables]), variables)
            return {"loss": loss}

    model = mlp(units=0, dropout=0.0)
    numpy = Linear(make_trainer(compile, ByHand, model=model), source)
    trainer, seen = trained(make_trainer, recorder, compile, ByHand, where, model=model)
    assert seen["loss"] == pytest.approx(numpy.loss, rel=1e-5)
    assert_updated(trainer, numpy.updated(numpy.of_loss))


def test_a_model_notes_the_loss_of_each_output_unscaled():
    x = inputs = keras.Input([2])
    y, z = tf.zeros([4, 2]), tf.fill([4, 2], 3.0)
    with TWO.strategy.scope(), keras_scales_nothing():
        model = keras.Model(inputs, {"a": layers.Identity()(x), "b": layers.Rescaling(2.0)(x)})
        model.compile(loss={"a": "mse", "b": losses.MeanAbsoluteError()}, loss_weights={"a": 1.0, "b": 10.0})
        total = model.compute_loss(y={"a": y, "b": y}, y_pred=model(z))
        noted = model.get_metrics_result()
    assert float(total) == 9.0 + 60.0
    assert (float(noted["a_loss"]), float(noted["b_loss"])) == (9.0, 6.0)


def test_a_recipe_is_made_with_the_losses_of_one_device(make_recipe):
    class Makes(Recipe):
        def __init__(self, **given):
            super().__init__(**given)
            self.first = float(losses.MeanSquaredError()(tf.zeros([4, 2]), tf.fill([4, 2], 3.0)))

    with TWO.scope():
        assert make_recipe(Makes).first == 9.0


# --- Keras elsewhere --------------------------------------------------------------------------------------------------


def error():
    return losses.MeanSquaredError()(tf.zeros([4, 2]), tf.fill([4, 2], 3.0))


def on_replicas(strategy):
    return [float(value) for value in strategy.experimental_local_results(strategy.run(error))]


def fitted(strategy):
    """The loss and weights of two epochs of Keras's own training."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 5)).astype(np.float32), rng.integers(0, 3, 32)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input([5]), layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.5), losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2, verbose=0, shuffle=False)
    return np.concatenate([history.history["loss"], *(v.numpy().ravel() for v in model.trainable_variables)])


def test_keras_fits_beside_steps_and_after_one_that_fails(make_trainer, mlp):
    class Fits(Callback):
        def on_step(self, trainer):
            self.found = [fitted(TWO.strategy), fitted(mirrored())]
            self.scaled = on_replicas(TWO.strategy)

    class Fails(Recipe):
        def train_step(self, batch):
            raise ArithmeticError("of the user's")

    right = fitted(tf.distribute.get_strategy())
    fits = Fits(every=2)
    make_trainer("graph", replicas=TWO, model=mlp(), steps=2, callbacks=[fits]).train()
    for where in (ONE, TWO):
        with pytest.raises(ArithmeticError):
            make_trainer("eager", Fails, replicas=where, model=mlp(), steps=1).train()
        with TWO.strategy.scope():
            assert float(error()) == 4.5, "Keras's own half: no step is left open"
    for found in (*fits.found, fitted(mirrored())):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    assert fits.scaled == on_replicas(TWO.strategy) == [4.5, 4.5], "Keras's own halves"


def test_only_the_thread_of_a_step_is_inside_it():
    found = []
    with TWO.strategy.scope(), keras_scales_nothing():
        other = threading.Thread(target=lambda: found.extend(on_replicas(TWO.strategy)))
        other.start()
        other.join()
        with keras_scales_nothing():
            pass
        assert float(error()) == 9.0
    assert found == [4.5, 4.5]
    with TWO.strategy.scope():
        assert float(error()) == 4.5
