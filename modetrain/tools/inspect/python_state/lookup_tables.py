"""Lookup tables that a traced step writes to: state that is no variable; inspecting a step restores it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.diagnostics import graph_ops

_WRITES = re.compile(r"LookupTable(Insert|Remove|Import)\w*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookupTable:
    """A mutable table.

    Attributes:
      handle: of its resource.
      key_dtype, value_dtype: of what it holds.
    """

    handle: tf.Tensor
    key_dtype: tf.DType
    value_dtype: tf.DType

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Its keys and values."""
        found = tf.raw_ops.LookupTableExportV2(table_handle=self.handle, Tkeys=self.key_dtype, Tvalues=self.value_dtype)
        return found[0].numpy().copy(), found[1].numpy().copy()  # a DenseHashTable returns the memory that it works on

    def write(self, held: tuple[np.ndarray, np.ndarray]) -> None:
        """Makes these keys and values all that it holds."""
        keys, values = held
        now = self.read()[0].reshape(-1)
        added = now[~np.isin(now, keys.reshape(-1))]  # a DenseHashTable keeps them when it imports others
        if added.size:
            tf.raw_ops.LookupTableRemoveV2(table_handle=self.handle, keys=tf.constant(added, self.key_dtype))
        tf.raw_ops.LookupTableImportV2(
            table_handle=self.handle,
            keys=tf.constant(keys, self.key_dtype),
            values=tf.constant(values, self.value_dtype),
        )


def find_written(graph: Any) -> Iterator[LookupTable]:
    """The tables that a traced step writes to."""
    dtypes = {
        (op.get_attr("Tin"), op.get_attr("Tout"))
        for op in graph_ops.operations(graph)
        if _WRITES.fullmatch(op.type) and "Tout" in op.node_def.attr
    }
    for captured, _ in graph.captures if dtypes else ():
        for key, value in dtypes if "lookup" in repr(captured) else ():  # the type of a resource is nowhere else
            table = LookupTable(handle=captured, key_dtype=key, value_dtype=value)
            try:
                table.read()
            except tf.errors.OpError:  # a table of other dtypes
                continue
            yield table
