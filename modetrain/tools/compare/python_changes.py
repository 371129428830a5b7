"""Finds what of Python's own state one step changes, and at which line: counters, lists, globals, random generators.

A step that changes such things is no function of state and batch; traced, it changes them once, while it is traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from modetrain.diagnostics.location import Location
from modetrain.recipe import Recipe
from modetrain.tools.inspect.python_state.change_tracer import ChangeTracer
from modetrain.tools.inspect.python_state.diff import Change, PythonState
from modetrain.tools.inspect.python_state.reachable import find_reachable

_GENERATORS = {"numpy.random": "the state of numpy.random", "random": "the state of Python's random"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonChange:
    """A change of Python's state.

    Attributes:
      what: in words.
      place: the user's line that made it.
      random: whether it is the state of a random generator.
    """

    what: str
    place: Location
    random: bool

    def __str__(self) -> str:
        return f"{self.what} at {self.place}"


def find_changes(recipe: Recipe, run: Callable[[], Any]) -> list[PythonChange]:
    """Runs a step eagerly, line by line; returns what of Python's state it changed, each once, generators first."""
    with ChangeTracer(PythonState.for_recipe(recipe, find_reachable(recipe, ["train_step"]))) as tracer:
        run()
    first: dict[str, PythonChange] = {}
    for place, change in tracer.changes:
        if change.expression in tracer.lasting and change.expression not in first:
            first[change.expression] = PythonChange(what=_describe(change), place=place, random=change.kind == "random")
    return sorted(first.values(), key=lambda change: not change.random)


def _describe(change: Change) -> str:
    if change.kind == "random":
        return _GENERATORS.get(change.expression, f"the state of {change.expression}")
    before, after = change.texts
    return change.expression + (f" from {before} to {after}" if before != after else "")
