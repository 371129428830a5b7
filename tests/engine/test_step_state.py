"""State that a step must not make or keep is refused by name before a step is completed, in every mode."""

from __future__ import annotations

import collections

import keras
import pytest
import tensorflow as tf

from modetrain import Recipe
from modetrain.callbacks.evaluate import Evaluate
from modetrain.errors import ConfigError
from recipes.mnist import Digits, cross_entropy


class Plain:
    def __init__(self, **given):
        self.__dict__.update(given)


def refused(make_trainer, modes, cls, *said, model=None, callbacks=(), steps=2):
    """Trains in each mode; every run is refused with these texts before its first step is completed."""
    for mode in modes:
        trainer = None
        with pytest.raises(ConfigError) as caught:
            trainer = make_trainer(mode, cls, model=model, steps=steps, callbacks=callbacks)
            trainer.train()
        assert trainer is None or trainer.step == 0, mode
        for text in said:
            assert text in str(caught.value), f"{mode}: {caught.value}"
        assert str(caught.value).startswith(f"{cls.__name__}: ")
        assert "\n" not in str(caught.value)


MODES = ("eager", "graph", "xla")

# --- Keras metrics ---------------------------------------------------------------------------------------------------


class Updates(Digits):
    """Updates a metric in eval_step."""

    def __init__(self, **given):
        super().__init__(**given)
        self.auc = keras.metrics.AUC()

    def eval_step(self, batch):
        found = super().eval_step(batch)
        self.auc.update_state(tf.cast(batch["label"] == 1, tf.float32), tf.exp(-found["loss"]))
        return {**found, "auc": self.auc.result()}


class UpdatesLate(Digits):
    """Updates a metric that makes its variables at its first update."""

    def __init__(self, **given):
        super().__init__(**given)
        self.f1 = keras.metrics.F1Score()

    def eval_step(self, batch):
        found = super().eval_step(batch)
        self.f1.update_state(tf.one_hot(batch["label"], 3), tf.one_hot(batch["label"], 3))
        return {**found, "f1": tf.reduce_mean(self.f1.result())}


