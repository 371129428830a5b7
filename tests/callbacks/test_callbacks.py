"""Callbacks look and only read: what they write down is exact, whatever the number of steps in a call."""

from __future__ import annotations

import importlib.metadata
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from modetrain.callback import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.evaluate import Evaluate
from modetrain.callbacks.log import Log
from modetrain.callbacks.profile import Profile
from modetrain.callbacks.progress import ProgressBar
from modetrain.checkpoints import file as checkpoint
from modetrain.files.tensorboard import TensorBoardWriter, iter_records
from recipes.mnist import Digits


@pytest.fixture
def writer(tmp_path):
    return TensorBoardWriter(tmp_path)


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "step", "wanted"), [(5, 0, 5), (5, 4, 5), (5, 5, 10), (1, 7, 8), (None, 3, None), (0, 3, None)]
)
def test_a_callback_wants_the_next_multiple(every, step, wanted):
    assert Callback(every=every).next_step(step) == wanted


# --- all of them -----------------------------------------------------------------------------------------------------

EVERY_CALLBACK = {
    "log": lambda writer: Log(every=3, events=writer, lines=True),
    "evaluate": lambda writer: Evaluate(every=4, events=writer),
    "checkpoint": lambda writer: Checkpoint(every=4, best="accuracy"),
    "profile": lambda writer: Profile(at=2, steps=2),
    "progress": lambda writer: ProgressBar(console=Console(file=io.StringIO(), force_terminal=True)),
}


@pytest.fixture(scope="module")
def untouched():
    """Weights of a run without callbacks, kept for comparison."""
    return {}


@pytest.mark.parametrize("name", EVERY_CALLBACK)
def test_no_callback_changes_what_is_computed(name, make_trainer, writer, untouched):
    if not untouched:
        trainer = make_trainer("graph", steps=7)
        trainer.train()
        untouched["digest"] = state_of(trainer)
    trainer = make_trainer("graph", steps=7, callbacks=[EVERY_CALLBACK[name](writer)], watch_every=3)
    trainer.train()
    assert state_of(trainer) == untouched["digest"]


def state_of(trainer):
    trainer.recipe.seek(trainer.step)  # evaluation draws from the seed generators too
    return checkpoint.digest(trainer.recipe.state())


@pytest.mark.parametrize("name", EVERY_CALLBACK)
def test_every_callback_ends_well_when_the_first_step_fails(name, make_trainer, writer):
    class Broken(Digits):
        def train_step(self, batch):
            raise ZeroDivisionError

    trainer = make_trainer("eager", Broken, callbacks=[EVERY_CALLBACK[name](writer)])
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train()
    assert not any("end failed" in note for note in caught.value.__notes__)


# --- log -------------------------------------------------------------------------------------------------------------


class Numbered(Digits):
    """Returns the step as a metric, so that a window's mean is known."""

    def train_step(self, batch):
        return {**super().train_step(batch), "step": tf.cast(self.step + 1, tf.float32)}


