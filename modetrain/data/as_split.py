"""What a user may hand over as a split: arrays, random access, a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.split import ArraySplit, RandomAccess, Split
from modetrain.data.stream import Stream
from modetrain.errors import ConfigError

ACCEPTED = (
    "a dict of arrays, an object with len() and [i] -> {feature: value}, a tf.data.Dataset of such dicts, or a generator "
    "function that yields them"
)


def as_split(given: Any, *, name: str = "the split", shared: bool = True) -> Split:
    """A split of what a user hands over.

    Args:
      given: see `ACCEPTED`.
      name: what it is called in messages.
      shared: see `ArraySplit`.

    Raises:
      ConfigError: it is nothing that has examples.
    """
    if isinstance(given, Split):
        return given
    if isinstance(given, Mapping):
        return ArraySplit(given, shared=shared)
    if isinstance(given, tf.data.Dataset):
        return Stream(given, name=name)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, (str, bytes, np.ndarray)):
        return RandomAccess(given, name=name)
    if callable(given):
        return Stream.from_generator(given, name=name)
    raise ConfigError(f"{name} is a {type(given).__name__}; expected is {ACCEPTED}.")
