"""The user's own input pipeline: `prepare`, which must be a function of (batch, seed), and data sets that a recipe holds."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import between_steps, trace_failures
from modetrain.tools.inspect.detectors.operations import is_python, is_stateful
from modetrain.tools.inspect.detectors.side_effects import Calls
from modetrain.tools.inspect.detectors.traces import Traces
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.python_state.diff import State
from modetrain.tools.inspect.python_state.line_tracer import Blame
from modetrain.tools.inspect.python_state.reachable import functions_in, reached

_EVIDENCE = "prepare() traced"
_SEED = (3, 5)


def look(recipe: Recipe, batches: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Looks at `prepare`, and at what the recipe's own code does with `tf.data`."""
    yield from _of_source(recipe)
    if type(recipe).prepare is Recipe.prepare:
        return
    batch = {name: tf.convert_to_tensor(value) for name, value in batches[0].items()}
    reach = reached(recipe, ["prepare"])
    calls = Calls(reach.functions, [vars(recipe)], silent=True)
    traced = tf.function(lambda batch, seed: recipe.prepare(batch, seed=seed, training=True), autograph=True)
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in batch.items()}
    with calls, Blame(State.of(recipe, reach)) as blame:
        try:
            concrete = traced.get_concrete_function(specs, tf.TensorSpec([2], tf.int32))
        except Exception as error:
            place = trace_failures.place_of(error) or _place(recipe)
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            # Batches that have been prepared already are not what it expects: nothing can be said.
            if trace_failures.asks_for_value(said):
                yield finding("MT105", place, said, evidence=_EVIDENCE, mode="data")
            return
    for call in calls.heard:
        code = "MT801" if call.code == "MT305" else "MT802"
        yield finding(code, call.place, f"{call.name} is called here", evidence=_EVIDENCE)
    for place, change in blame.changes:
        if change.kind in ("random", "iterator", "plain", "container"):
            yield finding("MT802", place, change.described(), evidence=_EVIDENCE)
    found = False
    for op in graph_ops.operations(concrete.graph):
        place = stack.of_op(op) or _place(recipe)
        if is_stateful(op):
            found = True
            yield finding("MT801", place, f"operation {op.type}", evidence=_EVIDENCE)
        elif is_python(op):
            found = True
            yield finding("MT804", place, f"operation {op.type}", evidence=_EVIDENCE)
    yield from between_steps.look(recipe, reach, Traces(findings=[], concrete=None, ran=frozenset(blame.ran)))
    if not found and not calls.heard and not blame.changes and _differs(concrete, batch):
        place = _place_of_write(concrete.graph) or _place(recipe)
        yield finding("MT805", place, "two batches from one seed differ", evidence="prepare() run twice")


def _place(recipe: Recipe) -> Location:
    code = type(recipe).prepare.__code__
    return Location(file=code.co_filename, line=code.co_firstlineno)


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


def _of_source(recipe: Recipe) -> Iterator[Finding]:
    """Calls of `tf.data` methods in the recipe's own methods and in the functions they reach."""
    reach = reached(recipe, ["__init__", "prepare", "train_step", "eval_step"])
    for function in reach.functions:
        file = function.__code__.co_filename
        for node in functions_in(file):
            lines_ = node.lineno, node.end_lineno  # type: ignore[attr-defined]
            if function.__code__.co_firstlineno in range(lines_[0] - 5, lines_[0] + 1) and function.__name__ == getattr(
                node, "name", ""
            ):
                yield from _of_calls(node, file)


def _of_calls(tree: ast.AST, file: str) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        what = _order(node.func, node.args, given)
        if what is not None:
            place = Location(file=file, line=node.func.end_lineno or node.lineno)
            yield finding("MT803", place, what, evidence="source")


def _order(function: ast.Attribute, args: Sequence[ast.expr], given: Mapping[str | None, ast.expr]) -> str | None:
    name = function.attr
    if (
        name == "shuffle"
        and "seed" not in given
        and len(args) < 2
        and _may_be_dataset(function.value)
        and (args or "buffer_size" in given)
    ):
        return "shuffle() without a seed"
    if name == "list_files" and "seed" not in given and not _is_false(given.get("shuffle")) and len(args) < 2:
        return "list_files() shuffles, without a seed"
    if name in ("map", "interleave", "batch", "padded_batch") and _is_false(given.get("deterministic")):
        return f"{name}(deterministic=False)"
    if (
        name in ("sample_from_datasets", "rejection_resample", "random")
        and "seed" not in given
        and "data" in ast.unparse(function.value)
    ):
        return f"{name}() without a seed"
    return None


def _may_be_dataset(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return text.split("(")[0].split(".")[0] not in ("random", "np", "numpy", "rng", "tf") or ".data." in text


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
