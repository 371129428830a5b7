"""`do=inspect` and `modetrain.inspect`: their findings, the lines, and the state that they restore."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import queue
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain.mode import Mode
from modetrain.settings import InspectSettings
from modetrain.tools.inspect import findings_report
from modetrain.tools.inspect.codes import CODES
from modetrain.tools.inspect.finding import Finding
from modetrain.tools.inspect.inspected_step import mode_for
from modetrain.tools.inspect_command import has_findings, target_of
from tests.corpus import score
from tests.corpus.base import Tiny, batches, made
from tests.corpus.cases import cases
from tests.corpus.numeric.rounding import TinyLogarithm

ROOT = Path(__file__).resolve().parents[3]

RECIPE = """
import random

from recipes.mnist import Digits


class Noisy(Digits):
    def train_step(self, batch):
        print("a step")
        scale = random.random()
        values = super().train_step(batch)
        return {**values, "scale": values["loss"] * scale}
"""
CONFIG = """# @package _global_
# Prints and draws in Python.
defaults:
  - override /model: mlp
recipe:
  _target_: recipes.noisy.Noisy
model:
  hidden: [4]
"""
WORDS = ("data.source=bundled", "data.batch_size=8", "do=inspect")


@pytest.fixture(scope="module")
def inspected(cli):
    cli.write({"recipes/noisy.py": RECIPE, "conf/recipe/noisy.yaml": CONFIG})
    return cli.run("recipe=noisy", "mode=graph", *WORDS, folder="noisy")


# --- the command line -------------------------------------------------------------------------------------------------


def test_findings_are_printed_with_line_text_reason_and_fix(inspected):
    assert inspected.code == 1, inspected.err
    assert 'recipes/noisy.py:9: MT101 prints only while tracing\n    print("a step")' in inspected.out
    assert "recipes/noisy.py:10: MT301" in inspected.out
    assert "    why   A traced step runs its Python once" in inspected.out
    assert "    fix   Use tf.random.stateless_uniform" in inspected.out
    assert "inspect: 2 findings for target=graph: MT101, MT301" in inspected.out


def test_findings_are_kept_as_data(inspected):
    kept = json.loads((inspected.folder / "inspect.json").read_text())
    assert kept["target"] == "graph"
    assert [(one["code"], one["line"]) for one in kept["findings"]] == [("MT101", 9), ("MT301", 10)]
    assert set(kept["findings"][0]) == {field.name for field in dataclasses.fields(Finding)}
    assert inspected.json["status"] == "completed"
    assert inspected.json["steps"] == 0


def test_a_shipped_recipe_has_no_findings(cli):
    run = cli.run("recipe=mnist", "model.filters=[4]", "mode=xla", "inspect.target=tpu", *WORDS, folder="clean")
    assert run.code == 0, run.out
    assert "inspect: nothing found for target=tpu" in run.out


STUCK = """
import tensorflow as tf

from recipes.helping import far
from recipes.mnist import Digits


class Stuck(Digits):
    def train_step(self, batch):
        dark = tf.boolean_mask(batch["image"], batch["label"] > 4)
        classes, _ = tf.unique(batch["label"])
        names = tf.strings.as_string(batch["label"])
        values = self.minimize(lambda: tf.reduce_mean(self.model(batch["image"])))
        seen = tf.reduce_sum(dark) + tf.cast(tf.size(classes) + tf.size(names), tf.float32)
        return {**values, "seen": seen + far(batch["label"])}
"""
HELPING = """
import tensorflow as tf


def far(labels):
    return tf.reduce_mean(tf.cast(tf.where(labels > 2), tf.float32))
