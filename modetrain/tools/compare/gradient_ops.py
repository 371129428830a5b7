"""Which operation a gradient is being taken of: what an operation of a gradient reads does not tell.

The gradient of a logarithm reads the logarithm's input, which another line made. TensorFlow calls one Python function for each
operation that it differentiates, which is private to it: where that cannot be listened to, nothing is known.
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


class Differentiated:
    """Listens while a step runs, or is traced.

    Attributes:
      now: (type, inputs, outputs) of the operation whose gradient is being taken, innermost last.
      lines: in a graph, by the name of an operation of a gradient the user's line of the forward one.
    """

    def __init__(self) -> None:
        self.now: list[tuple[str, Sequence[Any], Sequence[Any]]] = []
        self.lines: dict[str, Location] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within this, gradients are listened to."""
        original = backprop._gradient_function

        def called(op: str, attributes: Any, count: int, inputs: Any, outputs: Any, *rest: Any) -> Any:
            graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
            known = len(graph.get_operations()) if graph is not None else 0
            self.now.append((op, inputs or (), outputs or ()))  # None where the gradient needs none
            try:
                return original(op, attributes, count, inputs, outputs, *rest)
            finally:
                line = _line(*self.now[-1]) if graph is not None else None
                if graph is not None and line is not None:
                    self.lines.update((made.name, line) for made in graph.get_operations()[known:])
                self.now.pop()

        pywrap_tfe.TFE_Py_RegisterGradientFunction(called)
        try:
            yield
        finally:
            pywrap_tfe.TFE_Py_RegisterGradientFunction(original)

    def is_forward(self, op: str, inputs: Sequence[Any], output: Any) -> bool:
        """Whether an eager operation is the one whose gradient is being taken."""
        if not self.now or self.now[-1][0] != op:
            return False
        _, read, made = self.now[-1]
        return _id(output) in map(_id, made) or bool({_id(one) for one in inputs} & {_id(one) for one in read} - {None})


def _id(tensor: Any) -> int | None:
    return getattr(tensor, "_id", None)


def _line(op: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Location | None:
    found = [one.op for one in outputs if isinstance(one, tf.Tensor)]
    for one in inputs:
        if isinstance(one, tf.Tensor):
            found += [user for user in one.consumers() if user.type == op and "gradient_tape" not in user.name]
    frames = [(frame.filename, frame.lineno, frame.name) for frame in found[0].traceback] if found else []
    return location.innermost(frames)
