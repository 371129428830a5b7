"""What is said when a step fails: recipe, step, mode, the batch, and the command that steps through it eagerly."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from modetrain.checkpoint import latest

if TYPE_CHECKING:
    from modetrain.program import Program
    from modetrain.trainer import Trainer

# What users of tf.function run into every day: (pattern of TensorFlow's message, one plain sentence).
_EVERYDAY = (
    (
        r"tf\.function only supports singleton tf\.Variables|creat\w+ variables on (a )?non-first call"
        r"|tf\.function-decorated function tried to create variables",
        "A step made a variable (or a layer, optimizer or metric, which make variables): a traced step would make it "
        "anew at each trace. Make it in the recipe's __init__ and use it in the step.",
    ),
    (
        r"has no attribute 'numpy'|\.numpy\(\) is not supported|numpy\(\) is only available when eager"
        r"|Cannot convert a symbolic .*[Tt]ensor.* to a numpy array|NotImplementedError: numpy",
        "A step asked for the value of a tensor (.numpy(), float(), np.asarray): a traced step has no values yet. Use "
        "TensorFlow operations instead, or return the tensor from the step and look at it in a callback.",
    ),
    (
        r"(IteratorGetNext|IteratorGetNextAsOptional).*(unsupported|not supported|XLA|compil)"
        r"|(unsupported|compil|XLA)[\s\S]*IteratorGetNext",
        "A step read from an iterator: no iterator can be inside a compiled program. A step takes a batch; take what "
        "it needs from the batch, or add it in the recipe's prepare.",
    ),
    (
        r"Using a symbolic `?tf\.Tensor`? as a Python `?bool`?|OperatorNotAllowedInGraphError",
        "A step used a tensor where Python needs a plain value (if, for, and, len, int): move that line into a "
        "function of the recipe's own file, where it is converted, or use tf.cond, tf.where or tf.range.",
    ),
    (
        r"Detected unsupported operations when trying to compile graph|No registered '[^']+' OpKernel for XLA",
        "A step uses an operation that XLA cannot compile (named below): replace it, or type mode=graph.",
    ),
    (
        r"out of scope|is from a different graph|cannot be accessed here, because it was defined in",
        "A tensor of one trace was kept and used in another (an attribute, a list or a global that a step wrote): "
        "return it from the step instead.",
    ),
)


class NonFiniteError(ArithmeticError):
    """A loss that is NaN or infinite.

    Attributes:
      step: the step whose loss it is (updates completed before it).
    """

    def __init__(self, name: str, step: int, value: float, run: Trainer):
        self.step = step
        super().__init__(f"{name} is {value} at step {step} of {run.steps} in mode={run.mode.name}.")
        for note in _notes(run, step, extra=("debug=nan",), purpose="to see which operation made it"):
            self.add_note(note)


@contextlib.contextmanager
def explain(
    run: Trainer, program: Program, batch: Mapping[str, tf.Tensor], first: int, training: bool
) -> Iterator[None]:
    """Adds a note to whatever is raised inside: recipe, step, mode, batch, and how to step through it."""
    try:
        yield
    except Exception as error:
        step = max(first, program.reached) if run.mode.compile != "xla" else first
        sentence = plain_sentence(error)
        if sentence:
            error.add_note(f"modetrain: {sentence}")
        kind = "train_step" if training else "eval_step"
        shapes = ", ".join(f"{name}: {tensor.dtype.name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        where = f"step {step}" if training else f"evaluation batch {step} after step {run.step}"
        error.add_note(
            f"modetrain: {type(run.recipe).__name__}.{kind} failed at {where} of {run.steps} in mode={run.mode.name} "
            f"(compile={run.mode.compile}, precision={run.mode.precision}); batch {{{shapes}}}"
        )
        for note in _notes(run, step if training else run.step, steps_through=training):
            error.add_note(note)
        raise


def plain_sentence(error: BaseException) -> str | None:
    """One sentence for a mistake that users of tf.function make every day, or None."""
    text = f"{type(error).__name__}: {error}"
    return next((sentence for pattern, sentence in _EVERYDAY if re.search(pattern, text)), None)


def eager_command(
    command: str, *, steps: int, checkpoint: Path | None, run_dir: Path, extra: Sequence[str] = ()
) -> str:
    """The command that runs the same thing eagerly, in the debugger, up to `steps` updates."""
    dropped = ["mode=", "mode.compile=", "mode.steps_per_call=", "steps=", "run_dir=", "resume=", "mode.strict="]
    dropped += [f"{word.partition('=')[0]}=" for word in extra]
    words = [word for word in shlex.split(command) if not word.startswith(tuple(dropped))]
    words += ["--pdb", "mode=eager", f"steps={steps}", f"run_dir={run_dir}", *extra]
    if checkpoint is not None:
        words.append(f"resume={checkpoint}")
    return shlex.join(words)


def _notes(
    run: Trainer,
    step: int,
    *,
    steps_through: bool = True,
    extra: Sequence[str] = (),
    purpose: str = "to step through it line by line",
) -> list[str]:
    if not run.command:
        return []
    command = eager_command(
        run.command,
        steps=step + steps_through,
        checkpoint=latest(run.folder, at_most=step),
        run_dir=run.folder / f"eager-{step}",
        extra=extra,
    )
    return [f"modetrain: {purpose}, in the debugger:\n  {command}"]
