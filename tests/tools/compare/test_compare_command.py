"""`do=compare` from the command line: what is refused at once, the files it leaves, exit codes, and the death of a process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scaling
from modetrain.config import load as config
from modetrain.config.arguments import CommandLine as Words
from modetrain.errors import ConfigError
from modetrain.tools.compare import compare_command

SMALL = (
    "recipe=mnist",
    "do=compare",
    "model=mlp",
    "model.hidden=[8]",
    "recipe.shift=0",
    "data.source=bundled",
    "data.batch_size=16",
)


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare.modes=[xla]"], r"nothing to compare one mode with\. Type compare\.modes=\[eager,xla\]"),
        (["compare.modes=[eager,eager]"], r"eager is in it twice.*Type compare\.modes=\[eager,graph\]"),
        (["compare.modes=[xla,xla]"], r"xla is in it twice.*Type compare\.modes=\[eager,xla\]"),
        (["compare.modes=[eager,xla,eager]"], r"eager is in it twice.*compare\.modes=\[eager,xla\]"),
        (["compare.modes=eager"], r"takes a list of 1 or more"),
        (["compare.steps=0"], r"compare\.steps .*at least 1"),
        (["compare.draws=0"], r"compare\.draws .*at least 1"),
        (["compare.replicas=1"], r"compare\.replicas .*at least 2"),
        (["compare.mode=[eager,xla]"], r"Did you mean compare\.modes="),
        (["compare.modes=[eager,mirrored]", "data.batch_size=33"], r"Type data\.batch_size=3[24]"),
        (["check_numerics=true"], r"Type check_numerics=false"),
        (["mode=xla", "compare.modes=[eager,graph]"], r"mode=xla with do=compare.*compare\.modes=\[eager,xla\]"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_type(words, said):
    with pytest.raises(ConfigError, match=said):
        config.load(["recipe=mnist", "do=compare", *words], Path.cwd())


def test_its_keys_count_with_do_compare_only():
    with pytest.raises(ConfigError, match=r"compare\.steps=4 with do=train: only compare uses it.*Type do=compare"):
        config.load(["recipe=mnist", "compare.steps=4"], Path.cwd())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare.modes=[eager,gaph]"], r"there is no mode 'gaph'.*Did you mean 'graph'"),
        (["mode.strict=true"], r"compare\.modes=\[eager,graph,xla\]: .*mode\.strict=true.*xla"),
    ],
)
def test_a_mode_that_cannot_run_is_refused_before_any_runs(words, said):
    line = Words(overrides=("recipe=mnist", "do=compare", *words))
    with pytest.raises(ConfigError, match=said):
        compare_command.variant_words(config.load(line.overrides, Path.cwd()), line, Path.cwd())


def test_the_parent_imports_no_tensorflow():
    names = "modetrain.tools.compare.compare_command, modetrain.tools.compare.variant_process"
    code = f"import sys, {names}; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_several_replicas_are_asked_for_where_a_mode_has_them():
    line = Words(overrides=("recipe=mnist", "do=compare", "compare.modes=[graph,mirrored,multiworker]", "seed=3"))
    words = compare_command.variant_words(config.load(line.overrides, Path.cwd()), line, Path.cwd())
    assert words["graph"] == ("recipe=mnist", "seed=3", "mode=graph")
    assert words["mirrored"][-1] == "mode.replicas=2"
    assert words["multiworker"][-1] == "mode.workers=2"


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agreeing(cli):
    """One comparison of a recipe that has nothing to find."""
    return cli.run(*SMALL, "compare.steps=3", "compare.modes=[eager,graph,mirrored]", folder="agreeing")


@pytest.fixture(scope="module")
def found(agreeing):
    assert agreeing.code == 0, f"{agreeing.out}\n{agreeing.err}"
    return json.loads((agreeing.folder / "compare.json").read_text())


def test_modes_that_agree_exit_with_0_and_say_so(agreeing, found):
    assert found["agrees"] is True
    assert found["findings"] == []
    assert "graph, mirrored agree with eager" in agreeing.out
    assert {path.name for path in agreeing.folder.iterdir()} == {"compare.json", "compare.html", "config.yaml"}


def test_compare_json_is_as_documented(found):
    """docs/reference/compare.md names every key; a new key is added there."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "compare.md").read_text()
    for key in [*found, *found["arms"]["graph"], *found["arms"]["graph"]["time"]]:
        assert re.search(rf"[`.]{key}[`.]", page), key
    assert found["schema"] == compare_command.SCHEMA
    assert found["modes"] == ["eager", "graph", "mirrored"]
    for mode, arm in found["arms"].items():
        assert arm["time"]["step_ms"]["p50"] > 0
        assert arm["time"]["peak_memory_mb"] > 100
        assert len(arm["losses"]["loss"]) == len(arm["drift"]["loss"]) == 3
        assert arm["verdict"] in ("reference", "bitwise", "within noise", "rounding"), mode


