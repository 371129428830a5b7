"""Two logs of one step laid side by side: the first operation whose output differs, though its inputs do not.

Imports no TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from modetrain.tools.compare import tolerance
from modetrain.tools.compare.op_log import Entry, Log

# Operations that draw random numbers.
_RANDOM = re.compile(r"Random|Rng|Multinomial|TruncatedNormal|SampleDistortedBoundingBox|CandidateSampler")
# Constants that eager mode makes at once and a graph by operations, and shapes.
_CONSTANTS = ("Fill", "Range", "Shape", "Pack", "ZerosLike", "OnesLike", "LinSpace", "Rank", "Size")
# Rounding flips these where a number is next to a threshold, or two numbers are next to each other.
_FLIPS = re.compile(
    r"Relu\w*Grad|MaxPool|Greater|Less|Equal|ArgM|Round|Floor|Ceil|Rint|Sign|Cast|TopK|Sort|Select|Unique"
)
# Where these take numbers away that are next to equal, what is left is as uncertain as the numbers were.
CANCELS = ("Sub", "Add", "AddV2", "AddN", "BiasAdd")
# An operation is an origin if what it was computed from agrees, or is so much nearer: errors are not spread evenly, and of
# large tensors a part is looked at.
_JUMP = 100.0


class Values(Protocol):
    """What a step computes, asked for one at a time."""

    @property
    def entries(self) -> Log:
        """The operations."""
        ...

    def values_of(self, positions: Sequence[int]) -> Sequence[np.ndarray | None]:
        """The values of some entries, asked for together; None where one is no number."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where two logs part.

    Attributes:
      entry: the operation.
      gap: how far its outputs are apart; None where only one of the logs has it.
      floors: the same in noise floors.
      only_in: `first` or `second`, where only one of the logs has it.
      rounding: no more than adding its numbers in another order makes, or a threshold that rounding crossed.
    """

    entry: Entry
    gap: tolerance.Gap | None = None
    floors: float | None = None
    only_in: str | None = None
    rounding: bool = False

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return draws_numbers(self.entry.op)


def draws_numbers(op: str) -> bool:
    """Whether an operation of this type draws random numbers."""
    return _RANDOM.search(op) is not None and "Index" not in op and "FullInt" not in op


def pairs(first: Log, second: Log) -> list[tuple[int, int]]:
    """Positions of the same operation in both logs."""
    matcher = difflib.SequenceMatcher(
        None, [entry.key for entry in first], [entry.key for entry in second], autojunk=False
    )
    return [(block.a + i, block.b + i) for block in matcher.get_matching_blocks() for i in range(block.size)]


def floors_of(log: Log, noisy: Iterable[Log]) -> list[float]:
    """How far rounding noise moves each entry of a log: the largest difference in logs of moved steps."""
    found = [0.0] * len(log)
    for other in noisy:
        for i, j in pairs(log, other):
            one, moved = log[i].value, other[j].value
            if one is not None and moved is not None and one.shape == moved.shape:
                found[i] = max(found[i], tolerance.gap(one, moved).absolute)
    return found


def origin(first: Log, second: Log, floors: Sequence[float], *, epsilon: float, exact: bool = False) -> Origin | None:
    """Where the logs part; where they do so nowhere by more than sums may lose, the first of these sums; or None.

    Args:
      first: of the reference.
      second: of the mode that differs.
      floors: noise of each entry of `first`.
      epsilon: of the dtype that is computed in.
      exact: any difference counts.
    """
    aligned = pairs(first, second)
    partner = {j: i for i, j in aligned}
    apart: dict[int, tuple[float, tolerance.Gap]] = {}
    rounded = None
    for i, j in aligned:
        one, other = first[i], second[j]
        if one.value is None or other.value is None or one.value.shape != other.value.shape:
            continue
        gap = tolerance.gap(one.value, other.value)
        ratio = ratio_of(gap, floors[i], epsilon, one.value.dtype.name)
        differs_before = any(earlier > tolerance.LIMIT for earlier, _ in apart.values())
        apart[j] = (ratio, gap)
        if differs_before and not exact and _of_variable(second, j, apart):
            continue  # any operation before may have computed what the variable holds: the inputs do not tell
        before = max((apart[k][0] for k in aligned_inputs(second, j, apart)), default=0.0)
        begins = _begins(one, gap, ratio, before, exact)
        if begins == "difference" and _cancels(one, other, [first[k].value for k in one.inputs], gap, epsilon):
            begins = "rounding"
        if begins == "rounding" and rounded is None:
            rounded = Origin(entry=other if other.place else one, gap=gap, floors=ratio, rounding=True)
        if begins == "difference":
            stranger = _stranger(second, j, partner) if not draws_numbers(other.op) else None
            if stranger is not None:
                return Origin(entry=stranger, only_in="second", gap=gap, floors=ratio)
            missing = _stranger(first, i, {i: j for i, j in aligned})
            if missing is not None and not _same_inputs(first[i], other, partner):
                return Origin(entry=missing, only_in="first", gap=gap, floors=ratio)
            return Origin(entry=other if other.place else one, gap=gap, floors=ratio)
    if exact:
        return _unpaired(first, second, aligned)
    return rounded


def alone(first: Values, second: Values, floors: Sequence[float], *, epsilon: float, patience: float) -> Origin | None:
    """As `origin`, of results that are asked for one at a time, so that a compiler may merge what leads to them.

    Args:
      first: of the reference.
      second: of the mode that differs.
      floors: noise of each entry of `first`.
      epsilon: of the dtype that is computed in.
      patience: seconds after which no more are asked for.
    """
    partner = {j: i for i, j in pairs(first.entries, second.entries)}
    began = time.monotonic()

    def measured_together(these: Sequence[int]) -> list[tuple[float, tolerance.Gap | None]]:
        if time.monotonic() - began > patience:
            raise TimeoutError  # nothing is known of these, not that they agree
        found: list[tuple[float, tolerance.Gap | None]] = []
        ones, others = first.values_of([partner[j] for j in these]), second.values_of(these)
        for j, one, other in zip(these, ones, others, strict=True):
            if one is None or other is None or one.shape != other.shape:
                found.append((0.0, None))
                continue
            gap = tolerance.gap(one, other)
            found.append((ratio_of(gap, floors[partner[j]], epsilon, one.dtype.name), gap))
        return found

    @functools.cache
    def measured(j: int) -> tuple[float, tolerance.Gap | None]:
        return measured_together([j])[0]

    rounded = None
    with contextlib.suppress(TimeoutError):
        for lines in _by_line(second.entries, partner).values():
            used = {k for j in lines for k in second.entries[j].inputs}
            # What a line hands on is asked for at once, which merges no less, and is compiled once.
            if all(ratio <= tolerance.LIMIT for ratio, _ in measured_together([j for j in lines if j not in used])):
                continue
            for j in lines:
                ratio, gap = measured(j)
                if gap is None or ratio <= tolerance.LIMIT:
                    continue
                one, other = first.entries[partner[j]], second.entries[j]
                before = max((measured(k)[0] for k in aligned_inputs(second.entries, j, partner)), default=0.0)
                begins = _begins(one, gap, ratio, before, exact=False)
                if begins == "difference" and _cancels(one, other, first.values_of(one.inputs), gap, epsilon):
                    begins = "rounding"
                if begins == "difference":
                    return Origin(entry=other, gap=gap, floors=ratio)
                if begins == "rounding" and rounded is None:
                    rounded = Origin(entry=other, gap=gap, floors=ratio, rounding=True)
    return rounded


def _by_line(log: Log, partner: Mapping[int, int]) -> dict[tuple, list[int]]:
    """Positions of what both logs have of the user's lines, a line at a time, gradients apart, in the order of the log."""
    found: dict[tuple, list[int]] = {}
    for j, entry in enumerate(log):
        if j in partner and entry.place is not None and entry.inputs:
            found.setdefault((entry.place, entry.gradient), []).append(j)
    return found


