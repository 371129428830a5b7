"""Evidence from running on halves of a batch: the mean over examples is the mean of its values on the halves.

Two replicas are two halves whose results are averaged. Where the loss of a step breaks that equality, the operations of the
three runs are compared. The first whose output is neither the rows of the halves, nor their mean, nor a constant is the cause.
A half draws its rows of the whole batch's numbers, as a replica does. What replicas do together is left out: updates, and batch
normalisation, which uses its moving averages. Steps that draw by operations which are not covered, or take means over replicas
themselves, are not judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics import graph_ops, stack
from modetrain.diagnostics.location import Location, is_users
from modetrain.engine import replica_random
from modetrain.engine.optimizer import Optimizer
from modetrain.tools.inspect.detectors import collectives
from modetrain.tools.inspect.detectors.operations import draws_without_rows
from modetrain.tools.inspect.detectors.recorded_calls import observe_eager_operations
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import Batch, InspectedStep
from modetrain.tools.inspect.python_state.snapshot import restore_python_state
from modetrain.training.nonfinite import is_loss

REPLICAS = 2
_EVIDENCE = "the step run on halves of the batch"
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Output:
    """What an operation of an eager run returned."""

    op: str
    place: Location | None
    value: np.ndarray


def find(step: InspectedStep, graph: tf.Graph) -> Iterator[Finding]:
    """Finds a loss, or else a metric, that is not the mean over examples."""
    batch = step.batches[0]
    sizes = {len(value) for value in batch.values()}
    size = sizes.pop() if len(sizes) == 1 else 1
    if size % 2 or _cannot_be_judged(graph):
        return
    first, second = (
        {name: value[part] for name, value in batch.items()} for part in (slice(size // 2), slice(size // 2, size))
    )
    logs: list[list[_Output]] = []
    metrics: list[dict[str, np.ndarray]] = []
    with step.restore_variables(), CallRecorder(silent=True):
        for part, replica, replicas in ((batch, 0, 1), (first, 0, 2), (second, 1, 2)):
            try:
                values, log = _run(step, part, replica=replica, replicas=replicas)
            except Exception:  # it needs the whole batch: a shape is written into it
                return
            metrics.append(values)
            logs.append(log)
    other = [name for name in metrics[0] if not _is_mean(*(one[name] for one in metrics))]
    if any(is_loss(name) or name == next(iter(metrics[0])) for name in other):
        not_mean = ("MT701", step.place, "the loss is not the mean of those of halves of a batch")
        code, place, what = _find_cause(logs) or not_mean
        yield make_finding(code, place, what, evidence=_EVIDENCE)
        return
    for name in other:
        total, count = metrics[0][name]
        made = next((one for one in logs[0] if one.place is not None and np.allclose(one.value, total / count)), None)
        by = "" if made is None else f"operation {made.op} of a batch, "
        what = f"{name}: {by}which is not the mean of those of its halves"
        place = step.place if made is None or made.place is None else made.place
        yield make_finding("MT707", place, what, evidence=_EVIDENCE)


def _is_mean(whole: np.ndarray, first: np.ndarray, second: np.ndarray) -> bool:
    """Whether a pair (total, count) has the mean of those of two halves."""
    ours, theirs = (pair[0] / max(pair[1], 1) for pair in (whole, first + second))
    return np.allclose(ours, theirs, rtol=_TOLERANCE, atol=1e-6, equal_nan=True)


def _cannot_be_judged(graph: tf.Graph) -> bool:
    return collectives.has_collectives(graph) or any(map(draws_without_rows, graph_ops.operations(graph)))


def _run(
    step: InspectedStep, batch: Batch, *, replica: int, replicas: int
) -> tuple[dict[str, np.ndarray], list[_Output]]:
    """What a step returns on a part of a batch, as pairs (total, count), and what its operations returned."""
    log: list[_Output] = []

    def record(op_type: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if outputs and outputs[0].dtype.is_floating:
            log.append(_Output(op=op_type, place=stack.here(), value=outputs[0].numpy()))

    with (
        step.restore_variables(perturbed=True),
        restore_python_state(step.recipe),
        _as_replica(replica, replicas),
        replica_random.single_replica(replica, replicas),
        _without_updates(),
        observe_eager_operations(record),
    ):
        names, rows = step.run_eagerly(batch)
    pairs = rows[0].sum(axis=0).astype(np.float64)
    return dict(zip(names, pairs, strict=True)), log


@contextlib.contextmanager
def _without_updates() -> Iterator[None]:
    """Leaves out what replicas do together: no update is made, and batch normalisation runs as in evaluation."""
    call, apply = keras.layers.BatchNormalization.call, Optimizer.apply

    def in_evaluation(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return call(layer, inputs, training=False, mask=mask)

    keras.layers.BatchNormalization.call = in_evaluation
    Optimizer.apply = lambda *given, **named: {}  # type: ignore[method-assign]
    try:
        yield
    finally:
        keras.layers.BatchNormalization.call, Optimizer.apply = call, apply  # type: ignore[method-assign]


@contextlib.contextmanager
def _as_replica(replica: int, replicas: int) -> Iterator[None]:
    """Tells the user's code, and no other, that it runs on this replica of this many."""
    with contextlib.ExitStack() as undo:
        for cls, name, answer in (
            (type(tf.distribute.get_strategy()), "num_replicas_in_sync", replicas),
            (type(tf.distribute.get_replica_context()), "num_replicas_in_sync", replicas),
            (type(tf.distribute.get_replica_context()), "replica_id_in_sync_group", replica),
        ):
            holder = next(one for one in cls.__mro__ if name in vars(one))
            original = vars(holder)[name]
            setattr(holder, name, _answering_users(original, answer))
            undo.callback(setattr, holder, name, original)
        yield


