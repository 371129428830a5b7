"""Single operations of a traced step: callbacks into Python, stateful draws, shapes that depend on data, what XLA lacks."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.util import pywrap_xla_ops

from modetrain.diagnostics import graph_ops, pairs, stack
from modetrain.engine import replica_random
from modetrain.tools.inspect.finding import Finding, make_finding

_PYTHON = ("PyFunc", "EagerPyFunc", "PyFuncStateless")
_STATEFUL = re.compile(
    r"Random(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|Poisson|PoissonV2|Crop)|TruncatedNormal|Multinomial"
    r"|ParameterizedTruncatedNormal|Stateful(Uniform|UniformInt|UniformFullInt|StandardNormal|StandardNormalV2|TruncatedNormal"
    r"|RandomBinomial)|NonDeterministicInts|RngSkip|RngReadAndSkip"
)
_ITERATORS = re.compile(r"(Multi)?(Device)?Iterator(GetNext|GetNextSync|GetNextAsOptional|FromStringHandle)\w*")
_PRINTS = ("PrintV2", "StringFormat")
# Made by tracing itself, or replaced before XLA sees the graph.
_NOT_COMPILED = ("Placeholder", "PlaceholderWithDefault", "Const", "NoOp", "VarHandleOp")
# The size of the result depends on values.
_SELECTS = re.compile(
    r"Where|Unique\w*|NonMaxSuppression\w*|DynamicPartition|ListDiff|SetSize|DenseToDenseSetOperation|Ragged\w+|Sparse(Slice|Reorder"
    r"|Concat|Add|FillEmptyRows)\w*|StringSplit\w*|CombinedNonMaxSuppression|GenerateBoundingBoxProposals"
)
_WIDE = (tf.float64, tf.complex128)
# Operations whose inputs give the shape of the result: the indices of those inputs.
_SHAPED_BY = {
    "Reshape": (1,),
    "Range": (0, 1, 2),
    "Fill": (0,),
    "Slice": (1, 2),
    "StridedSlice": (1, 2),
    "Tile": (1,),
    "BroadcastTo": (1,),
    "Pad": (1,),
    "PadV2": (1,),
    "MirrorPad": (1,),
    "TopKV2": (1,),
    "OneHot": (1,),
    "LinSpace": (2,),
    "StatelessRandomUniformV2": (0,),
    "StatelessRandomNormalV2": (0,),
    "StatelessRandomUniformIntV2": (0,),
    "RandomUniform": (0,),
    "RandomStandardNormal": (0,),
    "Bincount": (1,),
    "DenseBincount": (1,),
    "UnsortedSegmentSum": (2,),
    "ScatterNd": (2,),
}
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank", "Const")
_EVIDENCE = "operations of the graph"


def find(graph: tf.Graph, target: str, *, prints: bool = True) -> Iterator[Finding]:
    """Findings for single operations of a graph.

    Args:
      graph: of the traced step.
      target: `graph`, `xla` or `tpu`.
      prints: whether tf.print counts.
    """
    for op in graph_ops.operations(graph):
        kind = op.type
        if is_python(op):
            yield from _at(op, "MT106", f"operation {kind}")
        elif is_stateful(op):
            yield from _at(op, "MT305", f"operation {kind}", "xla" if _from_generator(op) or has_seed(op) else None)
        elif _ITERATORS.fullmatch(kind):
            yield from _at(op, "MT205", f"operation {kind}: the step fetches from a data set itself")
        if target != "graph":
            yield from _for_xla(op, target, prints)
    for one in pairs.find(graph):
        yield make_finding("MT708", one.place, one.describe(), evidence=_EVIDENCE)


def is_stateful(op: tf.Operation) -> bool:
    """Whether an operation draws random numbers from a generator with state, not from a seed it is given."""
    return _STATEFUL.fullmatch(op.type) is not None


def has_seed(op: tf.Operation) -> bool:
    """Whether an operation draws with a `seed=` of its own, where it was traced without a global seed."""
    return "seed2" in op.node_def.attr and op.get_attr("seed2") != 0


def _from_generator(op: tf.Operation) -> bool:
    """Whether an operation draws from a `tf.random.Generator`, whose state is a variable."""
    return op.type.startswith(("Stateful", "Rng"))


def draws_without_rows(op: tf.Operation) -> bool:
    """Whether an operation draws random numbers, and the library cannot give each replica its rows of them."""
    return replica_random.is_random_op(op.type) and op.type not in replica_random.COVERED


def is_python(op: tf.Operation) -> bool:
    """Whether an operation calls back into Python."""
    return op.type in _PYTHON


def _for_xla(op: tf.Operation, target: str, prints: bool) -> Iterator[Finding]:
    kind = op.type
    if graph_ops.is_gradient(op) or "_grad/" in op.name:
        return
    if kind in _PRINTS:
        if prints and kind == "PrintV2":
            fix = "Return the value from the step; with mode.compile=graph tf.print works."
            yield from _at(op, "MT505", f"tf.print (operation {kind}) does not compile under XLA", target, fix=fix)
        return
    if _SELECTS.fullmatch(kind) and _has_unknown_shape(op):
        yield from _at(op, "MT504", f"operation {kind}: the size of its result depends on values", target)
    elif (
        kind in _SHAPED_BY
        and _has_unknown_shape(op)
        and any(_depends_on_data(op.inputs[index]) for index in _SHAPED_BY[kind] if index < len(op.inputs))
    ):
        yield from _at(op, "MT504", f"operation {kind}: its shape {_shapes(op)} is computed from data", target)
    elif kind not in _NOT_COMPILED and kind not in _compilable() and kind not in _PYTHON:
        yield from _at(op, "MT505", f"XLA has no operation {kind}", target)
    elif _needs_gradient_of_loop(op):
        yield from _at(op, "MT505", "XLA cannot take the gradient of a loop inside this branch", target)
    elif target == "tpu" and any(tensor.dtype in _WIDE for tensor in op.outputs) and not stack.made_by_modetrain(op):
        yield from _at(op, "MT506", f"operation {kind} computes in {op.outputs[0].dtype.name}", target)


def _needs_gradient_of_loop(op: tf.Operation) -> bool:
    """Whether a branch has a placeholder for the list that a loop in the other branch makes for its gradient."""
    return op.type in ("If", "StatelessIf") and any(
        one.type == "FakeParam" and one.outputs[0].dtype == tf.variant
        for graph in graph_ops.inner_graphs(op)
        for one in graph.get_operations()
    )


def _at(op: tf.Operation, code: str, what: str, target: str | None = None, fix: str | None = None) -> Iterator[Finding]:
    place = stack.of_op(op)
    if place is not None:
        by = " (made by a Keras layer that this line calls)" if stack.made_by_layer(op) else ""
        mode = None if target in (None, "graph") else target
        yield make_finding(code, place, what + by, evidence=_EVIDENCE, mode=mode, fix=fix)


@functools.cache
def _compilable() -> frozenset[str]:
    """The names of the operations that XLA has, on the devices of this machine."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    names = pywrap_xla_ops.get_gpu_kernel_names() if on_gpu else pywrap_xla_ops.get_cpu_kernel_names()
    return frozenset(names)


