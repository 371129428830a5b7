"""Evidence from running: the step eagerly on the batches, eagerly a second time, and as the traced graph.

Eager stops at errors that XLA drops; the traceback then names the user's line. What the step computes is compared last and only
where nothing else was found: a number that differs shows that something is wrong, but not what.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack, tf_errors
from modetrain.diagnostics.location import Location
from modetrain.engine import tf_setup
from modetrain.tools.inspect.detectors import divergence
from modetrain.tools.inspect.detectors.recorded_calls import observe_eager_operations
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.detectors.trace_failures import describe_error
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import Batch, Concrete, InspectedStep

_EAGER = "the step run eagerly on the batches"
_COMPARED = "eager and graph compared"
# Variables this small may be all rounding: the mean of what is centred already.
_SMALL = 1e-3
# Finds where the traced step begins to compute something else: `find_differing_line`.
FindLine: TypeAlias = Callable[..., Location | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step has computed.

    Attributes:
      row: its metrics, float [1, replicas, metrics, 2].
      own_variables: by name the variables that no optimizer moves: the user's own, and those of batch normalisation, say.
    """

    row: np.ndarray
    own_variables: Mapping[str, np.ndarray]


def run_eagerly(
    step: InspectedStep, target: str, *, perturbed: bool = False, compiled: Concrete | None = None
) -> tuple[list[Finding], list[StepResult] | None]:
    """Runs the step line by line on each batch.

    Args:
      step: the step.
      target: the mode that counts.
      perturbed: from weights that are changed a little: first weights are often all equal, and hide what a step computes.
      compiled: the traced step, to see whether XLA stops at an error too; None where that is not to be tried.

    Returns:
      What was found, and what the steps computed; None where one has failed.
    """
    results = []
    tf.random.set_seed(0)  # so that only the step's own draws differ; the inspector restores it
    with step.restore_variables(perturbed=perturbed), _record_casts(target) as casts, CallRecorder(silent=True):
        for number, batch in enumerate(step.batches):
            try:
                row = step.run_eagerly(batch, number)[1]
            except Exception as error:
                dropped = compiled is not None and _runs_under_xla(compiled, step, number)
                return [*casts.values(), *_explain_failure(error, step, number, target, dropped=dropped)], None
            results.append(StepResult(row=row, own_variables=_own_variables(step)))
    return list(casts.values()), results


def compare_eager_runs(step: InspectedStep, results: Sequence[StepResult]) -> Iterator[Finding]:
    """Runs the same steps eagerly a second time: they should give the same."""
    _, second = run_eagerly(step, "graph")
    if second is not None and (difference := _describe_difference(results, second)):
        yield make_finding("MT306", step.place, difference, evidence="two eager runs compared")


def compare_traced_run(
    step: InspectedStep,
    concrete: Concrete,
    results: Sequence[StepResult],
    target: str,
    *,
    perturbed: bool = False,
    find_differing_line: FindLine | None = None,
) -> Iterator[Finding]:
    """Runs the traced step on the same batches: it should give the same.

    A variable that differs counts where Python takes another path, because rounding may have grown in it. What the graph
    optimizer makes differ may hold in graph mode alone, since XLA does not use it.
    """
    traced = _run_all_traced(concrete, step, perturbed=perturbed)
    if isinstance(traced, Exception):
        place = tf_errors.find_place(traced) or step.place
        yield make_finding("MT307", place, describe_error(traced), evidence=_COMPARED)
    elif difference := _describe_difference(results, traced):
        with tf_setup.without_graph_optimizations():
            plain = _run_all_traced(step.trace(step.batches[0]), step, perturbed=perturbed)
        mode = None
        if not isinstance(plain, Exception) and _describe_difference(results, plain) is None:
            difference = f"{difference}; TensorFlow's graph optimizer (grappler) makes the difference"
            if not _differs_under_xla(concrete, step, results, perturbed=perturbed):
                mode = "graph only"
        if mode is not None and target != "graph":
            return
        line = divergence.find_line(step)
        if line is None and find_differing_line is not None:
            line = find_differing_line(step, perturbed=perturbed)
        yield make_finding("MT307", line or step.place, difference, evidence=_COMPARED, mode=mode)
    elif (difference := _describe_variable(results, traced)) and (line := divergence.find_line(step, asked=False)):
        yield make_finding("MT307", line, difference, evidence=_COMPARED)


def _run_all_traced(concrete: Concrete, step: InspectedStep, *, perturbed: bool) -> list[StepResult] | Exception:
    """The results of a traced step on each batch, or what it raised."""
    results = []
    tf.random.set_seed(0)
    with step.restore_variables(perturbed=perturbed), CallRecorder(silent=True):
        for number, batch in enumerate(step.batches):
            try:
                row = _run_traced(concrete, step, batch, number)
            except Exception as error:
                return error
            results.append(StepResult(row=row, own_variables=_own_variables(step)))
    return results


