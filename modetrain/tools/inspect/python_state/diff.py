"""The Python state that a step can see, and how it changes: attributes, globals, closures, caches, iterators, generators.

    state = State.of(recipe, reached)
    before = state.look()
    ...
    for change in changes(before, state.look()): ...

A look is a flat mapping from expressions (`self.history`, `COUNTS['a']`) to small values that can be compared.
"""

from __future__ import annotations

import dataclasses
import random
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from modetrain.tools.inspect.python_state.reachable import Reached, is_users_object, names_in
from modetrain.tools.inspect.python_state.traverse import Names, OfClass, Seen, walk

Look = Mapping[str, Seen]
# What is said where what is shown of before and after is the same.
_MOVES = {"iterator": "moves on to its next item", "random": "draws its next numbers", "array": "gets other values"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One expression before and after; None where it was not there."""

    expression: str
    before: Seen | None
    after: Seen | None

    @property
    def kind(self) -> str:
        """The kind of what was there, or is there now."""
        one = self.after or self.before
        assert one is not None
        if self.after is not None and self.after.kind == "tensor":
            return "tensor"
        return self.before.kind if self.before is not None else one.kind

    def described(self) -> str:
        """`self.n: 0 -> 1`."""
        before = self.before.shown if self.before is not None else "not there"
        after = self.after.shown if self.after is not None else "not there"
        if before == after and self.kind in _MOVES:
            return f"{self.expression} {_MOVES[self.kind]}"
        return f"{self.expression}: {before} -> {after}"


def changes(before: Look, after: Look) -> list[Change]:
    """What differs; of a container and what is in it, the container."""
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
    # A container into which a tensor has leaked is told once, as the leak.
    return [one for one in outer if one in leaks or not any(is_inside(k.expression, one.expression) for k in leaks)]


def is_inside(inner: str, outer: str) -> bool:
    """Whether an expression is of something in what another one is of."""
    return inner.startswith(outer) and inner[len(outer) : len(outer) + 1] in ("[", ".")


class State:
    """The Python state that a step can see.

    Args:
      roots: by expression what to look at; of `Names` and `OfClass` only what these say.
    """

    def __init__(self, roots: Mapping[str, Any]):
        self._roots = roots

    @classmethod
    def of(cls, recipe: Any, reached: Reached, *, generators: bool = True) -> State:
        """What the functions that a step reaches can see.

        Args:
          recipe: whose attributes are `self`.
          reached: see `reach.reached`.
          generators: whether to look at the random generators of Python and NumPy too, which takes a while.
        """
        roots: dict[str, Any] = {"self": recipe}
        for expression, thing in reached.objects.items():
            if isinstance(thing, types.ModuleType):
                roots[expression] = Names(vars(thing), reached.names & set(vars(thing)))
            elif isinstance(thing, type):
                roots[expression] = OfClass(thing)
            elif thing is not recipe:
                roots[expression] = thing
        for cls_ in type(recipe).__mro__:
            if is_users_object(cls_):
                roots[cls_.__name__] = OfClass(cls_)
        for function in reached.functions:
            name, code = function.__qualname__, function.__code__
            module = function.__globals__
            roots[f"<{module.get('__name__')}>"] = Names(
                module, (_merged_names(roots.get(f"<{module.get('__name__')}>")) | names_in(code)) & set(module)
            )
            for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
                roots[f"{name}:{variable}"] = cell
            if function.__defaults__ or function.__kwdefaults__:
                roots[f"{name}()"] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
            if vars(function):
                roots[name] = Names(vars(function), set(vars(function)))
        roots |= reached.caches
        if generators:
            roots["random"] = random._inst  # type: ignore[attr-defined]
            roots["numpy.random"] = np.random.mtrand._rand  # type: ignore[attr-defined]
        return cls(roots)

    def look(self) -> dict[str, Seen]:
        """Looks at everything once."""
        found: dict[str, Seen] = {}
        visited: set[int] = set()
        for expression, root in self._roots.items():
            for name, seen in walk(expression, root, visited, 0):
                found.setdefault(name, seen)
        return found


def _merged_names(root: Any) -> set[str]:
    return root.names if isinstance(root, Names) else set()
