"""The callbacks of a trainer: the next step that they want, and their calls in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modetrain.callback import Callback, StepFailure, TrainerProtocol
from modetrain.engine.metrics import StepMetrics
from modetrain.errors import NotSavedError


class CallbackList:
    """Calls every callback in its order.

    Args:
      callbacks: the callbacks in the order of their calls.

    Attributes:
      active: the callback that runs now, and its method, as text; None between two calls.
      pending: callbacks that want this step and have not run yet.
    """

    def __init__(self, callbacks: Sequence[Callback]):
        self._callbacks = list(callbacks)
        self._wanted: list[int | None] = []
        self._begun: list[Callback] = []
        self.active: str | None = None
        self.pending: list[Callback] = []

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def append(self, callback: Callback) -> None:
        """Adds a callback, called last."""
        self._callbacks.append(callback)

    def on_train_begin(self, trainer: TrainerProtocol) -> None:
        self._begun = []
        for callback in self._callbacks:
            self._begun.append(callback)
            self._call(callback, "on_train_begin", trainer)

    def next_step(self, step: int, last: int) -> int:
        """The first step after `step` that a callback wants, at most `last`."""
        self._wanted = [callback.next_step(step) for callback in self._callbacks]
        return min([last, *(one for one in self._wanted if one is not None)])

    def on_steps_end(self, trainer: TrainerProtocol, metrics: StepMetrics) -> None:
        for callback in self._callbacks:
            self._call(callback, "on_steps_end", trainer, metrics)

    def on_step(self, trainer: TrainerProtocol) -> None:
        """Calls the callbacks that want this step."""
        self.pending = [c for c, step in zip(self._callbacks, self._wanted, strict=True) if step == trainer.step]
        self.call_pending(trainer)

    def call_pending(self, trainer: TrainerProtocol) -> None:
        """Calls the pending callbacks: after an error, those from the failed one on.

        Raises:
          RuntimeError: one has replaced an optimizer.
        """
        while self.pending:
            optimizers = trainer.recipe.optimizers()
            self._call(self.pending[0], "on_step", trainer)
            if trainer.recipe.optimizers() != optimizers:
                raise RuntimeError(
                    f"{type(self.pending[0]).__name__}.on_step has replaced an optimizer of {type(trainer.recipe).__name__}: a "
                    "compiled step updates by the optimizer that was there when the step was traced. Make all optimizers in "
                    "__init__ and choose by tf.cond in the step; or end the run, and resume it with other settings."
                )
            self.pending = self.pending[1:]

    def on_save(self, trainer: TrainerProtocol) -> None:
        for callback in self._callbacks:
            self._call(callback, "on_save", trainer)

    def on_step_error(self, trainer: TrainerProtocol, failure: StepFailure) -> None:
        for callback in self._callbacks:
            self._call(callback, "on_step_error", trainer, failure)

    def on_nonfinite(self, trainer: TrainerProtocol, error: ArithmeticError) -> bool:
        """Whether a callback brought the trainer back to an earlier step."""
        if not any(self._call(callback, "on_nonfinite", trainer, error) for callback in self._callbacks):
            return False
        for callback in self._callbacks:
            self._call(callback, "on_rollback", trainer)
        return True

    def on_train_end(self, trainer: TrainerProtocol, failure: BaseException | None) -> BaseException | None:
        """Ends every callback that has begun, even if one fails; returns the first failure."""
        for callback in self._begun:
            try:
                callback.on_train_end(trainer)
            except BaseException as error:
                if failure is None:
                    failure = error
                elif isinstance(error, NotSavedError):  # its text is complete, and needed once
                    if not isinstance(failure, NotSavedError):
                        failure.add_note(f"modetrain: {error}")
                else:
                    failure.add_note(f"modetrain: {type(callback).__name__}.on_train_end failed too: {error!r}")
        return failure

    def _call(self, callback: Callback, method: str, trainer: TrainerProtocol, *more: Any) -> Any:
        name = f"{type(callback).__name__}.{method}"
        before, self.active = self.active, name  # a callback may evaluate, and a failing step calls callbacks in turn
        try:
            return getattr(callback, method)(trainer, *more)
        except Exception as error:
            if not getattr(error, "__notes__", ()) and not isinstance(error, NotSavedError):
                error.add_note(f"modetrain: {name} failed after step {trainer.step}")
            raise
        finally:
            self.active = before