"""


def test_what_a_tpu_cannot_compile_is_found_without_one(cli):
    config = CONFIG.replace("noisy.Noisy", "stuck.Stuck")
    cli.write({"recipes/stuck.py": STUCK, "recipes/helping.py": HELPING, "conf/recipe/stuck.yaml": config})
    run = cli.run("recipe=stuck", "mode=tpu", *WORDS, folder="stuck")
    assert run.code == 1, run.err
    found = json.loads((run.folder / "inspect.json").read_text())["findings"]
    assert [(Path(one["file"]).name, one["line"], one["code"]) for one in found] == [
        ("helping.py", 6, "MT504"),
        ("stuck.py", 10, "MT504"),
        ("stuck.py", 11, "MT504"),
        ("stuck.py", 12, "MT505"),
        ("stuck.py", 15, "MT707"),
    ]
    assert "fix   Mask instead of selecting" in run.out
    assert "no TPU is used" in run.out
    assert run.json["mode"]["requested"] == "tpu"
    assert run.json["mode"]["effective"]["strategy"] == "one_device"


@pytest.mark.long  # as the target, above; what mode=tpu adds, in the test before
def test_a_shipped_recipe_has_no_findings_for_a_tpu(cli):
    run = cli.run("recipe=mnist", "model.filters=[4]", "mode=tpu", *WORDS, folder="ready")
    assert run.code == 0, run.out + run.err
    assert "inspect: nothing found for target=tpu" in run.out


SHARED = """
import tensorflow as tf

from recipes.mnist import Digits


class Shared(Digits):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            found = self.model(batch["image"], training=True)[:, 0]
            loss = tf.reduce_sum(found) / self.info.batch_size
        variables = self.model.trainable_variables
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
        self.apply(gradients, variables)
        return {"loss": loss}