def ratio_of(gap: tolerance.Gap, floor: float, epsilon: float, dtype: str) -> float:
    """A gap in noise floors; what is computed in a narrower dtype than the step is rounded to the spacing of its own."""
    floor = max(floor, max(epsilon, tolerance.epsilon(dtype)) * gap.scale)
    return 0.0 if gap.absolute == 0 else gap.absolute / floor if floor else np.inf


def _begins(entry: Entry, gap: tolerance.Gap, ratio: float, before: float, exact: bool) -> str | None:
    """What begins at an operation whose inputs are `before` noise floors apart: a `difference`, `rounding`, or nothing."""
    if exact:
        sudden = before == 0.0 or ratio > _JUMP * before
    else:
        sudden = (before <= tolerance.LIMIT and ratio > 2.0 * before) or ratio > _JUMP * before
    if not sudden or np.isinf(before) or ratio <= (0.0 if exact else tolerance.LIMIT):
        return None
    if before > 0 and _FLIPS.search(entry.op) is not None and gap.nonfinite is None:
        return "rounding"
    if ratio > (0.0 if exact else allowed(entry)):
        return "difference"
    return "rounding" if entry.most_terms > 1 else None


def _cancels(
    one: Entry, other: Entry, operands: Iterable[np.ndarray | None], gap: tolerance.Gap, epsilon: float
) -> bool:
    """Whether a difference is what is lost where numbers next to equal are taken away: in the last places of these numbers.

    A mode that fuses `x * scale + shift` rounds the product to no float and loses less there. Where one of them is a constant
    (`(x + 1e4) - 1e4`), it was computed beforehand, and the loss that the user wrote is gone: that is no rounding.
    """
    if one.op not in CANCELS or one.of_constant or other.of_constant:
        return False
    last_places = (
        max(epsilon, tolerance.epsilon(value.dtype.name)) * float(np.abs(value).max(initial=0.0))
        for value in operands
        if value is not None
    )
    return gap.absolute <= tolerance.LIMIT * max(last_places, default=0.0)


