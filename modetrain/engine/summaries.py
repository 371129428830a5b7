"""Says which `tf.summary` calls of a step write nothing: without a default writer TensorFlow drops them in silence.

with say_dropped(said):
    ...                         # a step
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import summary_ops_v2

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import Location

log = logging.getLogger(__name__)


class _Thread(threading.local):
    """The lines that were named already, while a thread runs a step."""

    said: set[Location] | None = None


_thread = _Thread()


@contextlib.contextmanager
def say_dropped(said: set[Location]) -> Iterator[None]:
    """Within this, on this thread, each line that calls `tf.summary` in vain is logged once.

    Args:
      said: the lines that were logged before; new ones are added.
    """
    before, _thread.said = _thread.said, said
    try:
        yield
    finally:
        _thread.said = before


def _saying(write: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the function that every `tf.summary.*` ends in."""

    @functools.wraps(write)
    @tf.autograph.experimental.do_not_convert
    def writing(*args: Any, **kwargs: Any) -> Any:
        said = _thread.said
        if said is not None and summary_ops_v2._summary_state.writer is None:
            place = stack.here()
            if place is not None and place not in said:
                said.add(place)
                log.warning(
                    f"{place.shown}: tf.summary writes nothing in a step, which has no writer. A value that the step returns "
                    "becomes a curve, and images belong into show()"
                )
        return write(*args, **kwargs)

    return writing


for _module in (tf.summary, tf.compat.v2.summary):
    _module.write = _saying(_module.write)