@pytest.mark.parametrize(("every", "cap"), [(1, 100), (3, 100), (3, 2), (5, 1), (100, 4)])
def test_a_point_is_the_exact_mean_of_its_window(every, cap, make_trainer, writer, scalars, tmp_path, recorder):
    log, seen = Log(every=every, events=writer, lines=False), recorder(wants=[7])
    trainer = make_trainer("graph", Numbered, steps=11, callbacks=[log, seen], mode={"steps_per_call": cap})
    trainer.train()
    ends = [*range(every, 12, every)]
    ends += [11] if 11 % every else []  # what is left at the end has its point too
    windows = {end: range((end - 1) // every * every + 1, end + 1) for end in ends}
    found = scalars(tmp_path)
    assert found["train/step"] == {end: np.mean(window) for end, window in windows.items()}
    losses = seen.values("loss")
    wanted = {end: np.mean([losses[n] for n in window]) for end, window in windows.items()}
    assert found["train/loss"] == pytest.approx(wanted, rel=1e-6)
    assert len(seen.calls) == {100: 2, 2: 7, 1: 11, 4: 4}[cap], "short windows cost no calls"


def test_a_window_goes_on_after_a_resume(make_trainer, writer, scalars, tmp_path):
    trainer = make_trainer("graph", Numbered, steps=8, step=4, callbacks=[Log(every=3, events=writer, lines=False)])
    trainer.train()
    assert scalars(tmp_path)["train/step"] == {6: 5.5, 8: 7.5}


def test_what_there_is_to_see_is_in_tensorboard(make_trainer, writer, scalars, tmp_path):
    settings = {"schedule": "linear", "learning_rate": 1.0, "loss_scaling": True}
    trainer = make_trainer(
        "graph", steps=5, callbacks=[Log(every=1, events=writer, lines=False)], watch_every=1, **settings
    )
    trainer.train()
    found = scalars(tmp_path)
    assert set(found) == {
        *("train/loss", "train/accuracy"),
        *("optimizer/learning_rate", "optimizer/grad_norm", "optimizer/loss_scale", "optimizer/skipped"),
        *("speed/step_ms_p50", "speed/step_ms_p90", "speed/step_ms_max", "speed/data_wait_ms"),
        *("speed/examples_per_s", "speed/compile_s", "speed/traces"),
    }
    assert found["optimizer/learning_rate"] == {1: 1.0, 2: 0.75, 3: 0.5, 4: 0.25, 5: 0.0}, "that of the update itself"
    assert found["optimizer/loss_scale"] == dict.fromkeys(range(1, 6), 2.0**15)
    assert found["speed/traces"] == {5: 1}


def test_a_point_is_one_event_that_tensorboard_takes_for_scalars(make_trainer, writer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log, evaluate = Log(every=2, events=writer, lines=False), Evaluate(every=4, events=writer)
    make_trainer("graph", steps=4, callbacks=[log, evaluate], watch_every=2).train()
    writer.flush()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]
    families = [sorted({value.tag.split("/")[0] for value in event.summary.value}) for event in events]
    assert families[1:] == [*2 * [["optimizer", "train"]], ["speed"], ["eval"]], "one call of four steps"
    read = EventAccumulator(str(tmp_path)).Reload()
    tags = read.Tags()["tensors"]
    assert {"train/loss", "optimizer/learning_rate", "speed/traces", "eval/accuracy"} < set(tags)
    assert {read.SummaryMetadata(tag).plugin_data.plugin_name for tag in tags} == {"scalars"}
    assert [event.step for event in read.Tensors("train/loss")] == [2, 4]


def test_a_run_shorter_than_a_window_has_its_gradient_norm_too(cli):
    words = ("recipe=mnist", "model=mlp", "data.source=bundled", "data.eval_batches=1", "steps=3")
    assert set(cli.run(*words, folder="short").scalars["optimizer/grad_norm"]) == {3}


def test_several_optimizers_are_told_apart(make_trainer, writer, scalars, tmp_path):
    class Two(Digits):
        def __init__(self, *, model, optimizer, info):
            super().__init__(model=model, optimizer=optimizer, info=info)
            self.head_optimizer = optimizer(self.model.trainable_variables[2:], learning_rate=0.125)

        def train_step(self, batch):
            super().train_step(batch)
            return self.minimize(lambda: self.losses(batch), optimizer=self.head_optimizer)

        def losses(self, batch):
            return tf.reduce_sum(self.model(batch["image"]) ** 2, axis=1)

    log = Log(every=1, events=writer, lines=False)
    make_trainer("graph", Two, steps=1, callbacks=[log], watch_every=1).train()
    found = scalars(tmp_path)
    assert found["optimizer/learning_rate"] == {1: 0.5}
    assert found["optimizer/learning_rate/head"] == {1: 0.125}
    assert {"optimizer/grad_norm", "optimizer/grad_norm/head"} < set(found)


@pytest.mark.parametrize("lines", [True, False])
def test_lines_are_said_where_no_bar_shows_them(make_trainer, writer, lines):
    trainer = make_trainer("graph", steps=4, callbacks=[Log(every=2, events=writer, lines=lines)], watch_every=2)
    trainer.train()
    assert len(trainer.said) == (2 if lines else 0)
    for line, step in zip(trainer.said, (2, 4), strict=False):
        assert line.startswith(f"step {step}/4: loss ")
        assert "grad_norm" not in line


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "looked"), [(3, [3, 6, 8]), (4, [4, 8]), (None, [8]), (0, [8]), (100, [8])])
def test_evaluation_is_at_each_multiple_and_once_at_the_end(every, looked, make_trainer, writer, scalars, tmp_path):
    trainer = make_trainer("eager", steps=8, callbacks=[Evaluate(every=every, events=writer)])
    trainer.train()
    writer.flush()
    found = scalars(tmp_path)
    assert list(found["eval/loss"]) == list(found["eval/accuracy"]) == looked
    assert trainer.results["eval"]["loss"] == pytest.approx(found["eval/loss"][8])
    assert [line.split(":")[0] for line in trainer.said] == [f"step {step}" for step in looked]


