"""Where the replicas of a step exchange values, read from its graph.

On one replica an all-reduce leaves no operation behind: `mark_collectives` makes one while the step is traced.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from modetrain.diagnostics import graph_ops

_NAME = "of_all_replicas"
_COLLECTIVE = re.compile(r"Collective(Reduce|Gather)\w*|NcclAllReduce")


@contextlib.contextmanager
def mark_collectives() -> Iterator[None]:
    """Within this, what `ReplicaContext.all_reduce` returns is the output of an operation that `is_collective`."""
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


def is_collective(op: tf.Operation) -> bool:
    """Whether an operation combines replicas: a collective, a sum over several devices of one process, or a marked one."""
    if op.type == "AddN":
        return len({one.op.device for one in op.inputs}) == len(op.inputs) > 1
    return _NAME in op.name or _COLLECTIVE.fullmatch(op.type) is not None


def has_collectives(graph: tf.Graph) -> bool:
    """Whether a traced step takes anything from other replicas, within its branches and loops too."""
    return any(is_collective(op) for op in graph_ops.operations(graph))
