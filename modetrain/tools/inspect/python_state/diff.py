"""The Python state that a step can see, and how it changes: attributes, globals, closures, caches, iterators, generators.

    state = PythonState.for_recipe(recipe, reachable)
    before = state.snapshot()
    ...
    for change in find_changes(before, state.snapshot()): ...

A snapshot is a flat mapping from expressions (`self.history`, `COUNTS['a']`) to small values that can be compared.
"""

from __future__ import annotations

import dataclasses
import random
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from modetrain.engine.object_walk import defaults_of
from modetrain.tools.inspect.python_state.reachable import Reachable, is_users_object, names_in
from modetrain.tools.inspect.python_state.traverse import ClassAttributes, SelectedNames, traverse
from modetrain.tools.inspect.python_state.value_summary import ValueSummary

Snapshot = Mapping[str, ValueSummary]
# What a message says where the texts of before and after are the same.
_UNSEEN_CHANGES = {
    "iterator": "moves on to its next item",
    "random": "draws its next numbers",
    "array": "gets other values",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One expression before and after; None where it was not there."""

    expression: str
    before: ValueSummary | None
    after: ValueSummary | None

    @property
    def kind(self) -> str:
        """The kind of what was there, or is there now."""
        if self.after is not None and (self.before is None or self.after.kind == "tensor"):
            return self.after.kind
        assert self.before is not None
        return self.before.kind

    @property
    def texts(self) -> tuple[str, str]:
        """The values before and after, for a message."""
        return (
            self.before.text if self.before is not None else "not there",
            self.after.text if self.after is not None else "not there",
        )

    def describe(self) -> str:
        """`self.n: 0 -> 1`."""
        before, after = self.texts
        if before == after and self.kind in _UNSEEN_CHANGES:
            return f"{self.expression} {_UNSEEN_CHANGES[self.kind]}"
        return f"{self.expression}: {before} -> {after}"


def find_changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """What differs; where a container and what is in it differ, only the container."""
    if before == after:
        return []
    found = []
    for expression in [*before, *(one for one in after if one not in before)]:
        old, new = before.get(expression), after.get(expression)
        if old is None or new is None or old.token != new.token:
            found.append(Change(expression=expression, before=old, after=new))
    containers = {one.expression for one in found if one.kind == "container" and one.before is not None}
    leaks = [one for one in found if one.kind == "tensor"]
    outer = [
        one
        for one in found
        if one.kind == "tensor" or not any(is_inside(one.expression, outer) for outer in containers - {one.expression})
    ]
    # A container into which a tensor has leaked is reported once, as the leak.
    return [
        one for one in outer if one in leaks or not any(is_inside(leak.expression, one.expression) for leak in leaks)
    ]


def is_inside(inner: str, outer: str) -> bool:
    """Whether an expression leads to something in what another expression leads to."""
    return inner.startswith(outer) and inner[len(outer) : len(outer) + 1] in ("[", ".")


class PythonState:
    """The Python state that a step can see.

    Args:
      roots: by expression what is compared: values, `SelectedNames` and `ClassAttributes`.
    """

    def __init__(self, roots: Mapping[str, Any]):
        self._roots = roots

    @classmethod
    def for_recipe(cls, recipe: Any, reachable: Reachable, *, generators: bool = True) -> PythonState:
        """What the functions that a step reaches can see.

        Args:
          recipe: whose attributes are `self`.
          reachable: see `find_reachable`.
          generators: whether to compare the random generators of Python and NumPy too, which takes a while.
        """
        roots: dict[str, Any] = {"self": recipe}
        for expression, thing in reachable.objects.items():
            if isinstance(thing, types.ModuleType):
                roots[expression] = SelectedNames(vars(thing), reachable.names & set(vars(thing)))
            elif isinstance(thing, type):
                roots[expression] = ClassAttributes(thing)
            elif thing is not recipe:
                roots[expression] = thing
        for cls_ in type(recipe).__mro__:
            if is_users_object(cls_):
                roots[cls_.__name__] = ClassAttributes(cls_)
        for function in reachable.functions:
            name, code, module = function.__qualname__, function.__code__, function.__globals__
            key = f"<{module.get('__name__')}>"
            known = roots[key].names if isinstance(roots.get(key), SelectedNames) else set()
            roots[key] = SelectedNames(module, (known | names_in(code)) & set(module))
            for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
                roots[f"{name}:{variable}"] = cell
            if defaults := defaults_of(function):
                roots[f"{name}()"] = defaults
            if vars(function):
                roots[name] = SelectedNames(vars(function), set(vars(function)))
        roots |= reachable.caches
        if generators:
            roots["random"] = random._inst  # type: ignore[attr-defined]
            roots["numpy.random"] = np.random.mtrand._rand  # type: ignore[attr-defined]
        return cls(roots)

    def snapshot(self) -> dict[str, ValueSummary]:
        """Summaries of everything, by expression."""
        found: dict[str, ValueSummary] = {}
        visited: set[int] = set()
        for expression, root in self._roots.items():
            for name, summary in traverse(expression, root, visited):
                found.setdefault(name, summary)
        return found