def test_what_a_recipe_shows_is_an_image_of_the_averaged_weights(make_trainer, writer, tmp_path):
    class Shows(Digits):
        def show(self):
            shown.append(self.model.get_weights()[0])
            return {"weights": tf.fill([2, 4, 4, 1], 3.0)}

    shown = []
    trainer = make_trainer("eager", Shows, steps=2, callbacks=[Evaluate(every=None, events=writer)], ema=0.9)
    trainer.train()
    writer.flush()
    np.testing.assert_array_equal(shown[0], trainer.recipe.optimizer.averages[0].numpy())
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert b"\x89PNG" in file.read_bytes()


def test_show_gets_the_first_examples_where_it_asks_for_them(make_trainer, writer, tmp_path):
    class Shows(Digits):
        def show(self, batch, width=4):
            shown.append(batch)
            return {"labels": f"the labels {batch['label'].numpy().tolist()}"}

    class AsksForNone(Digits):
        def show(self, width=4):
            shown.append(width)
            return {}

    shown = []
    trainers = [
        make_trainer("eager", cls, steps=1, callbacks=[Evaluate(every=None, events=writer)])
        for cls in (Shows, AsksForNone)
    ]
    for trainer in trainers:
        trainer.train()
    writer.flush()
    first = next(iter(trainers[0].data.evaluations.values())).first(16)
    assert shown[1] == 4
    np.testing.assert_array_equal(shown[0]["label"], first["label"])
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert f"the labels {np.asarray(first['label']).tolist()}".encode() in file.read_bytes()


