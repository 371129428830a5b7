"""What goes wrong once several replicas share a batch: found in the step's source and its graph.

A loss that is the mean over examples has on a batch the mean of its values on the shares. What breaks that equality (a sum,
a division by the global batch, statistics of the batch) makes N replicas compute something else than one device.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import keras
import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import collectives, split_batch
from modetrain.tools.inspect.detectors.operations import draws_without_rows, has_seed, is_stateful
from modetrain.tools.inspect.detectors.traces import TraceResult
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import InspectedStep
from modetrain.tools.inspect.python_state.name_lookup import Scope
from modetrain.tools.inspect.python_state.reachable import Reachable
from modetrain.tools.inspect.python_state.source import called_name, nodes_of

_CLIPS = {"clip_by_global_norm", "clip_by_norm", "clip_by_value", "clip_by_average_norm", "clip"}
_ALWAYS_CLIPS_GRADIENTS = {"clip_by_global_norm"}
_MOMENTS = {"moments", "weighted_moments", "normalize_moments", "fused_batch_norm"}
_ASSIGNS = {
    *("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"),
    *("ResourceScatterUpdate", "ResourceScatterAdd"),
}
_SOURCE, _GRAPH = "source", "operations of the graph"


def find(step: InspectedStep, reachable: Reachable, traces: TraceResult) -> Iterator[Finding]:
    """Finds what differs between one device and several replicas."""
    if traces.concrete is not None:
        yield from _find_in_graph(traces.concrete.graph)
    if step.method != "train_step":  # evaluation gives each replica whole batches
        return
    of_source = [one for one in find_in_source(step.recipe, reachable) if one.place in traces.ran]
    yield from of_source
    yield from _find_in_layers(step)
    if traces.concrete is not None and traces.is_repeatable:
        places = {one.place for one in of_source}
        yield from (one for one in split_batch.find(step, traces.concrete.graph) if one.place not in places)


# --- source -----------------------------------------------------------------------------------------------------------


def find_in_source(recipe: Recipe, reachable: Reachable) -> Iterator[Finding]:
    """Finds it in the source of the functions that a step reaches, whether or not a line is run."""
    for function in reachable.functions:
        scope = Scope.of_function(function, reachable.owners.get(function.__code__), recipe)
        nodes = list(nodes_of(function))
        gradients = _names_of_gradients(nodes)
        for node in nodes:
            if not isinstance(node, (ast.Call, ast.BinOp)):
                continue
            place = Location(file=function.__code__.co_filename, line=node.lineno)
            if isinstance(node, ast.Call):
                yield from _find_in_call(node, place, scope, gradients)
            elif isinstance(node.op, ast.Div) and _is_batch_size(node.right, scope, recipe):
                what = f"divided by the global batch size, {ast.unparse(node.right)}"
                yield make_finding("MT701", place, what, evidence=_SOURCE)


def _find_in_call(node: ast.Call, place: Location, scope: Scope, gradients: set[str]) -> Iterator[Finding]:
    name = called_name(node)
    if name in _ALWAYS_CLIPS_GRADIENTS or (name in _CLIPS and _names(node) & gradients):
        yield make_finding("MT703", place, f"{name} on this replica's gradients", evidence=_SOURCE)
    elif name in _MOMENTS:
        yield make_finding("MT702", place, f"{name} of this replica's share of the batch", evidence=_SOURCE)
    elif name == "compute_average_loss":
        yield make_finding("MT701", place, "compute_average_loss divides by the global batch size", evidence=_SOURCE)
    elif name in ("apply_gradients", "apply", "minimize") and isinstance(node.func, ast.Attribute):
        owner = scope.value(node.func.value)
        if isinstance(owner, keras.optimizers.Optimizer):
            yield make_finding("MT706", place, f"{type(owner).__name__}.{name} is called here", evidence=_SOURCE)


def _names_of_gradients(nodes: list[ast.AST]) -> set[str]:
    """Names that hold what `tape.gradient` returned, or what was made of that."""
    found: set[str] = set()
    for _ in range(3):
        for node in nodes:
            if isinstance(node, ast.Assign):
                value, targets = node.value, node.targets
            elif isinstance(node, (ast.comprehension, ast.For)):
                value, targets = node.iter, [node.target]
            else:
                continue
            if _takes_gradients(value) or _names(value) & found:
                found = found.union(*map(_names, targets))
    return found


def _takes_gradients(node: ast.AST) -> bool:
    return any(
        isinstance(one, ast.Call)
        and isinstance(one.func, ast.Attribute)
        and one.func.attr in ("gradient", "jacobian", "gradients")
        for one in ast.walk(node)
    )


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _is_batch_size(node: ast.expr, scope: Scope, recipe: Recipe) -> bool:
    """Whether an expression is the size of the global batch: by its name, and by its value."""
    inner = node.args[0] if isinstance(node, ast.Call) and node.args else node
    value, text = scope.value(inner), ast.unparse(inner)
    is_named = "batch" in text.lower() and ".shape" not in text
    return is_named and isinstance(value, (int, float)) and value == recipe.info.batch_size


# --- layers -----------------------------------------------------------------------------------------------------------


def _find_in_layers(step: InspectedStep) -> Iterator[Finding]:
    for model in step.recipe.models():
        for layer in model._flatten_layers(include_self=False, recursive=True):
            is_normalization = isinstance(layer, keras.layers.BatchNormalization)
            if is_normalization and layer.trainable and not layer.synchronized and not step.mode.sync_batch_norm:
                what = f"layer {layer.name} is not synchronised (mode.sync_batch_norm=false)"
                yield make_finding("MT702", step.place, what, evidence="layers of the model")


# --- graph ------------------------------------------------------------------------------------------------------------


def _find_in_graph(graph: tf.Graph) -> Iterator[Finding]:
    inputs = [tensor for tensor in graph.inputs if tensor.dtype != tf.resource and tensor.shape.rank]
    batches = {tensor.name for tensor in inputs}
    examples = {tensor.shape[0] for tensor in inputs if not tensor.name.startswith("numbers")}
    for op in graph_ops.operations(graph):
        note = False
        if op.type in _ASSIGNS and not stack.made_by_layer(op):
            code, what = "MT704", "what is assigned depends on the batch"
            if stack.made_by_modetrain(op) or not _reads(op.inputs[-1], batches):
                continue
        elif is_stateful(op):
            # With a seed every replica draws the same numbers; without one, numbers that have nothing to do with each other.
            code, what, note = "MT705", f"operation {op.type}", not has_seed(op)
        elif _draws_for_examples(op, examples):
            code, what = "MT705", f"operation {op.type}: each replica draws the same numbers for its examples"
        else:
            continue
        if (place := stack.of_op(op)) is not None:
            yield make_finding(code, place, what, evidence=_GRAPH, note=note)


def _draws_for_examples(op: tf.Operation, examples: set[int]) -> bool:
    """Whether a replica would have to be given its rows and is not; a draw for no examples is to be the same everywhere."""
    return draws_without_rows(op) and bool(examples & set(op.outputs[0].shape))


def _reads(tensor: tf.Tensor, inputs: set[str]) -> bool:
    """Whether a tensor is computed from one of the inputs, and not from a mean over replicas or from shapes alone."""
    found = graph_ops.ancestors(tensor, stop=lambda op: op.type == "Shape" or collectives.is_collective(op))
    return tensor.name in inputs or any(one.name in inputs for op in found for one in op.inputs)
