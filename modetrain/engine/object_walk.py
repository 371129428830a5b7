"""Walks the objects that a recipe holds, in containers of any kind, each with its Python expression."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.engine.optimizer import Optimizer
from modetrain.engine.variables import attribute, ids_of

_MOST_VISITED = 10_000
_PLAIN = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic)
_ENDS = (
    *(type, types.ModuleType, Optimizer, tf.Tensor, tf.Variable, keras.Variable),
    *(keras.optimizers.Optimizer, keras.metrics.Metric, tf.random.Generator),
)


def walk(recipe: Any) -> Iterator[tuple[str, Any, keras.Layer | None]]:
    """Every object within reach of the recipe's attributes and of the globals that its methods name, the nearest first.

    Returns:
      The Python expression of each, the object, and the innermost layer that it is in.
    """
    visited: set[int] = {id(recipe)}
    roots = [*((attribute("self", name), thing) for name, thing in vars(recipe).items()), *_globals_of(type(recipe))]
    queue: collections.deque[tuple[str, Any, keras.Layer | None]] = collections.deque((*root, None) for root in roots)
    while queue and len(visited) < _MOST_VISITED:
        place, thing, layer = queue.popleft()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        yield place, thing, layer
        layer = thing if isinstance(thing, keras.Layer) else layer
        children = ((*child, layer) for child in _iter_children(place, thing) if not isinstance(child[1], _PLAIN))
        queue.extend(itertools.islice(children, _MOST_VISITED))


def find_path(recipe: Any, found: Callable[[Any], bool]) -> str | None:
    """The shortest Python expression for an object that satisfies `found`."""
    return next((place for place, thing, _ in walk(recipe) if found(thing)), None)


def reachable_variables(recipe: Any) -> dict[str, Any]:
    """The recipe's state by name, and every other variable within reach, by its Python expression."""
    return {**recipe.state(), **unsaved_variables(recipe)}


def unsaved_variables(recipe: Any, *, except_in: tuple[type, ...] = ()) -> dict[str, Any]:
    """The variables within reach that are not in the recipe's state, by Python expression; without those of some classes."""
    known = ids_of(recipe.state().values())
    found: dict[str, Any] = {}
    for place, thing, _ in walk(recipe):
        for index, variable in enumerate(variables_in(thing) if not isinstance(thing, except_in) else ()):
            if id(variable) not in known:
                known.add(id(variable))
                found[place if variable is thing else f"{place}.variables[{index}]"] = variable
    return found


def variables_in(thing: Any) -> list[Any]:
    """The variables that an object of `walk` is, or lists."""
    if isinstance(thing, (tf.Variable, keras.Variable)):
        return [thing]
    if isinstance(thing, (keras.random.SeedGenerator, tf.random.Generator)):
        return [thing.state]
    held = getattr(thing, "variables", None) if isinstance(thing, _LISTING) else None
    return list(held or ())


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """The values of a function's closure that are set, by name."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return found


def defaults_of(function: types.FunctionType) -> list[Any]:
    """The default values of a function's parameters."""
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def attributes_of(thing: Any) -> dict[str, Any]:
    """The attributes of an object itself, those in slots included."""
    if isinstance(thing, (type, types.ModuleType)):
        return {}
    found = dict(getattr(thing, "__dict__", {}))
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                found[name] = getattr(thing, name)
    return found


_LISTING = (keras.Layer, keras.metrics.Metric, keras.optimizers.Optimizer, Optimizer, tf.Module)


def _globals_of(cls: type) -> Iterator[tuple[str, Any]]:
    """What a recipe's class holds, and what its own methods name of the globals of their file."""
    for owner in cls.__mro__:
        if owner is object or owner.__module__.partition(".")[0] == "modetrain":
            continue
        for name, member in vars(owner).items():
            code = getattr(member, "__code__", None)
            if code is None:
                yield f"{owner.__name__}.{name}", member
                continue
            for used in code.co_names:
                thing = member.__globals__.get(used)
                if not isinstance(thing, (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
                    yield used, thing


def _iter_children(place: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, _ENDS):
        return
    if isinstance(thing, keras.Layer):
        yield from _of_layer(place, thing)
    elif isinstance(thing, Mapping):
        yield from ((f"{place}[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple, collections.deque)):
        yield from ((f"{place}[{index}]", value) for index, value in enumerate(thing))
    elif isinstance(thing, (set, frozenset)):
        yield from ((f"{place}, a set", value) for value in thing)
    elif isinstance(thing, types.FunctionType):
        yield from ((f"the closure of {place}", value) for value in closure_of(thing).values())
        yield from ((f"a default of {place}", value) for value in defaults_of(thing))
    elif isinstance(thing, types.MethodType):
        yield f"{place}.__self__", thing.__self__
    elif isinstance(thing, functools.partial):
        yield f"{place}.func", thing.func
        yield from ((f"{place}.args[{index}]", value) for index, value in enumerate(thing.args))
        yield from ((f"{place}.keywords[{name!r}]", value) for name, value in thing.keywords.items())
    else:
        own = attributes_of(thing)
        if dataclasses.is_dataclass(thing):
            own |= {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if hasattr(thing, f.name)}
        yield from ((attribute(place, name), value) for name, value in own.items())


def _of_layer(place: str, layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """The attributes that a layer's author has written, then the layers that Keras knows in it."""
    of_keras = type(layer).__module__.partition(".")[0] == "keras"
    for name, value in vars(layer).items():
        if name not in _attributes_of_keras() and not name.startswith("_" if of_keras else "_self_"):
            yield attribute(place, name), value
    yield from (
        (f"{place}, layer {one.name}", one) for one in layer._flatten_layers(include_self=False, recursive=False)
    )


@functools.cache
def _attributes_of_keras() -> frozenset[str]:
    """The attributes that Keras gives every layer and model."""
    inputs = keras.Input((1,))
    return frozenset({*vars(keras.Sequential()), *vars(keras.Model(inputs, inputs))})
