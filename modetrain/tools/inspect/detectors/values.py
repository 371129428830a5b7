"""Evidence from running: the step eagerly on the batches, eagerly once more, and as the traced graph.

Eager stops at errors that XLA drops; the traceback then names the user's line. What the step computes is compared last and only
where nothing else was found: a number that differs says that something is wrong, and not what.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from modetrain.diagnostics import stack, tf_errors
from modetrain.diagnostics.location import Location
from modetrain.tools.inspect.detectors import divergence, trace_failures
from modetrain.tools.inspect.detectors.side_effects import Calls
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.traced_step import Concrete, Steps

# What TensorFlow's kernels say of what XLA drops.
_DROPPED = (
    (r"label value of|labels? (value )?.*(outside|out of range|must be)", "MT602"),
    (r"[Ii]nteger division by zero|integer modulo by zero|division by zero|negative integer powers", "MT603"),
    (r"[Aa]ssertion failed|\bassert_|did not hold|to be true\. Summarized data", "MT604"),
    (r"Tensor had (NaN|Inf|-Inf|inf)|check_numerics|CheckNumerics", "MT605"),
    (r"not invertible|Cholesky decomposition was not successful|singular", "MT607"),
    (
        r"Tried to (read|write)|is not in \[|does not index into|out of bound|out of range|segment_ids?.*range|indices\[",
        "MT601",
    ),
)
_EAGER = "the step run eagerly on the batches"
# Variables this small may be all rounding: the mean of what is centred already.
_SMALL = 1e-3
# Where eager and traced steps part, if nothing else tells: `first_operation.place`.
Parting = Callable[..., Location | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a step.

    Attributes:
      row: its metrics, float [1, replicas, metrics, 2].
      own: by name the variables that no optimizer moves; the user's own doing, or that of batch normalisation and its like.
    """

    row: np.ndarray
    own: Mapping[str, np.ndarray]


def of_batches(steps: Steps, target: str, *, moved: bool = False) -> tuple[list[Finding], list[Outcome] | None]:
    """Runs one step a batch, one after the other, line by line.

    Args:
      steps: the steps.
      target: what counts.
      moved: from weights that are moved a little: first weights are often all alike, and hide what a step computes.

    Returns:
      What was found, and what came of the steps; None where one has failed.
    """
    casts = _Casts()
    _seed()
    with steps.state_kept(moved=moved), casts, Calls(silent=True):
        outcomes = []
        for number, batch in enumerate(steps.batches):
            try:
                row = steps.run_eagerly(batch, number)[1]
            except Exception as error:
                return [*casts.findings(target), *_failed(error, steps, number, target)], None
            outcomes.append(Outcome(row=row, own=_own(steps)))
    return casts.findings(target), outcomes


