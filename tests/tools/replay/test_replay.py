"""The flight recorder, capsules and `do=replay`: a step that failed is made again, as it was, here and elsewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modetrain.callbacks import flight_recorder as recording
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.flight_recorder import FlightRecorder
from modetrain.checkpoints import capsule, file
from modetrain.mode import Mode
from modetrain.settings import ReplaySettings
from modetrain.tools.replay import check_modes
from modetrain.tools.replay.check_modes import ModeCheck
from modetrain.tools.replay.one_step import ReplayedStep
from modetrain.training.step_errors import NonFiniteError
from recipes.mnist import Digits, cross_entropy

COMMAND = "python -m modetrain recipe=mine"


class Poisoned(Digits):
    """A NaN in the loss of the step after 7 updates, and an evaluation that fails in its second batch."""

    def train_step(self, batch):
        found = super().train_step(batch)
        return {"loss": found["loss"] + tf.where(self.step == 7, np.nan, 0.0)}

    def eval_step(self, batch):
        row = tf.where(self.step == 1, 1000, 3)
        return {**super().eval_step(batch), "picked": tf.gather(tf.range(10), row)}


def recorder(**given) -> FlightRecorder:
    return FlightRecorder(**{"keep": 3, "config": {"seed": 0}, "made_on": {}, "command": COMMAND, **given})


def state_of(trainer) -> dict:
    return file.copy_values(trainer.recipe.state())


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# --- the recorder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 3, 50])
def test_a_capsule_holds_the_state_right_before_the_step_that_failed(cap, mode, make_trainer, tmp_path):
    trainer = make_trainer(
        mode, Poisoned, steps=20, command=COMMAND, callbacks=[recorder()], mode={"steps_per_call": cap}
    )
    with pytest.raises(NonFiniteError, match=r"step 8 of 20") as caught:
        trainer.train()
    path = tmp_path / "capsules" / "step-8-nonfinite.npz"
    assert shlex.split(caught.value.__notes__[-1].splitlines()[-1])[-2:] == [f"replay.from={path}", "mode=eager"]
    made = capsule.load(path)
    assert (made.step, made.state_step, made.complete, made.method) == (7, 7, True, "train_step")
    assert made.said.startswith("NonFiniteError: loss is nan in step 8")
    before = make_trainer(mode, Poisoned, steps=7, mode={"steps_per_call": cap}, seed=0)
    before.recipe.info = trainer.recipe.info  # of 20 steps, as far as a schedule goes
    before.train()
    before.recipe.seek(7)
    expected = state_of(before)
    seeds = {name for name in expected if "seed" in name or expected[name].dtype.kind != "f"}
    assert same(
        {n: v for n, v in made.state.items() if n not in seeds}, {n: v for n, v in expected.items() if n not in seeds}
    )
    assert same(dict(made.batch), {name: value.numpy() for name, value in before.data.batch(7).items()})


def test_what_a_step_says_and_where_it_stops_is_not_repeated(make_trainer, tmp_path, monkeypatch, capsys):
    stops = []
    monkeypatch.setattr("sys.breakpointhook", lambda *args, **kwargs: stops.append(1))

    class Talks(Poisoned):
        def train_step(self, batch):
            print("step", int(self.step))
            breakpoint()
            return super().train_step(batch)

    trainer = make_trainer("eager", Talks, steps=20, command=COMMAND, callbacks=[recorder()])
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert capsule.load(tmp_path / "capsules" / "step-8-nonfinite.npz").complete
    assert capsys.readouterr().out.split("\n")[:-1] == [f"step {n}" for n in range(8)]
    assert len(stops) == 8


def test_where_the_data_fails_the_run_keeps_its_state(make_trainer, make_data, tmp_path):
    """And saves it: nothing may run steps once more in variables that are whole."""
    bad = int(make_data().batch(4)["index"][0])

    def prepare(batch, *, seed, training):
        row = tf.where(tf.reduce_any(batch["index"] == bad), 1000, 3)
        return {**batch, "picked": tf.fill([8], tf.gather(tf.range(10), row))}

    callbacks = [recorder(), Checkpoint(every=None)]
    trainer = make_trainer(
        "graph", steps=20, command=COMMAND, callbacks=callbacks, data={"prepare": prepare}, mode={"steps_per_call": 3}
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        trainer.train()
    assert trainer.step == 3  # an epoch has 5 batches, and the bad one is in the second block of 3
    saved = file.load(tmp_path / "checkpoints" / "step-00000003.npz")
    healthy = make_trainer(
        "graph", steps=3, folder=tmp_path / "healthy", data={"prepare": prepare}, mode={"steps_per_call": 3}
    )
    healthy.train()
    floats = [name for name, value in saved.arrays.items() if value.dtype.kind == "f"]
    now = state_of(healthy)
    assert all(np.array_equal(saved.arrays[name], now[name]) for name in floats)


def test_of_an_evaluation_the_capsule_holds_the_batch(make_trainer, tmp_path):
    trainer = make_trainer("graph", Poisoned, steps=3, command=COMMAND, callbacks=[recorder()])
    trainer.train()
    with pytest.raises(tf.errors.InvalidArgumentError):
        trainer.evaluate()
    made = capsule.load(tmp_path / "capsules" / "after-step-3-error.npz")
    assert (made.step, made.method, made.number, made.complete) == (3, "eval_step", 1, True)
    assert list(made.batch["index"]) == list(range(10, 20))
    # The seeds of draws are those of the batch that failed; the trainer has its own back.
    assert same(
        *({name: v for name, v in state.items() if v.dtype.kind == "f"} for state in (made.state, state_of(trainer)))
    )


def test_the_newest_are_kept(make_trainer, tmp_path):
    keeper = recorder(keep=2)
    trainer = make_trainer("graph", steps=3, command=COMMAND, callbacks=[keeper])
    trainer.train()
    for number in range(4):
        assert recording.write_capsule_beside(trainer, why="asked", said=str(number))
        time.sleep(0.01)
    assert [capsule.load(path).said for path in capsule.list_capsules(tmp_path)] == ["2", "3"]


def test_copies_take_no_more_than_their_share_of_the_time(make_trainer, monkeypatch):
    keeper = recorder()
    trainer = make_trainer("eager", steps=2, callbacks=[keeper])
    now = [0.0]
    monkeypatch.setattr(recording.time, "perf_counter", lambda: now[0])
    taken = []

    def copied(state):
        now[0] += 0.1  # what a copy takes
        taken.append(now[0])
        return {}

    monkeypatch.setattr(recording.file, "copy_values", copied)
    keeper.on_train_begin(trainer)
    for _ in range(1000):
        now[0] += 0.1
        keeper.on_steps_end(trainer, None)
    assert len(taken) - 1 == pytest.approx(100 / 20, abs=1), "a two-hundredth"


def test_a_capsule_that_cannot_be_written_hides_nothing(make_trainer, tmp_path):
    (tmp_path / "capsules").write_text("a file")
    trainer = make_trainer("graph", Poisoned, steps=20, command=COMMAND, callbacks=[recorder()])
    with pytest.raises(NonFiniteError, match="step 8") as caught:
        trainer.train()
    assert caught.value.__notes__[-1].endswith(f"replay.from={tmp_path} replay.step=8 mode=eager")
    assert any("could not be written" in line for line in trainer.said)


def test_a_damaged_capsule_is_refused(make_trainer, tmp_path):
    trainer = make_trainer("graph", steps=1, command=COMMAND, callbacks=[recorder()])
    trainer.train()
    recording.write_capsule_beside(trainer, why="asked", said="")
    (path,) = capsule.list_capsules(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(file.CheckpointError, match="damaged"):
        capsule.load(path)


# --- one replica's part ----------------------------------------------------------------------------------------------


def test_the_parts_of_all_replicas_make_up_the_step(mode, make_trainer, make_recipe, settings, mlp):
    """Dropout included: a replica draws its own rows of the masks that one device draws."""
    trainer = make_trainer("graph", steps=3, learning_rate=0.0)
    trainer.train()
    made = capsule.Capsule(
        **{"step": 3, "state_step": 3, "method": "train_step", "number": 3, "why": "asked", "said": "", "command": ""},
        **{"config": {}, "info": {}, "carry": {}, "made_on": {"replicas": 2}},
        state=state_of(trainer),
        batch={name: value.numpy() for name, value in trainer.data.batch(3).items()},
    )

    def loss(replica):
        given = settings(mode=Mode(name=mode, compile=mode), replay=ReplaySettings(path="x", replica=replica))
        return ReplayedStep(made, given, recipe=trainer.recipe).run()["loss"]

    parts = [loss(replica) for replica in (0, 1)]
    assert parts[0] != pytest.approx(parts[1], rel=1e-3)
    assert np.mean(parts) == pytest.approx(loss(None), rel=1e-6)


class OfOneExample(Digits):
    """A loss that is not a number for one example."""

    def train_step(self, batch):
        def loss():
            sign = tf.where(batch["index"] == self.bad, -1.0, 1.0)
            return cross_entropy(batch["label"], self.model(batch["image"], training=True)) + tf.math.log(sign)  # here

        return self.minimize(loss)


def test_what_went_wrong_is_looked_for_in_the_share_of_the_replica_that_is_asked_for(make_trainer, settings, mlp):
    trainer = make_trainer("graph", OfOneExample, model=mlp(dropout=0.0), steps=3)
    batch = {name: value.numpy() for name, value in trainer.data.batch(0).items()}
    trainer.recipe.bad = int(batch["index"][-1])
    made = capsule.Capsule(
        **{"step": 0, "state_step": 0, "method": "train_step", "number": 0, "why": "asked", "said": "", "command": ""},
        **{"config": {}, "info": {}, "carry": {}, "made_on": {"replicas": 2}},
        state=state_of(trainer),
        batch=batch,
    )

    def cause(replica):
        given = settings(
            mode=Mode(name="eager", compile="eager"), replay=ReplaySettings(path="capsule.npz", replica=replica)
        )
        return ReplayedStep(made, given, recipe=trainer.recipe).find_cause()

    assert cause(0) is None
    assert cause(1).what.startswith("operation Log made 1 NaN: shape (4,)")
    assert cause(None).what.startswith("operation Log made 1 NaN: shape (8,)")


# --- the line --------------------------------------------------------------------------------------------------------


class OfLogarithm(Digits):
    def train_step(self, batch):
        def loss():
            p = tf.nn.relu(self.model(batch["image"], training=True) - 100.0)
            penalty = tf.where(p > 0.0, tf.math.log(p), 0.0)  # here
            return cross_entropy(batch["label"], p) + tf.reduce_mean(penalty, axis=-1)

        return self.minimize(loss)


class OfDivision(Digits):
    def train_step(self, batch):
        def loss():
            p = tf.nn.relu(self.model(batch["image"], training=True) - 100.0)
            total = tf.reduce_sum(p, axis=-1, keepdims=True)
            share = tf.where(total > 0.0, p / total, tf.zeros_like(p))  # here
            return cross_entropy(batch["label"], p) + tf.reduce_mean(share, axis=-1)

        return self.minimize(loss)


class OfRoot(Digits):
    def train_step(self, batch):
        def loss():
            zero = tf.reduce_sum(self.model(batch["image"], training=True), axis=-1) * 0.0
            return tf.sqrt(zero)  # here

        return self.minimize(loss)


class Forward(Digits):
    def train_step(self, batch):
        def loss():
            logits = self.model(batch["image"], training=True)
            spoilt = logits / tf.cast(self.step * 0, tf.float32)  # here
            return cross_entropy(batch["label"], spoilt)

        return self.minimize(loss)


LINES = [(cls, mode) for cls in (OfLogarithm, OfDivision, OfRoot, Forward) for mode in ("eager", "graph")]


@pytest.mark.parametrize(("cls", "mode"), [*LINES, (OfLogarithm, "xla")])
def test_the_line_of_what_is_differentiated_is_named(cls, mode, make_recipe, make_data, settings):
    recipe = make_recipe(cls)
    made = capsule.Capsule(
        **{"step": 3, "state_step": 3, "method": "train_step", "number": 3, "why": "asked", "said": "", "command": ""},
        **{"config": {}, "info": {}, "carry": {}, "made_on": {}},
        state=file.copy_values(recipe.state()),
        batch={name: value.numpy() for name, value in make_data().batch(3).items()},
    )
    given = settings(mode=Mode(name=mode, compile=mode), replay=ReplaySettings(path="x"))
    cause = ReplayedStep(made, given, recipe=recipe).find_cause()
    assert cause.place.text.endswith("# here"), cause


# --- the verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        (
            ("eager", "graph", "xla"),
            "fails in eager, graph and xla: the model or its data makes it, not the compilation",
        ),
        (("xla",), "fails in xla and not in eager and graph: the compilation makes it"),
        (("eager",), "fails in eager and not in graph and xla: compilation masks it"),
        ((), "fine in eager, graph and xla, though the run failed there"),
    ],
)
def test_who_fails_tells_what_makes_it(failing, expected):
    found = [ModeCheck(mode=mode, failed=mode in failing, said="") for mode in check_modes.MODES]
    made = capsule.Capsule(
        **{
            "step": 7,
            "state_step": 7,
            "method": "train_step",
            "state": {},
            "batch": {},
            "number": 7,
            "why": "nonfinite",
        },
        **{"said": "loss is nan", "command": "", "config": {}, "info": {}, "carry": {}, "made_on": {}},
    )
    assert check_modes.conclude(found, made).startswith(expected)


# --- in real processes -----------------------------------------------------------------------------------------------

RECIPE = """
import keras
import tensorflow as tf

