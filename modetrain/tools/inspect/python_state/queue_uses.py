"""What the step itself puts into a `queue.Queue` and takes from it: other threads fill and empty it at any time.

with count_queue_uses():
    ...
    describe_uses(jobs)     # "0 put, 1 taken"
"""

from __future__ import annotations

import collections
import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from modetrain.engine.replaced import replaced

_counts = threading.local()


@contextlib.contextmanager
def count_queue_uses() -> Iterator[None]:
    """Within this the calls of `put` and `get` that this thread makes are counted."""
    outer = getattr(_counts, "uses", None)
    _counts.uses = collections.Counter()
    try:
        with replaced(queue.Queue, put=_counting(queue.Queue.put), get=_counting(queue.Queue.get)):
            yield
    finally:
        _counts.uses = outer


def describe_uses(one: queue.Queue) -> str | None:
    """How often this thread has used the queue; None where nothing is counted."""
    uses = getattr(_counts, "uses", None)
    return None if uses is None else f"{uses[id(one), 'put']} put, {uses[id(one), 'get']} taken"


def _counting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def use(one: queue.Queue, *args: Any, **kwargs: Any) -> Any:
        result = original(one, *args, **kwargs)
        if getattr(_counts, "uses", None) is not None:
            _counts.uses[id(one), original.__name__] += 1
        return result

    return tf.autograph.experimental.do_not_convert(use)
