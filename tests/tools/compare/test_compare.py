"""Comparison of modes on planted disagreements and on clean steps: the kind, the mode, and the user's own line.

The line that a finding has to name ends in a comment `here`.
"""

from __future__ import annotations

import io
import random
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import modetrain
from modetrain.tools.compare import html_page, table
from modetrain.tools.compare.comparison import TIMES, Comparison, ModeResult
from modetrain.tools.compare.observation import Times
from recipes.gan import Gan
from recipes.mnist import Digits, cross_entropy, hits
from tests.corpus import score
from tests.corpus.cases import cases

STEPS = 2


class Planted(Digits):
    """Digits with something done to the images first."""

    def change(self, x, batch):
        return x

    def change_logits(self, logits, batch):
        return logits

    def change_loss(self, loss, logits):
        return loss

    def train_step(self, batch):
        def loss():
            x = self.change(batch["image"], batch)
            logits = self.change_logits(self.model(x, training=True), batch)
            loss = self.change_loss(cross_entropy(batch["label"], logits), logits)
            return loss, {"accuracy": hits(batch["label"], logits)}

        return self.minimize(loss)


@pytest.fixture
def batches(source):
    def of(steps=STEPS, examples=8, **more):
        rows = np.arange(steps * examples) % 40
        arrays = {name: source.train[name][rows] for name in ("image", "label")}
        return [
            {**{name: array[n * examples : (n + 1) * examples] for name, array in arrays.items()}, **more}
            for n in range(steps)
        ]

    return of


@pytest.fixture
def compared(make_recipe, batches):
    """Compares a class: `compared(Planted, modes=["xla"], name="adamw")`."""

    def run(cls, *, modes=("graph",), model=None, given=None, build=None, timed=False, **settings):
        settings = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.004, **settings}
        build = build or (lambda: make_recipe(cls, model=model, **settings))
        return modetrain.compare(build, given or batches(), modes=modes, timed=timed)

    return run


# --- planted ---------------------------------------------------------------------------------------------------------


class ScaledInGraph(Planted):
    def change(self, x, batch):
        if tf.inside_function():  # here
            x = x * 1.00001
        return x


class EpsilonFolded(Planted):
    def change(self, x, batch):
        y = x + 1e6
        return y - 1e6  # here


class EpsilonFoldedSmall(Planted):
    """It moves the loss by no more than a long sum may lose."""

    def change_loss(self, loss, logits):
        x = logits * 0.001
        y = (x + 1e4) - 1e4  # here
        return loss + tf.reduce_mean(y, axis=-1)


class EpsilonAveraged(Planted):
    def change_loss(self, loss, logits):
        y = (logits + 1e5) - 1e5  # here
        return loss + 0.1 * tf.reduce_mean(y, axis=-1)


class UnderflowFolded(Planted):
    """XLA multiplies the constants first: zero times infinity. It does so only where nothing else needs what is between."""

    def change_loss(self, loss, logits):
        tiny = tf.nn.relu(tf.stop_gradient(logits)) * 1e-30 * 1e-15
        flag = tiny * 1e30 * 1e15  # here
        return loss + tf.reduce_mean(flag, axis=-1)


class StatefulNormal(Planted):
    def change(self, x, batch):
        return x + tf.random.normal(x.shape)  # here


class UnseededDropout(Planted):
    def change(self, x, batch):
        return tf.nn.dropout(x, 0.5)  # here


class NumpyNoise(Planted):
    def change(self, x, batch):
        return x + np.random.normal()  # here


class PythonNoise(Planted):
    def change(self, x, batch):
        return x * random.random()  # here


class Counter(Planted):
    count = 0

    def change(self, x, batch):
        self.count += 1  # here
        return x * (1.0 + 0.1 * self.count)


SEEN = []


class GlobalList(Planted):
    def change(self, x, batch):
        SEEN.append(1)  # here
        return x / len(SEEN)


COUNTED = {"n": 0}


class GlobalDict(Planted):
    def change(self, x, batch):
        COUNTED["n"] += 1  # here
        return x / COUNTED["n"]


class DrawnApart(Planted):
    """The draw is on one line, what is computed with it on another."""

    def change(self, x, batch):
        scale = 1.0 + 0.1 * random.random()  # here
        return x * scale


class WarmUp(Planted):
    """Seen only where a step is repeated long after it was made."""

    count = 0

    def change(self, x, batch):
        self.count += 1  # here
        return x * 2.0 if self.count > 3 else x


class Clock(Planted):
    """What it asks is on another line than the first operation that gives other numbers."""

    def change(self, x, batch):
        seconds = time.perf_counter() % 1.0  # here
        return x * seconds