from recipes.mnist import Digits, cross_entropy


def logarithm(x):
    return tf.math.log(x)


class Poisoned(Digits):
    def train_step(self, batch):
        def loss():
            logits = self.model(batch["image"], training=True)
            shift = logarithm(tf.where(self.step == 36, -1.0, 1.0))
            return keras.losses.sparse_categorical_crossentropy(batch["label"], logits + shift, from_logits=True)

        return self.minimize(loss)
"""
CONFIG = """# @package _global_
# A NaN in step 37.
defaults:
  - override /model: mlp
recipe:
  _target_: recipes.poisoned.Poisoned
model:
  hidden: [4]
"""
WORDS = ("recipe=poisoned", "data.source=bundled", "steps=60", "optimizer.warmup=15", "mode.steps_per_call=50")
WORDS += ("callbacks.checkpoint.every=30",)
LINE = 9  # of the recipe's file, where the NaN is made


@pytest.fixture(scope="module")
def poisoned(cli):
    """Per mode a run of up to 50 steps a call that met a NaN."""
    cli.write({"recipes/poisoned.py": RECIPE, "conf/recipe/poisoned.yaml": CONFIG})
    return {mode: cli.run(*WORDS, f"mode={mode}", folder=f"poisoned-{mode}") for mode in ("eager", "graph", "xla")}


def printed(run) -> list[str]:
    return shlex.split(run.err.splitlines()[-1])[3:]


def test_the_printed_command_names_the_line_that_made_the_nan(cli, poisoned, mode):
    run = poisoned[mode]
    assert run.code == 3
    assert f"loss is nan in step 37 of 60 in mode={mode}" in run.err
    again = cli.run(*printed(run), typed="c\np 'was given', float(x)\nq\n")
    assert again.code == 1
    assert f'File "{cli.cwd}/recipes/poisoned.py", line {LINE}, in logarithm' in again.out
    assert "first: operation Log made 1 NaN" in again.out
    assert "-> def loss():" in again.out, "stops at the step's first line"
    assert "-> return tf.math.log(x)" in again.out, "and at the line that made it"
    assert "('was given', -1.0)" in again.out


def test_without_a_terminal_it_says_the_same_and_ends(cli, poisoned):
    again = cli.run(*printed(poisoned["graph"]))
    assert again.code == 1
    assert f'File "{cli.cwd}/recipes/poisoned.py", line {LINE}, in logarithm' in again.out


def test_a_capsule_moves_to_a_machine_without_the_data(cli, poisoned, tmp_path_factory):
    there = type(cli)(tmp_path_factory.mktemp("elsewhere"))
    there.write({"recipes/poisoned.py": RECIPE, "conf/recipe/poisoned.yaml": CONFIG})
    shutil.copy(poisoned["graph"].folder / "capsules/step-37-nonfinite.npz", there.cwd / "mine.npz")
    words = ("data.source=folder", "data.path=/nowhere")  # of which nothing may be read
    found = there.run("do=replay", "replay.from=mine.npz", "mode=graph", *words)
    assert (found.code, "first: operation Log made 1 NaN" in found.out) == (1, True), found.out + found.err


@pytest.mark.long
def test_every_mode_is_checked(cli, poisoned):
    path = poisoned["xla"].folder / "capsules/step-37-nonfinite.npz"
    run = cli.run("do=replay", f"replay.from={path}", "replay.check=true", folder="checked")
    assert run.code == 1
    assert "fails in eager, graph and xla: the model or its data makes it, not the compilation" in run.out
    found = json.loads((run.folder / "replay.json").read_text())
    assert {mode: one["place"] for mode, one in found["modes"].items()} == dict.fromkeys(
        ("eager", "graph", "xla"), f"recipes/poisoned.py:{LINE}"
    )


def test_any_step_of_a_run_can_be_made_again_bit_for_bit(cli, poisoned):
    """From the nearest checkpoint, in the run's own mode, to the state that the run itself had there."""
    words = ("recipe=mnist", "model=mlp", "model.hidden=[4]", "data.source=bundled", "steps=40", "optimizer.warmup=15")
    run = cli.run(*words, "callbacks.checkpoint.every=10", "callbacks.checkpoint.keep=9", folder="healthy")
    assert run.code == 0, run.err
    (run.folder / "checkpoints/step-00000030.npz").rename(cli.cwd / "kept.npz")
    again = cli.run("do=replay", "replay.from=healthy", "replay.step=31", "replay.check=true", folder="remade")
    assert (again.code, "from step 20 on, 10 steps in mode=graph" in again.out) == (0, True), again.out + again.err
    assert "fine in eager, graph and xla" in again.out
    assert again.out.startswith("modetrain: do=replay of step 31 from healthy in eager, graph, xla\n")
    made = capsule.load(again.folder / "capsules/step-31-replayed.npz")
    was = np.load(cli.cwd / "kept.npz")
    for name, value in made.state.items():
        if value.dtype.kind == "f":
            assert np.array_equal(value, was[name]), name