def allowed(entry: Entry) -> float:
    """Noise floors that two outputs of one operation may be apart although its inputs are not.

    A sum of k numbers of one sign, added one after the other, is off by up to k / 2 units in its last place, and by half
    of that where many of them are equal (a black image): XLA on a CPU adds so.
    """
    return tolerance.LIMIT * (1.0 + entry.most_terms / 4.0)


def aligned_inputs(log: Log, position: int, apart: Mapping) -> list[int]:
    """The nearest operations before one that both logs have."""
    found, waiting, known = [], list(log[position].inputs), set()
    while waiting:
        index = waiting.pop()
        if index in known:
            continue
        known.add(index)
        if index in apart:
            found.append(index)
        else:
            waiting.extend(log[index].inputs)
    return found


def _of_variable(log: Log, position: int, apart: Mapping) -> bool:
    """Whether an operation reads a variable, or was computed from a reading that only this log has."""
    waiting, known = [position], set()
    while waiting:
        index = waiting.pop()
        if log[index].op == "ReadVariableOp":
            return True
        known.add(index)
        waiting.extend(k for k in log[index].inputs if k not in apart and k not in known)
    return False


def _stranger(log: Log, position: int, partner: dict[int, int]) -> Entry | None:
    """The first operation that only this log has, among those that lead to one that both have."""
    found, waiting, known = [], list(log[position].inputs), set()
    while waiting:
        index = waiting.pop()
        if index in known or index in partner:
            continue
        known.add(index)
        if log[index].place and log[index].value is not None and log[index].op not in (*_CONSTANTS, "ReadVariableOp"):
            found.append(index)
        waiting.extend(log[index].inputs)
    return log[min(found)] if found else None


def _same_inputs(one: Entry, other: Entry, partner: dict[int, int]) -> bool:
    return [partner.get(index) for index in other.inputs] == list(one.inputs)


def _unpaired(first: Log, second: Log, aligned: Sequence[tuple[int, int]]) -> Origin | None:
    """The first operation that ran only once."""
    ones, others = {i for i, _ in aligned}, {j for _, j in aligned}
    for index, entry in enumerate(second):
        if index not in others and entry.place is not None:
            return Origin(entry=entry, only_in="second")
    for index, entry in enumerate(first):
        if index not in ones and entry.place is not None:
            return Origin(entry=entry, only_in="first")
    return None
