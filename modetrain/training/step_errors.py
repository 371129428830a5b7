"""Notes on the error of a step: recipe, step, mode, the batch, and a plain sentence for common mistakes."""

from __future__ import annotations

import bdb
import contextlib
from collections.abc import Callable, Iterator

from modetrain.callback import StepFailure, TrainerProtocol
from modetrain.engine.batching import StackedBatches
from modetrain.engine.program import Program
from modetrain.errors import ConfigError
from modetrain.mode import Mode
from modetrain.training.nonfinite import NonFiniteValue


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite.

    Attributes:
      step: its step (updates completed before it).
    """

    def __init__(self, found: NonFiniteValue, trainer: TrainerProtocol, block: StackedBatches):
        self.step = found.step
        self._what = found.what
        self._where = f"in step {found.step + 1} of {trainer.steps} in mode={trainer.mode.name}."
        super().__init__(f"{self._what} {self._where}")
        self.add_note(f"modetrain: {_where(trainer, 'train_step', block)}")
        trainer.callbacks.on_step_error(
            trainer, StepFailure(error=self, step=found.step, method="train_step", block=None)
        )

    def after(self, what: str) -> None:
        """Adds to the message what the run tried before it ended."""
        self.args = (f"{self._what}, after {what} {self._where}",)


@contextlib.contextmanager
def explain(
    trainer: TrainerProtocol,
    method: str,
    block: StackedBatches | None,
    step: Callable[[], int],
    *,
    evaluating: bool = False,
) -> Iterator[None]:
    """Adds notes to an error raised inside, and lets callbacks add theirs (`on_step_error`).

    Args:
      trainer: the trainer.
      method: the recipe's method that is called inside (`train_step`, `eval_step`, `prepare`).
      block: the batches; None if they do not exist yet.
      step: returns the running step (in evaluation the batch).
      evaluating: whether a `prepare` is for evaluation; an `eval_step` always is.
    """
    evaluating = evaluating or method == "eval_step"
    try:
        yield
    except bdb.BdbQuit:  # the user has quit the debugger, and needs no notes
        raise
    except ConfigError as error:  # its text is complete; AutoGraph puts a stack of the library before it
        if (plain := without_stack(error)) is not error:
            raise plain from error
        raise
    except Exception as error:
        # A run without errors loads none of it.
        from modetrain.diagnostics import error_origin, tf_errors
        from modetrain.diagnostics.lost_peer import lost_a_peer
        from modetrain.engine.guards.guard import GuardError

        if trainer.replicas.workers > 1 and lost_a_peer(error):  # the step did not fail on this worker
            raise
        if sentence := tf_errors.plain_sentence(error):
            error.add_note(f"modetrain: {sentence}")
        if (origin := error_origin.find_origin(error)) is not None:
            error.add_note(f"modetrain: it begins at {origin}")
        failed = error.step if isinstance(error, GuardError) else step()
        where = f"evaluation batch {failed + 1} after step {trainer.step}" if evaluating else f"step {failed + 1}"
        error.add_note(f"modetrain: failed in {where} of {trainer.steps}: {_where(trainer, method, block)}")
        method = "eval_step" if evaluating else method
        trainer.callbacks.on_step_error(trainer, StepFailure(error=error, step=failed, method=method, block=block))
        raise


def without_stack(error: ConfigError) -> ConfigError:
    """The error without the stack that AutoGraph puts before its text; the error itself where there is none."""
    from modetrain.diagnostics import tf_errors

    _, wrapped, text = str(error).rpartition(f"{type(error).__name__}: ")
    return type(error)(text.strip()) if wrapped and tf_errors.read(error) is not None else error


def failing_step(mode: Mode, program: Program, first: int) -> Callable[[], int]:
    """Returns a function that returns the step running in `program`; an XLA program fails as a whole."""
    return lambda: first if mode.compile == "xla" else max(first, program.reached)


def _where(trainer: TrainerProtocol, method: str, block: StackedBatches | None) -> str:
    several = f", {trainer.replicas.count} replicas" if trainer.replicas.count > 1 else ""
    return (
        f"{type(trainer.recipe).__name__}.{method} in mode={trainer.mode.name} "
        f"(compile={trainer.mode.compile}, precision={trainer.mode.precision}{several})"
        + (f"; batch {{{block.describe()}}}" if block is not None else "")
    )
