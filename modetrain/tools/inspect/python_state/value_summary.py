"""Small summaries of Python values, equal where nothing has changed."""

from __future__ import annotations

import dataclasses
import enum
import functools
import gc
import hashlib
import io
import itertools
import random
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_MOST_DEPTH = 6
_MOST_BYTES = 2**20
PLAIN = (int, float, complex, bool, str, bytes, type(None), enum.Enum, np.generic, tf.DType, tf.TensorShape)
_ITERATORS: tuple[type, ...] = (
    *(itertools.count, itertools.cycle, itertools.chain, itertools.islice, itertools.repeat),
    *(zip, map, filter, enumerate, reversed),
    *map(type, map(iter, ([], (), "", {}, set(), range(0), {}.items(), {}.values()))),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueSummary:
    """What one expression was.

    Attributes:
      kind: `plain`, `container`, `array`, `tensor` (a symbol of a graph), `object`, `random`, `iterator`, `cache` or `layer`.
      token: equal where nothing has changed.
      text: the value in a message.
    """

    kind: str
    token: Any
    text: str


def summarize_whole(value: Any) -> ValueSummary | None:
    """The summary of a value that nothing is looked up inside of; None for a container or an object."""
    if isinstance(value, PLAIN):
        return ValueSummary(kind="plain", token=_plain_token(value), text=shorten(repr(value)))
    if is_tensor(value):
        if isinstance(value, keras.KerasTensor) or not hasattr(value, "graph") or _is_eager(value):
            return ValueSummary(kind="object", token=id(value), text="a tensor")
        return ValueSummary(kind="tensor", token=id(value), text="a tensor of the traced step")
    if isinstance(value, np.ndarray):
        return ValueSummary(kind="array", token=_digest(value), text=f"array {value.dtype} {value.shape}")
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return ValueSummary(kind="random", token=hash(value.getstate()), text="a state of the generator")
    if isinstance(value, (np.random.Generator, np.random.RandomState, np.random.BitGenerator)):
        return ValueSummary(kind="random", token=_numpy_state(value), text="a state of the generator")
    if isinstance(value, types.GeneratorType):
        return ValueSummary(kind="iterator", token=_generator_token(value), text="a place in the iterator")
    if isinstance(value, _ITERATORS):
        token = _iterator_token(value)
        return ValueSummary(kind="iterator", token=token, text=_iterator_text(token))
    if isinstance(value, (io.StringIO, io.BytesIO)) and not value.closed:
        return ValueSummary(kind="container", token=(id(value), value.tell()), text=f"{value.tell()} characters")
    if isinstance(value, io.IOBase):
        return ValueSummary(kind="object", token=id(value), text="a file")
    if isinstance(value, functools._lru_cache_wrapper):
        count = count_symbols(value)
        return ValueSummary(kind="cache", token=count, text=f"{count} tensors of a step" if count else "no tensors")
    if isinstance(value, (set, frozenset)):
        return ValueSummary(kind="container", token=(len(value), _set_token(value)), text=f"{len(value)} items")
    return None


_tensor_types: dict[type, bool] = {}


def is_tensor(value: Any) -> bool:
    """`tf.is_tensor`, which is slow, asked once for each type."""
    kind = type(value)
    if kind not in _tensor_types:
        _tensor_types[kind] = tf.is_tensor(value)
    return _tensor_types[kind]


def count_symbols(cache: Any, depth: int = 3) -> int:
    """How many symbols of graphs an `lru_cache` holds."""
    found, level = 0, [cache]
    inner = getattr(cache, "__wrapped__", None)
    for _ in range(depth):
        referents = [one for thing in level for one in gc.get_referents(thing)]
        level = [
            one
            for one in referents
            if one is not inner
            and (isinstance(one, (dict, tuple, list)) or tf.is_tensor(one) or type(one).__name__ == "_lru_list_elem")
        ]
        found += sum(tf.is_tensor(one) and not isinstance(one, tf.Variable) and not _is_eager(one) for one in level)
    return found


def shorten(text: str, most: int = 60) -> str:
    """A text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


# --- tokens -----------------------------------------------------------------------------------------------------------


def _plain_token(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return repr(value)  # NaN is not equal to itself
    return type(value).__name__, value if not isinstance(value, (np.generic, tf.TensorShape)) else repr(value)


def _is_eager(tensor: Any) -> bool:
    return hasattr(tensor, "_numpy") or type(tensor).__name__ == "EagerTensor"


def _digest(array: np.ndarray) -> Any:
    if array.dtype == object:
        return id(array), array.shape
    part = array if array.nbytes <= _MOST_BYTES else array.reshape(-1)[:: max(1, array.nbytes // _MOST_BYTES)]
    digest = hashlib.blake2b(np.ascontiguousarray(part).tobytes(), digest_size=8).digest()
    return array.shape, str(array.dtype), digest


def _numpy_state(generator: Any) -> Any:
    if isinstance(generator, np.random.RandomState):
        state = generator.get_state(legacy=False)
    else:
        state = getattr(generator, "bit_generator", generator).state
    return _flatten(state)


def _flatten(state: Any) -> Any:
    if isinstance(state, Mapping):
        return tuple((key, _flatten(value)) for key, value in state.items())
    return _digest(state) if isinstance(state, np.ndarray) else state


def _generator_token(generator: types.GeneratorType) -> Any:
    frame = generator.gi_frame
    if frame is None:
        return None
    plain = {name: value for name, value in frame.f_locals.items() if isinstance(value, PLAIN)}
    return frame.f_lasti, shorten(repr(plain))


def _iterator_token(iterator: Any, depth: int = 0) -> Any:
    """Where an iterator stands, and where those stand that it takes its items from."""
    try:
        return tuple(_iterator_part(part, depth) for part in iterator.__reduce__())
    except Exception:  # not every iterator says where it stands
        return getattr(iterator, "__length_hint__", lambda: None)()


def _iterator_part(part: Any, depth: int) -> Any:
    if depth > _MOST_DEPTH:
        return None
    if isinstance(part, _ITERATORS):
        return _iterator_token(part, depth + 1)
    if isinstance(part, (list, tuple)):
        return len(part), [_iterator_part(one, depth + 1) for one in part[:4]]
    summary = summarize_whole(part) if not isinstance(part, PLAIN) else None
    return summary.token if summary is not None else shorten(repr(part))


def _iterator_text(token: Any) -> str:
    """The number of the next item in a list, a tuple or a text; nothing more exact of other iterators."""
    item = token[-1] if isinstance(token, tuple) and len(token) == 3 else None
    return f"item {item}" if isinstance(item, str) and item.isdigit() else "a place in the iterator"


def _set_token(value: Any) -> Any:
    try:
        return hash(frozenset(value))
    except TypeError:
        return None