def _has_unknown_shape(op: tf.Operation) -> bool:
    return any(
        not tensor.shape.is_fully_defined() for tensor in op.outputs if tensor.dtype not in (tf.variant, tf.resource)
    )


def _shapes(op: tf.Operation) -> str:
    return ", ".join(str(tensor.shape) for tensor in op.outputs)


def _depends_on_data(tensor: tf.Tensor) -> bool:
    """Whether a tensor is computed from values, and not from shapes alone."""
    if tf.get_static_value(tensor) is not None or _is_bounded_to_one(tensor):
        return False
    # An operation without inputs is a batch, or what a branch captures.
    return any(not op.inputs for op in graph_ops.ancestors(tensor, stop=lambda op: op.type in _OF_SHAPES))


def _is_bounded_to_one(tensor: tf.Tensor) -> bool:
    """Whether it is minimum(n, maximum(n, ...)): `bincount` with minlength and maxlength equal."""
    bounds = {}
    for _ in range(4):
        op = tensor.op
        if op.type in ("Minimum", "Maximum"):
            constants = [tf.get_static_value(one) for one in op.inputs]
            bounds[op.type] = next((int(one) for one in constants if one is not None), None)
            tensor = next((one for one, value in zip(op.inputs, constants, strict=True) if value is None), op.inputs[0])
        elif op.inputs:
            tensor = op.inputs[0]
    return len(bounds) == 2 and bounds["Minimum"] == bounds["Maximum"] is not None