def test_the_cost_of_an_all_reduce_is_there_to_scale_with(found):
    assert found["arms"]["eager"]["time"]["all_reduce"] is None
    cost = found["arms"]["mirrored"]["time"]["all_reduce"]
    assert cost["tensors_per_step"] == 4 + 1, "of the variables, and the loss"
    assert cost["bytes_per_step"] == 4 * (784 * 8 + 8 + 8 * 10 + 10 + 1)
    assert cost["latency_ms"] >= 0
    assert [one["ms"] > 0 for one in cost["measured"]] == [True] * 4


def test_it_has_what_the_model_of_step_time_reads(found):
    larger = {**found, "batch_size": 4 * found["batch_size"]}
    constants = scaling.Constants.measured([found], [larger], "mirrored")
    assert (constants.tensors, constants.ring, constants.whole_batch) == (5, False, False)
    assert constants.input_s > 0
    assert constants.step_s(2, 16) > constants.all_reduce_s(2) > 0


def test_the_page_needs_nothing_from_elsewhere(agreeing):
    page = (agreeing.folder / "compare.html").read_text()
    assert page.count("<svg viewBox") >= 5
    assert "mirrored: 5 all-reduces a step over 2 replicas, of 0.02 MB together" in page
    assert not re.findall(r"https?://|<script|<link|@import|url\(", page)


@pytest.fixture(scope="module")
def dying(cli):
    cli.write(
        {
            "recipes/dying.py": (
                "import os, signal\n"
                "import tensorflow as tf\n"
                "from recipes.mnist import Digits\n"
                "class Dying(Digits):\n"
                "    @tf.autograph.experimental.do_not_convert\n"
                "    def train_step(self, batch):\n"
                "        if tf.inside_function():\n"
                "            os.kill(os.getpid(), signal.SIGSEGV)\n"
                "        return super().train_step(batch)\n"
            ),
            "conf/recipe/dying.yaml": (
                "# @package _global_\ndefaults:\n  - override /model: mlp\nrecipe:\n  _target_: recipes.dying.Dying\n"
            ),
        }
    )
    return cli.run(
        "recipe=dying", *SMALL[1:4], *SMALL[5:], "compare.steps=1", "compare.modes=[eager,graph]", folder="dying"
    )


def test_a_process_that_dies_is_a_finding_with_its_signal_and_line(dying):
    assert dying.code == 1, f"{dying.out}\n{dying.err}"
    (finding,) = json.loads((dying.folder / "compare.json").read_text())["findings"]
    assert (finding["mode"], finding["kind"]) == ("graph", "crash")
    assert "SIGSEGV" in finding["message"]
    assert "compile" in finding["message"]
    assert finding["place"]["text"] == "os.kill(os.getpid(), signal.SIGSEGV)"


SHARED = """
import keras
import os
import signal

import tensorflow as tf

from recipes.mnist import Digits


class Assigned(Digits):
    def __init__(self, **given):
        super().__init__(**given)
        self.mean = keras.Variable(0.0, trainable=False, name="label_mean")

    def train_step(self, batch):
        self.mean.assign(tf.reduce_mean(tf.cast(batch["label"], tf.float32)))
        return super().train_step(batch)


class Largest(Digits):
    def train_step(self, batch):
        return {**super().train_step(batch), "largest": tf.reduce_max(tf.cast(batch["label"], tf.float32))}


class Killed(Digits):
    def train_step(self, batch):
        if os.environ.get("MODETRAIN_WORKER") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batch)
"""


@pytest.fixture(scope="module")
def shared(cli):
    """Compares a recipe that is wrong on several replicas; returns the one finding."""

    def compare(name: str, mode: str):
        cli.write({"recipes/shared.py": SHARED})
        words = [*SMALL, f"recipe._target_=recipes.shared.{name}", "compare.steps=1"]
        run = cli.run(*words, "compare.draws=1", f"compare.modes=[graph,{mode}]", folder=name)
        assert run.code == 1, f"{run.out}\n{run.err}"
        (finding,) = json.loads((run.folder / "compare.json").read_text())["findings"]
        assert finding["mode"] == mode
        return finding

    return compare


@pytest.mark.long
def test_a_variable_that_replicas_assign_differently_is_named_with_its_line(shared):
    finding = shared("Assigned", "mirrored")
    assert (finding["kind"], finding["tensor"], finding["blame"]) == ("different", "label_mean", "replicas")
    assert "MT704" in finding["message"]
    assert finding["place"]["text"].startswith("self.mean.assign(")
    assert "all_reduce" in finding["advice"]


@pytest.mark.long
def test_a_value_that_is_no_mean_over_examples_is_explained(shared):
    finding = shared("Largest", "mirrored")
    assert (finding["kind"], finding["tensor"], finding["blame"]) == ("different", "largest", "replicas")
    assert "what is no mean over examples" in finding["message"]
    assert "Return one value per example" in finding["advice"]


@pytest.mark.long
def test_the_worker_that_was_lost_is_named(shared):
    finding = shared("Killed", "multiworker")
    assert finding["kind"] == "crash"
    assert "worker 1 was killed by SIGKILL" in finding["message"]
    assert finding["message"].endswith(("during: compile.", "during: steps."))
