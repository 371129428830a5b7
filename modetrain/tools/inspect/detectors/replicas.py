"""What goes wrong once several replicas share a batch: found in the step's source and its graph.

A loss that is the mean over examples has on a batch the mean of what it has on the shares. Whatever breaks that equality
(a sum, a division by the global batch, statistics of the batch) makes N replicas another computation than one device.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import keras
import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.engine import random
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import collectives, split_batch
from modetrain.tools.inspect.detectors.operations import is_stateful
from modetrain.tools.inspect.detectors.traces import Traces
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.python_state.name_lookup import Scope
from modetrain.tools.inspect.python_state.reachable import Reached, tree_of
from modetrain.tools.inspect.traced_step import Steps

_CLIPS = {"clip_by_global_norm", "clip_by_norm", "clip_by_value", "clip_by_average_norm", "clip"}
_ALWAYS = {"clip_by_global_norm"}
_MOMENTS = {"moments", "weighted_moments", "normalize_moments", "fused_batch_norm"}
# With these no run of a step is like another one, nor two halves like the whole: they say nothing then.
_UNEVEN = {"MT205", "MT302", "MT304"}
_ASSIGNS = {
    "AssignVariableOp",
    "AssignAddVariableOp",
    "AssignSubVariableOp",
    "ResourceScatterUpdate",
    "ResourceScatterAdd",
}


def look(steps: Steps, reached: Reached, seen: Traces) -> Iterator[Finding]:
    """Finds what differs between one device and several replicas."""
    if seen.concrete is not None:
        yield from _of_graph(seen.concrete.graph)
    if steps.method != "train_step":  # evaluation gives each replica whole batches
        return
    ran = {(place.file, place.line) for place in seen.ran}
    told = [one for one in of_source(steps.recipe, reached) if (one.file, one.line) in ran]
    yield from told
    yield from _layers(steps)
    if seen.concrete is not None and not _UNEVEN & {one.code for one in seen.findings}:
        places = {one.place for one in told}
        yield from (one for one in split_batch.look(steps, seen.concrete.graph) if one.place not in places)


# --- source -----------------------------------------------------------------------------------------------------------


def of_source(recipe: Recipe, reached: Reached) -> Iterator[Finding]:
    """What the functions that a step reaches say, whether or not a line is run."""
    for function in reached.functions:
        tree = tree_of(function)
        file = function.__code__.co_filename
        if tree is None:
            continue
        scope = Scope.of(function, reached.owners.get(function.__code__), recipe)
        gradients = _names_of_gradients(tree)
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Call, ast.BinOp)):
                continue
            place = Location(file=file, line=node.lineno)
            if isinstance(node, ast.BinOp):
                if isinstance(node.op, ast.Div) and _is_batch_size(node.right, scope, recipe):
                    what = f"divided by the global batch size, {ast.unparse(node.right)}"
                    yield finding("MT701", place, what, evidence="source")
                continue
            yield from _of_call(node, place, scope, gradients)


def _of_call(node: ast.Call, place: Location, scope: Scope, gradients: set[str]) -> Iterator[Finding]:
    name = (
        node.func.attr
        if isinstance(node.func, ast.Attribute)
        else node.func.id
        if isinstance(node.func, ast.Name)
        else ""
    )
    if name in _ALWAYS or (name in _CLIPS and any(one in gradients for one in _names(node))):
        yield finding("MT703", place, f"{name} on this replica's gradients", evidence="source")
    elif name in _MOMENTS:
        yield finding("MT702", place, f"{name} of this replica's share of the batch", evidence="source")
    elif name == "compute_average_loss":
        yield finding("MT701", place, "compute_average_loss divides by the global batch size", evidence="source")
    elif name in ("apply_gradients", "apply", "minimize") and isinstance(node.func, ast.Attribute):
        owner = scope.value(node.func.value)
        if isinstance(owner, keras.optimizers.Optimizer):
            yield finding("MT706", place, f"{type(owner).__name__}.{name} is called here", evidence="source")


def _names_of_gradients(tree: ast.AST) -> set[str]:
    """Names that hold what `tape.gradient` returned, or what was made of that."""
    found: set[str] = set()
    for _ in range(3):
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            value = node.value if isinstance(node, ast.Assign) else None
            if value is not None and (_takes_gradients(value) or set(_names(value)) & found):
                found |= {name for target in targets for name in _names(target)}
            if isinstance(node, ast.comprehension) and (_takes_gradients(node.iter) or set(_names(node.iter)) & found):
                found |= set(_names(node.target))
            if isinstance(node, ast.For) and (_takes_gradients(node.iter) or set(_names(node.iter)) & found):
                found |= set(_names(node.target))
    return found


def _takes_gradients(node: ast.AST) -> bool:
    return any(
        isinstance(one, ast.Call)
        and isinstance(one.func, ast.Attribute)
        and one.func.attr in ("gradient", "jacobian", "gradients")
        for one in ast.walk(node)
    )


def _names(node: ast.AST) -> list[str]:
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]


def _is_batch_size(node: ast.expr, scope: Scope, recipe: Recipe) -> bool:
    """Whether an expression is the size of the global batch: by its name, and by its value."""
    inner = node.args[0] if isinstance(node, ast.Call) and node.args else node
    value = scope.value(inner)
    size = recipe.info.batch_size
    named = "batch" in ast.unparse(inner).lower() and ".shape" not in ast.unparse(inner)
    return named and isinstance(value, (int, float)) and value == size


# --- layers -----------------------------------------------------------------------------------------------------------


def _layers(steps: Steps) -> Iterator[Finding]:
    for model in steps.recipe.models():
        for layer in model._flatten_layers(include_self=False, recursive=True):
            if (
                isinstance(layer, keras.layers.BatchNormalization)
                and not layer.synchronized
                and not steps.mode.sync_batch_norm
            ):
                what = f"layer {layer.name} is not synchronised (mode.sync_batch_norm=false)"
                yield finding("MT702", steps.place, what, evidence="layers of the model")


# --- graph ------------------------------------------------------------------------------------------------------------


def _of_graph(graph: tf.Graph) -> Iterator[Finding]:
    inputs = [tensor for tensor in graph.inputs if tensor.dtype != tf.resource and tensor.shape.rank]
    batches = {tensor.name for tensor in inputs}
    examples = {tensor.shape[0] for tensor in inputs if not tensor.name.startswith("numbers")}
    for op in graph_ops.operations(graph):
        place = None
        if op.type in _ASSIGNS and not stack.made_by_layer(op):
            place = None if stack.made_by_modetrain(op) else stack.of_op(op)
            if place is not None and _reads(op.inputs[-1], batches):
                yield finding(
                    "MT704", place, "what is assigned depends on the batch", evidence="operations of the graph"
                )
        elif is_stateful(op) and (place := stack.of_op(op)) is not None:
            yield finding("MT705", place, f"operation {op.type}", evidence="operations of the graph")
        elif _draws_for_examples(op, examples) and (place := stack.of_op(op)) is not None:
            what = f"operation {op.type}: each replica draws the same numbers for its examples"
            yield finding("MT705", place, what, evidence="operations of the graph")


def _draws_for_examples(op: tf.Operation, examples: set[int]) -> bool:
    """Whether a replica would have to be given its rows and is not; a draw for no examples is to be the same everywhere."""
    return random.by_chance(op.type) and op.type not in random.COVERED and bool(examples & set(op.outputs[0].shape))


def _reads(tensor: tf.Tensor, inputs: set[str]) -> bool:
    """Whether a tensor is computed from one of the inputs without a mean over replicas on the way."""
    pending, seen = [tensor], set()
    while pending:
        one = pending.pop()
        if one.name in inputs:
            return True
        if one.op.name in seen or one.op.type == "Shape" or collectives.meets(one.op):
            continue
        seen.add(one.op.name)
        pending.extend(one.op.inputs)
    return False
