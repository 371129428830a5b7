"""What a step takes from all replicas, marked in its graph: on one replica an all-reduce leaves no operation behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_NAME = "of_all_replicas"


@contextlib.contextmanager
def marked() -> Iterator[None]:
    """Within this, what `ReplicaContext.all_reduce` returns is the output of an operation that `is_mark` knows."""
    cls = tf.distribute.ReplicaContext
    original = cls.all_reduce

    def all_reduce(context: Any, reduce_op: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        reduced = original(context, reduce_op, value, *args, **kwargs)
        return tf.nest.map_structure(lambda one: tf.identity(one, name=_NAME), reduced)

    cls.all_reduce = tf.autograph.experimental.do_not_convert(all_reduce)
    try:
        yield
    finally:
        cls.all_reduce = original


def is_mark(op: tf.Operation) -> bool:
    """Whether what an operation returns is the same on all replicas."""
    return _NAME in op.name or op.type in ("CollectiveReduceV2", "NcclAllReduce")


def in_graph(graph: tf.Graph) -> bool:
    """Whether a traced step takes anything from other replicas."""
    return any(is_mark(op) for op in graph.get_operations())