def _answering_users(original: property, answer: int) -> property:
    def get(thing: Any) -> Any:
        return answer if is_users(sys._getframe(1).f_code.co_filename) else original.__get__(thing)

    return property(get)


def _find_cause(logs: list[list[_Output]]) -> tuple[str, Location, str] | None:
    """Code, line and description of the operation that breaks the equality."""
    whole, first, second = logs
    if [made.op for made in whole] != [made.op for made in first]:
        return None
    sums = None
    for made, one, other in zip(whole, first, second, strict=True):
        if made.place is None:
            continue
        relation = _relation(made.value, one.value, other.value)
        if relation == "other":
            what = f"operation {made.op} of a batch is not the mean, nor the rows, of those of its halves"
            return "MT701", made.place, what
        if relation == "rows of the batch":
            return "MT702", made.place, f"operation {made.op} mixes rows of the batch"
        if relation == "sum" and made.op == "Sum" and sums is None:
            sums = made.place
    return None if sums is None else ("MT701", sums, "a sum over the examples, which is smaller on a replica's share")


def _relation(whole: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    """How an output on the whole batch follows from those on its halves."""

    def near(value: np.ndarray) -> bool:
        return np.allclose(whole, value, rtol=_TOLERANCE, atol=1e-5 * np.abs(whole).max(initial=0.0), equal_nan=True)

    if whole.shape == one.shape:
        if near(one) and near(other):
            return "constant"
        return "mean" if near((one + other) / 2) else "sum" if near(one + other) else "other"
    joins = [
        np.concatenate([one, other], axis=axis)
        for axis in range(whole.ndim)
        if one.shape == other.shape and (*one.shape[:axis], 2 * one.shape[axis], *one.shape[axis + 1 :]) == whole.shape
    ]
    if any(map(near, joins)):
        return "rows"
    scaled = any(np.ptp(joined[whole != 0] / whole[whole != 0]) < _TOLERANCE for joined in joins if (whole != 0).any())
    return "rows of the batch" if not scaled and whole.ndim and whole.shape[0] == 2 * one.shape[0] else "other"
