"""The short form at the start of a run, and the check for stale Python while it goes on."""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain import Callback
from modetrain.engine.batching import BatchSharding
from modetrain.engine.program import Program
from modetrain.mode import Mode
from modetrain.tools.inspect.detectors.stale_state import StaleStateCallback, StaleStateDetector
from modetrain.tools.inspect.startup_check import StartupCheck, format_inspect_command
from modetrain.trainer import Trainer
from recipes.mnist import Digits, cross_entropy


class Careless(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.calls = 0
        self.weight = 1.0
        self.table = None

    def train_step(self, batch):
        self.calls += 1
        if self.table is None:
            self.table = [1.0]
        values = super().train_step(batch)
        print("loss", values["loss"])
        return {**values, "weighted": values["loss"] * self.weight * random.random()}


@pytest.fixture
def started(make_recipe, make_data, tmp_path, said):
    """Trains with the short form on; returns what was said."""

    def run(cls, compile="graph", callbacks=(), steps=6):
        recipe, mode = make_recipe(cls, steps=steps), Mode(name=compile, compile=compile)
        callbacks = [*callbacks, StaleStateCallback(every=2)]
        trainer = Trainer(
            recipe, make_data(sharding=BatchSharding()), mode=mode, steps=steps, callbacks=callbacks, folder=tmp_path
        )
        check = StartupCheck(recipe, mode, "python -m modetrain recipe=mine")
        trainer.programs.train.observe = check.observer("train_step")
        trainer.programs.eval.observe = check.observer("eval_step")
        said.clear()
        trainer.train()
        trainer.evaluate()
        return said

    return run


@pytest.mark.parametrize("compile", ["graph", "xla"])
def test_one_line_for_each_finding_and_the_command_for_details(compile, started):
    said = started(Careless, compile)
    warnings = [line.split(": ", 2)[2] for line in said if line.startswith("WARNING")]
    assert [line.split()[0] for line in warnings] == ["MT201", "MT101", "MT301"]
    assert "self.calls: 0 -> 1" in warnings[0]
    assert said[-2:] == ["details with:", "  python -m modetrain recipe=mine do=inspect"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("recipe=mine run_dir=out steps=9", "recipe=mine steps=9 do=inspect"),
        ("recipe=mine resume=latest 'data.dir=a b' do=evaluate", "recipe=mine 'data.dir=a b' do=inspect"),
        ("recipe=mine +resume=x stop_after=1h --config-dir more", "recipe=mine do=inspect --config-dir more"),
    ],
)
def test_the_command_for_details_asks_for_a_folder_of_its_own(typed, said):
    begin = "python -m modetrain "
    assert format_inspect_command(begin + typed) == begin + said


def test_the_short_form_looks_at_the_pipeline_too(make_recipe, source, said):
    """What makes `prepare` no function of (batch, seed): the same command would train differently."""

    class Clean(Digits):
        def prepare(self, batch, *, seed, training):
            print("traced")
            shift = tf.numpy_function(lambda image: image[:, ::-1], [batch["image"]], tf.uint8)
            return {
                **batch,
                "image": tf.image.stateless_random_flip_left_right(tf.ensure_shape(shift, [8, 4, 4, 1]), seed),
            }

    class Layer(Digits):
        def __init__(self, **given):
            super().__init__(**given)
            self.flip = keras.layers.RandomFlip()

        def prepare(self, batch, *, seed, training):
            return {**batch, "image": self.flip(batch["image"], training=training)}

    class Stateful(Digits):
        def prepare(self, batch, *, seed, training):
            return {**batch, "image": tf.image.random_flip_left_right(batch["image"])}

    class Frozen(Digits):
        def prepare(self, batch, *, seed, training):
            return {**batch, "image": tf.roll(batch["image"], random.randrange(4), axis=1)}

    class Inside(Digits):
        def prepare(self, batch, *, seed, training):
            return {**batch, "noise": tf.numpy_function(lambda: np.random.random(8), [], tf.float64)}

    batch = {name: array[:8] for name, array in source.train.items()}
    for cls, code in (
        (Digits, None),
        (Clean, None),
        (Layer, "MT805"),
        (Stateful, "MT801"),
        (Frozen, "MT802"),
        (Inside, "MT805"),
    ):
        said.clear()
        recipe = make_recipe(cls, options={"shift": 2})
        begin = random.getstate(), np.random.get_state()[2]
        StartupCheck(recipe, Mode(name="graph", compile="graph"), "python -m modetrain recipe=mine").check_pipeline(
            batch
        )
        named = [line.split()[2] for line in said if "MT8" in line]
        assert named == ([code] if code else []), cls
        assert all("test_startup_check.py:" in line for line in said if code and code in line)
        assert (random.getstate(), np.random.get_state()[2]) == begin, "looking changes nothing"