def again(steps: Steps, outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Runs the same steps eagerly once more: they should give the same."""
    _, once_more = of_batches(steps, "graph")
    if once_more is not None and (seen := _difference(outcomes, once_more)):
        yield finding("MT306", steps.place, seen, evidence="two eager runs compared")


def traced(
    steps: Steps, concrete: Concrete, outcomes: Sequence[Outcome], *, moved: bool = False, first: Parting | None = None
) -> Iterator[Finding]:
    """Runs the traced step on the same batches: it should give the same.

    A variable that differs counts where Python goes another way, for rounding may have grown in it.
    """
    graph = []
    _seed()
    with steps.state_kept(moved=moved), Calls(silent=True):
        for number, batch in enumerate(steps.batches):
            try:
                row = _run(concrete, steps, batch, number)
            except Exception as error:
                place = trace_failures.place_of(error) or steps.place
                yield finding("MT307", place, _said(error), evidence="eager and graph compared")
                return
            graph.append(Outcome(row=row, own=_own(steps)))
    if seen := _difference(outcomes, graph):
        place = divergence.place(steps) or (first and first(steps, moved=moved)) or steps.place
        yield finding("MT307", place, seen, evidence="eager and graph compared")
    elif (seen := _other_variable(outcomes, graph)) and (way := divergence.place(steps, asked=False)):
        yield finding("MT307", way, seen, evidence="eager and graph compared")


def _run(concrete: Concrete, steps: Steps, batch, number: int) -> np.ndarray:
    block = steps.block(batch, number)
    batches = [
        {name: value[0, 0, index] for name, value in block.arrays.items()} for index in range(steps.replicas.local)
    ]
    rows, _ = concrete(batches, block.numbers[0], tf.constant(False), tf.constant(0))
    return rows.numpy()[np.newaxis]


def _seed() -> None:
    """TensorFlow's own generators go on from one place, so that only the step's doing differs; the inspector puts it back."""
    tf.random.set_seed(0)


def _failed(error: BaseException, steps: Steps, number: int, target: str) -> Iterator[Finding]:
    said = _said(error)
    place = trace_failures.place_of(error) or steps.place
    if isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)):
        code = next((code for pattern, code in _DROPPED if re.search(pattern, said)), None)
        if code is not None:
            if target != "graph":  # graph mode stops there too
                yield finding(code, place, f"batch {number}: {said}", evidence=_EAGER, mode=target)
            return
    if isinstance(error, AssertionError) and place.text.startswith("assert"):
        if target != "graph":  # AutoGraph makes it a tf.Assert, if it is about a tensor
            yield finding("MT604", place, f"batch {number}: {said}", evidence=_EAGER, mode=target)
        return
    yield finding("MT308", place, f"batch {number}: {said}", evidence=_EAGER)


def _said(error: BaseException) -> str:
    message = tf_errors.read(error)
    return " ".join((message.text if message is not None else f"{type(error).__name__}: {error}").split())[:300]


def _own(steps: Steps) -> dict[str, np.ndarray]:
    moved = {id(one) for made in steps.recipe.optimizers().values() for one in (*made.trainable, *made.variables)}
    found = {}
    for name, variable in steps.recipe.state().items():
        dtype = tf.as_dtype(variable.dtype)
        seed = getattr(variable, "name", "").startswith("seed_generator")
        if (dtype.is_floating or dtype.is_integer) and not seed and id(variable) not in moved:
            found[name] = keras.ops.convert_to_numpy(variable).astype(np.float64)
    return found


def _tolerance() -> float:
    return 1e-3 if keras.config.dtype_policy().compute_dtype in ("float32", "float64") else 0.1


def _other_variable(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> str | None:
    """In words which variable differs first, where that is more than rounding."""
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for name, value in one.own.items():
            got, scale = other.own[name], np.abs(value).max(initial=_SMALL)
            if value.shape != got.shape or not np.allclose(
                value, got, rtol=0, atol=_tolerance() * scale, equal_nan=True
            ):
                return f"step {step + 1}: the variable {name} got other values"
    return None


def _difference(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> str | None:
    """In words how far metrics are apart, where that is more than rounding."""
    tolerance = _tolerance()
    for step, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
        one, other = mine.row.astype(np.float64).sum(axis=1), yours.row.astype(np.float64).sum(axis=1)
        if one.shape != other.shape:
            return f"step {step + 1}: {one.shape[1]} metrics against {other.shape[1]}"
        count = np.maximum(one[..., 1:], 1)
        means, others = one[..., :1] / count, other[..., :1] / count
        same = np.isclose(means, others, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)
        if not same.all():
            index = tuple(np.argwhere(~same)[0])
            return f"step {step + 1}: a metric was {means[index]:.6g}, and then {others[index]:.6g}"
    return None


class _Casts:
    """Watches eager operations for casts to integers of numbers that no integer stands for."""

    def __init__(self) -> None:
        self._seen: dict[Location, str] = {}

    def __enter__(self) -> _Casts:
        op_callbacks.add_op_callback(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        op_callbacks.remove_op_callback(self._called)

    def _called(self, op_type, inputs, attrs, outputs, op_name=None, graph=None):
        if op_type not in ("Cast", b"Cast") or graph is not None or not inputs:
            return None
        value, made = inputs[0], outputs[0]
        if value.dtype.is_floating and made.dtype.is_integer:
            array = value.numpy().astype(np.float64)
            low, high = float(made.dtype.min), float(made.dtype.max)
            bad = ~np.isfinite(array) | (array < low) | (array > high)
            if bad.any() and (place := stack.here()) is not None:
                self._seen.setdefault(place, f"{array[bad].flat[0]:g} was cast to {made.dtype.name}")
        return None

    def findings(self, target: str) -> list[Finding]:
        """What was seen, for a target that may make something else of it."""
        if target == "graph":
            return []
        return [finding("MT606", place, what, evidence=_EAGER, mode=target) for place, what in self._seen.items()]
