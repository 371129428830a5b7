"""Puts the user's Python back as it was: looking at a step runs its Python a few times more than a run would."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import queue
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from modetrain.recipe import Recipe
from modetrain.tools.inspect.python_state.reachable import is_users_object, reached
from modetrain.tools.inspect.python_state.traverse import holds_symbols

_MOST_DEPTH = 6
_MOST_BYTES = 2**24
_LISTS = (list, collections.deque)
_PLACES = tuple(map(type, map(iter, ([], (), "", b"", range(0)))))
_MAPPINGS = (dict, collections.defaultdict, collections.Counter, collections.OrderedDict)


@contextlib.contextmanager
def python_state_kept(recipe: Recipe) -> Iterator[None]:
    """Restores attributes, globals, containers and random generators that the recipe's steps reach, as far as they can be."""
    reach = reached(recipe, ["train_step", "eval_step"])
    undo: list[Callable[[], None]] = []
    visited: set[int] = set()
    for function in reach.functions:
        _keep_names(function.__globals__, undo, visited)
        for cell in function.__closure__ or ():
            _keep_cell(cell, undo, visited)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            _keep(default, undo, visited, 0)
    for thing in reach.objects.values():
        _keep(thing, undo, visited, 0)
    for cls in type(recipe).__mro__:
        if is_users_object(cls):
            _keep(cls, undo, visited, 0)
    undo.extend(cache.cache_clear for cache in reach.caches.values() if not holds_symbols(cache))
    state, numbers = random.getstate(), np.random.get_state()
    in_context = contextvars.copy_context()
    try:
        yield
    finally:
        for variable, value in contextvars.copy_context().items():
            with contextlib.suppress(LookupError):  # it had no value, and no default
                before = in_context[variable] if variable in in_context else contextvars.Context().run(variable.get)
                if before is not value:
                    variable.set(before)
        random.setstate(state)
        np.random.set_state(numbers)
        for one in undo:
            with contextlib.suppress(Exception):  # a property or a slot that takes no value
                one()


@contextlib.contextmanager
def seed_kept() -> Iterator[None]:
    """Puts back TensorFlow's global seed, and which of its numbers comes next."""
    holder = context.context()
    seed, rng = holder._seed, getattr(holder, "_rng", None)
    drawn = rng.getstate() if rng is not None else None
    try:
        yield
    finally:
        tf.random.set_seed(seed)
        if drawn is not None:
            holder._rng.setstate(drawn)


def _keep(thing: Any, undo: list[Callable[[], None]], visited: set[int], depth: int) -> None:
    if id(thing) in visited or depth > _MOST_DEPTH:
        return
    visited.add(id(thing))
    inner: list[Any] = []
    if isinstance(thing, np.random.Generator):
        state = thing.bit_generator.state
        undo.append(lambda: setattr(thing.bit_generator, "state", state))
    elif isinstance(thing, (random.Random, np.random.RandomState)):
        if not isinstance(thing, random.SystemRandom):
            _keep_generator(thing, undo)
    elif type(thing) in _PLACES:
        _keep_place(thing, undo)
    elif type(thing) in _LISTS:
        items = list(thing)
        inner = items[:100]
        undo.append(lambda: _refill(thing, thing.extend, items))
    elif isinstance(thing, queue.Queue):
        inner = [thing.queue]
    elif isinstance(thing, queue.SimpleQueue):
        waiting = [thing.get() for _ in range(thing.qsize())]
        _fill(thing, waiting)
        undo.append(lambda: _fill(thing, waiting))
    elif type(thing) in _MAPPINGS:
        pairs = dict(thing)
        inner = list(pairs.values())[:100]
        undo.append(lambda: _refill(thing, thing.update, pairs))
    elif type(thing) is set:
        members = set(thing)
        undo.append(lambda: _refill(thing, thing.update, members))
    elif isinstance(thing, np.ndarray) and thing.nbytes < _MOST_BYTES and thing.flags.writeable:
        array = thing.copy()
        undo.append(lambda: np.copyto(thing, array))
    elif isinstance(thing, type):
        for name, value in list(vars(thing).items()):
            if (
                not name.startswith("__")
                and not callable(value)
                and not isinstance(value, (property, classmethod, staticmethod))
            ):
                undo.append(_setting(thing, name, value))
                inner.append(value)
    elif isinstance(thing, types.ModuleType):
        _keep_names(vars(thing), undo, visited)
    elif is_users_object(thing) and hasattr(thing, "__dict__") and not _is_keras(thing):
        attributes = dict(vars(thing))
        inner = list(attributes.values())
        undo.append(lambda: _refill(vars(thing), vars(thing).update, attributes))
    for one in inner:
        _keep(one, undo, visited, depth + 1)


def _fill(simple: queue.SimpleQueue, items: list[Any]) -> None:
    while not simple.empty():
        simple.get()
    for item in items:
        simple.put(item)


def _refill(container: Any, fill: Callable[[Any], None], items: Any) -> None:
    container.clear()
    fill(items)


def _keep_place(iterator: Any, undo: list[Callable[[], None]]) -> None:
    """Puts an iterator over a list back to its item; one that has come to its end stays there."""
    place = iterator.__reduce__()[2:]
    if place and place[0] is not None:
        undo.append(lambda: iterator.__setstate__(place[0]))


def _keep_generator(generator: Any, undo: list[Callable[[], None]]) -> None:
    if isinstance(generator, random.Random):
        state = generator.getstate()
        undo.append(lambda: generator.setstate(state))
    else:
        numbers = generator.get_state()
        undo.append(lambda: generator.set_state(numbers))


def _keep_names(namespace: dict[str, Any], undo: list[Callable[[], None]], visited: set[int]) -> None:
    if id(namespace) in visited:
        return
    visited.add(id(namespace))
    for name, value in list(namespace.items()):
        if not name.startswith("__") and not isinstance(value, (types.ModuleType, types.FunctionType, type)):
            undo.append(_setting_item(namespace, name, value))
            _keep(value, undo, visited, 1)


def _keep_cell(cell: types.CellType, undo: list[Callable[[], None]], visited: set[int]) -> None:
    try:
        value = cell.cell_contents
    except ValueError:
        return
    undo.append(lambda: setattr(cell, "cell_contents", value))
    _keep(value, undo, visited, 1)


def _setting(thing: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(thing, name, value)


def _setting_item(namespace: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    return lambda: namespace.__setitem__(name, value)


def _is_keras(thing: Any) -> bool:
    import keras

    return isinstance(thing, (keras.Layer, keras.Variable))
