"""Evidence from running on halves of a batch: what the mean over examples is, is the mean of what the halves give.

Two replicas are two halves whose results are averaged. Where the loss of a step breaks that equality, the operations of the
three runs are laid side by side: the first whose output is neither the examples' own, nor their mean, nor a constant is to blame.
Steps that draw random numbers, normalise by batches or take means over replicas themselves are not judged so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from modetrain import graphs, lines
from modetrain.inspect import collectives
from modetrain.inspect.calls import Calls
from modetrain.inspect.finding import Finding, finding
from modetrain.inspect.keeping import python_state_kept
from modetrain.inspect.steps import Batch, Steps
from modetrain.nonfinite import is_loss
from modetrain.place import Place, is_users

REPLICAS = 2
_EVIDENCE = "the step run on halves of the batch"
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    """What an operation of an eager run returned."""

    op: str
    place: Place | None
    value: np.ndarray


def look(steps: Steps, graph: tf.Graph) -> Iterator[Finding]:
    """Finds a loss that is not the mean over examples."""
    batch = steps.batches[0]
    sizes = {len(value) for value in batch.values()}
    size = sizes.pop() if len(sizes) == 1 else 1
    if size % 2 or steps.recipe.micro_batches != 1 or _cannot_be_judged(steps, graph):
        return
    first, second = (
        {name: value[part] for name, value in batch.items()} for part in (slice(size // 2), slice(size // 2, size))
    )
    logs: list[list[_Made]] = []
    losses: list[np.ndarray] = []
    with steps.state_kept(), Calls(silent=True):
        for number, (part, replicas) in enumerate(((batch, 1), (first, 2), (second, 2))):
            try:
                loss, log = _run(steps, part, replica=max(0, number - 1), replicas=replicas)
            except Exception:  # it needs the whole batch: a shape is written into it
                return
            losses.append(loss)
            logs.append(log)
    whole, halves = _means(losses[0]), _means(losses[1] + losses[2])
    if not np.allclose(whole, halves, rtol=_TOLERANCE, equal_nan=True):
        code, place, what = _blamed(logs) or (
            "MT701",
            steps.place,
            "the loss is not the mean of those of halves of a batch",
        )
        yield finding(code, place, what, evidence=_EVIDENCE)


def _means(pairs: np.ndarray) -> np.ndarray:
    return pairs[:, 0] / np.maximum(pairs[:, 1], 1)


def _cannot_be_judged(steps: Steps, graph: tf.Graph) -> bool:
    draws = any("Random" in op.type or "Multinomial" in op.type for op in graphs.operations(graph))
    normalises = any(
        isinstance(layer, keras.layers.BatchNormalization)
        for model in steps.recipe.models()
        for layer in model._flatten_layers(include_self=True, recursive=True)
    )
    return draws or normalises or collectives.in_graph(graph)


def _run(steps: Steps, batch: Batch, *, replica: int, replicas: int) -> tuple[np.ndarray, list[_Made]]:
    """The losses of a step [losses, 2] on a part of a batch, and what its operations made."""
    log: list[_Made] = []

    def made(op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        if graph is None and outputs and outputs[0].dtype.is_floating:
            kind = op_type.decode() if isinstance(op_type, bytes) else op_type
            log.append(_Made(op=kind, place=lines.here(), value=outputs[0].numpy()))

    with steps.state_kept(moved=True), python_state_kept(steps.recipe), _as_replica(replica, replicas):
        op_callbacks.add_op_callback(made)
        try:
            names, rows = steps.run_eagerly(batch)
        finally:
            op_callbacks.remove_op_callback(made)
    chosen = [index for index, name in enumerate(names) if is_loss(name)] or [0]
    return rows[0].sum(axis=0)[chosen].astype(np.float64), log


@contextlib.contextmanager
def _as_replica(replica: int, replicas: int) -> Iterator[None]:
    """The user's code finds itself on this replica of so many; everybody else does not."""
    with contextlib.ExitStack() as undo:
        for cls, name, answer in (
            (type(tf.distribute.get_strategy()), "num_replicas_in_sync", replicas),
            (type(tf.distribute.get_replica_context()), "num_replicas_in_sync", replicas),
            (type(tf.distribute.get_replica_context()), "replica_id_in_sync_group", replica),
        ):
            holder = next(one for one in cls.__mro__ if name in vars(one))
            original = vars(holder)[name]
            setattr(holder, name, _answering(original, answer))
            undo.callback(setattr, holder, name, original)
        yield


def _answering(original: property, answer: int) -> property:
    def ask(thing: Any) -> Any:
        return answer if is_users(sys._getframe(1).f_code.co_filename) else original.__get__(thing)

    return property(ask)


def _blamed(logs: list[list[_Made]]) -> tuple[str, Place, str] | None:
    whole, first, second = logs
    if [made.op for made in whole] != [made.op for made in first]:
        return None
    sums = None
    for made, one, other in zip(whole, first, second, strict=True):
        if made.place is None:
            continue
        kind = _kind(made.value, one.value, other.value)
        if kind == "other":
            return (
                "MT701",
                made.place,
                f"operation {made.op} of a batch is not the mean, nor the rows, of those of its halves",
            )
        if kind == "rows of the batch":
            return "MT702", made.place, f"operation {made.op} mixes rows of the batch"
        if kind == "sum" and made.op == "Sum" and sums is None:
            sums = made.place
    return None if sums is None else ("MT701", sums, "a sum over the examples, which is smaller on a replica's share")


def _kind(whole: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    """How an output on the whole batch comes from those on its halves."""

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
