"""A run goes on from its newest readable checkpoint, bit by bit, and says what it does differently."""

from __future__ import annotations

import random
import shutil

import keras
import numpy as np
import pytest

from modetrain.callback import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.flight_recorder import FlightRecorder
from modetrain.callbacks.log import Log
from modetrain.checkpoints import file as checkpoint
from modetrain.checkpoints import resume
from modetrain.checkpoints.file import CheckpointError
from modetrain.checkpoints.resume import ResumePoint
from modetrain.engine.metrics import RunningMeans
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.files.tensorboard import TensorBoardWriter

STEPS = 7  # 5 batches are an epoch


SCHEDULED = {"name": "adamw", "learning_rate": 0.05, "schedule": "cosine", "warmup": 3, "ema": 0.9, "accumulate": 2}


# --- bit by bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "steps"), [("eager", range(1, STEPS)), ("graph", [1, 4, 5]), ("xla", [3])])
def test_a_resumed_run_ends_where_the_whole_one_does(mode, steps, make_trainer, tmp_path, settings):
    """At any step: within an epoch, a call or the warm-up; with dropout, slots, averages and a schedule."""
    whole = make_trainer(mode, steps=STEPS, callbacks=[Checkpoint(every=1, keep=99)], **SCHEDULED)
    whole.train()
    whole.recipe.seek(STEPS)
    wanted = checkpoint.digest(whole.recipe.state())
    for step in steps:
        place = ResumePoint(folder=tmp_path, checkpoints=(run_folder.checkpoint(tmp_path, step),))
        rest = make_trainer(mode, steps=STEPS, seed=0, step=step, **SCHEDULED)
        for variable in rest.recipe.model.trainable_variables:
            variable.assign(variable * 0)  # what comes back must come from the checkpoint
        assert resume.restore(place, rest.recipe, settings()).step == step
        rest.train()
        rest.recipe.seek(STEPS)
        assert checkpoint.digest(rest.recipe.state()) == wanted, f"resumed at step {step}"


def test_a_run_can_be_resumed_in_another_mode(make_trainer, tmp_path, settings):
    make_trainer("eager", steps=3, callbacks=[Checkpoint(every=3)]).train()
    rest = make_trainer("graph", steps=5, step=3)
    resume.restore(ResumePoint(folder=tmp_path, checkpoints=(run_folder.newest(tmp_path),)), rest.recipe, settings())
    rest.train()
    assert int(rest.recipe.optimizer.updates.numpy()) == 5


# --- which checkpoint ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, make_recipe):
    """A run folder with checkpoints of steps 2, 4 and 6."""
    recipe, index = make_recipe(), {}
    for step in (2, 4, 6):
        recipe.optimizer.updates.assign(step)
        meta = {"config": {"steps": 7, "optimizer": {"learning_rate": 0.1}}}
        path = run_folder.checkpoint(tmp_path, step)
        index[path.name] = checkpoint.save(path, recipe.state(), step=step, meta=meta)
    checkpoint.write_index(tmp_path / run_folder.CHECKPOINTS, index)
    return tmp_path


def test_latest_is_the_newest_first(folder, settings):
    place = resume.find_folder(settings(run_dir=folder, resume="latest"))
    assert place.folder == folder
    assert [checkpoint.load(path).step for path in place.checkpoints] == [6, 4, 2]


def test_a_folder_or_a_file_can_be_named(folder, tmp_path, settings):
    place = resume.find_folder(settings(resume=str(folder)))
    assert [checkpoint.load(path).step for path in place.checkpoints] == [6, 4, 2]
    place = resume.find_folder(settings(resume=str(run_folder.checkpoint(folder, 4))))
    assert place.folder == folder, "it goes on in the folder of the run"
    assert [checkpoint.load(path).step for path in place.checkpoints] == [4]


def test_it_may_go_on_in_another_folder(folder, tmp_path, settings):
    place = resume.find_folder(settings(resume=str(folder), run_dir=tmp_path / "other" / "one"))
    assert place.folder == tmp_path / "other" / "one"
    assert place.folder.is_dir()
    assert len(place.checkpoints) == 3