@pytest.mark.parametrize("compile", ["eager", "graph", "xla"])
def test_a_summary_that_a_step_drops_is_named_once(compile, make_trainer, tmp_path):
    """Without a writer TensorFlow drops it in silence; with one of the user's own it is written, but for XLA."""
    own = tf.summary.create_file_writer(str(tmp_path / "own"))

    class Summary(Digits):
        def train_step(self, batch):
            tf.summary.histogram("pixels", batch["image"], step=0)
            if compile != "xla":
                with own.as_default(step=0):
                    tf.summary.scalar("mine", 1.0)
            return super().train_step(batch)

    trainer = make_trainer(compile, Summary, steps=3)
    trainer.train()
    named = [line for line in trainer.said if "tf.summary" in line]
    assert len(named) == 1
    assert "test_startup_check.py:" in named[0]
    assert "A value that the step returns becomes a curve" in named[0]
    own.flush()
    assert (sum(file.stat().st_size for file in (tmp_path / "own").iterdir()) > 100) == (compile != "xla")


@pytest.mark.parametrize("compile", ["graph", "xla"])
def test_a_clean_recipe_prints_nothing(compile, started):
    assert started(Digits, compile) == []


HISTORY: list = []


class Habits(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = iter([1.0, 0.9] * 300)

    def train_step(self, batch):
        logging.getLogger("mine").warning("a step")
        logging.warning("another")
        warnings.warn("a third", stacklevel=1)
        rate = next(self.rates)
        values = super().train_step(batch)
        HISTORY.append(values["loss"])
        self.last = values
        return {**values, "rate": values["loss"] * rate}


@pytest.fixture
def loud():
    """The logging of a user who writes it to stderr, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


def test_it_prints_what_inspect_finds_and_of_logging_only_that(started, loud):
    said = [line for line in started(Habits) if line.startswith("WARNING")]
    codes = [line.split(": ", 2)[2].split()[0] for line in said]
    assert codes == ["MT102", "MT102", "MT102", "MT205", "MT203", "MT203"], said


class Failing(Digits):
    def train_step(self, batch):
        print("before")
        raise ValueError("mine")


def test_calls_before_tracing_failed_are_printed(make_recipe, make_data, said):
    recipe, mode = make_recipe(Failing), Mode(name="graph", compile="graph")
    program = Program(recipe.run_train_step, mode, state=recipe.state)
    program.observe = StartupCheck(recipe, mode).observer("train_step")
    with pytest.raises(ValueError, match="mine"):
        program.prepare(next(make_data().train_blocks(0, 2)))
    assert ["MT101" in line for line in said] == [True]


def test_everything_that_was_replaced_is_restored(started):
    before = (print, random.random, keras.Layer.__init__)
    started(Careless)
    assert before == (print, random.random, keras.Layer.__init__)


# --- stale Python -----------------------------------------------------------------------------------------------------


class Anneals(Callback):
    def on_step(self, trainer):
        trainer.recipe.weight *= 0.5
        trainer.recipe.note = "not read by the step"


def test_a_value_that_a_callback_changes_is_printed_once_with_the_line_that_reads_it(started):
    said = [line for line in started(Careless, callbacks=[Anneals(every=2)]) if "MT401" in line]
    (line,) = said
    assert line.startswith("WARNING: step 2: ")
    assert "self.weight was 1.0 when the step was traced and is 0.5 now: the compiled step keeps 1.0" in line
    reads = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "* self.weight *" in text)
    assert f"test_startup_check.py:{reads}: MT401" in line


def test_a_layer_that_is_frozen_later_is_found(make_recipe):
    recipe = make_recipe(Digits)
    watch = StaleStateDetector(recipe)
    assert watch.find_changed() == []
    recipe.model.layers[-1].trainable = False
    (one,) = watch.find_changed()
    assert one.code == "MT403"
    assert "was True when the step was traced and is False now" in one.what
    assert watch.find_changed() == []


def test_an_optimizer_that_is_swapped_is_found(make_recipe):
    recipe = make_recipe(Careless)
    watch = StaleStateDetector(recipe)
    recipe.model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    (one,) = watch.find_changed()
    assert one.code == "MT404"
    assert one.what.startswith("self.model was ")


# --- what is no mean over examples ------------------------------------------------------------------------------------


class Means(Digits):
    """Subclasses say what is minimized and shown, from logits and losses of the examples."""

    def train_step(self, batch):
        print("a step")
        self.seen = [*getattr(self, "seen", ()), len(batch["label"])]

        def loss():
            z = self.model(batch["image"], training=True)
            return self.loss(z, tf.cast(batch["label"], tf.float32), cross_entropy(batch["label"], z))

        return self.minimize(loss)

    def eval_step(self, batch):
        z = self.model(batch["image"], training=False)
        return {"loss": cross_entropy(batch["label"], z), **self.metrics(z, tf.cast(batch["label"], tf.float32))}

    def metrics(self, z, y):
        return {}


class PerExample(Means):
    def loss(self, z, y, losses):
        return losses


class OfTokens(Means):
    def loss(self, z, y, losses):
        return tf.reduce_sum(losses * y) / tf.reduce_sum(y)


class HidesBehindALargeValue(Means):
    def loss(self, z, y, losses):
        return 1000.0 + tf.reduce_sum(z[:, 0] * y) / tf.reduce_sum(y)


class OwnTape(PerExample):
    def train_step(self, batch):
        y = tf.cast(batch["label"], tf.float32)
        with tf.GradientTape() as tape:
            losses = cross_entropy(batch["label"], self.model(batch["image"], training=True))
            loss = tf.reduce_sum(losses * y) / tf.reduce_sum(y)
        self.apply(tape.gradient(loss, [v.value for v in self.model.trainable_variables]))
        return {"each": losses}


class ShowsF1(PerExample):
    def metrics(self, z, y):
        p = tf.cast(tf.argmax(z, 1) > 0, tf.float32)
        return {"f1": 2 * tf.reduce_sum(p * y) / (tf.reduce_sum(p) + tf.reduce_sum(y)), "share": tf.reduce_mean(p)}


class LargeMean(Means):
    def loss(self, z, y, losses):
        return 1000.0 + tf.reduce_mean(z[:, 0] * y), {"mean": tf.reduce_mean(losses), "weights": tf.norm(y[:0])}


class Noisy(Means):
    """Draws of every kind."""

    def loss(self, z, y, losses):
        z += tf.random.stateless_normal(z.shape, self.seed("rows"))
        z += tf.random.stateless_gamma([len(z), 1], self.seed("others"), alpha=1.0) + tf.random.normal([len(z), 1])
        return tf.reduce_mean(z[:, 0] * y + losses)


class Centre(keras.layers.Layer):
    def call(self, x, training=None):
        return x - tf.reduce_mean(x, axis=0) if training else x


class Centred(Means):
    """By a layer of the user's own: micro-batches have statistics of their own, as in batch normalisation."""

    centre = Centre()

    def loss(self, z, y, losses):
        return tf.reduce_mean(self.centre(z, training=True)[:, 0] * y)


class TakesPairs(Means):
    def loss(self, z, y, losses):
        return tf.reduce_mean(tf.reduce_sum(tf.reshape(losses, [len(y) // 2, 2]) ** 2, axis=1))


def normalised(image_shape, classes):
    x = inputs = keras.Input(image_shape)
    x = keras.layers.BatchNormalization()(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Dropout(0.5)(x)))


@pytest.mark.parametrize(
    ("cls", "accumulate", "texts"),
    [
        (OfTokens, 2, ["MT701", "loss: ", "averaged over 2 micro-batches (optimizer.accumulate=2)"]),
        (OfTokens, 1, []),
        (HidesBehindALargeValue, 2, ["MT701", "loss: "]),
        (OwnTape, 2, ["MT701", "loss: "]),
        (ShowsF1, 1, ["MT707", "f1: ", "averaged over the 3 batches of an evaluation (data.eval_batch_size=10)"]),
        (PerExample, 2, []),
        (LargeMean, 2, []),
        (Noisy, 2, []),
        (TakesPairs, 2, []),
        (Centred, 2, []),
    ],
)
def test_a_number_that_is_no_mean_over_examples_is_said_before_the_first_step(
    cls, accumulate, texts, make_trainer, capfd
):
    trainer = make_trainer("eager", cls, accumulate=accumulate, model=normalised)
    before = {name: value.numpy().tobytes() for name, value in trainer.recipe.state().items()}
    StartupCheck(trainer.recipe, trainer.mode).check_means(trainer, evaluates=True)
    assert len(trainer.said) == bool(texts), trainer.said
    assert all(text in trainer.said[0] for text in texts)
    assert {name: value.numpy().tobytes() for name, value in trainer.recipe.state().items()} == before
    assert not hasattr(trainer.recipe, "seen")
    printed = capfd.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith("WARNING: ")] == [], "the library's own warning alone"


def test_accumulation_is_inspected_for_it_too(make_recipe, source):
    batches = [{name: array[start : start + 16] for name, array in source.train.items()} for start in (0, 16)]
    found = modetrain.inspect(make_recipe(OfTokens, accumulate=2), batches, modes=["graph"])
    assert ("MT701", "every") in {(one.code, one.mode) for one in found}
    assert "MT701" not in {one.code for one in modetrain.inspect(make_recipe(OfTokens), batches, modes=["graph"])}
