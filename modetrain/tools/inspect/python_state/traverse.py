"""How Python values are looked at: whatever is plain, a container, a generator, an iterator or an object, down to a few levels.

for expression, seen in walk("self", recipe, set(), 0): ...
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import enum
import functools
import gc
import hashlib
import io
import itertools
import queue
import random
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.python_state.reachable import attributes_of, is_users_object

_MOST_ITEMS = 200
_MOST_DEPTH = 6
_MOST_BYTES = 2**20
_PLAIN = (int, float, complex, bool, str, bytes, type(None), enum.Enum, np.generic, tf.DType, tf.TensorShape)
_ITERATORS: tuple[type, ...] = (
    itertools.count,
    itertools.cycle,
    itertools.chain,
    itertools.islice,
    itertools.repeat,
    zip,
    map,
    filter,
    enumerate,
    reversed,
    *map(type, map(iter, ([], (), "", {}, set(), range(0), {}.items(), {}.values()))),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What one expression was.

    Attributes:
      kind: `plain`, `container`, `array`, `tensor` (a symbol of a graph), `object`, `random`, `iterator`, `cache` or `layer`.
      token: equal where nothing has changed.
      shown: for a message.
    """

    kind: str
    token: Any
    shown: str


@dataclasses.dataclass(frozen=True)
class Names:
    """Some names of a module or of a function's own dictionary."""

    namespace: Mapping[str, Any]
    names: set[str]


@dataclasses.dataclass(frozen=True)
class OfClass:
    """The plain attributes of a class."""

    cls: type


def walk(name: str, value: Any, visited: set[int], depth: int) -> Iterator[tuple[str, Seen]]:
    if isinstance(value, _PLAIN):
        yield name, Seen(kind="plain", token=_token(value), shown=_short(repr(value)))
        return
    if id(value) in visited and not _is_tensor(value):  # a tensor of the step is told wherever it is kept
        # Only who holds it may have changed.
        yield name, Seen(kind="object", token=("same", id(value)), shown=type(value).__name__)
        return
    visited.add(id(value))
    leaf = _leaf(value)
    if leaf is not None:
        yield name, leaf
        return
    if depth > _MOST_DEPTH:
        return
    yield from _inside(name, value, visited, depth + 1)


def _leaf(value: Any) -> Seen | None:
    """What is looked at as a whole."""
    if _is_tensor(value):
        if isinstance(value, keras.KerasTensor) or not hasattr(value, "graph") or _is_eager(value):
            return Seen(kind="object", token=id(value), shown="a tensor")
        return Seen(kind="tensor", token=id(value), shown="a tensor of the traced step")
    if isinstance(value, np.ndarray):
        return Seen(kind="array", token=_digest(value), shown=f"array {value.dtype} {value.shape}")
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return Seen(kind="random", token=hash(value.getstate()), shown="a state of the generator")
    if isinstance(value, (np.random.Generator, np.random.RandomState, np.random.BitGenerator)):
        return Seen(kind="random", token=_of_numpy(value), shown="a state of the generator")
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        at = (
            None
            if frame is None
            else (frame.f_lasti, _short(repr({k: v for k, v in frame.f_locals.items() if isinstance(v, _PLAIN)})))
        )
        return Seen(kind="iterator", token=at, shown="a place in the iterator")
    if isinstance(value, _ITERATORS):
        token = _of_iterator(value)
        return Seen(kind="iterator", token=token, shown=_place_in(token))
    if isinstance(value, (io.StringIO, io.BytesIO)) and not value.closed:
        return Seen(kind="container", token=(id(value), value.tell()), shown=f"{value.tell()} characters")
    if isinstance(value, io.IOBase):
        return Seen(kind="object", token=id(value), shown="a file")
    if isinstance(value, functools._lru_cache_wrapper):
        leaked = holds_symbols(value)
        return Seen(kind="cache", token=leaked, shown=f"{leaked} tensors of a step" if leaked else "no tensors")
    if isinstance(value, (set, frozenset)):
        return Seen(kind="container", token=(len(value), _of_set(value)), shown=f"{len(value)} items")
    return None


_tensors: dict[type, bool] = {}


def _is_tensor(value: Any) -> bool:
    """`tf.is_tensor`, which looks at the type alone and takes its time."""
    kind = type(value)
    if kind not in _tensors:
        _tensors[kind] = tf.is_tensor(value)
    return _tensors[kind]


