"""Which operation a gradient is being taken of. What an operation of a gradient reads does not show it.

The gradient of a logarithm reads the logarithm's input, which another line made. TensorFlow calls one private Python function
for each operation that it differentiates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop

from modetrain.diagnostics import location
from modetrain.diagnostics.location import Location


class GradientListener:
    """Listens while a step runs, or is traced.

    Attributes:
      active: (type, inputs, outputs) of the operation whose gradient is being taken, innermost last.
      lines: in a graph, by the name of an operation of a gradient the user's line of the forward one.
    """

    def __init__(self) -> None:
        self.active: list[tuple[str, Sequence[Any], Sequence[Any]]] = []
        self.lines: dict[str, Location] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within this, gradients are heard."""
        original = backprop._gradient_function

        def called(op: str, attributes: Any, count: int, inputs: Any, outputs: Any, *rest: Any) -> Any:
            graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
            known = len(graph.get_operations()) if graph is not None else 0
            self.active.append((op, inputs or (), outputs or ()))  # None where the gradient needs none
            try:
                return original(op, attributes, count, inputs, outputs, *rest)
            finally:
                line = _forward_line(*self.active[-1]) if graph is not None else None
                if graph is not None and line is not None:
                    self.lines.update((made.name, line) for made in graph.get_operations()[known:])
                self.active.pop()

        pywrap_tfe.TFE_Py_RegisterGradientFunction(called)
        try:
            yield
        finally:
            pywrap_tfe.TFE_Py_RegisterGradientFunction(original)

    def is_forward(self, op: str, inputs: Sequence[Any], output: Any) -> bool:
        """Whether an eager operation is the one whose gradient is being taken."""
        if not self.active or self.active[-1][0] != op:
            return False
        _, read, made = self.active[-1]
        same_inputs = {_id(tensor) for tensor in inputs} & {_id(tensor) for tensor in read} - {None}
        return _id(output) in map(_id, made) or bool(same_inputs)


def _id(tensor: Any) -> int | None:
    return getattr(tensor, "_id", None)


def _forward_line(op: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Location | None:
    found = [tensor.op for tensor in outputs if isinstance(tensor, tf.Tensor)]
    for tensor in inputs:
        if isinstance(tensor, tf.Tensor):
            found += [user for user in tensor.consumers() if user.type == op and "gradient_tape" not in user.name]
    frames = [(frame.filename, frame.lineno, frame.name) for frame in found[0].traceback] if found else []
    return location.innermost(frames)