@pytest.mark.parametrize("folder", [".", "not/there/yet"])
def test_a_folder_without_a_checkpoint_starts_at_step_0_and_says_so(tmp_path, settings, folder, said):
    place = resume.find_folder(settings(run_dir=tmp_path / folder, resume="latest"))
    assert place.checkpoints == ()
    assert said == [f"resume=latest: {tmp_path / folder} holds no checkpoint yet; this run starts at step 0"]


def test_a_new_run_has_a_new_folder(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    places = [resume.find_folder(settings()) for _ in range(2)]
    assert len({place.folder for place in places}) == 2
    for place in places:
        assert place.folder.is_dir()
        assert place.folder.parent.parts[-3:] == ("runs", "mnist", "graph")
        assert place.checkpoints == ()


# --- damage ----------------------------------------------------------------------------------------------------------


def damage(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_that_is_said(folder, make_recipe, settings, said):
    damage(run_folder.checkpoint(folder, 6))
    recipe = make_recipe()
    place = resume.find_folder(settings(run_dir=folder, resume="latest"))
    assert resume.restore(place, recipe, settings()).step == 4
    assert int(recipe.optimizer.updates.numpy()) == 4
    assert said[0].startswith(f"WARNING: {run_folder.checkpoint(folder, 6)} is damaged")
    assert said[0].endswith("Resuming from the checkpoint before it.")
    assert said[1] == f"resumed at step 4 from {run_folder.checkpoint(folder, 4)}"


def test_where_every_one_is_damaged_the_run_does_not_start_over_by_itself(folder, make_recipe, settings):
    for step in (2, 4, 6):
        damage(run_folder.checkpoint(folder, step))
    place = resume.find_folder(settings(run_dir=folder, resume="latest"))
    now = settings(resume="latest", run_dir=folder)
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        resume.restore(place, make_recipe(), now)
    first, last = str(caught.value).splitlines()
    assert "zip file." in first, "a sentence ends"
    assert last == (
        f"None of the 3 checkpoints in {folder}/checkpoints is left whole. "
        f"Type run_dir={folder}-2 without resume= for a new run."
    )


def test_where_only_the_best_is_left_it_can_be_named(folder, make_recipe, settings):
    best = run_folder.best(folder)
    shutil.copy(run_folder.checkpoint(folder, 4), best)
    for step in (2, 4, 6):
        damage(run_folder.checkpoint(folder, step))
    now = settings(resume="latest", run_dir=folder)
    with pytest.raises(
        CheckpointError, match=f"best.npz, of step 4, is whole. Type resume={best} to resume from it, or "
    ):
        resume.restore(resume.find_folder(now), make_recipe(), now)


def test_where_the_named_file_is_damaged_another_can_be_named(folder, make_recipe, settings):
    file = run_folder.checkpoint(folder, 6)
    damage(file)
    now = settings(resume=str(file))
    with pytest.raises(
        CheckpointError, match=rf"is damaged.*zip file. Type resume={folder} to resume from the newest whole"
    ):
        resume.restore(resume.find_folder(now), make_recipe(), now)


@pytest.mark.parametrize("content", [None, b"{", b"[1]"])
def test_an_index_that_does_not_help_is_missed(folder, make_recipe, settings, content, said):
    index = folder / "checkpoints" / checkpoint.INDEX
    index.unlink() if content is None else index.write_bytes(content)
    now = settings(resume="latest", run_dir=folder)
    assert resume.restore(resume.find_folder(now), make_recipe(), now).step == 6
    warnings = [line for line in said if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert f"{index} {'is missing' if content is None else 'cannot be read'}" in warnings[0]


def test_another_model_is_no_damage(folder, make_recipe, mlp, settings):
    place = resume.find_folder(settings(run_dir=folder, resume="latest"))
    with pytest.raises(CheckpointError, match="step-00000006.npz belongs to another model or optimizer"):
        resume.restore(place, make_recipe(model=mlp(units=9)), settings())


def test_states_of_recurrent_layers_that_an_older_version_did_not_save_start_at_zero(
    make_recipe, tmp_path, settings, said
):
    def net(image_shape, classes):
        inputs = keras.Input(image_shape, batch_size=2)
        x = keras.layers.LSTM(3, stateful=True)(keras.layers.Reshape((-1, 2))(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes)(x))

    recipe = make_recipe(model=net)
    names = [name for name, variable in recipe.state().items() if tuple(variable.shape) == (2, 3)]
    for name in names:
        recipe.state()[name].assign(np.ones((2, 3)))
    older = {name: variable for name, variable in recipe.state().items() if name not in names}
    weights = checkpoint.copy_values(older)
    checkpoint.save(tmp_path / "step-00000002.npz", older, step=2, meta={})
    place = ResumePoint(folder=tmp_path, checkpoints=(tmp_path / "step-00000002.npz",))
    assert resume.restore(place, recipe, settings()).step == 2
    assert len(names) == 2
    assert all(not recipe.state()[name].numpy().any() for name in names)
    assert all((recipe.state()[name].numpy() == value).all() for name, value in weights.items())
    assert any("start at zero" in line and all(name in line for name in names) for line in said)
    short = {name: variable for name, variable in older.items() if not name.startswith("model/0")}
    checkpoint.save(tmp_path / "step-00000002.npz", short, step=2, meta={})
    with pytest.raises(CheckpointError, match="belongs to another model"):
        resume.restore(place, recipe, settings())


def test_other_examples_are_refused(make_trainer, make_recipe, tmp_path, settings):
    kept = {"data.source": "bundled", "training examples": 4000}
    make_trainer("eager", steps=1, callbacks=[Checkpoint(every=1, meta={"facts": kept})]).train()
    place = ResumePoint(folder=tmp_path, checkpoints=(run_folder.newest(tmp_path),))
    with pytest.raises(ConfigError, match="had data.source bundled, this one has tfds"):
        resume.restore(place, make_recipe(), settings(), facts={**kept, "data.source": "tfds"})
    assert resume.restore(place, make_recipe(), settings(), facts=kept)


def test_going_on_from_an_older_checkpoint_leaves_the_newer_ones_behind(make_trainer, make_recipe, tmp_path):
    make_trainer("eager", steps=3, callbacks=[Checkpoint(every=1, keep=9)]).train()
    branch = make_trainer("eager", steps=2, step=1, callbacks=[Checkpoint(every=1, keep=1)])
    branch.train()
    assert run_folder.steps(tmp_path) == [2]
    assert run_folder.checkpoint(tmp_path, 3).with_name("step-00000003.npz.left").exists()
    assert "step-00000003.npz is of a branch that this run leaves: kept as step-00000003.npz.left" in branch.said


def test_a_damaged_one_that_is_left_behind_is_no_branch(make_trainer, tmp_path):
    make_trainer("eager", steps=3, callbacks=[Checkpoint(every=1, keep=9)]).train()
    damage(run_folder.checkpoint(tmp_path, 3))
    rest = make_trainer("eager", steps=4, step=2, callbacks=[Checkpoint(every=1)])
    rest.train()
    assert "step-00000003.npz is damaged: kept as step-00000003.npz.left" in rest.said


# --- what changes ----------------------------------------------------------------------------------------------------


def test_what_the_run_does_differently_is_said(folder, make_recipe, settings, said):
    place = resume.find_folder(settings(run_dir=folder, resume="latest"))
    now = settings(resolved={"steps": 9, "optimizer": {"learning_rate": 0.2}, "callbacks": {"log": {"every": 1}}})
    resume.restore(place, make_recipe(), now)
    assert said[1:] == [
        "  differs from the run it resumes: optimizer.learning_rate: 0.1 -> 0.2",
        "  differs from the run it resumes: steps: 7 -> 9",
    ]


def test_a_refusal_says_which_settings_differ_too(folder, make_recipe, mlp, settings):
    place = resume.find_folder(settings(run_dir=folder, resume="latest"))
    now = settings(resolved={"steps": 7, "optimizer": {"learning_rate": 0.2}})
    with pytest.raises(CheckpointError) as caught:
        resume.restore(place, make_recipe(model=mlp(units=9)), now)
    first, *_, last = str(caught.value).splitlines()
    assert first.endswith("belongs to another model or optimizer:")
    assert last == "  differs from the run it resumes: optimizer.learning_rate: 0.1 -> 0.2"


def test_what_changes_no_number_is_not_worth_a_word():
    old = {"mode": {"name": "graph", "compile": "graph", "steps_per_call": 1}, "callbacks": {"log": {"every": 1}}}
    new = {"mode": {"name": "mine", "compile": "graph", "steps_per_call": 9}, "callbacks": {}, "run_dir": "x"}
    assert resume.find_differences(old, new) == []
    new["mode"]["compile"] = "xla"
    new["seed"] = 1
    assert resume.find_differences(old, new) == ["mode.compile: graph -> xla", "seed: None -> 1"]


# --- everything else that a run knows --------------------------------------------------------------------------------


class Drifting(Callback):
    """An evaluation whose accuracy is known: it rises to step 4 and falls after it."""

    def __init__(self):
        super().__init__(every=2)

    def on_step(self, trainer):
        trainer.history.add_evaluation(trainer.step, {"accuracy": 1.0 - abs(trainer.step - 4) / 10})


class Stop(Callback):
    """Stops the run at a step, in every mode in time."""

    def next_step(self, step):
        return self.every

    def on_step(self, trainer):
        trainer.stop()


def everything(make_trainer, mode, folder, until, step=0):
    events = TensorBoardWriter(folder)
    if step:
        events.rewind(step)
    log = Log(every=5, events=events, lines=False)
    keep = Checkpoint(every=3, keep=99, best="accuracy", evaluate_every=2)
    callbacks = [log, Drifting(), Stop(every=until), keep]
    trainer = make_trainer(mode, steps=13, step=step, folder=folder, callbacks=callbacks, watch_every=5, **SCHEDULED)
    if step:
        path = run_folder.checkpoint(folder, step)
        found = checkpoint.load(path)
        checkpoint.restore(found, trainer.recipe.state(), path)
        trainer.load_state(found.meta["carry"], step=found.step)
    trainer.train()
    events.close()
    trainer.recipe.seek(trainer.step)
    return trainer


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_windows_results_best_and_event_files_are_as_if_nothing_had_happened(mode, make_trainer, tmp_path, scalars):
    """Killed twice after step 7 and again after 11; checkpoints of 6 and 9, windows of 5, evaluations every 2."""
    whole = everything(make_trainer, mode, tmp_path / "whole", 13)
    folder = tmp_path / "killed"
    everything(make_trainer, mode, folder, 7)
    for step, until in ((6, 7), (6, 11), (9, 13)):
        for later in run_folder.steps(folder):
            if later > step:  # what a killed run has not got to
                run_folder.checkpoint(folder, later).unlink()
        rest = everything(make_trainer, mode, folder, until, step=step)
    assert checkpoint.digest(rest.recipe.state()) == checkpoint.digest(whole.recipe.state())
    assert rest.results == whole.results, "to the last digit, whatever the calls were"
    wanted, found = (
        {tag: points for tag, points in scalars(one).items() if not tag.startswith(("speed", "system"))}
        for one in (tmp_path / "whole", folder)
    )
    assert found == wanted
    best = checkpoint.load(folder / "checkpoints" / "best.npz")
    assert (best.step, best.meta["best_value"]) == (4, 1.0)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"count": 3}, "Mine.state is a dict and no method: write def state(self, trainer)"),
        (lambda run: 1 / 0, "Mine.state failed after step 0"),
        (lambda run: {"mean": np.zeros(2)}, "Mine.state failed after step 0"),
        (lambda run: 3, "Mine.state returned int 3: return a dict"),
    ],
)
def test_a_callback_whose_state_fails_is_named_with_its_file(make_trainer, state, said):
    class Mine(Callback):
        def __init__(self):
            super().__init__()
            self.state = state

    with pytest.raises((TypeError, ZeroDivisionError)) as caught:
        make_trainer("eager", steps=2, callbacks=[Mine(), FlightRecorder(keep=1, config={}, made_on={})]).train()
    (note,) = caught.value.__notes__
    assert said in note
    assert "test_resume.py" in note


