"""Hears variables that the user's lines read or write outside of the graph while it is traced: in a `tf.init_scope`, say."""

from __future__ import annotations

import re

from tensorflow.python.framework import op_callbacks
from tensorflow.python.util import tf_stack

from modetrain.diagnostics import stack as lines
from modetrain.tools.inspect.detectors.side_effects import Call

_TOUCHES = re.compile(r"ReadVariableOp|Assign\w*VariableOp|Resource(Scatter|Gather)\w*")
_WRITES = re.compile("Assign|Scatter")


class Escapes:
    """Hears within a `with` block, in which a step is traced.

    Attributes:
      heard: the calls, in order.
    """

    def __init__(self) -> None:
        self.heard: list[Call] = []

    def __enter__(self) -> Escapes:
        op_callbacks.add_op_callback(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        op_callbacks.remove_op_callback(self._called)

    def _called(self, op_type, inputs, attrs, outputs, op_name=None, graph=None) -> None:
        kind = op_type.decode() if isinstance(op_type, bytes) else op_type
        if graph is not None or not _TOUCHES.fullmatch(kind):
            return
        stack = list(tf_stack.extract_stack())
        place = lines.of_stack(stack)
        if place is None or lines.by_layer(stack):
            return
        call = Call(code="MT207", place=place, name=f"a variable is {'written' if _WRITES.search(kind) else 'read'}")
        if call not in self.heard:
            self.heard.append(call)