"""


@pytest.mark.parametrize(
    "mode",
    [
        ("mode=mirrored",),
        pytest.param(("mode=mirrored", "mode.replicas=2"), marks=pytest.mark.long),
        pytest.param(("mode=multiworker",), marks=pytest.mark.long),
    ],
    ids=" ".join,
)
def test_a_mode_of_several_replicas_is_judged_for_several(mode, cli):
    config = CONFIG.replace("noisy.Noisy", "shared.Shared")
    cli.write({"recipes/shared.py": SHARED, "conf/recipe/shared.yaml": config})
    run = cli.run("recipe=shared", *mode, *WORDS, folder=f"shared{len(mode)}{mode[0][5:]}")
    assert run.code == 1, run.out + run.err
    found = json.loads((run.folder / "inspect.json").read_text())["findings"]
    assert [(one["code"], one["line"]) for one in found] == [("MT701", 11), ("MT703", 13)]
    assert f"strategy={mode[0].removeprefix('mode=')}, checked for 2 replicas" in run.out, (
        "and not that of this process"
    )
    assert "inspect: judged for 2 replicas" in run.out


@pytest.mark.parametrize(
    ("mode", "asked", "target"),
    [
        (Mode(name="graph", compile="graph"), None, "graph"),
        (Mode(name="eager", compile="eager"), None, "graph"),
        (Mode(name="xla", compile="xla"), None, "xla"),
        (Mode(name="xla", compile="xla"), "tpu", "tpu"),
        (Mode(name="tpu", compile="xla", strategy="tpu"), None, "tpu"),
    ],
)
def test_the_target_follows_from_the_mode(mode, asked, target, settings):
    chosen = settings(mode=mode, inspect=InspectSettings(target=asked))
    assert target_of(chosen) == target
    assert mode_for(target, mode).compile == ("graph" if target == "graph" else "xla")


# --- the library ------------------------------------------------------------------------------------------------------


class Counts(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.calls = 0
        self.seen = []
        self.rng = np.random.default_rng(0)

    def losses(self, batch):
        self.calls += 1
        self.seen.append(super().losses(batch))
        return self.seen[-1] * self.rng.normal()


def test_findings_are_data():
    findings = modetrain.inspect(made(Counts), batches(), modes=["graph"])
    assert [one.code for one in findings] == ["MT201", "MT203", "MT301"]
    first = findings[0]
    assert first.file == __file__
    assert first.text == "self.calls += 1"
    assert first.what == "self.calls: 0 -> 1"
    assert first.evidence
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.line = 3


class Takes(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = iter([1.0, 0.9, 0.8, 0.7] * 100)
        self.pairs = zip(iter([1.0] * 300), iter([2.0] * 300))
        self.few = (0.5**i for i in range(100))
        self.numbers = iter(range(1000))
        self.calls = 0

    def losses(self, batch):
        self.calls += 1
        rate = next(self.rates)
        one, two = next(self.pairs)
        few = next(self.few)
        number = next(self.numbers)
        return super().losses(batch) * rate * one * two * few * float(number)


def test_taking_the_next_item_is_found_for_every_kind_of_iterator_and_alone():
    recipe = made(Takes)
    findings = modetrain.inspect(recipe, batches(), modes=["graph", "mirrored"])
    assert [(one.code, one.text.partition(" = ")[2]) for one in findings if one.code != "MT201"] == [
        ("MT205", f"next(self.{name})") for name in ("rates", "pairs", "few", "numbers")
    ]
    said = [one.what for one in findings if one.code == "MT205"]
    assert said[:3] == [
        "self.rates: item 0 -> item 1",
        "self.pairs moves on to its next item",
        "self.few moves on to its next item",
    ]
    assert [next(recipe.rates), next(recipe.numbers)] == [1.0, 0]


HISTORY: list = []


class KeepsTwice(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        HISTORY.append(values["loss"])
        self.last = values
        return values


def test_a_tensor_that_is_kept_twice_is_named_at_both_lines():
    findings = modetrain.inspect(made(KeepsTwice), batches(), modes=["graph"])
    assert [(one.code, one.text, one.what.partition(":")[0]) for one in findings] == [
        ("MT203", 'HISTORY.append(values["loss"])', "test_inspect.HISTORY[0]"),
        ("MT203", "self.last = values", "self.last['loss']"),
    ]


class Averages(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.mean = tf.Variable(0.0, trainable=False)

    def losses(self, batch):
        found = super().losses(batch)
        mean = tf.reduce_mean(found)
        self.mean.assign(tf.distribute.get_replica_context().all_reduce("MEAN", mean))
        return found


def test_the_advice_for_a_variable_has_no_findings_itself():
    assert modetrain.inspect(made(Averages), batches(), modes=["mirrored"]) == []


def test_variables_and_python_are_as_before():
    recipe = made(Counts)
    weights = [v.numpy() for v in recipe.model.variables]
    drawn = recipe.rng.bit_generator.state["state"]["state"]
    modetrain.inspect(recipe, batches(), modes=["graph"])
    assert recipe.calls == 0
    assert recipe.seen == []
    assert recipe.rng.bit_generator.state["state"]["state"] == drawn
    for variable, weight in zip(recipe.model.variables, weights):
        np.testing.assert_array_equal(variable, weight)


class Draws(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.random.uniform([])


@pytest.mark.parametrize("seed", [7, None])
def test_tensorflows_seed_is_as_before(seed):
    recipe = made(Draws)

    def drawn(look: bool) -> list[float]:
        tf.random.set_seed(seed)
        first = float(tf.random.uniform([]))
        codes = (
            [one.code for one in modetrain.inspect(recipe, batches(), modes=["graph"], notes=True)]
            if look
            else ["MT305"]
        )
        assert codes == ["MT305"]
        return [first, *(float(tf.random.uniform([])) for _ in range(3))]

    try:
        plain = drawn(False)
        assert (drawn(True) == plain) == (seed is not None)
    finally:
        tf.random.set_seed(None)


class DrawsBySeed(Draws):
    def losses(self, batch):
        return super(Draws, self).losses(batch) * tf.random.uniform([8], seed=3)


def test_stateful_draws_are_notes_unless_replicas_draw_the_same():
    def found(cls, mode, **options):
        return modetrain.inspect(made(cls), batches(), modes=[mode], **options)

    for mode in ("graph", "xla", "mirrored"):
        assert found(Draws, mode) == []
        notes = found(Draws, mode, notes=True)
        assert {one.code for one in notes} == ({"MT305", "MT705"} if mode == "mirrored" else {"MT305"})
        assert all(one.note for one in notes)
    assert not has_findings(notes)
    (note,) = found(DrawsBySeed, "graph", notes=True)
    assert (note.code, note.mode) == ("MT305", "xla"), "with a seed graph draws what eager does"
    line = "inspect: nothing found for target=graph; 1 note: MT305 (docs/reference/inspect.md)"
    assert findings_report.format_summary([note], "graph") == line
    (finding,) = found(DrawsBySeed, "mirrored")
    assert (finding.code, finding.mode) == ("MT705", "replicas")


@pytest.mark.long
def test_a_difference_of_the_graph_optimizer_alone_is_not_said_of_xla():
    (found,) = modetrain.inspect(made(TinyLogarithm), batches(), modes=["graph"])
    assert (found.code, found.mode) == ("MT307", "graph only")
    assert "grappler" in found.what
    assert modetrain.inspect(made(TinyLogarithm), batches(), modes=["xla"]) == []


CORPUS = {
    "MT107_untraceable": ("GrowsInLoop", "UsesRowsOfNumpy"),
    "MT201_called_by_keras": ("HalvesInASchedule",),
    "MT308_fails": ("ReversedTooFar",),
    "MT401_process_setting": ("DefaultSummaryStep",),
    "clean/local_objects": ("PopsTheLabel",),
    "clean/recipes": ("TransfersABody", "OptimizerOfKeras", "CountsInADenseTable", "LatentByGenerator"),
}


def test_cases_of_the_corpus_are_found_at_their_lines_and_clean_ones_are_not():
    wanted = {f"{file}.{name} inspect" for file, names in CORPUS.items() for name in names}
    looked_at = {case.key: score.look(case).verdict for case in cases() if case.key in wanted}
    assert looked_at == {key: "silent" if key.startswith("clean") else "right line" for key in wanted}


class Waives(Tiny):
    def losses(self, batch):
        print("traced")  # modetrain: ignore MT101
        print("traced")  # modetrain: ignore MT102
        return super().losses(batch)


def test_a_line_can_be_waived():
    findings = modetrain.inspect(made(Waives), batches(), modes=["graph"])
    assert [one.text for one in findings] == ['print("traced")  # modetrain: ignore MT102']


class Selects(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.reduce_mean(tf.boolean_mask(found, found > 0.5))


def test_what_matters_only_under_xla_is_found_only_for_xla():
    assert modetrain.inspect(made(Selects), batches(), modes=["graph"]) == []
    (one,) = modetrain.inspect(made(Selects), batches(), modes=["graph", "xla"])
    assert (one.code, one.mode) == ("MT504", "xla")


def test_batches_of_several_shapes_are_found_by_the_argument():
    first, second = batches()
    second = {name: value[:6] for name, value in second.items()}
    findings = modetrain.inspect(made(Tiny), [first, second], modes=["graph"])
    assert [one.code for one in findings] == ["MT502", "MT502"] or [one.code for one in findings] == ["MT502"]
    assert "batch['x']: float32 (8, 4) -> float32 (6, 4)" in findings[0].what


class CallsItsOwnFunction(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.scaled = tf.function(lambda x, by: x * by)

    def losses(self, batch):
        found = super().losses(batch)
        for by in (1.0, 2.0):
            found = self.scaled(found, by)
        return found


def test_a_function_of_the_users_own_that_is_traced_again_names_the_argument():
    (one,) = modetrain.inspect(made(CallsItsOwnFunction), batches(), modes=["graph"])
    assert one.code == "MT502"
    assert "by: the Python float 1.0 -> the Python float 2.0" in one.what
    assert one.text == "found = self.scaled(found, by)"


class TakesFromAQueue(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.jobs = queue.Queue()
        for weight in (3.0, 1.0, 2.0):
            self.jobs.put(weight)

    def losses(self, batch):
        return super().losses(batch) * self.jobs.get()  # here MT202


class ReadsOutsideOfTheGraph(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = tf.Variable(1.0, trainable=False)

    def losses(self, batch):
        with tf.init_scope():
            scale = float(self.scale.numpy())  # here MT207
        return super().losses(batch) * scale


class WritesOutsideOfTheGraph(ReadsOutsideOfTheGraph):
    def losses(self, batch):
        with tf.init_scope():
            self.scale.assign_add(1.0)  # here MT207
        return Tiny.losses(self, batch) * self.scale


class CountsInABody(Tiny):
    def losses(self, batch):
        position = itertools.count()

        def step(carry, x):
            return 0.9 * carry + x * float(next(position))  # here MT307

        return super().losses(batch) + tf.scan(step, tf.reduce_sum(batch["x"], -1), initializer=tf.zeros([]))


class CountsBesideAnAddition(Tiny):
    def losses(self, batch):
        position = itertools.count()

        def step(carry, x):
            carry = tf.add(carry, x)
            return 0.9 * carry + float(next(position))  # here MT307

        return super().losses(batch) + tf.scan(step, tf.reduce_sum(batch["x"], -1), initializer=tf.zeros([]))


class HalvesInABody(Tiny):
    def losses(self, batch):
        size = 1.0

        def body(i, total):
            nonlocal size
            size /= 2  # here MT307
            return i + 1, total + size

        _, total = tf.while_loop(lambda i, _: i < 4, body, [tf.constant(0), tf.constant(0.0)])
        return super().losses(batch) * total


class OverflowsInALoop(Tiny):
    def train_step(self, batch):
        bucket = 12345
        for _ in tf.range(4):
            bucket = bucket * 1103515245 + 12345  # here MT307
        return self.minimize(lambda: self.losses(batch) * tf.cast(bucket % 1000, tf.float32))


class AsksForAStaticValue(Tiny):
    def losses(self, batch):
        known = tf.get_static_value(tf.reduce_mean(tf.abs(batch["x"])))  # here MT307
        scale = 1.0 if known is None else known
        return super().losses(batch) * scale


class AsksForAStaticShape(Tiny):
    def losses(self, batch):
        positives = tf.boolean_mask(batch["x"], batch["label"] > 0)
        count = positives.shape[0] if positives.shape[0] is not None else 8  # here MT307
        loss = super().losses(batch)
        return loss / count


@pytest.mark.parametrize(
    "cls",
    [
        *(
            TakesFromAQueue,
            ReadsOutsideOfTheGraph,
            WritesOutsideOfTheGraph,
            CountsInABody,
            CountsBesideAnAddition,
            HalvesInABody,
            pytest.param(OverflowsInALoop, marks=pytest.mark.long),  # XLA compiles it for more than a minute
        ),
        *(AsksForAStaticValue, AsksForAStaticShape),
    ],
)
def test_the_line_itself_is_found(cls):
    lines = Path(__file__).read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith(f"class {cls.__name__}(")))
    number = next(n for n in range(start, len(lines)) if "# here" in lines[n])
    found = [(one.line, one.code) for one in modetrain.inspect(made(cls), batches(), modes=("graph",))]
    assert (number + 1, lines[number].rpartition(" ")[2]) in found


class LogsLittle(Tiny):
    logger = logging.getLogger("little")

    def losses(self, batch):
        self.logger.info("a step")
        return super().losses(batch)


def test_what_a_logger_is_set_to_leave_out_is_not_found():
    def heard():
        return [one.code for one in modetrain.inspect(made(LogsLittle), batches(), modes=("graph",))]

    assert heard() == ["MT102"]  # nobody has said what it writes
    LogsLittle.logger.setLevel(logging.ERROR)
    try:
        assert heard() == []
        LogsLittle.logger.setLevel(logging.INFO)
        assert heard() == ["MT102"]
        LogsLittle.logger.setLevel(logging.NOTSET)
        logging.root.setLevel(logging.ERROR)
        assert heard() == []
    finally:
        LogsLittle.logger.setLevel(logging.NOTSET)
        logging.root.setLevel(logging.WARNING)


class Aligns(Tiny):
    """20 rounds of a loop whose line adds twice, and one over 4 columns."""

    def losses(self, batch):
        alpha = [tf.zeros([8])] * 5
        for column in tf.unstack(batch["x"], axis=1):
            alpha = [tf.tanh(one + column + 0.1 * number) for number, one in enumerate(alpha)]
        return super().losses(batch) + tf.add_n(alpha)


class OverColumns(Tiny):
    def losses(self, batch):
        total = tf.zeros([8])
        for column in tf.unstack(batch["x"], axis=1):
            total += tf.tanh(column)
        return super().losses(batch) + total


@pytest.mark.parametrize("cls", [Aligns, OverColumns])
def test_short_loops_and_those_over_columns_are_not_found(cls):
    assert modetrain.inspect(made(cls), batches(), modes=("graph",)) == []


class LooksUpOutsideOfTheGraph(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = tf.Variable([1.0, 2.0], trainable=False)

    def losses(self, batch):
        with tf.init_scope():
            scale = float(tf.gather(self.table, 1))
        return super().losses(batch) * scale


@pytest.mark.parametrize(
    ("cls", "what"),
    [(LooksUpOutsideOfTheGraph, "read"), (ReadsOutsideOfTheGraph, "read"), (WritesOutsideOfTheGraph, "written")],
)
def test_reading_and_writing_outside_of_the_graph_are_distinguished(cls, what):
    found = modetrain.inspect(made(cls), batches(), modes=("graph",))
    assert [one.what for one in found if one.code == "MT207"] == [f"a variable is {what} outside of the graph"]


class TakesFromASimpleQueue(Tiny):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.jobs = queue.SimpleQueue()
        for weight in (3.0, 1.0, 2.0, 4.0):
            self.jobs.put(weight)

    def losses(self, batch):
        return super().losses(batch) * self.jobs.get()


def test_a_queue_is_restored():
    recipe = made(TakesFromASimpleQueue)
    assert {one.code for one in modetrain.inspect(recipe, batches(), modes=("graph",))} == {"MT202"}
    assert [recipe.jobs.get() for _ in range(recipe.jobs.qsize())] == [3.0, 1.0, 2.0, 4.0]


class TakesFromAThread(Tiny):
    """A thread fills the queue all the time, and sleeps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.jobs = queue.Queue(maxsize=64)

        def fill():
            for _ in range(10_000):  # once the test has ended it blocks for good
                self.jobs.put(1.0)
                time.sleep(0.001)

        threading.Thread(target=fill, daemon=True).start()

    def losses(self, batch):
        weight = self.jobs.get()  # here
        return super().losses(batch) * weight