def test_images_are_written_by_their_dtype_and_a_bad_one_costs_itself_alone(make_trainer, writer, scalars, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    classes = np.arange(16).reshape(1, 4, 4, 1) % 3
    written = {
        "uint8": (pixels, pixels),
        "int32": (tf.cast(pixels, tf.int32), pixels),
        "uint16": (pixels.astype(np.uint16) * 257, pixels),
        "float32": (pixels / 255, pixels),
        "bfloat16": (tf.cast(pixels > 99, tf.bfloat16), (pixels > 99) * 255),
        "bool": (pixels[..., :1] > 99, (pixels[..., :1] > 99) * 255),
        "classes": (classes, np.array([0, 128, 255])[classes]),
        "grey and alpha": (pixels[..., :2], pixels[..., :2]),
        "alpha": (np.repeat(pixels, 2, axis=3)[..., :4], np.repeat(pixels, 2, axis=3)[..., :4]),
        "above one": (np.full([1, 4, 4, 1], 1.3), np.full([1, 4, 4, 1], 255)),
        "0 to 255": (pixels.astype(np.float32), (pixels > 0) * 255),
        "no number": (np.full([1, 4, 4, 1], np.nan), np.zeros([1, 4, 4, 1])),
        "a list": ([pixels[0], pixels[1]], pixels),
        3: (pixels, pixels),
    }
    refused = {
        "five": np.zeros([1, 4, 4, 5]),
        "no batch": pixels[0],
        "flat": pixels[0, :, :, 0],
        "nothing": None,
        "text": np.full([1, 4, 4, 1], "a"),
        "complex": np.full([1, 4, 4, 1], 1j),
        "uneven": [pixels[0], pixels[1, :2]],
        "no pixel": np.zeros([1, 0, 4, 1]),
    }

    class Shows(Digits):
        def show(self):
            return {name: images for name, (images, _) in written.items()} | refused

    trainer = make_trainer("eager", Shows, steps=4, callbacks=[Evaluate(every=2, events=writer)])
    trainer.train()
    writer.flush()
    assert list(scalars(tmp_path)["eval/loss"]) == [2, 4], "no other point is lost"
    (file,) = tmp_path.glob("events.out.tfevents.*")
    found = {
        value.tag: [tf.io.decode_png(one).numpy() for one in value.tensor.string_val[2:]]
        for _, event in iter_records(file.read_bytes())
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    }
    assert set(found) == {str(name) for name in written}
    for name, (_, expected) in written.items():
        np.testing.assert_allclose(found[str(name)], expected, atol=1e-9, err_msg=str(name))
    said = [line for line in trainer.said if "Shows.show returned" in line]
    assert sorted(line.split("`")[1] for line in said) == sorted([*refused, "0 to 255"]), "each is named once"
    assert any("`five`, of shape [1, 4, 4, 5]: expected is [n, height, width, channels]" in line for line in said)
    assert any(f"`0 to 255`, floats up to {pixels.max()}: clipped to [0, 1]. Divide" in line for line in said)


@pytest.mark.parametrize("returned", [None, np.zeros([1, 4, 4, 1])])
def test_a_show_without_names_is_told_once(returned, make_trainer, writer):
    class Shows(Digits):
        def show(self):
            return returned

    trainer = make_trainer("eager", Shows, steps=2, callbacks=[Evaluate(every=1, events=writer)])
    trainer.train()
    said = [line for line in trainer.said if "Shows.show" in line]
    assert said == [
        f"WARNING: Shows.show returned a {type(returned).__name__}: expected is a dict of images, {{}} for none"
    ]


def test_a_run_that_did_not_finish_is_not_evaluated_at_its_end(make_trainer, writer):
    class Stop(Callback):
        def on_steps_end(self, trainer, rows):
            trainer.stop()

    trainer = make_trainer("eager", steps=5, callbacks=[Stop(), Evaluate(every=None, events=writer)])
    trainer.train()
    assert trainer.history.evaluated is None


def test_a_run_that_a_callback_ends_early_is_completed_and_evaluated(make_trainer, writer):
    class Enough(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step >= 3:
                trainer.stop_early("the goal is reached")

    trainer = make_trainer(
        "graph", steps=9, callbacks=[Callback(every=3), Enough(), Evaluate(every=None, events=writer)]
    )
    trainer.train()
    assert (trainer.status, trainer.step, trainer.history.evaluated) == ("completed", 3, 3)
    assert trainer.stopped_early == "the goal is reached"


# --- profile ---------------------------------------------------------------------------------------------------------


class Loops(Digits):
    """A step with a loop of its own, as recurrent layers have."""

    def train_step(self, batch):
        _, total = tf.while_loop(lambda n, total: n < 3, lambda n, total: (n + 1, total + 1.0), (0, 0.0))
        return {**super().train_step(batch), "total": total}


def convolutional():
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


# Each with a loop that TensorFlow runs itself, but for eager, and xla without convolutions.
PROFILED = {
    "graph": lambda make, **more: make("graph", **more),
    "xla, convolutions": lambda make, **more: make("xla", model=convolutional(), **more),
    "graph, a loop of the step": lambda make, **more: make("graph", Loops, **more),
    "eager": lambda make, **more: make("eager", **more),
    "graph, micro-batches": lambda make, **more: make("graph", accumulate=4, **more),
    "xla": lambda make, **more: make("xla", **more),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PROFILED)
def test_the_plugin_finds_each_step_of_a_profile(name, make_trainer, tmp_path, recorder):
    """What TensorBoard's tab shows is asked of the plugin itself."""
    convert = pytest.importorskip("xprof.convert.raw_to_tool_data")
    seen, at = recorder(), 4 if name == "graph" else 0
    PROFILED[name](make_trainer, steps=9, callbacks=[Profile(at=at, steps=3), seen]).train()
    assert [(n, n + 1) for n in range(at, at + 3)] == [call for call in seen.calls if at <= call[0] < at + 3]
    (file,) = tmp_path.rglob("*.xplane.pb")
    tables = json.loads(convert.xspace_to_tool_data([str(file)], "overview_page", {})[0])
    steps = next(table for table in tables if table["cols"] and table["cols"][0]["id"] == "stepnum")
    assert [row["c"][0]["v"] for row in steps["rows"]] == [f"train {n}" for n in range(at, at + 3)]
    assert float(steps["p"]["steptime_ms_minimum"]) > 0
    assert "No step marker" not in json.dumps(tables)


@pytest.mark.parametrize("installed", [True, False])
def test_a_tab_that_is_not_installed_is_said_before_the_trace(installed, make_trainer, monkeypatch):
    plugins = [importlib.metadata.EntryPoint("profile", "xprof.plugin:Loader", "tensorboard_plugins")] * installed
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    trainer = make_trainer("eager")
    Profile(at=5, steps=1).on_train_begin(trainer)
    assert ["pip install" in line for line in trainer.said] == [True] * (not installed)


def test_a_profile_that_a_failure_cuts_short_is_written_and_closed(make_trainer, tmp_path):
    class Fails(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step == 3:
                raise ZeroDivisionError

    for _ in range(2):  # a second one could not begin if the first had not been closed
        with pytest.raises(ZeroDivisionError):
            make_trainer("eager", steps=9, callbacks=[Profile(at=1, steps=5), Fails()]).train()
    assert len(list(tmp_path.rglob("*.xplane.pb"))) >= 1


# --- progress --------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_steps_loss_and_speed(make_trainer):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    make_trainer("graph", steps=6, callbacks=[ProgressBar(console=console)], mode={"steps_per_call": 2}).train()
    shown = screen.getvalue()
    for part in ("mode=graph", "6/6", "loss ", "examples/s"):
        assert part in shown
