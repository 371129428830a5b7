"""AutoGraph for the user's functions and not for the library's, while a step is traced.

A traced step enters library code (`minimize`) and returns to user code (the loss function). The library's own code
must not be converted, yet a Python `if` on a tensor must work in both user functions. `autograph_on` therefore keeps the
context in which AutoGraph is on, and `convert` calls user functions in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function.polymorphic_function import OptionalXlaContext

_contexts: list[Any] = []


@contextlib.contextmanager
def autograph_on(context: Any) -> Iterator[None]:
    """Within this `convert` converts; `context` is `tf.__internal__.autograph.control_status_ctx()` where AutoGraph is on."""
    _contexts.append(context)
    try:
        yield
    finally:
        _contexts.pop()


def convert(function: Callable) -> Callable:
    """The user's function, converted by AutoGraph while a step is traced, unchanged in eager mode."""
    if tf.executing_eagerly() or not _contexts:
        return function
    context = _contexts[-1]
    converted = tf.__internal__.autograph.tf_convert(function, context)

    def in_context(*args: Any, **kwargs: Any) -> Any:
        # A function defined inside a converted one is converted already. AutoGraph is off within the library, so without
        # this context the functions that it calls would not be converted.
        with context:
            return converted(*args, **kwargs)

    return in_context


@contextlib.contextmanager
def in_xla(on: bool) -> Iterator[None]:
    """Within this TensorFlow traces for XLA, as within `tf.function(jit_compile=True)`.

    It then makes the gradients of branches and loops from operations that XLA has. The function around a step compiles it,
    so TensorFlow cannot know by itself.
    """
    with OptionalXlaContext(on):
        yield
