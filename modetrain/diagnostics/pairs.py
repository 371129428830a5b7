"""Operations that make a number for every pair of examples by mistake: labels [n] against outputs [n, 1] are [n, n].

Such a loss trains next to nothing, and fails nowhere. Pairs that are meant are made by `x[:, None]`, `tf.reshape` or a product
of matrices. No pair of a label and another example's `argmax` is meant: `labels[:, None] == argmax` is a mistake too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location

_ELEMENTWISE = (
    *("Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "DivNoNan", "SquaredDifference", "Maximum", "Minimum", "Pow"),
    *("Xlogy", "Xdivy", "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr"),
)
# What gives a tensor a dimension of 1 because the user's line asks for it.
_EXPANDS = ("ExpandDims", "Reshape", "Tile", "BroadcastTo", "Pack")
_KEEPS_NUMBERS = ("ExpandDims", "Reshape", "StridedSlice", "Squeeze", "Cast", "Identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """Such an operation.

    Attributes:
      place: the user's line that made it.
      op: its type.
      shapes: of its two inputs.
    """

    place: Location
    op: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def describe(self) -> str:
        """What it takes and makes."""
        one, other = self.shapes
        return f"operation {self.op} takes {list(one)} and {list(other)}: the result has a number for every pair of examples"


def find(graph: tf.Graph) -> Iterator[Pairs]:
    """Finds them in a traced step."""
    features = [tensor for tensor in graph.inputs if tensor.dtype != tf.resource and tensor.shape.rank]
    sizes = {tensor.shape[0] for tensor in features if not tensor.name.startswith("numbers")}
    examples = sizes.pop() if len(sizes) == 1 else None
    if examples is None or examples == 1:
        return
    for op in graph_ops.operations(graph):
        if op.type in _ELEMENTWISE and not graph_ops.is_gradient(op) and _is_of_pairs(op, examples):
            place = stack.of_op(op)
            if place is not None:
                one, other = (tuple(tensor.shape) for tensor in op.inputs)
                yield Pairs(place=place, op=op.type, shapes=(one, other))


def refuse(graph: tf.Graph, name: str) -> None:
    """Refuses a loss or metric of every pair of examples, if an operation that nobody means has made it.

    Args:
      graph: of the traced step.
      name: of the loss or metric of shape [examples, examples].

    Raises:
      ValueError: there is such an operation; the message has its line.
    """
    found = next(find(graph), None)
    if found is not None:
        examples = found.shapes[0][0]
        raise ValueError(
            f"the step's {name!r} has {examples} numbers for each of {examples} examples. {found.place.shown}: "
            f"{found.describe()}. Give both the same shape: outputs[:, 0] against labels [n], or labels[:, None] against "
            "outputs [n, 1]."
        )


def _is_of_pairs(op: tf.Operation, examples: int) -> bool:
    if any(tensor.shape.rank is None for tensor in op.inputs) or op.inputs[0].shape.rank == op.inputs[1].shape.rank:
        return False
    short, long = sorted(op.inputs, key=lambda tensor: tensor.shape.rank)
    if not short.shape.rank or short.shape[0] != examples or long.shape[0] != examples:
        return False
    axis = long.shape.rank - short.shape.rank
    if long.shape[axis] != 1:
        return False
    above = {one.name for one in graph_ops.ancestors(short, stop=_is_shape)}
    # A table may have as many rows as there are examples; the same tensor twice is meant.
    return (
        _reads_examples(short, examples) and long.op.name not in above and (not _is_expanded(long, axis) or _is_hit(op))
    )


def _is_hit(op: tf.Operation) -> bool:
    """Whether an operation compares labels of the batch with predicted classes."""
    sources = []
    for tensor in op.inputs if op.type in ("Equal", "NotEqual") else ():
        source = tensor.op
        while source.type in _KEEPS_NUMBERS:
            source = source.inputs[0].op
        sources.append(source.type)
    return sorted(sources) == ["ArgMax", "Placeholder"]


def _is_shape(op: tf.Operation) -> bool:
    return op.type == "Shape"


def _reads_examples(tensor: tf.Tensor, examples: int) -> bool:
    """Whether a tensor is computed from the rows of a batch."""
    found = graph_ops.ancestors(tensor, stop=_is_shape)
    return any(
        one.type == "Placeholder" and one.outputs[0].dtype != tf.resource and examples in one.outputs[0].shape[:1]
        for one in found
    )


def _is_expanded(tensor: tf.Tensor, axis: int) -> bool:
    """Whether a line of the user's asks for the dimension of 1 at this axis."""
    op = tensor.op
    if op.type in _EXPANDS or (op.type == "StridedSlice" and op.get_attr("new_axis_mask")):
        return not stack.made_by_layer(op)
    alike = [one for one in op.inputs if one.shape.rank == tensor.shape.rank]
    return any(_is_expanded(one, axis) for one in alike if one.shape[axis] == 1 and one.shape[0] == tensor.shape[0])
