"""The values of variables before some code runs, and after it again.

    with Snapshot(variables):
        ...                        # may assign them

A copy shares the variable's memory until the variable is assigned, so it costs next to nothing in time and memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

_READS = frozenset({"ReadVariableOp", "VariableShape", "ResourceGather", "ResourceGatherNd"})
_READ_ONLY = "_read_only_resource_inputs"  # TensorFlow notes it at every call, branch and loop of a graph


class Snapshot:
    """Copies of variables, of each replica's own value; leaving its `with` block assigns them, also after an error."""

    def __init__(self, variables: Iterable[Any] = ()) -> None:
        self._kept: dict[int, tuple[Any, tf.Variable, tf.Tensor]] = {}  # by id of the replica's variable
        self.add(variables)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *error: object) -> None:
        for _, one, value in self._kept.values():
            one.assign(value)

    def add(self, variables: Iterable[Any]) -> None:
        """Copies variables, of Keras or TensorFlow; those that are copied already stay as they are."""
        for variable in variables:
            for one in replica_variables(variable):
                if id(one) not in self._kept:
                    self._kept[id(one)] = variable, one, one.read_value()

    def changed(self) -> list[Any]:
        """The variables whose value is now another one. Reads all of them."""
        return list({id(v): v for v, one, value in self._kept.values() if not _same(one.read_value(), value)}.values())


def replica_variables(variable: Any) -> tuple[tf.Variable, ...]:
    """The TensorFlow variables of a variable: one, or one on each replica of this process."""
    plain = getattr(variable, "value", variable) if not isinstance(variable, tf.Variable) else variable
    return tuple(getattr(plain, "values", (plain,)))


def assigned(graph: tf.Graph, variables: Iterable[Any]) -> list[Any]:
    """Those of some variables that a traced function may assign, itself or in what it calls."""
    handles: dict[int, Any] = {}
    for variable in variables:
        for one in replica_variables(variable):
            handles.setdefault(id(one.handle), variable)
    found = {}
    for handle, inside in graph.captures:
        variable = handles.get(id(handle))
        if variable is not None and any(_writes(op, inside) for op in inside.consumers()):
            found[id(variable)] = variable
    return list(found.values())


def _writes(op: tf.Operation, handle: tf.Tensor) -> bool:
    if op.type in _READS:
        return False
    try:
        read_only = op.get_attr(_READ_ONLY)
    except ValueError:
        return True
    return any(one is handle and index not in read_only for index, one in enumerate(op.inputs))


def _same(one: tf.Tensor, other: tf.Tensor) -> bool:
    equal = tf.equal(one, other)
    if one.dtype.is_floating or one.dtype.is_complex:
        equal = tf.logical_or(equal, tf.logical_and(tf.not_equal(one, one), tf.not_equal(other, other)))
    return bool(tf.reduce_all(equal))
