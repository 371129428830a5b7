"""The user's own input pipeline: `prepare`, which must be a function of (batch, seed), and data sets that a recipe makes."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack, tf_errors
from modetrain.diagnostics.location import Location
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import between_steps
from modetrain.tools.inspect.detectors.operations import is_python, is_stateful
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.python_state.change_tracer import ChangeTracer
from modetrain.tools.inspect.python_state.diff import PythonState
from modetrain.tools.inspect.python_state.reachable import find_reachable
from modetrain.tools.inspect.python_state.snapshot import restore_python_state, restore_seed
from modetrain.tools.inspect.python_state.source import nodes_of, start_of

_EVIDENCE = "prepare() traced"
_SEED = (3, 5)


def find(recipe: Recipe, batches: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Inspects `prepare`, and what the recipe's own code does with `tf.data`."""
    yield from _unordered_datasets(recipe)
    if type(recipe).prepare is Recipe.prepare:
        return
    start = start_of(type(recipe).prepare)
    batch = {name: tf.convert_to_tensor(value) for name, value in batches[0].items()}
    reachable = find_reachable(recipe, ["prepare"])
    recorder = CallRecorder(reachable.functions, [vars(recipe)], silent=True)
    with recorder, ChangeTracer(PythonState.for_recipe(recipe, reachable)) as tracer:
        try:
            concrete = _trace(recipe, batch)
        except Exception as error:
            # Nothing is known of other errors: `prepare` may not expect batches that are prepared already.
            if tf_errors.code_of_trace_error(error) == "MT105":
                what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                place = tf_errors.find_place(error) or start
                yield make_finding("MT105", place, what, evidence=_EVIDENCE, mode="data")
            return
    for call in recorder.calls:
        code = "MT801" if call.code == "MT305" else "MT802"
        yield make_finding(code, call.place, f"{call.name} is called here", evidence=_EVIDENCE)
    drawn = {call.place for call in recorder.calls if call.code == "MT305"}
    for place, change in tracer.changes:
        if change.kind == "random" and place in drawn:  # Keras takes the seeds of its own draws from Python
            continue
        if change.kind in ("random", "iterator", "plain", "container"):
            yield make_finding("MT802", place, change.describe(), evidence=_EVIDENCE)
    of_operations = [
        make_finding(code, stack.of_op(op) or start, f"operation {op.type}", evidence=_EVIDENCE)
        for op in graph_ops.operations(concrete.graph)
        if (code := "MT801" if is_stateful(op) else "MT804" if is_python(op) else "")
    ]
    yield from of_operations
    yield from between_steps.find(recipe, reachable, tracer.ran)
    if not of_operations and not recorder.calls and not tracer.changes and _differs(concrete, batch):
        place = _place_of_write(concrete.graph) or start
        yield make_finding("MT805", place, "two batches from one seed differ", evidence="prepare() run twice")


def find_draws(recipe: Recipe, batch: Mapping[str, Any]) -> list[Finding]:
    """What makes `prepare` no function of (batch, seed), as far as one trace of it shows: draws that ignore the seed."""
    batch = {name: tf.convert_to_tensor(value) for name, value in batch.items()}
    recorder = CallRecorder(find_reachable(recipe, ["prepare"]).functions, [vars(recipe)], silent=True)
    start = start_of(type(recipe).prepare)
    with restore_python_state(recipe), restore_seed():
        try:
            with recorder:
                concrete = _trace(recipe, batch)
        except Exception:  # the run itself reports it
            return []
        operations = list(graph_ops.operations(concrete.graph))
        draws = {stack.of_op(op) or start: op.type for op in operations if is_stateful(op)}
        found = [make_finding("MT801", place, f"operation {op}", evidence=_EVIDENCE) for place, op in draws.items()]
        # Keras takes the seeds of its own draws from Python.
        found += [
            make_finding("MT802", call.place, f"{call.name} is called here", evidence=_EVIDENCE)
            for call in recorder.calls
            if call.code in ("MT301", "MT302", "MT303") and call.place not in draws
        ]
        if not found and (place := _place_of_write(concrete.graph)) is not None:
            what = "a variable is changed here, such as that of a Keras layer's draws"
            found.append(make_finding("MT805", place, what, evidence=_EVIDENCE))
        python = [stack.of_op(op) or start for op in operations if is_python(op)]
        if not found and python and _differs(concrete, batch):
            what = "two batches from one seed differ"
            found.append(make_finding("MT805", python[0], what, evidence="prepare() run twice"))
    return found


def _trace(recipe: Recipe, batch: Mapping[str, tf.Tensor]) -> Any:
    """`prepare`, traced for a batch of these shapes."""
    traced = tf.function(lambda batch, seed: recipe.prepare(batch, seed=seed, training=True), autograph=True)
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in batch.items()}
    return traced.get_concrete_function(specs, tf.TensorSpec([2], tf.int32))


def _place_of_write(graph: tf.Graph) -> Location | None:
    """The user's line that changes a variable, such as that of a Keras layer's seeds."""
    places = (stack.of_op(op) for op in graph_ops.operations(graph) if op.type.startswith("Assign"))
    return next((place for place in places if place is not None), None)


def _differs(concrete: Any, batch: Mapping[str, tf.Tensor]) -> bool:
    with contextlib.suppress(Exception):
        first, second = (tf.nest.flatten(concrete(dict(batch), tf.constant(_SEED, tf.int32))) for _ in range(2))
        return any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    return False


# --- tf.data in the recipe's own code ---------------------------------------------------------------------------------


def _unordered_datasets(recipe: Recipe) -> Iterator[Finding]:
    """Calls of `tf.data` methods whose order is not fixed, in the recipe's own methods and in the functions they reach."""
    for function in find_reachable(recipe, ["__init__", "prepare", "train_step", "eval_step"]).functions:
        for node in nodes_of(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                if what := _describe_order(node.func, node.args, given):
                    place = Location(file=function.__code__.co_filename, line=node.func.end_lineno or node.lineno)
                    yield make_finding("MT803", place, what, evidence="source")


def _describe_order(
    function: ast.Attribute, args: Sequence[ast.expr], given: Mapping[str | None, ast.expr]
) -> str | None:
    name, seeded = function.attr, "seed" in given
    if name == "shuffle" and not seeded and len(args) < 2 and (args or "buffer_size" in given):
        return "shuffle() without a seed" if _may_be_dataset(function.value) else None
    if name == "list_files" and not seeded and not _is_false(given.get("shuffle")) and len(args) < 2:
        return "list_files() shuffles, without a seed"
    if name in ("map", "interleave", "batch", "padded_batch") and _is_false(given.get("deterministic")):
        return f"{name}(deterministic=False)"
    draws = name in ("sample_from_datasets", "rejection_resample", "random")
    if draws and not seeded and "data" in ast.unparse(function.value):
        return f"{name}() without a seed"
    return None


def _may_be_dataset(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return text.split("(")[0].split(".")[0] not in ("random", "np", "numpy", "rng", "tf") or ".data." in text


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