COUNTS = """
import tensorflow as tf

from recipes.mnist import Digits, cross_entropy


class Counts(Digits):
    calls = 0

    def train_step(self, batch):
        self.calls += 1
        if not hasattr(self, "first"):
            self.first = tf.reduce_mean(tf.cast(batch["label"], tf.float32))
        return self.minimize(lambda: self.calls * cross_entropy(batch["label"], self.model(batch["image"], training=True)))
"""


def test_what_python_keeps_of_a_trace_is_not_there_in_the_step_that_is_made_again(cli, poisoned, request):
    """Nor what it keeps of making the step the first time."""
    cli.write({"recipes/counts.py": COUNTS})
    words = ("recipe=mnist", "recipe._target_=recipes.counts.Counts", "model=mlp", "model.hidden=[4]", "steps=12")
    words += ("data.source=bundled", "inspect.at_start=false")
    run = cli.run(*words, folder="counted")
    assert run.code == 0, run.err
    logged = run.json["results"]["train"]["loss"]  # a mean over all steps; one count more would double it
    for compile in ("graph", "eager") if request.config.getoption("--long") else ("graph",):
        again = cli.run("do=replay", "replay.from=counted", "replay.step=12", f"mode={compile}")
        assert again.code == 0, again.out + again.err
        (loss,) = re.findall(r"^step 12: loss ([\d.]+)", again.out, re.MULTILINE)
        assert float(loss) == pytest.approx(logged, rel=0.1), again.out


