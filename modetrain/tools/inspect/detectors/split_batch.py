"""Evidence from running on two parts of a batch: a mean over examples is the mean of its values on the parts, by their sizes.

Replicas, micro-batches and the batches of an evaluation are such parts, and their results are averaged. Where the gradients or
a metric of a step break that equality, the operations of the three runs are compared. The first whose output is neither the
rows of the parts, nor their mean, nor a constant is the cause. A part draws its rows of the whole batch's numbers. What
replicas do together is left out: updates, and batch normalisation, which uses its moving averages. Steps that draw by
operations which are not covered, that exchange values between replicas themselves, or that differ when they are run again, are
not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics import graph_ops
from modetrain.diagnostics.location import Location
from modetrain.engine import replica_random
from modetrain.tools.inspect.detectors import collectives
from modetrain.tools.inspect.detectors.operations import draws_without_rows, is_stateful
from modetrain.tools.inspect.detectors.part_runs import NotRunError, PartRun, PartRunner
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import Batch, InspectedStep
from modetrain.training.nonfinite import is_loss

_FEW = 4  # examples of a micro-batch that are too few to be cut
_EVIDENCE = "the step run on two parts of the batch"


def find(step: InspectedStep, graph: tf.Graph, *, several: bool = True, note: str = "") -> Iterator[Finding]:
    """Finds a loss, or else a metric, that is not the mean over examples, in a step that is traced too."""
    # What is drawn for a part has nothing to do with the rows of what is drawn for the whole.
    draws = any(is_stateful(op) or draws_without_rows(op) for op in graph_ops.operations(graph))
    if not draws and not collectives.has_collectives(graph):
        batch = step.batches[0]
        few = len(next(iter(batch.values()))) < _FEW
        yield from find_by_parts(step, step.global_batches[0] if few else batch, several=several, note=note)


def find_by_parts(
    step: InspectedStep, batch: Batch, *, at_start: bool = False, several: bool = True, note: str = ""
) -> Iterator[Finding]:
    """Finds a loss, or else metrics, that are not the mean over examples.

    Args:
      step: the step.
      batch: what it is run on.
      at_start: judge only what is one number for all examples, with the weights as they are.
      several: the parts are those of replicas, which see the statistics of a batch; a layer that takes them takes them of a
        micro-batch otherwise.
      note: appended to what is found.
    """
    sizes = {len(value) for value in batch.values()}
    size = sizes.pop() if len(sizes) == 1 else 1
    runs = PartRunner(step=step, batch=batch, size=size, several=several, perturbed=not at_start)
    # Unequal parts show more. An odd number of rows is not the size of other things by chance, such as layers.
    for cut in (size // 3 | 1, size // 2):
        if 0 < cut < size:
            try:
                yield from _judge(runs, cut, at_start=at_start, note=note)
                return
            except NotRunError:  # a shape is written into the step, or it wants an even number
                continue


def _judge(runs: PartRunner, cut: int, *, at_start: bool, note: str) -> Iterator[Finding]:
    ends = ((0, runs.size), (0, cut), (cut, runs.size))
    whole = runs.run(*ends[0])
    judged = whole.scalars if at_start else {*whole.values, "loss"}
    if not judged or whole.exchanged:
        return
    first, second = (runs.run(*rows) for rows in ends[1:])
    share = cut / runs.size
    wrong = "loss" in judged and not _gradients_are_means(whole, first, second, share)
    others = [name for name in whole.values if name in judged and not _is_mean(name, whole, first, second)]
    if not wrong and not others:
        return
    again, *parts = (runs.run(*rows, record=True) for rows in ends)
    if again.exchanged or not _is_equal(whole, again) or any(map(_draws_without_rows, again.ops)):
        return
    place, mode = runs.step.place, None if runs.several else "every"
    losses = [name for name in others if is_loss(name) or (not at_start and name == next(iter(whole.values)))]
    if wrong or losses:
        name = losses[0] if losses else "loss"
        of = "the gradients" if wrong else "the value"
        found = _find_cause([again, *parts], share)
        if found is not None and found[0] == "MT702" and found[3] and not runs.several:
            return
        code, where, what, _ = found or ("MT701", place, f"{of} of a batch: not the mean of those of its parts", False)
        yield make_finding(code, where, f"{name}: {what}{note}", evidence=_EVIDENCE, mode=mode)
        if not at_start or code == "MT702":
            return
    for name in others:
        if is_loss(name):
            continue
        total, count = whole.values[name]
        made = next(
            (one for one in again.outputs if one.place is not None and np.allclose(one.value, total / count)), None
        )
        by = "" if made is None else f"operation {made.op} of a batch, "
        what = f"{name}: {by}which is not the mean of those of its parts"
        where = place if made is None or made.place is None else made.place
        yield make_finding("MT707", where, f"{what}{note}", evidence=_EVIDENCE, mode=mode)


def _draws_without_rows(op: str) -> bool:
    return replica_random.is_random_op(op) and op not in replica_random.COVERED


def _is_mean(name: str, whole: PartRun, first: PartRun, second: PartRun) -> bool:
    """Whether a pair (total, count) has the mean of those of the parts."""
    if name not in first.values or name not in second.values:
        return True
    ours, theirs = (
        pair[0] / max(pair[1], 1) for pair in (whole.values[name], first.values[name] + second.values[name])
    )
    return np.allclose(ours, theirs, rtol=_tolerance(2e-5), atol=1e-6, equal_nan=True)


def _gradients_are_means(whole: PartRun, first: PartRun, second: PartRun, share: float) -> bool:
    """Whether the gradients of a batch are the means of those of the parts, by their sizes."""
    if not len(whole.gradients) == len(first.gradients) == len(second.gradients):
        return True
    means = [share * one + (1 - share) * other for one, other in zip(first.gradients, second.gradients, strict=True)]
    off = _norm([ours - mean for ours, mean in zip(whole.gradients, means, strict=True)])
    size = max(_norm(whole.gradients), share * _norm(first.gradients) + (1 - share) * _norm(second.gradients))
    return not off > _tolerance(1e-3) * size  # NaN is no evidence


def _is_equal(whole: PartRun, again: PartRun) -> bool:
    """Whether a second run gave the same."""
    values = all(np.allclose(pair, again.values[name], 1e-6, equal_nan=True) for name, pair in whole.values.items())
    pairs = zip(whole.gradients, again.gradients, strict=True)
    return values and all(np.allclose(one, other, 1e-5, 1e-7, equal_nan=True) for one, other in pairs)


def _norm(gradients: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(gradient).sum() for gradient in gradients)))


def _tolerance(of_float32: float) -> float:
    """The relative difference that rounding may make."""
    return {"float16": 5e-3, "bfloat16": 2e-2}.get(keras.config.dtype_policy().compute_dtype, of_float32)


def _find_cause(runs: Sequence[PartRun], share: float) -> tuple[str, Location, str, bool] | None:
    """Code, line and description of the operation that breaks the equality, and whether a layer makes it."""
    whole, first, second = (run.outputs for run in runs)
    if not [made.op for made in whole] == [made.op for made in first] == [made.op for made in second]:
        return None
    sums = None
    for made, one, other in zip(whole, first, second, strict=True):
        if made.place is None:
            continue
        relation = _relation(made.value, one.value, other.value, share)
        if relation == "other":
            what = f"operation {made.op} of a batch is not the mean, nor the rows, of those of its parts"
            return "MT701", made.place, what, made.in_layer
        if relation == "rows of the batch":
            return "MT702", made.place, f"operation {made.op} mixes rows of the batch", made.in_layer
        if relation == "sum" and made.op == "Sum" and sums is None:
            sums = made.place
    what = "a sum over the examples, which is smaller on a part of the batch"
    return None if sums is None else ("MT701", sums, what, False)


def _relation(whole: np.ndarray, one: np.ndarray, other: np.ndarray, share: float) -> str:
    """How an output on the whole batch follows from those on its parts."""

    def near(value: np.ndarray) -> bool:
        return np.allclose(whole, value, rtol=1e-3, atol=1e-5 * np.abs(whole).max(initial=0.0), equal_nan=True)

    if whole.shape == one.shape == other.shape:
        if near(one) and near(other):
            return "constant"
        return "mean" if near(share * one + (1 - share) * other) else "sum" if near(one + other) else "other"
    if whole.ndim != one.ndim or whole.ndim != other.ndim:
        return "other"
    axes = [
        axis
        for axis in range(whole.ndim)
        if one.shape[axis] + other.shape[axis] == whole.shape[axis]
        and all(
            len({a, b, c}) == 1
            for n, (a, b, c) in enumerate(zip(whole.shape, one.shape, other.shape, strict=True))
            if n != axis
        )
    ]
    if any(near(np.concatenate([one, other], axis=axis)) for axis in axes):
        return "rows"
    scaled = any(_is_scaled(whole, one, other, axis) for axis in axes)
    return "rows of the batch" if not scaled and one.shape[0] + other.shape[0] == whole.shape[0] else "other"


def _is_scaled(whole: np.ndarray, one: np.ndarray, other: np.ndarray, axis: int) -> bool:
    """Whether the rows of each part are those of the whole times a number, such as one divided by the number of examples."""
    parts = zip(np.split(whole, [one.shape[axis]], axis=axis), (one, other), strict=True)
    return all((ours != 0).any() and np.ptp(part[ours != 0] / ours[ours != 0]) < 1e-3 for ours, part in parts)
