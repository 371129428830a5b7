"""Saves the user's Python state and restores it: tracing and running a step to inspect it changes that state.

with restore_python_state(recipe), restore_seed(): ...
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import queue
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from modetrain.recipe import Recipe
from modetrain.tools.inspect.python_state.reachable import (
    class_attributes_of,
    defaults_of,
    find_reachable,
    is_users_object,
)
from modetrain.tools.inspect.python_state.value_summary import count_symbols

_MOST_DEPTH = 6
_MOST_ITEMS = 100
_MOST_BYTES = 2**24
_LISTS = (list, collections.deque)
_LIST_ITERATORS = tuple(map(type, map(iter, ([], (), "", b"", range(0)))))
_MAPPINGS = (dict, collections.defaultdict, collections.Counter, collections.OrderedDict)


@contextlib.contextmanager
def restore_python_state(recipe: Recipe) -> Iterator[None]:
    """Restores attributes, globals, containers and random generators that the recipe's steps reach, as far as possible."""
    reachable = find_reachable(recipe, ["train_step", "eval_step"])
    saved = _SavedState()
    for function in reachable.functions:
        saved.save_names(function.__globals__)
        for cell in function.__closure__ or ():
            saved.save_cell(cell)
        for default in defaults_of(function):
            saved.save(default)
    for thing in (*reachable.objects.values(), *(cls for cls in type(recipe).__mro__ if is_users_object(cls))):
        saved.save(thing)
    for cache in reachable.caches.values():
        if not count_symbols(cache):
            saved.undo.append(cache.cache_clear)
    for generator in (random._inst, np.random.mtrand._rand):  # type: ignore[attr-defined]
        saved.save(generator)
    context_before = contextvars.copy_context()
    try:
        yield
    finally:
        _restore_context(context_before)
        saved.restore()


def _restore_context(before: contextvars.Context) -> None:
    for variable, value in contextvars.copy_context().items():
        with contextlib.suppress(LookupError):  # it had no value, and no default
            old = before[variable] if variable in before else contextvars.Context().run(variable.get)
            if old is not value:
                variable.set(old)


@contextlib.contextmanager
def restore_seed() -> Iterator[None]:
    """Restores TensorFlow's global seed, and which of its numbers comes next."""
    holder = context.context()
    seed, rng = holder._seed, getattr(holder, "_rng", None)
    drawn = rng.getstate() if rng is not None else None
    try:
        yield
    finally:
        tf.random.set_seed(seed)
        if drawn is not None:
            holder._rng.setstate(drawn)


class _SavedState:
    """Values as they were, each saved once.

    Attributes:
      undo: functions that restore them.
    """

    def __init__(self) -> None:
        self.undo: list[Callable[[], None]] = []
        self._visited: set[int] = set()

    def restore(self) -> None:
        """Restores everything that was saved."""
        for one in self.undo:
            with contextlib.suppress(Exception):  # a property or a slot that takes no value
                one()

    def save_names(self, namespace: dict[str, Any]) -> None:
        """Saves the values of a module's names."""
        if self._is_new(namespace):
            for name, value in list(namespace.items()):
                if not name.startswith("__") and not isinstance(value, (types.ModuleType, types.FunctionType, type)):
                    self._undo_by(namespace.__setitem__, name, value)
                    self.save(value, 1)

    def save_cell(self, cell: types.CellType) -> None:
        """Saves the value of a closure's variable."""
        with contextlib.suppress(ValueError):  # not set yet
            value = cell.cell_contents
            self._undo_by(setattr, cell, "cell_contents", value)
            self.save(value, 1)

    def save(self, thing: Any, depth: int = 0) -> None:
        """Saves an object and what is in it, down to a few levels."""
        if depth <= _MOST_DEPTH and self._is_new(thing):
            for one in self._save_outside(thing):
                self.save(one, depth + 1)

    def _save_outside(self, thing: Any) -> list[Any]:
        """Saves an object; returns what is in it."""
        if isinstance(thing, types.ModuleType):
            self.save_names(vars(thing))
        elif isinstance(thing, queue.Queue):
            return [thing.queue]
        elif isinstance(thing, type):
            for name, value in class_attributes_of(thing).items():
                self._undo_by(setattr, thing, name, value)
            return list(class_attributes_of(thing).values())
        elif type(thing) in _LISTS:
            items = list(thing)
            self._undo_by(_refill, thing, thing.extend, items)
            return items[:_MOST_ITEMS]
        elif type(thing) in _MAPPINGS:
            pairs = dict(thing)
            self._undo_by(_refill, thing, thing.update, pairs)
            return list(pairs.values())[:_MOST_ITEMS]
        elif is_users_object(thing) and hasattr(thing, "__dict__") and not _is_saved_whole(thing):
            attributes = dict(vars(thing))
            self._undo_by(_refill, vars(thing), vars(thing).update, attributes)
            return list(attributes.values())
        else:
            self._save_whole(thing)
        return []

    def _save_whole(self, thing: Any) -> None:
        """Saves an object that holds no others."""
        if isinstance(thing, np.random.Generator):
            self._undo_by(setattr, thing.bit_generator, "state", thing.bit_generator.state)
        elif isinstance(thing, np.random.RandomState):
            self._undo_by(thing.set_state, thing.get_state())
        elif isinstance(thing, random.Random) and not isinstance(thing, random.SystemRandom):
            self._undo_by(thing.setstate, thing.getstate())
        elif type(thing) in _LIST_ITERATORS:
            position = thing.__reduce__()[2:]
            if position and position[0] is not None:  # an iterator at its end stays there
                self._undo_by(thing.__setstate__, position[0])
        elif isinstance(thing, queue.SimpleQueue):
            waiting = [thing.get() for _ in range(thing.qsize())]
            _fill(thing, waiting)
            self._undo_by(_fill, thing, waiting)
        elif type(thing) is set:
            self._undo_by(_refill, thing, thing.update, set(thing))
        elif isinstance(thing, np.ndarray) and thing.nbytes < _MOST_BYTES and thing.flags.writeable:
            self._undo_by(np.copyto, thing, thing.copy())

    def _undo_by(self, function: Callable[..., Any], *args: Any) -> None:
        self.undo.append(lambda: function(*args))

    def _is_new(self, thing: Any) -> bool:
        if id(thing) in self._visited:
            return False
        self._visited.add(id(thing))
        return True


def _is_saved_whole(thing: Any) -> bool:
    """Whether an object's attributes are not its state, or are Keras's own."""
    keras_types, numpy_types = (keras.Layer, keras.Variable), (np.ndarray, np.random.Generator, np.random.RandomState)
    return isinstance(thing, (*keras_types, *numpy_types, random.Random, queue.SimpleQueue))


def _fill(simple: queue.SimpleQueue, items: list[Any]) -> None:
    while not simple.empty():
        simple.get()
    for item in items:
        simple.put(item)


def _refill(container: Any, fill: Callable[[Any], None], items: Any) -> None:
    container.clear()
    fill(items)
