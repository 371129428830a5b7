"""What is said when a step fails: recipe, step, mode, the batch, and the command that steps through it eagerly."""

from __future__ import annotations

import bdb
import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modetrain.callbacks import flight_recorder as recording
from modetrain.cluster.protocol import lost_a_peer
from modetrain.diagnostics import tf_errors
from modetrain.engine.batching import Block
from modetrain.engine.guards.guard import GuardError
from modetrain.training.nonfinite import Finding

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
        self._what, self._where = found.what, f"in step {found.step + 1} of {run.steps} in mode={run.mode.name}."
        super().__init__(f"{self._what} {self._where}")
        self.add_note(f"modetrain: {_where(run, 'train_step', block)}")
        _add_command(run, found.step, self)

    def after(self, what: str) -> None:
        """Says too what had been done about it before it ended the run."""
        self.args = (f"{self._what}, after {what} {self._where}",)


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
        if run.replicas.workers > 1 and lost_a_peer(error):  # the step has not failed here, and is no use to make again
            raise
        if sentence := plain_sentence(error):
            error.add_note(f"modetrain: {sentence}")
        failed = error.step if isinstance(error, GuardError) else step()
        where = f"evaluation batch {failed + 1} after step {run.step}" if evaluating else f"step {failed + 1}"
        error.add_note(f"modetrain: failed in {where} of {run.steps}: {_where(run, method, block)}")
        _add_command(run, failed, error, method="eval_step" if evaluating else method, block=block)
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


def _add_command(
    run: Trainer, step: int, error: BaseException, *, method: str = "train_step", block: Block | None = None
) -> None:
    """Adds a note with the command that makes the failing step again, from a capsule that is written for it.

    A step that was never traced has no state but that which the run began with.
    """
    if not run.command:
        return
    # Of several workers one step may fail on one alone; in a trace, and where a loss is not finite, all do.
    own = run.replicas.workers > 1 and run.replicas.local == 1 and not isinstance(error, NonFiniteError)
    replica = run.replicas.first if own and method == "train_step" and run.train_program.names else None
    recorder, path = recording.of(run), None
    if recorder is not None and (run.train_program.names or method != "train_step"):
        why = "nonfinite" if isinstance(error, NonFiniteError) else "error"
        message = tf_errors.read(error)
        said = message.text if message is not None else f"{type(error).__name__}: {error}"
        path = recorder.write(run, step, why=why, said=said, method=method, block=block)
    if path is None and method == "eval_step":
        return
    source, of_folder = (run.folder, step) if path is None else (path, None)
    command = recording.replay_command(source, step=of_folder, replica=replica)
    error.add_note(f"modetrain: to make that step once more, line by line, in the debugger:\n  {command}")