def test_a_callback_whose_restore_fails_is_named_with_its_file(make_trainer):
    class Mine(Callback):
        def load_state(self, state):
            self.count = state["count"]

    with pytest.raises(KeyError) as caught:
        make_trainer("eager", callbacks=[Mine()]).load_state({"callbacks": {"Mine": {"n": 3}}}, step=1)
    assert "Mine.load_state failed" in caught.value.__notes__[0]
    assert "test_resume.py" in caught.value.__notes__[0]


def test_a_callback_of_the_users_own_gets_back_what_it_kept(make_trainer, tmp_path):
    class Counts(Callback):
        count = 0

        def on_steps_end(self, trainer, rows):
            self.count += len(rows.values)

        def state(self, trainer):
            return {"count": self.count}

        def load_state(self, state):
            self.count = state["count"]

    make_trainer("eager", steps=3, callbacks=[Counts(), Checkpoint(every=3)]).train()
    mine = Counts()
    rest = make_trainer("eager", steps=5, callbacks=[mine, Checkpoint(every=3)])
    found = checkpoint.load(run_folder.checkpoint(tmp_path, 3))
    rest.load_state(found.meta["carry"], step=found.step)
    rest.train()
    assert mine.count == 5


@pytest.mark.parametrize("size", [1, 3, 7])
def test_sums_are_the_same_in_whatever_pieces_they_come(size):
    rows = np.random.default_rng(0).normal(size=(50, 2, 2))
    whole, pieces = RunningMeans().add_steps(("a", "b"), rows), RunningMeans()
    for begin in range(0, 50, size):
        pieces = pieces.add_steps(("a", "b"), rows[begin : begin + size])
    assert pieces == whole


