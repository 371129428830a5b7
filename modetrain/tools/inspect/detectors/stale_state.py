"""Python values that a compiled step has frozen and that change afterwards in a running job."""

from __future__ import annotations

import logging

from modetrain.callback import Callback
from modetrain.recipe import Recipe
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.python_state.diff import Change, PythonState, find_changes
from modetrain.tools.inspect.python_state.reachable import find_reachable
from modetrain.tools.inspect.python_state.source import find_read, last_name, start_of

log = logging.getLogger(__name__)

_CODES = {"plain": "MT401", "layer": "MT403", "object": "MT404", "container": "MT401", "array": "MT401"}


class StaleStateCallback(Callback):
    """Warns of what the step reads and has changed since it was traced: a weight, an epoch, `layer.trainable`.

    It looks where another callback looks, or a call ends, and never makes a call shorter.

    Args:
      every: steps in a window; values are compared once after a window is complete.
    """

    def __init__(self, *, every: int):
        super().__init__()
        self._window = every
        self._compared = 0
        self._others: list[Callback] = []
        self._detector: StaleStateDetector | None = None

    def next_step(self, step):
        wanted = [one for callback in self._others if (one := callback.next_step(step)) is not None]
        return min(wanted, default=None)

    def on_train_begin(self, trainer):
        self._others = [callback for callback in trainer.callbacks if callback is not self]
        self._compared = trainer.step

    def on_steps_end(self, trainer, metrics):
        if self._detector is None:  # the first call has traced the step
            self._detector = StaleStateDetector(trainer.recipe)
        elif metrics.first // self._window > self._compared // self._window:  # no callback has looked since
            self._report(trainer)

    def on_step(self, trainer):
        if trainer.step // self._window > self._compared // self._window:
            self._report(trainer)

    def on_train_end(self, trainer):
        self._report(trainer)

    def _report(self, trainer) -> None:
        self._compared = trainer.step
        for one in self._detector.find_changed() if self._detector is not None else ():
            log.warning(f"step {trainer.step}: {one.place.shown}: {one.code} {one.what}")


class StaleStateDetector:
    """Compares the Python that a recipe's training step reads with what it was at the beginning.

    Args:
      recipe: the recipe, its step traced.
    """

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        self._reachable = find_reachable(recipe, ["train_step"])
        self._state = PythonState.for_recipe(recipe, self._reachable, generators=False)
        self._traced = self._state.snapshot()
        self._reported: set[str] = set()

    def find_changed(self) -> list[Finding]:
        """What differs from the beginning; each expression is reported once."""
        found = [
            change
            for change in find_changes(self._traced, self._state.snapshot())
            if change.kind in _CODES and change.expression not in self._reported and self._is_read(change)
        ]
        self._reported |= {change.expression for change in found}
        return [self._make_finding(change) for change in found]

    def _is_read(self, change: Change) -> bool:
        if change.kind == "layer":  # one that is still there
            return change.before is not None and change.after is not None
        return last_name(change.expression) in self._reachable.names

    def _make_finding(self, change: Change) -> Finding:
        read = find_read(change.expression, self._reachable.functions)
        place = read or start_of(type(self._recipe).train_step)
        before, after = change.texts
        what = f"{change.expression} was {before} when the step was traced and is {after} now: the compiled step keeps {before}"
        return make_finding(_CODES[change.kind], place, what, evidence="the running job")