class Hinge:
    margin = 1.0

    def __call__(self, logits):
        self.margin *= 1.1  # here
        return tf.reduce_mean(tf.nn.relu(self.margin - logits), axis=-1)


class Margin(Planted):
    """The state is in an object of the recipe's."""

    def __init__(self, **given):
        super().__init__(**given)
        self.hinge = Hinge()

    def change_loss(self, loss, logits):
        return loss + self.hinge(logits)


class PeakOfRoots(Planted):
    """The graph optimizer takes the root of the maximum, which is no NaN: in float64 too, and only where it may."""

    def change(self, x, batch):
        roots = tf.sqrt(x - 0.5)
        peak = tf.reduce_max(roots)  # here
        return x + tf.where(tf.math.is_nan(peak), 0.0, tf.cast(peak, x.dtype))


class ArgmaxOfMissing(Planted):
    """NaN is the largest of all in one mode only; the logarithms are float32 in float64 too, and rounded as such."""

    def change(self, x, batch):
        logs = tf.math.log(tf.reshape(tf.cast(x, tf.float32), [x.shape[0], -1]) - 0.5)
        index = tf.argmax(logs, axis=1)  # here
        return x * tf.cast(1 + index, x.dtype)[:, None, None, None] / 1000.0


class Thresholds(Planted):
    """Constants are folded, and a floor falls on the other side."""

    def change(self, x, batch):
        seconds = tf.cast(batch["label"] + tf.range(x.shape[0]), tf.float32)
        bins = tf.floor(seconds / 0.7 * 0.7)  # here
        return x * tf.cast(bins, x.dtype)[:, None, None, None]


class NanGradient(Planted):
    """The gradient of the branch that is not taken: NaN in every mode alike, which is no disagreement."""

    def change(self, x, batch):
        safe = tf.where(x > 0, tf.sqrt(x), 0.0)
        return safe


class TruncatedNormal(Planted):
    def change(self, x, batch):
        return x + tf.random.stateless_truncated_normal([1], self.seed("noise"))  # here


class NanInGraph(Planted):
    def change(self, x, batch):
        if tf.inside_function():  # here
            x = tf.sqrt(x - 0.5)
        return x


class OutOfRange(Planted):
    def change(self, x, batch):
        return x * tf.gather(tf.constant([1.0, 2.0]), batch["label"] + 5)[:, None, None, None]  # here


class Asserts(Planted):
    def change(self, x, batch):
        tf.debugging.assert_less(x, 0.5)  # here
        return x


class Numpy(Planted):
    def change(self, x, batch):
        return x * float(x.numpy().mean())  # here


class KeepsTheFirst(Planted):
    """Repeated in the same process it gives the same, for what it has kept is there."""

    def change_loss(self, loss, logits):
        if not hasattr(self, "first"):
            self.first = tf.reduce_mean(tf.stop_gradient(loss))  # here
        return loss / self.first


class CountsOutsideOfFunctions(Planted):
    """What a graph leaves out shows in a variable before it shows in a loss."""

    def __init__(self, **given):
        super().__init__(**given)
        self.mean = tf.Variable(0.0)

    def change(self, x, batch):
        if not tf.inside_function():  # here
            self.mean.assign(tf.reduce_mean(tf.cast(x, tf.float32)))
        return x


PLANTED = {
    ScaledInGraph: ("different", "graph", "tracing"),
    EpsilonFolded: ("different", "graph", "grappler"),
    StatefulNormal: ("random", "graph", None),
    UnseededDropout: ("random", "graph", None),
    NumpyNoise: ("random", "graph", None),
    PythonNoise: ("random", "graph", None),
    Counter: ("impure", "graph", "python"),
    GlobalList: ("impure", "graph", "python"),
    GlobalDict: ("impure", "graph", "python"),
    DrawnApart: ("random", "graph", None),
    WarmUp: ("impure", "graph", "python"),
    Clock: ("impure", "graph", "python"),
    Margin: ("impure", "graph", "python"),
    TruncatedNormal: ("random", "xla", None),
    PeakOfRoots: ("different", "graph", "grappler"),
    ArgmaxOfMissing: ("different", "xla", "xla"),
    Thresholds: ("different", "graph", "grappler"),
    NanInGraph: ("nonfinite", "graph", "tracing"),
    OutOfRange: ("error", "xla", None),
    Asserts: ("error", "xla", None),
    Numpy: ("error", "graph", "tracing"),
    KeepsTheFirst: ("impure", "graph", "python"),
    CountsOutsideOfFunctions: ("different", "graph", "tracing"),
}


