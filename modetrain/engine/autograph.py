"""What is done to the user's functions while a step is traced: AutoGraph for theirs and not for the library's, and XLA.

A traced step enters library code (`minimize`) and comes back to user code (the loss function). The library's own code
must not be converted, yet a Python `if` on a tensor must work in both user functions. So the context in which AutoGraph
was on is remembered while a step is traced, and user functions are called through `convert`.
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
    """Within this, `convert` converts; `context` is `tf.__internal__.autograph.control_status_ctx()` where it is on."""
    _contexts.append(context)
    try:
        yield
    finally:
        _contexts.pop()


def convert(function: Callable) -> Callable:
    """The user's function, converted by AutoGraph where a step is being traced; itself in eager mode."""
    if tf.executing_eagerly() or not _contexts:
        return function
    context = _contexts[-1]
    converted = tf.__internal__.autograph.tf_convert(function, context)

    def in_context(*args: Any, **kwargs: Any) -> Any:
        # A function from inside one that is converted is converted already, and is run where it is called: within the
        # library AutoGraph is off, and what such a function calls would stay as it is.
        with context:
            return converted(*args, **kwargs)

    return in_context


@contextlib.contextmanager
def in_xla(on: bool) -> Iterator[None]:
    """Within this, TensorFlow knows that what it traces is for XLA, as `tf.function(jit_compile=True)` tells it.

    Gradients of branches and loops are then made of operations that XLA has. A step is compiled by the function around it, so
    TensorFlow has to be told.
    """
    with OptionalXlaContext(on):
        yield