def _differs_under_xla(
    concrete: Concrete, step: InspectedStep, results: Sequence[StepResult], *, perturbed: bool
) -> bool:
    """Whether a traced step computes something else under XLA too, if XLA can compile it."""
    shapes = (tensor.shape for op in graph_ops.operations(concrete.graph) for tensor in op.outputs)
    if not all(shape.is_fully_defined() for shape in shapes):  # XLA may end the process
        return False
    compiled = tf.function(concrete, jit_compile=True, autograph=False)
    found = _run_all_traced(compiled, step, perturbed=perturbed)
    return not isinstance(found, Exception) and _describe_difference(results, found) is not None


def _runs_under_xla(concrete: Concrete, step: InspectedStep, number: int) -> bool:
    """Whether XLA compiles a traced step and raises nothing on a batch; to be called within `restore_variables`."""
    compiled = tf.function(concrete, jit_compile=True, autograph=False)
    try:
        _run_traced(compiled, step, step.batches[number], number)
    except Exception:
        return False
    return True


def _run_traced(concrete: Concrete, step: InspectedStep, batch: Batch, number: int) -> np.ndarray:
    block = step.block(batch, number)
    batches = [
        {name: value[0, 0, index] for name, value in block.arrays.items()} for index in range(step.replicas.local)
    ]
    rows, _ = concrete(batches, block.numbers[0], tf.constant(False), tf.constant(0))
    return rows.numpy()[np.newaxis]


def _explain_failure(
    error: BaseException, step: InspectedStep, number: int, target: str, *, dropped: bool
) -> Iterator[Finding]:
    place = tf_errors.find_place(error) or step.place
    what = f"batch {number}: {describe_error(error)}"
    code = tf_errors.code_of_dropped_check(error)
    # AutoGraph makes a tf.Assert of an `assert`, if it is about a tensor.
    if code is None and isinstance(error, AssertionError) and place.text.startswith("assert"):
        code = "MT604"
    if code is None and dropped and isinstance(error, tf.errors.OpError):  # XLA drops no error of Python
        fix = "Fix the values at this line: mode.guards=true does not check this operation."
        yield make_finding("MT604", place, f"{what}; XLA goes on", evidence=_EAGER, mode=target, fix=fix)
    elif code is None:
        yield make_finding("MT308", place, what, evidence=_EAGER)
    elif target != "graph":  # graph mode stops there too
        yield make_finding(code, place, what, evidence=_EAGER, mode=target)


def _own_variables(step: InspectedStep) -> dict[str, np.ndarray]:
    trained = {id(one) for made in step.recipe.optimizers().values() for one in (*made.trainable, *made.variables)}
    found = {}
    for name, variable in step.recipe.state().items():
        dtype = tf.as_dtype(variable.dtype)
        is_seed = getattr(variable, "name", "").startswith("seed_generator")
        if (dtype.is_floating or dtype.is_integer) and not is_seed and id(variable) not in trained:
            found[name] = keras.ops.convert_to_numpy(variable).astype(np.float64)
    return found


def _tolerance() -> float:
    return 1e-3 if keras.config.dtype_policy().compute_dtype in ("float32", "float64") else 0.1


def _describe_variable(results: Sequence[StepResult], others: Sequence[StepResult]) -> str | None:
    """Which variable differs first, where that is more than rounding."""
    for number, (one, other) in enumerate(zip(results, others, strict=True), 1):
        for name, value in one.own_variables.items():
            got, atol = other.own_variables[name], _tolerance() * np.abs(value).max(initial=_SMALL)
            if value.shape != got.shape or not np.allclose(value, got, rtol=0, atol=atol, equal_nan=True):
                return f"step {number}: the variable {name} got other values"
    return None


def _describe_difference(results: Sequence[StepResult], others: Sequence[StepResult]) -> str | None:
    """How far metrics differ, where that is more than rounding."""
    tolerance = _tolerance()
    for number, pair in enumerate(zip(results, others, strict=True), 1):
        one, other = (result.row.astype(np.float64).sum(axis=1) for result in pair)
        if one.shape != other.shape:
            return f"step {number}: {one.shape[1]} metrics against {other.shape[1]}"
        count = np.maximum(one[..., 1:], 1)
        mean, other_mean = one[..., :1] / count, other[..., :1] / count
        same = np.isclose(mean, other_mean, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)
        if not same.all():
            index = tuple(np.argwhere(~same)[0])
            return f"step {number}: a metric was {mean[index]:.6g}, and then {other_mean[index]:.6g}"
    return None


@contextlib.contextmanager
def _record_casts(target: str) -> Iterator[dict[Location, Finding]]:
    """Finds eager casts to integers of numbers that no integer can hold; none where the target is a graph."""
    found: dict[Location, Finding] = {}

    def record(op_type: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if op_type != "Cast" or target == "graph" or not inputs:
            return
        value, made = inputs[0], outputs[0]
        if value.dtype.is_floating and made.dtype.is_integer:
            array = value.numpy().astype(np.float64)
            bad = ~np.isfinite(array) | (array < float(made.dtype.min)) | (array > float(made.dtype.max))
            if bad.any() and (place := stack.here()) is not None:
                what = f"{array[bad].flat[0]:g} was cast to {made.dtype.name}"
                found.setdefault(place, make_finding("MT606", place, what, evidence=_EAGER, mode=target))

    with observe_eager_operations(record):
        yield found
