"""What is said when a step fails: recipe, step, mode, the batch, and the command that steps through it eagerly."""

from __future__ import annotations

import bdb
import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modetrain import run_folder
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.data import Block
from modetrain.inspect.guards import GuardError
from modetrain.nonfinite import Finding

if TYPE_CHECKING:
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
        r"|Cannot convert a symbolic .*[Tt]ensor.* to a numpy array|NotImplementedError: numpy"
        # math.exp(), int(), an index, a format, .item()
        r"|(Type|Attribute)Error: [^\n]*SymbolicTensor|Expected any non-tensor type, but got a tensor",
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
        r"Using a symbolic `?tf\.Tensor`? as a Python `?bool`?|OperatorNotAllowedInGraphError"
        r"|len is not well defined for a symbolic",
        "A step used a tensor where Python needs a plain value (if, for, and, len, int): move that line into a "
        "function of the recipe's own file, where it is converted, or use tf.cond, tf.where or tf.range.",
    ),
    (
        r"Detected unsupported operations when trying to compile graph|No registered '[^']+' OpKernel for XLA",
        "A step uses an operation that XLA cannot compile (named above): replace it, or type mode=graph.",
    ),
    (
        r"ResourceExhaustedError|MemoryError|OOM when allocating|[Oo]ut of memory|bad_alloc|failed to allocate memory",
        "The step needs more memory than there is. Type optimizer.accumulate=2 (the same update from half the memory at a "
        "time), a smaller data.batch_size=, or mode.steps_per_call=1.",
    ),
    (
        r"out of scope|is from a different graph|cannot be accessed here, because it was defined in",
        "A tensor of one trace was kept and used in another (an attribute, a list or a global that a step wrote): "
        "return it from the step instead.",
    ),
)


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is NaN or infinite.

    Attributes:
      step: the step it is in (updates completed before it).
    """

    def __init__(self, found: Finding, run: Trainer, block: Block):
        self.step = found.step
        super().__init__(f"{found.what} in step {found.step + 1} of {run.steps} in mode={run.mode.name}.")
        self.add_note(f"modetrain: {_where(run, 'train_step', block)}")
        for note in _notes(run, found.step, extra=("check_numerics=true",), purpose="to see which operation made it"):
            self.add_note(note)


@contextlib.contextmanager
def explain(
    run: Trainer, method: str, block: Block | None, step: Callable[[], int], *, evaluating: bool = False
) -> Iterator[None]:
    """Adds a note to whatever is raised inside: recipe, step, mode, batch, and how to step through it.

    Args:
      run: the run.
      method: the recipe's method that is called inside (`train_step`, `eval_step`, `prepare`).
      block: the batches; None where there are none yet.
      step: tells which step (in evaluation, which batch) was under way.
      evaluating: whether a `prepare` is for evaluation; an `eval_step` always is.
    """
    evaluating = evaluating or method == "eval_step"
    try:
        yield
    except bdb.BdbQuit:  # whoever quits the debugger knows where they are
        raise
    except Exception as error:
        if sentence := plain_sentence(error):
            error.add_note(f"modetrain: {sentence}")
        failed = error.step if isinstance(error, GuardError) else step()
        where = f"evaluation batch {failed + 1} after step {run.step}" if evaluating else f"step {failed + 1}"
        error.add_note(f"modetrain: failed in {where} of {run.steps}: {_where(run, method, block)}")
        extra = ("mode.debug_data=true",) if method == "prepare" else ()
        for note in _notes(run, run.step if evaluating else failed, extra=extra):
            error.add_note(note)
        raise


def _where(run: Trainer, method: str, block: Block | None) -> str:
    several = f", {run.replicas.count} replicas" if run.replicas.count > 1 else ""
    return (
        f"{type(run.recipe).__name__}.{method} in mode={run.mode.name} "
        f"(compile={run.mode.compile}, precision={run.mode.precision}{several})"
        + (f"; batch {{{block.described()}}}" if block is not None else "")
    )


def plain_sentence(error: BaseException) -> str | None:
    """One sentence for a mistake that users of tf.function make every day, or None."""
    text = f"{type(error).__name__}: {error}"
    return next((sentence for pattern, sentence in _EVERYDAY if re.search(pattern, text)), None)


def eager_command(command: str, *, checkpoint: Path | None, run_dir: Path, extra: Sequence[str] = ()) -> str:
    """The command that runs the same thing eagerly and stops in the debugger where a step fails.

    Args:
      command: the command line of the run that failed.
      checkpoint: the newest one before the failure, to go on from.
      run_dir: where it writes, so that the failed run stays as it is; used with a checkpoint alone.
      extra: more overrides.
    """
    # What belongs to the fast run, and a profile, whose steps may lie beyond the failure.
    several = (
        "strategy",
        "replicas",
        "workers",
        "restarts",
        "restart_workers",
        "startup_timeout",
        "devices",
        "tpu",
        "sync_batch_norm",
    )
    fast = (
        "mode=",
        *(f"mode.{key}=" for key in ("compile", "steps_per_call", "strict", *several)),
        "run_dir=",
        "resume=",
    )
    dropped = (*fast, "callbacks.profile.", "debug=profile", *(f"{word.partition('=')[0]}=" for word in extra))
    words = [word for word in shlex.split(command) if not word.lstrip("+").startswith(dropped) and word != "--pdb"]
    words += ["--pdb", "mode=eager", *extra]
    if checkpoint is not None:
        words += [f"resume={checkpoint}", f"run_dir={run_dir}"]
    return shlex.join(words)


def _notes(
    run: Trainer,
    step: int,
    *,
    extra: Sequence[str] = (),
    purpose: str = "to step through it line by line",
) -> list[str]:
    if not run.command:
        return []
    for callback in run.callbacks:
        if isinstance(callback, Checkpoint):
            callback.saver.settle()  # what is being written is there in a moment
    command = eager_command(
        run.command,
        checkpoint=run_folder.newest(run.folder, at_most=step),
        run_dir=run.folder / f"eager-{step}",
        extra=extra,
    )
    return [f"modetrain: {purpose}, in the debugger:\n  {command}"]
