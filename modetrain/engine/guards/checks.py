"""What stops eager and graph mode at an operation: a check of its inputs for each type of operation."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.ops import handle_data_util

from modetrain.diagnostics import graph_ops

# The code, the failure in words, and a bool tensor that is true where it fails.
Flagged = tuple[str, str, tf.Tensor] | None


def _outside(indices: tf.Tensor, size) -> tf.Tensor:
    """Whether any index is not in [0, size); size is a number, or a tensor as long as the indices' last dimension."""
    return tf.reduce_any((indices < 0) | (indices >= tf.cast(size, indices.dtype)))


def _assertion(op: tf.Operation) -> Flagged:
    inner = [one.type for graph in graph_ops.inner_graphs(op) for one in graph.get_operations()]
    if "Assert" not in inner:
        return None
    return "MT604", "an assertion failed", tf.logical_not(op.inputs[0])


def _bare_assertion(op: tf.Operation) -> Flagged:
    return "MT604", "an assertion failed", tf.logical_not(op.inputs[0])


def _numerics(op: tf.Operation) -> Flagged:
    message = op.get_attr("message").decode()
    what = f"check_numerics found NaN or infinity ({message})" if message else "check_numerics found NaN or infinity"
    return "MT605", what, tf.logical_not(tf.reduce_all(tf.math.is_finite(op.inputs[0])))


def _gather(op: tf.Operation) -> Flagged:
    params, indices, axis = op.inputs
    axis = tf.get_static_value(axis)
    if axis is None or params.shape.rank is None:
        return None
    size = params.shape[int(axis)]
    size = tf.shape(params)[int(axis)] if size is None else size
    known = tf.get_static_value(indices)
    if known is not None and isinstance(size, int) and known.size and known.min() >= 0 and known.max() < size:
        return None
    return "MT601", f"an index is not in [0, {size if isinstance(size, int) else 'size'})", _outside(indices, size)


def _resource_gather(op: tf.Operation) -> Flagged:
    data = handle_data_util.get_resource_handle_data(op.inputs[0])
    if not data.shape_and_type or op.get_attr("batch_dims"):
        return None
    size = data.shape_and_type[0].shape.dim[0].size
    return "MT601", f"an index is not in [0, {size})", _outside(op.inputs[1], size)


def _gather_nd(op: tf.Operation) -> Flagged:
    params, indices = op.inputs[:2]
    depth = indices.shape[-1]
    if depth is None or params.shape.rank is None or op.node_def.attr["bad_indices_policy"].s not in (b"", b"ERROR"):
        return None
    return "MT601", "an index lies outside the tensor", _outside(indices, tf.shape(params)[:depth])


def _scatter_nd(op: tf.Operation) -> Flagged:
    indices = op.inputs[0]
    depth = indices.shape[-1]
    if depth is None or op.node_def.attr["bad_indices_policy"].s not in (b"", b"ERROR"):
        return None
    return "MT601", "an index lies outside the tensor", _outside(indices, op.inputs[2][:depth])


def _tensor_scatter(op: tf.Operation) -> Flagged:
    tensor, indices = op.inputs[:2]
    depth = indices.shape[-1]
    if depth is None or op.node_def.attr["bad_indices_policy"].s not in (b"", b"ERROR"):
        return None
    return "MT601", "an index lies outside the tensor", _outside(indices, tf.shape(tensor)[:depth])


def _segments(op: tf.Operation) -> Flagged:
    ids, count = op.inputs[1], op.inputs[2]
    # All modes drop negative ids, as documented.
    return "MT601", "a segment id is too large", tf.reduce_any(ids >= tf.cast(count, ids.dtype))


def _list_item(op: tf.Operation) -> Flagged:
    items, index = op.inputs[:2]
    size = tf.raw_ops.TensorListLength(input_handle=items)
    return "MT601", "an index lies outside the TensorArray", _outside(index, size)


def _division(op: tf.Operation) -> Flagged:
    divisor = op.inputs[1]
    if not divisor.dtype.is_integer:
        return None
    known = tf.get_static_value(divisor)
    if known is not None and (known != 0).all():
        return None
    return "MT603", "an integer was divided by zero", tf.reduce_any(tf.equal(divisor, 0))


def _power(op: tf.Operation) -> Flagged:
    exponent = op.inputs[1]
    if not exponent.dtype.is_integer:
        return None
    known = tf.get_static_value(exponent)
    if known is not None and (known >= 0).all():
        return None
    return "MT603", "an integer was raised to a negative power", tf.reduce_any(exponent < 0)


def _labels(op: tf.Operation) -> Flagged:
    logits, labels = op.inputs
    classes = logits.shape[-1]
    if classes is None:
        return None
    return "MT602", f"a label is not in [0, {classes})", _outside(labels, classes)


def _factorization(op: tf.Operation) -> Flagged:
    made = tf.reduce_all(tf.math.is_finite(op.outputs[0]))
    given = tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in op.inputs])
    return "MT607", f"{op.type} of a matrix that has none", tf.logical_and(given, tf.logical_not(made))


CHECKS: dict[str, Callable[[tf.Operation], Flagged]] = {
    "If": _assertion,
    "Assert": _bare_assertion,
    "CheckNumerics": _numerics,
    "CheckNumericsV2": _numerics,
    "GatherV2": _gather,
    "ResourceGather": _resource_gather,
    "GatherNd": _gather_nd,
    "ScatterNd": _scatter_nd,
    "TensorScatterUpdate": _tensor_scatter,
    "TensorScatterAdd": _tensor_scatter,
    "TensorScatterSub": _tensor_scatter,
    "TensorScatterMax": _tensor_scatter,
    "TensorScatterMin": _tensor_scatter,
    **dict.fromkeys(
        ("UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentProd"), _segments
    ),
    "TensorListGetItem": _list_item,
    **dict.fromkeys(("FloorDiv", "FloorMod", "Div", "TruncateDiv", "TruncateMod", "Mod"), _division),
    "SparseSoftmaxCrossEntropyWithLogits": _labels,
    "Pow": _power,
    **dict.fromkeys(("MatrixInverse", "MatrixSolve"), _factorization),
}