class UpdatesInTraining(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.kept = Plain(metrics={"mean": [keras.metrics.Mean(name="error")]})

    def train_step(self, batch):
        found = super().train_step(batch)
        return {**found, "error": self.kept.metrics["mean"][0](found["loss"])}


class Counts(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="counts")
        self.mean = keras.metrics.Mean()

    def call(self, x):
        self.mean.update_state(x)
        return x


def counting(image_shape, classes):
    inputs = keras.Input(image_shape)
    x = Counts()(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


OF_MODULE = []


class UpdatesGlobal(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        OF_MODULE[:] = [keras.metrics.SparseCategoricalAccuracy(name="global")]

    def eval_step(self, batch):
        return {"accuracy": OF_MODULE[0](batch["label"], self.model(batch["image"]))}


class OfCompile(Digits):
    """Computes the metrics of a compiled model, which Keras makes in that call."""

    def __init__(self, **given):
        super().__init__(**given)
        self.model.compile(loss="mse", metrics=["accuracy"])

    def eval_step(self, batch):
        found = super().eval_step(batch)
        return {**found, **self.model.compute_metrics(batch["image"], batch["label"], self.model(batch["image"]))}


class MakesAndUpdates(Digits):
    """Makes a metric in the first evaluation step and keeps it."""

    mean = None

    def eval_step(self, batch):
        self.mean = self.mean or keras.metrics.Mean()
        found = super().eval_step(batch)
        return {**found, "error": self.mean(found["loss"])}


class Nowhere:
    """A writer that writes nothing."""

    def scalars(self, values, step):
        pass

    def flush(self):
        pass


@pytest.mark.parametrize(
    ("cls", "model", "said"),
    [
        (Updates, None, "Updates: eval_step updates the Keras metric self.auc (AUC). "),
        (UpdatesLate, None, "UpdatesLate: eval_step updates the Keras metric self.f1 (F1Score). "),
        (UpdatesInTraining, None, "train_step updates the Keras metric self.kept.metrics['mean'][0] (Mean). "),
        (Digits, counting, "Digits: eval_step updates the Keras metric self.model, layer counts.mean (Mean). "),
        (OfCompile, None, "OfCompile: eval_step calls self.model.compute_metrics, "),
        (UpdatesGlobal, None, "eval_step updates the Keras metric OF_MODULE[0] (SparseCategoricalAccuracy). "),
    ],
)
def test_a_step_that_updates_a_keras_metric_is_refused(cls, model, said, make_trainer):
    looks = [Evaluate(every=2, events=Nowhere())]
    refused(make_trainer, MODES, cls, said, "Return one value per example", model=model, callbacks=looks)


def test_a_metric_that_a_step_makes_and_keeps_is_refused(mode, make_trainer):
    trainer = make_trainer(mode, MakesAndUpdates, steps=1, callbacks=[Evaluate(every=1, events=Nowhere())])
    with pytest.raises(ConfigError, match="eval_step updates the Keras metric self.mean"):
        trainer.train()


class Stateless(Digits):
    """Uses metrics as Keras's stateless interface and its functions do; keeps one for a callback."""

    def __init__(self, **given):
        super().__init__(**given)
        self.accuracy, self.other = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.Mean()
        self.other.update_state(1.0)

    def eval_step(self, batch):
        logits = self.model(batch["image"])
        variables = self.accuracy.stateless_reset_state()
        variables = self.accuracy.stateless_update_state(variables, batch["label"], logits)
        return {
            "accuracy": self.accuracy.stateless_result(variables),
            "each": keras.metrics.sparse_categorical_accuracy(batch["label"], logits),
        }


def test_metrics_without_a_state_are_not_refused(mode, make_trainer):
    trainer = make_trainer(mode, Stateless, steps=1, callbacks=[Evaluate(every=1, events=Nowhere())])
    trainer.train()
    assert trainer.results["eval"]["accuracy"] == pytest.approx(trainer.results["eval"]["each"])


# --- layers that are built late ---------------------------------------------------------------------------------------


class Late(keras.Model):
    def __init__(self, image_shape, classes):
        super().__init__()
        self.body = keras.Sequential([keras.Input(image_shape), keras.layers.Flatten(), keras.layers.Dense(4)])
        self.drop = keras.layers.Dropout(0.1)  # without weights, so that it may be built late
        self.head = keras.layers.Dense(classes, name="head")

    def call(self, x, training=False):
        return self.head(self.drop(self.body(x), training=training))


class HoldsLate(Digits):
    """Keeps the late layer beside the model, on an object of its own."""

    def __init__(self, **given):
        super().__init__(**given)
        self.parts = Plain(head=keras.layers.Dense(3, name="head"))

    def train_step(self, batch):
        return self.minimize(lambda: cross_entropy(batch["label"], self.parts.head(self.model(batch["image"]))))


@pytest.mark.parametrize(
    ("cls", "model", "said"),
    [
        (Digits, Late, "Digits: self.model.head (Dense head) makes its weights in train_step. "),
        (HoldsLate, None, "HoldsLate: self.parts.head (Dense head) makes its weights in train_step. "),
    ],
)
def test_a_layer_that_is_built_in_the_step_is_refused(cls, model, said, make_trainer):
    refused(make_trainer, MODES, cls, said, "call it once where it is made", model=model)


class MakesLayer(Digits):
    """Makes one layer in each step, and one in the first step only."""

    kept = None

    def train_step(self, batch):
        once = MakesLayer.kept = MakesLayer.kept or keras.layers.Dense(3)
        again = keras.layers.Dense(3)
        flat = tf.reshape(batch["image"], (-1, 16))
        return self.minimize(
            lambda: cross_entropy(batch["label"], self.model(batch["image"]) + again(flat) + once(flat))
        )


def test_a_layer_that_is_made_in_each_step_is_refused_by_its_line(make_trainer):
    with pytest.raises(
        ConfigError, match=r"test_step_state.py:\d+ makes the weights of a layer \(Dense .* again in each train"
    ):
        make_trainer("eager", MakesLayer, steps=3).train()


def test_it_is_trained_where_it_was_built_before_as_the_message_says(mode, make_trainer):
    def built(image_shape, classes):
        model = Late(image_shape, classes)
        model(tf.zeros((1, *image_shape)))
        return model

    trainer = make_trainer(mode, Digits, model=built, steps=1)
    before = trainer.recipe.model.head.get_weights()[0]
    trainer.train()
    assert (trainer.recipe.model.head.get_weights()[0] != before).any()


# --- variables in layers that Keras does not see -----------------------------------------------------------------------


class Scale(keras.layers.Layer):
    """Keeps a variable as the classes below say."""

    def build(self, shape):
        self.keep(tf.Variable(tf.ones(shape[-1:]), name="scale"))

    def call(self, x):
        return x * self.kept()


class AsAttribute(Scale):
    def keep(self, variable):
        self._scale = variable

    def kept(self):
        return self._scale


class InContainer(Scale):
    def keep(self, variable):
        self.scales = {"a": [variable]}

    def kept(self):
        return self.scales["a"][0]


class OnObject(Scale):
    def keep(self, variable):
        self.scales = Plain(first=collections.deque([variable]))

    def kept(self):
        return self.scales.first[0]


class HidesKeras(Scale):
    def keep(self, variable):
        self.scales = Plain(first=keras.Variable(variable))

    def kept(self):
        return self.scales.first


class HidesLayer(Scale):
    def keep(self, variable):
        self.scales = Plain(first=keras.layers.Dense(16, name="inner"))
        self.scales.first.build((None, 16))

    def call(self, x):
        return self.scales.first(x)


def net_of(layer):
    def build(image_shape, classes):
        inputs = keras.Input(image_shape)
        inner = keras.Sequential([keras.Input((16,)), layer(name="mine")])
        return keras.Model(inputs, keras.layers.Dense(classes)(inner(keras.layers.Flatten()(inputs))))

    return build


@pytest.mark.parametrize(
    ("layer", "place", "line"),
    [
        (AsAttribute, "keeps a tf.Variable that Keras does not see, ", "self.add_weight("),
        (InContainer, ".scales['a'][0]: it would be neither trained nor saved", "self.add_weight("),
        (OnObject, ".scales.first[0]: it would be neither", "self.add_weight("),
        (HidesKeras, ".scales.first: it would be neither", "Keep it as an attribute of the layer"),
        (HidesLayer, "keeps a Dense that Keras does not see", "Keep it as an attribute of the layer"),
    ],
)
def test_a_variable_that_keras_does_not_see_is_refused_when_the_recipe_is_made(layer, place, line, make_trainer):
    refused(make_trainer, ["graph"], Digits, f"layer mine ({layer.__name__}) ", place, line, model=net_of(layer))


class Follows(keras.layers.Layer):
    """Keeps a moving average that no checkpoint holds, and a table that never changes."""

    moves = True

    def build(self, shape):
        self.seen = tf.Variable(tf.zeros(shape[-1:]), trainable=False)
        self.table = tf.Variable(tf.ones(shape[-1:]), trainable=False)

    def call(self, x):
        if self.moves:
            self.seen.assign(0.9 * self.seen + 0.1 * tf.reduce_mean(x, 0))
        return (x - self.seen) * self.table


class Constant(Follows):
    moves = False


class CountsBeside(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.kept = Plain(count=tf.Variable(0, trainable=False))

    def train_step(self, batch):
        found = super().train_step(batch)
        self.kept.count.assign_add(1)
        return found


@pytest.mark.parametrize(
    ("cls", "model", "said"),
    [
        (Digits, net_of(Follows), ".seen, which no checkpoint holds"),
        (CountsBeside, None, "CountsBeside: train_step assigns self.kept.count, which no checkpoint holds"),
    ],
)
def test_a_variable_that_a_step_assigns_and_no_checkpoint_holds_is_refused(cls, model, said, make_trainer):
    refused(make_trainer, MODES, cls, "train_step assigns ", said, "Keep it as an attribute", model=model)


class Teacher(Digits):
    """Keeps what never changes wherever it likes, and a variable of a layer as an attribute."""

    def __init__(self, **given):
        super().__init__(**given)
        inputs = keras.Input((4, 4, 1))
        self.teacher = Plain(net=keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs))))
        self.table = Plain(values=tf.Variable([1.0, 2.0], trainable=False))

    def train_step(self, batch):
        def loss():
            target = tf.nn.softmax(self.teacher.net(batch["image"]))
            return tf.reduce_sum((target - self.model(batch["image"], training=True)) ** 2, 1) * self.table.values[0]

        return self.minimize(loss)


@pytest.mark.parametrize("cls", [Teacher, Recipe])
def test_what_never_changes_is_not_refused(cls, mode, make_trainer):
    given = {} if cls is Teacher else {"model": net_of(Constant)}
    make_trainer(mode, Digits if cls is Recipe else cls, steps=1, **given).train()


# --- compiled models ---------------------------------------------------------------------------------------------------


def test_what_a_compiled_model_has_and_no_step_uses_is_said_by_name(make_recipe, make_trainer, said):
    class Compiled(Digits):
        def __init__(self, **given):
            super().__init__(**given)
            metrics = ["accuracy", keras.metrics.AUC(name="area"), keras.metrics.mean_squared_error]
            self.model.compile("adam", "mse", metrics=metrics)

    make_trainer("graph", Compiled, steps=1)
    (line,) = [line for line in said if "compile" in line]
    assert "model is compiled: minimize and apply do not use the optimizer (Adam) and metrics (accuracy, area, " in line
    assert "mean_squared_error) of compile. Type optimizer=" in line
