"""Two logs of one step laid side by side: the first operation whose output differs, though its inputs do not.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modetrain.comparison import tolerance

if TYPE_CHECKING:
    from modetrain.comparison.probe import Entry, Log

# Operations that draw random numbers.
_RANDOM = re.compile(r"Random|Rng|Multinomial|TruncatedNormal|SampleDistortedBoundingBox|CandidateSampler")
# Constants that eager mode makes at once and a graph by operations, and shapes.
_CONSTANTS = ("Fill", "Range", "Shape", "Pack", "ZerosLike", "OnesLike", "LinSpace", "Rank", "Size")
# Rounding flips these where a number is next to a threshold, or two numbers are next to each other.
_FLIPS = re.compile(
    r"Relu\w*Grad|MaxPool|Greater|Less|Equal|ArgM|Round|Floor|Ceil|Rint|Sign|Cast|TopK|Sort|Select|Unique"
)
# An operation is an origin if what it was computed from agrees, or is so much nearer: errors are not spread evenly, and of
# large tensors a part is looked at.
_JUMP = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where two logs part.

    Attributes:
      entry: the operation.
      gap: how far its outputs are apart; None where only one of the logs has it.
      floors: the same in noise floors.
      only_in: `first` or `second`, where only one of the logs has it.
    """

    entry: Entry
    gap: tolerance.Gap | None = None
    floors: float | None = None
    only_in: str | None = None

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
    """Where the logs part; None where they do nowhere by more than sums may lose, and what follows from that.

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
    for i, j in aligned:
        one, other = first[i], second[j]
        if one.value is None or other.value is None or one.value.shape != other.value.shape:
            continue
        gap = tolerance.gap(one.value, other.value)
        floor = max(floors[i], epsilon * gap.scale)
        ratio = 0.0 if gap.absolute == 0 else gap.absolute / floor if floor else np.inf
        apart[j] = (ratio, gap)
        limit = 0.0 if exact else allowed(one)
        before = max((apart[k][0] for k in _aligned_inputs(second, j, apart)), default=0.0)
        sudden = before <= (0.0 if exact else tolerance.LIMIT) or ratio > _JUMP * before
        flipped = before > 0 and _FLIPS.search(one.op) is not None and gap.nonfinite is None
        if ratio > limit and sudden and not flipped and not np.isinf(before):
            stranger = _stranger(second, j, partner) if not draws_numbers(other.op) else None
            if stranger is not None:
                return Origin(entry=stranger, only_in="second", gap=gap, floors=ratio)
            missing = _stranger(first, i, {i: j for i, j in aligned})
            if missing is not None and not _same_inputs(first[i], other, partner):
                return Origin(entry=missing, only_in="first", gap=gap, floors=ratio)
            return Origin(entry=other if other.place else one, gap=gap, floors=ratio)
    if exact:
        return _unpaired(first, second, aligned)
    return None


def allowed(entry: Entry) -> float:
    """Noise floors that two outputs of one operation may be apart although its inputs are not.

    A sum of k numbers of one sign, added one after the other, is off by up to k / 2 units in its last place, and by half
    of that where many of them are equal (a black image): XLA on a CPU adds so.
    """
    return tolerance.LIMIT * (1.0 + entry.most_terms / 4.0)


def _aligned_inputs(log: Log, position: int, apart: dict) -> list[int]:
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


def _stranger(log: Log, position: int, partner: dict[int, int]) -> Entry | None:
    """The first operation that only this log has, among those that lead to one that both have."""
    found, waiting, known = [], list(log[position].inputs), set()
    while waiting:
        index = waiting.pop()
        if index in known or index in partner:
            continue
        known.add(index)
        if log[index].place and log[index].value is not None and log[index].op not in _CONSTANTS:
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