def test_what_a_thread_of_the_users_does_is_not_done_by_the_step():
    lines = Path(__file__).read_text().splitlines()
    (here,) = (n for n, line in enumerate(lines, 1) if line == "        weight = self.jobs.get()  # here")
    (one,) = modetrain.inspect(made(TakesFromAThread), batches(), modes=("graph",))
    assert (one.code, one.line) == ("MT202", here)
    assert "self.jobs: 0 put, 0 taken -> 0 put, 1 taken" in one.what


LOSSES = {}


def registered(name):
    def keep(function):
        LOSSES[name] = function
        return function

    return keep


@registered("squared")
def squared(logits):
    return tf.reduce_sum(tf.square(logits), -1)


class UsesARegistry(Tiny):
    def losses(self, batch):
        return super().losses(batch) + LOSSES["squared"](self.logits(batch))


def test_what_registers_as_a_module_is_imported_is_not_found():
    assert modetrain.inspect(made(UsesARegistry), batches(), modes=("graph",)) == []


class SquaresInAVectorizedMap(Tiny):
    def losses(self, batch):
        with tf.GradientTape() as tape:
            tape.watch(batch["x"])
            y = tf.nn.softmax(self.logits(batch))
        jacobian = tape.batch_jacobian(y, batch["x"])
        return super().losses(batch) + tf.vectorized_map(lambda one: tf.reduce_sum(tf.square(one)), jacobian)


