"""What is said when a step fails: the command to type, the user's own lines, and whose mistake it may be."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tensorflow as tf

from modetrain.app import report
from modetrain.diagnostics.tf_errors import plain_sentence
from modetrain.files import paths
from modetrain.training.nonfinite import NonFiniteValue
from modetrain.training.step_errors import NonFiniteError
from recipes.mnist import Digits

# --- a loss that is not finite ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_says_how_to_make_the_step_again(make_trainer, tmp_path):
    run = make_trainer("graph", steps=20, command="python -m modetrain recipe=mine steps=20")
    error = NonFiniteError(NonFiniteValue(step=6, what="loss is nan"), run, next(run.data.train_blocks(6, 1)))
    assert str(error) == "loss is nan in step 7 of 20 in mode=graph."
    assert error.step == 6
    assert error.__notes__[0].startswith(
        "modetrain: Digits.train_step in mode=graph (compile=graph, precision=float32)"
    )
    command = shlex.split(error.__notes__[-1].splitlines()[-1])
    assert command[3:] == ["do=replay", f"replay.from={tmp_path}", "replay.step=7", "mode=eager"]


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


# --- what is printed -------------------------------------------------------------------------------------------------


class Gathers(Digits):
    def train_step(self, batch):
        return {**super().train_step(batch), "picked": self.pick(tf.where(self.step == 3, 1000, 3))}

    def pick(self, row):
        return tf.gather(tf.range(10), row)


class Multiplies(Digits):
    """Shapes that do not fit, which a trace sees; in a function that the library calls."""

    def train_step(self, batch):
        def loss():
            return tf.reduce_sum(self.model(batch["image"]) @ tf.ones([7, 2]), axis=1)

        return self.minimize(loss)


class Reshapes(Digits):
    """A shape that depends on the step: wrong in the second one, and none at all for XLA."""

    def train_step(self, batch):
        def loss():
            return tf.reduce_sum(tf.reshape(self.model(batch["image"]), [8 + tf.cast(self.step, tf.int32), -1]))

        return self.minimize(loss)


class CannotCompile(Digits):
    def train_step(self, batch):
        return {**super().train_step(batch), "length": tf.strings.length(tf.strings.as_string(batch["label"]))}


class NamesWrongly(Digits):
    def train_step(self, batch):
        return {"loss": batch["lable"]}


class CallsBack(Digits):
    def train_step(self, batch):
        tf.py_function(self.look, [self.step], [])
        return super().train_step(batch)

    def look(self, step):
        if int(step) == 2:
            raise RuntimeError("of the user,\nin Python")


SAID = [
    (CallsBack, "graph", "look", "RuntimeError: of the user,"),
    (CallsBack, "eager", "look", "RuntimeError: of the user,"),
    (Gathers, "graph", "pick", "InvalidArgumentError: indices = 1000 is not in [0, 10)"),
    (Gathers, "eager", "pick", "InvalidArgumentError: indices = 1000 is not in [0, 10)"),
    (Multiplies, "graph", "loss", "ValueError: Dimensions must be equal, but are 3 and 7 for MatMul with input shapes"),
    (Multiplies, "xla", "loss", "ValueError: Dimensions must be equal, but are 3 and 7 for MatMul with input shapes"),
    (Multiplies, "eager", "loss", "InvalidArgumentError: Matrix size-incompatible: In[0]: [8,3], In[1]: [7,2]"),
    (Reshapes, "graph", "loss", "InvalidArgumentError: Input to reshape is a tensor with 24 values, but"),
    (Reshapes, "xla", "loss", "InvalidArgumentError: Input 1 to node"),
    (CannotCompile, "xla", "train_step", "InvalidArgumentError: Detected unsupported operations"),
    (NamesWrongly, "graph", "train_step", "KeyError: \"the batch has no feature 'lable'; it has image, label"),
]


def printed(error, folder) -> list[str]:
    return report.format_error(error, folder / "error.txt").splitlines()


@pytest.mark.parametrize(("cls", "mode", "name", "reason"), SAID, ids=lambda v: getattr(v, "__name__", None))
def test_what_is_printed_is_the_users_lines_the_reason_and_the_notes(cls, mode, name, reason, make_trainer, tmp_path):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        make_trainer(mode, cls, steps=5, mode={"steps_per_call": 5}).train()
    said = printed(caught.value, tmp_path)
    frames = [line for line in said if line.startswith("  File ")]
    assert frames[-1].endswith(f", in {name}")
    assert all(f'"{__file__}"' in frame for frame in frames)
    assert len(set(frames)) == len(frames)
    (at,) = (n for n, line in enumerate(said) if line.startswith(reason))
    assert not any(mark in line for line in said for mark in ("{{", "[[", "[Op:", "__autograph", "defined at"))
    notes = next(n for n, line in enumerate(said) if line.startswith("modetrain: "))
    assert notes - at <= 2, "the reason is a line or two"
    assert said[notes] == f"modetrain: the complete error: {tmp_path / 'error.txt'}"
    shown = f"{said[at]} ({paths.format_path(Path(__file__), Path.cwd())}:"
    assert report.format_headline(caught.value).startswith(shown)
    step = {(Gathers, mode): 4, (CallsBack, mode): 3, (Reshapes, "graph"): 2}.get((cls, mode), 1)
    assert any(line.startswith(f"modetrain: failed in step {step} of 5: ") for line in said[notes:])


def test_an_error_of_the_users_own_is_printed_whole_with_their_frames_alone(make_trainer, tmp_path):
    words = 'mine: [[this]] {{node x}} too\nFile "x", line 3, in y'

    class Broken(Digits):
        def train_step(self, batch):
            return self.helper(batch)

        def helper(self, batch):
            raise ValueError(words)

    with pytest.raises(ValueError, match="mine") as caught:
        make_trainer("eager", Broken, steps=1).train()
    said = printed(caught.value, tmp_path)
    assert [line.split(", in ")[1] for line in said if line.startswith("  File ")] == [
        *("test_an_error_of_the_users_own_is_printed_whole_with_their_frames_alone", "train_step", "helper"),
    ]
    assert f"ValueError: {words}" in "\n".join(said)
    assert any("modetrain: failed in step 1 of 1: Broken.train_step in mode=eager" in line for line in said)


def test_the_cause_of_an_error_is_printed_too(tmp_path):
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        said = "\n".join(printed(error, tmp_path))
    assert said.index("KeyError: 'first'") < said.index("direct cause") < said.index("ValueError: second")