@pytest.mark.parametrize("cls", PLANTED, ids=lambda cls: cls.__name__)
@pytest.mark.sampled(5)
def test_a_planted_disagreement_is_found_and_its_line_named(cls, compared):
    kind, mode, blame = PLANTED[cls]
    comparison = compared(cls, modes=[mode])
    assert not comparison.agrees
    (finding,) = comparison.findings
    assert (finding.mode, finding.kind, finding.blame) == (mode, kind, blame), str(comparison)
    assert finding.place is not None
    assert finding.place.text.endswith("# here"), str(comparison)
    assert finding.place.file == __file__
    assert finding.place.text.removesuffix("# here").strip() in str(comparison)


def test_what_is_kept_of_an_earlier_step_is_found_in_a_recipe_that_has_made_none(compared):
    (finding,) = compared(KeepsTheFirst).findings
    assert finding.step == 2
    assert "eager gives other numbers in step 2 where none was made before" in finding.message
    assert "MT203" in finding.message


CORPUS = (
    "clean/numbers.SlotsOfTheFirstStep",
    "clean/numbers.WeightsInBfloat16",
    "clean/numbers.HeadInBfloat16",
    "numeric/integers.CodesOutOfRange",
    "numeric/shapes.TailsOfMasked",
)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.sampled(3)
def test_a_case_of_the_corpus_is_judged_right(name):
    (case,) = (case for case in cases() if case.key == f"{name} compare")
    assert score.look(case).verdict == ("silent" if name.startswith("clean") else "right line")


def test_weights_that_have_no_name_are_the_same_in_every_recipe_that_is_built(compared):
    class Unnamed(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=shape[1:], initializer="ones")

        def call(self, x):
            return x * self.scale

    def model(image_shape, classes):
        flat = [keras.Input(image_shape), keras.layers.Flatten(), Unnamed(), keras.layers.Dense(classes)]
        return keras.Sequential(flat)

    comparison = compared(Digits, model=model)
    assert comparison.agrees, str(comparison)


def test_a_dictionary_that_changes_is_named_with_what_is_in_it(compared):
    COUNTED["n"] = 0
    (finding,) = compared(GlobalDict).findings
    assert re.search(r"COUNTED\['n'\] from \d+ to \d+ at ", finding.message), finding.message


def test_a_generator_of_pythons_is_named_and_what_compiling_makes_of_it(compared):
    (finding,) = compared(DrawnApart).findings
    assert "changes the state of Python's random at " in finding.message
    assert "draws once, while it is traced, and keeps that number for the whole run" in finding.message


@pytest.mark.parametrize("cls", [EpsilonFoldedSmall, EpsilonAveraged])
@pytest.mark.sampled(1)
def test_what_adds_nothing_up_is_no_rounding_however_small(cls, compared, batches):
    comparison = compared(cls, modes=["graph", "xla"], given=batches(examples=32))
    assert [(one.mode, one.kind) for one in comparison.findings] == [("graph", "different"), ("xla", "different")]
    for finding, blame in zip(comparison.findings, ("grappler", "xla"), strict=True):
        assert finding.floors < 1000
        assert finding.op == "Sub", str(comparison)
        assert finding.place.text.endswith("# here")
        assert finding.blame == blame
        assert "cancellation" in finding.message


def test_nan_of_a_folded_constant_has_its_line(compared, batches):
    comparison = compared(UnderflowFolded, modes=["xla"], given=batches(examples=32))
    (finding,) = comparison.findings
    assert (finding.kind, finding.blame) == ("nonfinite", "xla")
    assert finding.place is not None, str(comparison)
    assert finding.place.text.endswith("# here")
    assert "it is no rounding" not in finding.message


def test_gradients_that_are_not_finite_in_the_reference_are_reported(compared):
    class Overflows(Planted):
        def change_loss(self, loss, logits):
            return loss + tf.reduce_mean(tf.sqrt(tf.nn.relu(logits) * 0.0), axis=-1)

    comparison = compared(Overflows)
    assert comparison.agrees, str(comparison)
    (note,) = [note for note in comparison.notes if "not finite" in note]
    assert note.startswith("eager: not finite itself in step 1: ")
    assert "gradient of" in note


def test_weight_decay_that_one_mode_leaves_out_is_found(compared, monkeypatch):
    """No metric and no gradient shows it; only the update does."""
    from modetrain.engine import update_rules

    decay = update_rules.decay
    monkeypatch.setattr(update_rules, "decay", lambda *given: None if tf.inside_function() else decay(*given))
    comparison = compared(Planted)
    (finding,) = comparison.findings
    assert finding.tensor.endswith("kernel")
    assert finding.floors > 10
    assert {verdict.kind for verdict in comparison.arms["graph"].worst.values() if verdict.verdict == "DIFFERENT"} == {
        "variable"
    }