def _inside(name: str, value: Any, visited: set[int], depth: int) -> Iterator[tuple[str, Seen]]:
    """What is looked into."""
    if isinstance(value, types.CellType):
        try:
            yield from walk(name, value.cell_contents, visited, depth)
        except ValueError:
            return
    elif isinstance(value, contextvars.ContextVar):
        with contextlib.suppress(LookupError):  # no value yet
            yield from walk(name, value.get(), visited, depth)
    elif isinstance(value, Names):
        for one in sorted(value.names):
            item = value.namespace.get(one)
            if not isinstance(item, (types.ModuleType, types.BuiltinFunctionType)):
                yield from walk(f"{name}.{one}".replace("<", "").replace(">", ""), item, visited, depth)
    elif isinstance(value, OfClass):
        for one, item in list(vars(value.cls).items()):
            if (
                not one.startswith("__")
                and not callable(item)
                and not isinstance(item, (property, classmethod, staticmethod))
            ):
                yield from walk(f"{name}.{one}", item, visited, depth)
    elif isinstance(value, Mapping):
        yield name, Seen(kind="container", token=("mapping", len(value)), shown=f"{len(value)} items")
        for key, item in list(value.items())[:_MOST_ITEMS]:
            yield from walk(f"{name}[{_short(repr(key))}]", item, visited, depth)
    elif isinstance(value, (list, tuple, collections.deque)):
        yield name, Seen(kind="container", token=("sequence", len(value)), shown=f"{len(value)} items")
        few = (
            value
            if len(value) <= _MOST_ITEMS
            else [*list(value)[: _MOST_ITEMS // 2], *list(value)[-_MOST_ITEMS // 2 :]]
        )
        for index, item in enumerate(few):
            yield from walk(f"{name}[{index}]", item, visited, depth)
    elif isinstance(value, queue.Queue):
        yield from walk(f"{name}.queue", list(value.queue), visited, depth)
    elif isinstance(value, queue.SimpleQueue):
        yield name, Seen(kind="container", token=("queue", value.qsize()), shown=f"{value.qsize()} items")
    elif isinstance(value, Optimizer):
        yield name, Seen(kind="object", token=id(value), shown=f"an optimizer {value.settings.name}")
        yield from walk(f"{name}.settings", value.settings, visited, depth)
    elif isinstance(value, keras.Layer):
        yield from _of_layer(name, value, visited, depth)
    elif isinstance(value, (types.FunctionType, types.MethodType, type, types.ModuleType)):
        yield (
            name,
            Seen(
                kind="object",
                token=id(getattr(value, "__func__", value)),
                shown=_short(getattr(value, "__qualname__", repr(value))),
            ),
        )
    else:
        yield name, Seen(kind="object", token=id(value), shown=_short(type(value).__name__))
        if isinstance(value, functools.partial):
            yield from walk(f"{name}.args", [value.func, *value.args, value.keywords], visited, depth)
        elif _may_look_into(value):
            for one, item in {**_defaults(value), **attributes_of(value)}.items():
                if one not in _LIBRARYS:
                    yield from walk(f"{name}.{one}", item, visited, depth)


def _defaults(value: Any) -> dict[str, Any]:
    """What the classes of a user's object say of attributes that are not set on the object itself."""
    return {
        name: item
        for cls in reversed(type(value).__mro__)
        if is_users_object(cls)
        for name, item in vars(cls).items()
        if not name.startswith("__") and isinstance(item, (*_PLAIN, list, dict, set))
    }


# What modetrain keeps in a recipe itself.
_LIBRARYS = {"_seeded"}


def _may_look_into(value: Any) -> bool:
    if is_users_object(value) or isinstance(value, (types.SimpleNamespace, threading.local)):
        return True
    module = type(value).__module__.partition(".")[0]
    if module == "modetrain":
        return dataclasses.is_dataclass(value)
    return dataclasses.is_dataclass(value) and module not in ("tensorflow", "keras")


def _of_layer(name: str, layer: keras.Layer, visited: set[int], depth: int) -> Iterator[tuple[str, Seen]]:
    yield name, Seen(kind="object", token=id(layer), shown=f"{type(layer).__name__} {layer.name}")
    for inner in layer._flatten_layers(include_self=True, recursive=True):
        if inner is not layer and id(inner) in visited:
            continue
        visited.add(id(inner))
        path = name if inner is layer else f"{name}/{inner.name}"
        yield f"{path}.trainable", Seen(kind="layer", token=inner.trainable, shown=str(inner.trainable))
        known, users = _names_of_layers(), is_users_object(inner)
        for one, item in list(vars(inner).items()):
            plain = isinstance(item, (int, float)) and not one.startswith("_")
            # An object of the user's is a regularizer or a schedule, say.
            if not is_users_object(item) and (one in known or not (users or plain)):
                continue
            if not isinstance(item, (keras.Layer, keras.Variable, tf.Variable)):
                yield from walk(f"{path}.{one}", item, visited, depth)


@functools.cache
def _names_of_layers() -> frozenset[str]:
    """Attributes that Keras gives every layer and model, and changes when they are called."""
    layer = keras.layers.Dense(1)
    layer(np.zeros([1, 1], np.float32))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model(np.zeros([1, 1], np.float32))
    return frozenset(
        {*vars(layer), *vars(model), "built", "_build_shapes_dict", "_losses", "_loss_ids", "_convert_input_args"}
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


def _token(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return repr(value)  # NaN is not equal to itself
    return type(value).__name__, value if not isinstance(value, (np.generic, tf.TensorShape)) else repr(value)


def _is_eager(tensor: Any) -> bool:
    return hasattr(tensor, "_numpy") or type(tensor).__name__ == "EagerTensor"


def _digest(array: np.ndarray) -> Any:
    if array.dtype == object:
        return id(array), array.shape
    few = (
        array
        if array.nbytes <= _MOST_BYTES
        else array.reshape(-1)[:: max(1, array.size * array.itemsize // _MOST_BYTES)]
    )
    return array.shape, str(array.dtype), hashlib.blake2b(np.ascontiguousarray(few).tobytes(), digest_size=8).digest()


def _of_numpy(generator: Any) -> Any:
    if isinstance(generator, np.random.RandomState):
        state = generator.get_state(legacy=False)
    else:
        state = getattr(generator, "bit_generator", generator).state
    return _flat(state)


def _flat(state: Any) -> Any:
    if isinstance(state, Mapping):
        return tuple((key, _flat(value)) for key, value in state.items())
    return _digest(state) if isinstance(state, np.ndarray) else state


def _of_iterator(iterator: Any, depth: int = 0) -> Any:
    """Where an iterator stands, of long lists too, and of those it takes its items from."""
    try:
        return tuple(_part_of_iterator(part, depth) for part in iterator.__reduce__())
    except Exception:  # not every iterator tells where it stands
        return getattr(iterator, "__length_hint__", lambda: None)()


def _part_of_iterator(part: Any, depth: int) -> Any:
    if depth > _MOST_DEPTH:
        return None
    if isinstance(part, _ITERATORS):
        return _of_iterator(part, depth + 1)
    if isinstance(part, (list, tuple)):
        few = [_part_of_iterator(one, depth + 1) for one in part[:4]]
        return len(part), few
    leaf = _leaf(part) if not isinstance(part, _PLAIN) else None
    return leaf.token if leaf is not None else _short(repr(part))


def _place_in(token: Any) -> str:
    """A place in a list, a tuple or a text as its number; of other iterators only that it is one."""
    item = token[-1] if isinstance(token, tuple) and len(token) == 3 else None
    return f"item {item}" if isinstance(item, str) and item.isdigit() else "a place in the iterator"


def _of_set(value: Any) -> Any:
    try:
        return hash(frozenset(value))
    except TypeError:
        return None


def holds_symbols(cache: Any, depth: int = 3) -> int:
    """How many symbols of graphs an `lru_cache` holds."""
    found, level = 0, [cache]
    inner = getattr(cache, "__wrapped__", None)
    for _ in range(depth):
        level = [
            one
            for thing in level
            for one in gc.get_referents(thing)
            if one is not inner and not isinstance(one, types.ModuleType)
        ]
        level = [
            one
            for one in level
            if isinstance(one, (dict, tuple, list)) or tf.is_tensor(one) or type(one).__name__ == "_lru_list_elem"
        ]
        found += sum(
            1 for one in level if tf.is_tensor(one) and not isinstance(one, tf.Variable) and not _is_eager(one)
        )
    return found


def _short(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."