def test_sigquit_writes_a_capsule_and_the_run_goes_on(cli, poisoned):
    words = (
        "recipe=mnist",
        "model=mlp",
        "model.hidden=[4]",
        "data.source=bundled",
        "steps=150",
        "optimizer.warmup=15",
    )
    words += ("callbacks.checkpoint.every=5", "callbacks.checkpoint.keep=200", "mode=eager")
    run = cli.signal_after(5, signal.SIGQUIT, *words, folder="asked")
    assert run.json["status"] == "completed"
    (path,) = capsule.list_capsules(run.folder)
    said = f"SIGQUIT: to run this step again:\n  python -m modetrain do=replay replay.from={path} mode=eager\n"
    assert said in run.out.replace("asked/", f"{run.folder}/")
    made = capsule.load(path)
    assert (made.why, made.method) == ("asked", "train_step")
    assert made.step >= made.state_step >= 0


# --- what cannot be replayed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["do=replay"], "do=replay without replay.from=: there is no step to make again"),
        (["do=replay", "replay.from=nowhere"], "replay.from=nowhere: there is no such file or folder"),
        (["do=replay", "replay.from=conf"], "replay.from=conf: it holds no run (config.yaml is missing)"),
        (["do=replay", "replay.from=CAPSULE", "mode=mirrored"], "mode=mirrored with do=replay"),
        (["do=replay", "replay.from=CAPSULE", "replay.step=999"], "replay.step=999: the run had steps=60"),
        (["do=replay", "replay.from=CAPSULE", "replay.step=2"], "the capsule's state is of step 36 already"),
        (["do=replay", "replay.from=CHECKPOINT", "replay.step=2"], "the checkpoint is of step 30 already"),
        (
            ["do=replay", "replay.from=CAPSULE", "replay.replica=1"],
            "replay.replica=1: the run had one replica. Leave it out",
        ),
        (["do=replay", "replay.from=CHECKPOINT", "replay.replica=1"], "replay.replica=1: the run had one replica"),
        (["recipe=mnist", "replay.step=3"], "replay.step= with do=train: only replay uses it"),
    ],
)
def test_what_cannot_be_replayed_is_refused(cli, poisoned, words, expected):
    path = Path("poisoned-graph/capsules/step-37-nonfinite.npz")
    saved = "poisoned-graph/checkpoints/step-00000030.npz"
    run = cli.run(*(word.replace("CAPSULE", str(path)).replace("CHECKPOINT", saved) for word in words))
    assert (run.code, expected in run.err) == (2, True), run.err