@pytest.fixture
def scaled(compared, said):
    """A comparison of `ScaledInGraph`, and what was logged; the tests of this file share one."""
    if not _SCALED:
        _SCALED.append((compared(ScaledInGraph, clip_norm=1.0), [*said]))
    return _SCALED[0]


_SCALED: list[tuple[Comparison, list[str]]] = []


def test_the_first_difference_is_measured(scaled):
    finding = scaled[0].findings[0]
    assert finding.step == 1
    assert finding.steps == STEPS
    assert finding.expected != finding.got
    assert finding.ulp > 0
    assert 1e-7 < finding.relative < 1e-3
    assert finding.tensor in finding.tensors


# --- the reference fails ---------------------------------------------------------------------------------------------


class DividesByZero(Planted):
    def change(self, x, batch):
        return x * tf.cast(1 // (batch["label"][0] * 0), tf.float32)  # here


class FailsOtherwise(Planted):
    """In each mode with an error of its own."""

    def change(self, x, batch):
        if tf.inside_function():
            raise KeyError("traced")  # other
        raise ValueError("eager")  # here


class FailsLater(Planted):
    """In the second step, in each mode otherwise."""

    def change(self, x, batch):
        odd = tf.cast(batch["label"][0], tf.float32) != 5.0
        tf.debugging.assert_equal(odd, True, "traced" if tf.inside_function() else "eager")  # here
        return x


def test_a_reference_that_cannot_make_one_step_agrees_with_nothing(compared):
    comparison = compared(DividesByZero)
    assert not comparison.agrees
    assert comparison.steps == 0
    (finding,) = comparison.findings
    assert (finding.mode, finding.kind, finding.step) == ("eager", "error", 1)
    assert finding.place.text.endswith("# here")
    assert "All modes fail alike" in finding.message
    assert "Integer division by zero" in finding.message
    assert {arm.verdict for arm in comparison.arms.values()} == {"failed"}
    assert "graph compared with eager: no step could be" in str(comparison)


def test_modes_that_fail_otherwise_are_reported_with_their_lines(compared):
    comparison = compared(FailsOtherwise)
    first, second = comparison.findings
    assert (first.mode, first.kind, second.mode, second.kind) == ("eager", "error", "graph", "error")
    assert "alike" not in first.message
    assert first.place.text.endswith("# here")
    assert second.place.text.endswith("# other")
    assert "KeyError" in second.message
    assert comparison.arms["graph"].verdict == "failed"


def test_a_mode_in_which_nothing_was_compared_is_not_called_equal(compared):
    comparison = compared(OutOfRange, modes=["graph", "xla"])
    assert comparison.arms["graph"].verdict == "failed"
    (finding,) = comparison.findings
    assert finding.mode == "xla"


def test_a_page_of_nothing_compared_says_so(compared):
    comparison = compared(OutOfRange, modes=["xla"], timed=True)
    shown = html_page.render(comparison, title="t", command="c", facts={})
    assert "all equal" not in shown
    assert "nothing was compared" in shown
    assert "never" not in shown
    assert "no step could be compared" in shown
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.render(comparison))
    told = console.export_text()
    assert "never" not in told
    assert "no step could be compared" in told


# --- clean -----------------------------------------------------------------------------------------------------------


def with_batch_norm(bias=True):
    def build(image_shape, classes):
        from keras import layers

        x = inputs = keras.Input(image_shape)
        # Its bias has a gradient of zero, which Adam makes an update of the full size out of: of rounding noise.
        x = layers.Conv2D(4, 3, padding="same", use_bias=bias)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(0.3)(layers.Flatten()(x))
        return keras.Model(inputs, layers.Dense(classes)(x))

    return build


class Penalised(Planted):
    """A Python `for`, a list of the step's own, a constant of NumPy's, and a draw that is a function of the step."""

    def change(self, x, batch):
        parts = []
        for factor in np.linspace(0.5, 1.5, 3):
            parts.append(x * float(factor))
        return tf.add_n(parts) / 3.0 + 0.01 * tf.random.stateless_normal(x.shape, self.seed("noise"))


class Normalised(Planted):
    """Numbers next to equal, normalised as Keras does it: XLA fuses what takes one large number from another."""

    dtype = property(lambda self: keras.config.floatx())

    def change(self, x, batch):
        x = 5.0 + 0.01 * tf.cast(x, self.dtype)
        mean, variance = tf.nn.moments(x, [0, 1, 2, 3])
        return tf.nn.batch_normalization(x, mean, variance, tf.zeros_like(mean), tf.ones_like(mean), 1e-9)


