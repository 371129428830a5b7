"""What is said when a step fails: the command to type, the user's own lines, and whose mistake it may be."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from modetrain import report
from modetrain.failure import NonFiniteError, eager_command, plain_sentence
from recipes.mnist import Digits


def words(command, **given):
    return shlex.split(eager_command(command, **{"checkpoint": None, "run_dir": Path("runs/x/eager-7"), **given}))


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_is_the_one_that_was_typed_in_eager_mode_and_in_the_debugger():
    assert words("python -m modetrain recipe=mine steps=20") == [
        *("python", "-m", "modetrain", "recipe=mine", "steps=20", "--pdb", "mode=eager"),
    ]


def test_a_checkpoint_is_gone_on_from_in_a_folder_of_its_own():
    found = words("python -m modetrain recipe=mine run_dir=a", checkpoint=Path("a/checkpoints/step-5.npz"))
    assert found[-2:] == ["resume=a/checkpoints/step-5.npz", "run_dir=runs/x/eager-7"]
    assert "run_dir=a" not in found


@pytest.mark.parametrize(
    "typed",
    [
        *("mode=xla", "mode.compile=xla", "mode.steps_per_call=7", "mode.strict=true", "run_dir=x", "resume=latest"),
        *("callbacks.profile.at=50", "callbacks.profile.steps=9", "debug=profile", "+mode.compile=xla"),
    ],
)
def test_what_belongs_to_the_fast_run_is_left_out(typed):
    assert typed not in words(f"python -m modetrain {typed} recipe=mine")


@pytest.mark.parametrize(
    "typed", ["data.batch_size=7", "optimizer=sgd", "seed=3", "mode.precision=float64", "model.hidden=[1,2]"]
)
def test_what_decides_the_numbers_is_kept(typed):
    assert typed in words(f"modetrain recipe=mine {shlex.quote(typed)}")


def test_it_can_be_pasted_into_a_shell():
    command = eager_command(
        "python -m modetrain 'data.train_split=\"train[:90%]\"'", checkpoint=Path("my runs/step.npz"), run_dir=Path("r")
    )
    assert "'data.train_split=\"train[:90%]\"'" in command
    assert "'resume=my runs/step.npz'" in command


def test_what_is_added_replaces_what_was_typed():
    found = words("modetrain recipe=mine check_numerics=false", extra=("check_numerics=true",))
    assert [word for word in found if word.startswith("check_numerics")] == ["check_numerics=true"]


# --- a loss that is not finite ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_says_how_to_find_the_operation(make_trainer, tmp_path):
    run = make_trainer("graph", steps=20, command="python -m modetrain recipe=mine steps=20")
    error = NonFiniteError("loss", 6, float("nan"), run, next(run.data.train_blocks(6, 1)))
    assert str(error) == "loss is nan in step 7 of 20 in mode=graph."
    assert error.step == 6
    assert error.__notes__[0].startswith(
        "modetrain: Digits.train_step in mode=graph (compile=graph, precision=float32)"
    )
    command = shlex.split(error.__notes__[-1].splitlines()[-1])
    assert {"mode=eager", "check_numerics=true", "--pdb"} < set(command)


# --- sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes (3,) and (4,) do not match"),
        KeyError("image"),
        TypeError("train_step() missing 1 required positional argument"),
        AttributeError("'Digits' object has no attribute 'modle'"),
    ],
)
def test_an_error_of_another_kind_has_no_sentence(error):
    assert plain_sentence(error) is None


# --- the traceback ---------------------------------------------------------------------------------------------------


def test_only_the_users_own_frames_are_printed(make_trainer, capsys):
    class Broken(Digits):
        def train_step(self, batch):
            return self.helper(batch)

        def helper(self, batch):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        make_trainer("eager", Broken, steps=1).train()
    report.failure(caught.value)
    said = capsys.readouterr().err
    assert [line.split(", in ")[1] for line in said.splitlines() if line.startswith("  File ")] == [
        *("test_only_the_users_own_frames_are_printed", "train_step", "helper"),
    ]
    assert "ValueError: mine" in said
    assert "modetrain: failed in step 1 of 1: Broken.train_step in mode=eager" in said


def test_the_cause_of_an_error_is_printed_too(capsys):
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        report.failure(error)
    said = capsys.readouterr().err
    assert said.index("KeyError: 'first'") < said.index("direct cause") < said.index("ValueError: second")