# --- a fuzz of checkpoint files --------------------------------------------------------------------------------------


def test_whatever_happens_to_checkpoint_files_no_wrong_one_is_restored(
    make_trainer, make_recipe, tmp_path, settings, said
):
    """Truncated, flipped, deleted, exchanged, several at once: what comes back is what was saved, or a sentence."""
    draw = random.Random(0)
    make_trainer("eager", steps=4, folder=tmp_path / "good", callbacks=[Checkpoint(every=1, keep=9)]).train()
    steps = run_folder.steps(tmp_path / "good")
    wanted = {}
    for step in steps:
        wanted[step] = {
            name: array.tobytes()
            for name, array in checkpoint.load(run_folder.checkpoint(tmp_path / "good", step)).arrays.items()
        }
    recipe = make_recipe()
    outcomes = []
    for round_ in range(150):
        folder = tmp_path / f"round-{round_}"
        shutil.copytree(tmp_path / "good", folder)
        for _ in range(draw.randint(1, 4)):
            there = [run_folder.checkpoint(folder, step) for step in run_folder.steps(folder)]
            if there:
                hurt(draw, draw.choice(there), draw.choice(there))
        said.clear()
        found = None
        try:
            place = resume.find_folder(settings(run_dir=folder, resume="latest"))
            found = resume.restore(place, recipe, settings())
        except CheckpointError as error:
            outcomes.append("refused")
            assert str(folder) in str(error)
            assert any(word in str(error) for word in ("damaged", "another file", "there is no checkpoint"))
        if found is not None:
            assert {n: v.numpy().tobytes() for n, v in recipe.state().items()} == wanted[found.step]
            newer = [step for step in steps if step > found.step]
            outcomes.append("whole" if not newer else "the one before")
            for step in newer:  # each is missed by its name
                assert any(run_folder.checkpoint(folder, step).name in line for line in said), said
        elif not run_folder.steps(folder):
            outcomes.append("none")
        shutil.rmtree(folder)
    assert len(set(outcomes)) >= 3, "all of it has been seen"


def hurt(draw: random.Random, path, other) -> None:
    content = bytearray(path.read_bytes())
    kind = draw.choice(("truncate", "flip", "delete", "swap", "zero"))
    if kind == "truncate":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif kind == "flip" and content:
        for _ in range(draw.randint(1, 20)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif kind == "zero" and content:
        begin = draw.randrange(len(content))
        content[begin : begin + 4096] = bytes(len(content[begin : begin + 4096]))
        path.write_bytes(content)
    elif kind == "delete":
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())


def test_a_candidate_that_is_damaged_holds_nothing(make_trainer, tmp_path):
    make_trainer("eager", steps=2, callbacks=[Checkpoint(every=1)]).train()
    path = run_folder.checkpoint(tmp_path, 2)
    there = ResumePoint(folder=tmp_path, checkpoints=(path, run_folder.checkpoint(tmp_path, 1)))
    assert there.holds()
    path.write_bytes(path.read_bytes()[:-100])
    assert (there.step, there.holds()) == (2, False)