class NormalisedNarrow(Normalised):
    """In float32 where the models compute in float64 too: that leaves its rounding."""

    dtype = "float32"


BOTH = ("graph", "xla")
CLEAN = {
    "convolution, batch normalisation and dropout": (Digits, with_batch_norm(), BOTH, {}),
    "Python over constants": (Penalised, None, BOTH, {}),
    "clipped and averaged": (Planted, None, ["graph"], {"clip_norm": 0.1, "ema": 0.9}),
    "momentum": (Planted, None, ["graph"], {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}),
    "micro-batches": (Digits, None, ["graph"], {"accumulate": 2}),
    "numbers next to equal": (Normalised, None, BOTH, {}),
    "numbers next to equal, in float32": (NormalisedNarrow, None, BOTH, {}),
    "NaN in all modes": (NanGradient, None, ["graph"], {}),
}


LONG = "numbers next to equal, in float32"


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.long) if one == LONG else one for one in CLEAN])
@pytest.mark.sampled(2)
def test_a_clean_step_agrees(name, compared):
    cls, model, modes, settings = CLEAN[name]
    comparison = compared(cls, modes=modes, model=model, **settings)
    assert comparison.agrees, str(comparison)
    assert f" with eager over {STEPS} steps" in str(comparison)
    assert comparison.steps == STEPS
    for mode in modes:
        arm = comparison.arms[mode]
        assert arm.verdict in ("bitwise", "within noise", "rounding")
        assert arm.effective["compile"] == mode
        assert {"metric", "gradient", "variable", "slot"} <= set(arm.counts)


def test_two_models_and_two_optimizers_agree(compared, make_recipe):
    from recipes import models

    def small(image_shape, classes):
        return models.gan(image_shape, classes, latent=4, width=2)

    def build():
        return make_recipe(Gan, model=small, name="adam", learning_rate=2e-4)

    assert compared(Gan, modes=["graph"], build=build).agrees


# --- what it says ----------------------------------------------------------------------------------------------------


def test_the_library_itself_computes_all_of_a_step_in_float64(scaled):
    said = scaled[1]
    assert "  graph: differs; trying the same steps in float64" in said
    assert not [line for line in said if "float32" in line or "cannot be had" in line]


def test_findings_are_data_and_text(scaled):
    comparison = scaled[0]
    assert "graph" in str(comparison)
    assert comparison.to_json()["findings"][0]["place"]["line"] == comparison.findings[0].place.line
    assert comparison.to_json()["agrees"] is False


def test_speed_drift_and_break_even_are_there(compared):
    arm = compared(Planted, timed=True).arms["graph"]
    assert arm.time.compile_s > 0
    assert arm.time.step_ms["p50"] <= arm.time.step_ms["p90"]
    assert arm.time.traces == 1
    assert len(arm.drift["loss"]) == len(arm.losses["loss"]) == len(arm.distance) == STEPS
    assert arm.break_even_steps is None or arm.break_even_steps > 0


def test_the_table_of_times_says_when_compiling_pays_off():
    time = Times(
        compile_s=2.04,
        first_step_ms=3.0,
        step_ms={"p50": 1.5, "p90": 2.0},
        examples_per_s=1234.5,
        steps_per_call=1,
        traces=1,
    )
    paid = {"eager": None, "graph": 0.0, "xla": None, "slow": 1500.0}
    arms = {mode: ModeResult(verdict="bitwise", time=time, break_even_steps=after) for mode, after in paid.items()}
    arms["died"] = ModeResult(verdict="failed")
    told = Comparison(reference="eager", modes=tuple(arms), first_step=0, steps=1, draws=1, arms=arms)
    assert told.times()[0] == ("eager", "2.0", "3.0", "1.50", "2.00", "1,234", "", "1", "")
    assert [row[-1] for row in told.times()] == ["", "at once", "never", "1,500 steps"]
    assert all(len(row) == len(TIMES) for row in told.times())


def test_a_recipe_that_is_there_already_serves_too(make_recipe, batches):
    recipe = make_recipe(Planted, name="adamw")
    assert modetrain.compare(recipe, batches(), modes=["graph"]).agrees


def test_what_it_cannot_do_is_refused(make_recipe, batches):
    with pytest.raises(ValueError, match=r"do=compare"):
        modetrain.compare(make_recipe(), batches(), modes=["mirrored"])
    with pytest.raises(ValueError, match=r"no batches"):
        modetrain.compare(make_recipe(), [])
