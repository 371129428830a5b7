"""What of Python's own state one step changes, and at which line: counters, lists, globals, NumPy's and Python's random state.

A step that changes such things is no function of state and batch; traced, it changes them once, while it is traced.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics.location import Location, is_users
from modetrain.recipe import Recipe

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST = 1000
_MOST_LETTERS = 40
_GENERATORS = ("the state of numpy.random", "the state of Python's random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A change of Python's state.

    Attributes:
      name: of what changed.
      was, now: shortly; both empty for states of random generators.
      place: the user's line after which it was seen.
      random: whether it is the state of a random generator.
    """

    name: str
    was: str
    now: str
    place: Location | None
    random: bool = False

    def __str__(self) -> str:
        values = f" from {self.was} to {self.now}" if self.was or self.now else ""
        return f"{self.name}{values}" + (f" at {self.place}" if self.place else "")


def changes(recipe: Recipe, run: Callable[[], Any]) -> list[Change]:
    """Runs a step eagerly, line by line, and returns what of Python's state it changed, each thing once."""
    found: dict[str, Change] = {}
    globals_ = _globals_of(recipe)
    last = _fingerprint(recipe, globals_)
    line: list[Location | None] = [None]

    def look() -> None:
        nonlocal last
        now = _fingerprint(recipe, globals_)
        for name in now.keys() | last.keys():
            was, became = last.get(name), now.get(name)
            if was != became and name not in found:
                generator = name in _GENERATORS or name.endswith("(generator)")
                texts = ("", "") if generator else (_short(was), _short(became))
                found[name] = Change(name=name, was=texts[0], now=texts[1], place=line[0], random=generator)
        last = now

    def trace(frame: FrameType, event: str, arg: Any):
        if not is_users(frame.f_code.co_filename):
            return None
        if event == "call":
            return trace
        look()
        line[0] = Location(file=frame.f_code.co_filename, line=frame.f_lineno, function=frame.f_code.co_name)
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(old)
    look()
    return sorted(found.values(), key=lambda change: not change.random)


def _globals_of(recipe: Recipe) -> list[dict[str, Any]]:
    modules = [sys.modules.get(cls.__module__) for cls in type(recipe).__mro__ if cls.__module__ != Recipe.__module__]
    return [vars(module) for module in modules if module is not None and module.__name__ not in ("builtins",)]


def _fingerprint(recipe: Recipe, globals_: list[dict[str, Any]]) -> dict[str, Any]:
    kept = {id(variable) for variable in recipe.state().values()}
    found: dict[str, Any] = {
        _GENERATORS[0]: hash(np.random.get_state()[1].tobytes()) ^ np.random.get_state()[2],  # type: ignore[index, call-overload]
        _GENERATORS[1]: hash(random.getstate()),
    }
    for name, value in _things(recipe, globals_):
        if isinstance(value, np.random.Generator):
            found[f"{name} (generator)"] = str(value.bit_generator.state)
        elif isinstance(value, random.Random):
            found[f"{name} (generator)"] = hash(value.getstate())
        elif isinstance(value, (tf.Variable, keras.Variable)) and id(value) not in kept:
            found[f"the variable {name}, which is no attribute of the recipe,"] = _short(value.numpy().tolist())
        elif isinstance(value, _PLAIN):
            found[name] = value
        elif isinstance(value, (list, set, dict)):
            found[name] = (type(value).__name__, len(value), repr(value) if _plain(value) else "")
        elif isinstance(value, np.ndarray) and value.size <= _MOST:
            found[name] = value.tobytes()
    return found


def _things(recipe: Recipe, globals_: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    yield from ((f"self.{name}", value) for name, value in vars(recipe).items() if name != "_seeded")
    for cls in type(recipe).__mro__:
        if cls.__module__ != Recipe.__module__ and cls is not object:
            yield from ((f"{cls.__name__}.{name}", value) for name, value in vars(cls).items() if name[:2] != "__")
            yield from _closures(cls)
    for names in globals_:
        yield from ((name, value) for name, value in list(names.items()) if not name.startswith("__"))


def _closures(cls: type) -> Iterator[tuple[str, Any]]:
    for function in vars(cls).values():
        cells = getattr(function, "__closure__", None) or ()
        for name, cell in zip(getattr(getattr(function, "__code__", None), "co_freevars", ()), cells, strict=False):
            try:
                yield f"closure {name}", cell.cell_contents
            except ValueError:  # not set yet
                continue


def _plain(value: Any, depth: int = 2) -> bool:
    """Whether all that a value holds can be told by its `repr`."""
    if isinstance(value, _PLAIN):
        return True
    if depth == 0 or not isinstance(value, (list, tuple, set, dict)) or len(value) > _MOST:
        return False
    return all(_plain(one, depth - 1) for one in (value.values() if isinstance(value, dict) else value))


def _short(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 3 and value[0] in ("list", "set", "dict"):
        if not 0 < len(value[2]) <= _MOST_LETTERS:
            return f"a {value[0]} of {value[1]}"
        return value[2]
    text = repr(value)
    return text if len(text) <= _MOST_LETTERS else f"{text[:37]}..."
