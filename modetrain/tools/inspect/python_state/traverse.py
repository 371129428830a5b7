"""Goes through Python values down to a few levels: containers, objects, classes, layers.

for expression, summary in traverse("self", recipe, set()): ...
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import functools
import queue
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from modetrain.engine.object_walk import attributes_of
from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.python_state.queue_uses import describe_uses
from modetrain.tools.inspect.python_state.reachable import class_attributes_of, is_users_object
from modetrain.tools.inspect.python_state.value_summary import PLAIN, ValueSummary, is_tensor, shorten, summarize_whole

_MOST_ITEMS = 200
_MOST_DEPTH = 6
_SET_BY_MODETRAIN = {"_seeded"}  # attributes of a recipe
Summaries: TypeAlias = Iterator[tuple[str, ValueSummary]]


@dataclasses.dataclass(frozen=True)
class SelectedNames:
    """Some names of a module or of a function's own dictionary."""

    namespace: Mapping[str, Any]
    names: set[str]


@dataclasses.dataclass(frozen=True)
class ClassAttributes:
    """The plain attributes of a class."""

    cls: type


def traverse(name: str, value: Any, visited: set[int], depth: int = 0) -> Summaries:
    """Every expression that leads into a value, with the summary of what is there.

    Args:
      name: the expression of the value itself.
      value: a value, `SelectedNames` or `ClassAttributes`.
      visited: ids of the objects that were gone through already; added to.
      depth: how many levels are above.
    """
    if not isinstance(value, PLAIN):
        if id(value) in visited and not is_tensor(value):  # a tensor of the step is reported wherever it is kept
            # What holds it may have changed, nothing else.
            yield name, ValueSummary(kind="object", token=("same", id(value)), text=type(value).__name__)
            return
        visited.add(id(value))
    summary = summarize_whole(value)
    if summary is not None:
        yield name, summary
    elif depth <= _MOST_DEPTH:
        yield from _traverse_inside(name, value, visited, depth + 1)


def _traverse_inside(name: str, value: Any, visited: set[int], depth: int) -> Summaries:
    summary = _summarize_holder(value)
    if summary is not None:
        yield name, summary
    if isinstance(value, keras.Layer):
        yield from _traverse_layer(name, value, visited, depth)
        return
    if isinstance(value, SelectedNames):
        name = name.replace("<", "").replace(">", "")
    for path, item in _parts_of(value):
        yield from traverse(f"{name}{path}", item, visited, depth)


def _summarize_holder(value: Any) -> ValueSummary | None:
    """The summary of a container or an object, without what is in it."""
    if isinstance(value, (types.CellType, contextvars.ContextVar, SelectedNames, ClassAttributes)):
        return None
    if isinstance(value, (Mapping, list, tuple, collections.deque)):
        kind, size = "mapping" if isinstance(value, Mapping) else "sequence", len(value)
        return ValueSummary(kind="container", token=(kind, size), text=f"{size} items")
    if isinstance(value, queue.Queue):
        text = describe_uses(value) or f"{value.qsize()} items"
        return ValueSummary(kind="container", token=("queue", text), text=text)
    if isinstance(value, queue.SimpleQueue):
        return ValueSummary(kind="container", token=("queue", value.qsize()), text=f"{value.qsize()} items")
    token, text = id(value), type(value).__name__
    if isinstance(value, Optimizer):
        text = f"an optimizer {value.settings.name}"
    elif isinstance(value, keras.Layer):
        text = f"{type(value).__name__} {value.name}"
    elif isinstance(value, (types.FunctionType, types.MethodType, type, types.ModuleType)):
        token = id(getattr(value, "__func__", value))
        text = shorten(getattr(value, "__qualname__", repr(value)))
    return ValueSummary(kind="object", token=token, text=text)


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What is in a container or an object, each with what its expression adds to the container's own."""
    if isinstance(value, types.CellType):
        with contextlib.suppress(ValueError):  # not set yet
            yield "", value.cell_contents
    elif isinstance(value, contextvars.ContextVar):
        with contextlib.suppress(LookupError):  # no value yet
            yield "", value.get()
    elif isinstance(value, SelectedNames):
        for name in sorted(value.names):
            item = value.namespace.get(name)
            if not isinstance(item, (types.ModuleType, types.BuiltinFunctionType)):
                yield f".{name}", item
    elif isinstance(value, ClassAttributes):
        yield from ((f".{name}", item) for name, item in class_attributes_of(value.cls).items())
    elif isinstance(value, Mapping):
        yield from ((f"[{shorten(repr(key))}]", item) for key, item in list(value.items())[:_MOST_ITEMS])
    elif isinstance(value, (list, tuple, collections.deque)):
        few, half = list(value), _MOST_ITEMS // 2
        if len(few) > _MOST_ITEMS:
            few = [*few[:half], *few[-half:]]
        yield from ((f"[{index}]", item) for index, item in enumerate(few))
    elif isinstance(value, queue.Queue):
        if describe_uses(value) is None:  # else it counts alone what the step does
            yield ".queue", list(value.queue)
    elif isinstance(value, Optimizer):
        yield ".settings", value.settings
    elif isinstance(value, functools.partial):
        yield ".args", [value.func, *value.args, value.keywords]
    elif _has_attributes_to_traverse(value):
        for name, item in {**_class_defaults(value), **attributes_of(value)}.items():
            if name not in _SET_BY_MODETRAIN:
                yield f".{name}", item


def _has_attributes_to_traverse(value: Any) -> bool:
    if isinstance(value, (types.FunctionType, types.MethodType, type, types.ModuleType, queue.SimpleQueue)):
        return False
    if is_users_object(value) or isinstance(value, (types.SimpleNamespace, threading.local)):
        return True
    return dataclasses.is_dataclass(value) and type(value).__module__.partition(".")[0] not in ("tensorflow", "keras")


def _class_defaults(value: Any) -> dict[str, Any]:
    """What the classes of a user's object say of attributes that are not set on the object itself."""
    return {
        name: item
        for cls in reversed(type(value).__mro__)
        if is_users_object(cls)
        for name, item in vars(cls).items()
        if not name.startswith("__") and isinstance(item, (*PLAIN, list, dict, set))
    }


def _traverse_layer(name: str, layer: keras.Layer, visited: set[int], depth: int) -> Summaries:
    for inner in layer._flatten_layers(include_self=True, recursive=True):
        if inner is not layer and id(inner) in visited:
            continue
        visited.add(id(inner))
        path = name if inner is layer else f"{name}/{inner.name}"
        yield f"{path}.trainable", ValueSummary(kind="layer", token=inner.trainable, text=str(inner.trainable))
        set_by_keras, is_users = _attributes_set_by_keras(), is_users_object(inner)
        for attribute, item in list(vars(inner).items()):
            is_number = isinstance(item, (int, float)) and not attribute.startswith("_")
            # An object of the user's is a regularizer or a schedule, say.
            if not is_users_object(item) and (attribute in set_by_keras or not (is_users or is_number)):
                continue
            if not isinstance(item, (keras.Layer, keras.Variable, tf.Variable)):
                yield from traverse(f"{path}.{attribute}", item, visited, depth)


@functools.cache
def _attributes_set_by_keras() -> frozenset[str]:
    """Attributes that Keras sets on every layer and model, and changes when they are called."""
    layer = keras.layers.Dense(1)
    layer(np.zeros([1, 1], np.float32))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model(np.zeros([1, 1], np.float32))
    return frozenset(
        {*vars(layer), *vars(model), "built", "_build_shapes_dict", "_losses", "_loss_ids", "_convert_input_args"}
    )