def test_shapes_that_gradients_compute_are_not_found():
    assert modetrain.inspect(made(SquaresInAVectorizedMap), batches(), modes=("xla",)) == []


class PrintsOnce(Tiny):
    def train_step(self, batch):
        print("traced")
        return super().train_step(batch)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'grph' is not graph, xla, tpu, mirrored.*Did you mean 'graph'"):
        modetrain.inspect(made(Tiny), batches(), modes=["grph"])


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="inspect was given no batches"):
        modetrain.inspect(made(Tiny), [])


def test_one_mode_is_taken_by_its_name():
    assert modetrain.inspect(made(Tiny), batches(), modes="xla") == []


def test_a_finding_reads_well_in_a_test_that_fails():
    (found,) = modetrain.inspect(made(PrintsOnce), batches())
    assert repr(found) == f"<MT101 {found.place.shown}: print is called here>"
    assert str(found) == f"MT101 {found.place}: print is called here. {found.fix}"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_says_of_every_code_what_its_findings_say():
    page = (ROOT / "docs" / "reference" / "inspect.md").read_text()
    listed = re.findall(r"^\| `(MT\d+)` \| (.+?) \| (.+?) \| (.+?) \|", page, re.M)
    assert {code: texts for code, *texts in listed} == {
        code: [one.title, one.why, one.fix] for code, one in CODES.items()
    }
