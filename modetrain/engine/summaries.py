"""Warns of `tf.summary` calls of a step that write nothing: without a default writer TensorFlow drops them in silence.

with warn_of_dropped(warned):
    ...                         # a step
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import summary_ops_v2

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location

log = logging.getLogger(__name__)


@contextlib.contextmanager
def warn_of_dropped(warned: set[Location]) -> Iterator[None]:
    """Within this each line that calls `tf.summary` in vain is logged once.

    Args:
      warned: the lines that were logged before; new ones are added.
    """
    original = tf.summary.write  # every `tf.summary.*` ends in it

    @functools.wraps(original)
    @tf.autograph.experimental.do_not_convert
    def write(*args: Any, **kwargs: Any) -> Any:
        place = stack.here() if summary_ops_v2._summary_state.writer is None else None
        if place is not None and place not in warned:
            warned.add(place)
            log.warning(
                f"{place.shown}: tf.summary writes nothing in a step, which has no writer. A value that the step returns "
                "becomes a curve, and images belong into show()"
            )
        return original(*args, **kwargs)

    modules = (tf.summary, tf.compat.v2.summary)
    for module in modules:
        module.write = write
    try:
        yield
    finally:
        for module in modules:
            module.write = original
