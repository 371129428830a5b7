"""Watches a running job for Python values that a compiled step has frozen and that somebody changes afterwards."""

from __future__ import annotations

import logging
import re

from modetrain.callback import Callback
from modetrain.recipe import Recipe
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.python_state.diff import Change, State, changes
from modetrain.tools.inspect.python_state.reachable import reached
from modetrain.tools.inspect.startup_check import place_of_method, place_of_read

log = logging.getLogger(__name__)

_CODES = {"layer": "MT403", "object": "MT404"}
_KINDS = ("plain", "layer", "object", "container", "array")


class StalePython(Callback):
    """At each look says what the step reads and has changed since it was traced: a weight, an epoch, `layer.trainable`.

    Args:
      every: steps between looks.
    """

    def __init__(self, *, every: int):
        super().__init__(every=every)
        self._watch: StaleWatch | None = None

    def on_steps_end(self, trainer, rows):
        if self._watch is None:  # the first call has traced the step
            self._watch = StaleWatch(trainer.recipe)

    def on_step(self, trainer):
        for one in self._watch.changed() if self._watch is not None else ():
            log.warning(f"step {trainer.step}: {one.place.shown}: {one.code} {one.what}")

    def on_train_end(self, trainer):
        self.on_step(trainer)


class StaleWatch:
    """The Python that a recipe's training step reads, as it was when the watch began.

    Args:
      recipe: the recipe, its step traced.
    """

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        self._reach = reached(recipe, ["train_step"])
        self._state = State.of(recipe, self._reach, generators=False)
        self._traced = self._state.look()
        self._known: set[str] = set()

    def changed(self) -> list[Finding]:
        """What is not as it was when the watch began; each expression is told once."""
        found = [
            change
            for change in changes(self._traced, self._state.look())
            if change.kind in _KINDS and change.expression not in self._known and self._is_read(change)
        ]
        self._known |= {change.expression for change in found}
        return [self._told(change) for change in found]

    def _is_read(self, change: Change) -> bool:
        if change.kind == "layer":  # of a layer that is still there
            return change.before is not None and change.after is not None
        return _last_name(change.expression) in self._reach.names

    def _told(self, change: Change) -> Finding:
        place = place_of_read(change.expression, self._reach) or place_of_method(self._recipe, "train_step")
        before, after = (one.shown if one is not None else "not there" for one in (change.before, change.after))
        what = f"{change.expression} was {before} when the step was traced and is {after} now: the compiled step keeps {before}"
        return finding(_CODES.get(change.kind, "MT401"), place, what, evidence="the running job")


def _last_name(expression: str) -> str:
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[.*?\]|\(.*?\)", "", expression))
    return names[-1] if names else ""
