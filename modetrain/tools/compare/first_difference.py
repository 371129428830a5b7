"""The first operation whose output differs between two traces of one step, though its inputs do not.

Imports no TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from modetrain.tools.compare import tolerance
from modetrain.tools.compare.op_trace import OpOutput, OpTrace

# Operations that draw random numbers.
_RANDOM = re.compile(r"Random|Rng|Multinomial|TruncatedNormal|SampleDistortedBoundingBox|CandidateSampler")
# Constants that eager mode makes at once and a graph by operations, and shapes.
_CONSTANTS = ("Fill", "Range", "Shape", "Pack", "ZerosLike", "OnesLike", "LinSpace", "Rank", "Size")
# Rounding flips these where a number is next to a threshold, or two numbers are next to each other.
_FLIPS = re.compile(
    r"Relu\w*Grad|MaxPool|Greater|Less|Equal|ArgM|Round|Floor|Ceil|Rint|Sign|Cast|TopK|Sort|Select|Unique"
)
# Where these subtract numbers that are next to equal, what is left is as uncertain as the numbers.
CANCELS = ("Sub", "Add", "AddV2", "AddN", "BiasAdd")
# Rounding moves what these make of a number by one unit, not further.
_TO_INTEGERS = ("Cast", "Round", "Floor", "Ceil", "Rint")
# An operation begins a difference if its inputs agree, or are closer by this factor: errors are not spread evenly, and of
# large tensors only a sample is compared.
_JUMP = 100.0


class Values(Protocol):
    """What a step computes, read one output at a time."""

    @property
    def entries(self) -> OpTrace:
        """The operations."""
        ...

    def values_of(self, positions: Sequence[int]) -> Sequence[np.ndarray | None]:
        """The values of some entries, computed together; None where one is no number."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """Where two traces begin to differ.

    Attributes:
      entry: the operation.
      gap: how far its outputs are apart; None where only one of the traces has it.
      floors: the same in noise floors.
      only_in: `first` or `second`, where only one of the traces has it.
      rounding: no more than another order of adding makes, or a threshold that rounding crosses.
      unread: it begins at this operation or after it: sizes depend on data from here on, and XLA is not asked for such results.
    """

    entry: OpOutput
    gap: tolerance.Gap | None = None
    floors: float | None = None
    only_in: str | None = None
    rounding: bool = False
    unread: bool = False

    @property
    def random(self) -> bool:
        """Whether the operation draws random numbers."""
        return draws_numbers(self.entry.op)


def draws_numbers(op: str) -> bool:
    """Whether an operation of this type draws random numbers."""
    return _RANDOM.search(op) is not None and "Index" not in op and "FullInt" not in op


def align(first: OpTrace, second: OpTrace) -> list[tuple[int, int]]:
    """Positions of the same operation in both traces; a trace may know less of a shape than what ran eagerly."""
    unknown = {entry.key[::2] for trace in (first, second) for entry in trace if None in entry.shape}
    keys = [
        [entry.key[::2] if entry.key[::2] in unknown else entry.key for entry in trace] for trace in (first, second)
    ]
    blocks = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


def noise_floors(trace: OpTrace, noisy: Iterable[OpTrace]) -> list[float]:
    """How far rounding noise moves each entry of a trace: the largest difference in traces of moved steps."""
    floors = [0.0] * len(trace)
    for other in noisy:
        for i, j in align(trace, other):
            one, moved = trace[i].value, other[j].value
            if one is not None and moved is not None and one.shape == moved.shape:
                floors[i] = max(floors[i], tolerance.measure_gap(one, moved).absolute)
    return floors


def find(
    first: OpTrace, second: OpTrace, floors: Sequence[float], *, epsilon: float, exact: bool = False
) -> FirstDifference | None:
    """Finds where the traces begin to differ; where they do so only by rounding, the first place of that; or None.

    Args:
      first: of the reference.
      second: of the mode that differs.
      floors: noise of each entry of `first`.
      epsilon: of the dtype that the step computes in.
      exact: any difference counts.
    """
    aligned = align(first, second)
    partner = {j: i for i, j in aligned}
    apart: dict[int, tuple[float, tolerance.Gap]] = {}
    rounded = None
    for i, j in aligned:
        one, other = first[i], second[j]
        if one.value is None or other.value is None or one.value.shape != other.value.shape:
            continue
        gap = tolerance.measure_gap(one.value, other.value)
        ratio = _ratio(gap, floors[i], epsilon, one.value.dtype.name)
        differs_before = any(earlier > tolerance.LIMIT for earlier, _ in apart.values())
        apart[j] = (ratio, gap)
        if differs_before and not exact and _reads_variable(second, j, apart):
            continue  # any operation before may have computed what the variable holds: the inputs do not show it
        before = max((apart[k][0] for k in _aligned_inputs(second, j, apart)), default=0.0)
        operands = functools.partial(_values_at, first, one.inputs)
        kind = _classify(one, other, operands, gap, ratio, before, epsilon, exact)
        if kind == "rounding" and rounded is None:
            rounded = FirstDifference(entry=other if other.place else one, gap=gap, floors=ratio, rounding=True)
        if kind == "difference":
            if (unread := _first_unread(second, j)) is not None:
                return FirstDifference(entry=unread, gap=gap, floors=ratio, unread=True)
            if not draws_numbers(other.op) and (extra := _first_unmatched(second, j, partner)) is not None:
                return FirstDifference(entry=extra, only_in="second", gap=gap, floors=ratio)
            missing = _first_unmatched(first, i, dict(aligned))
            if missing is not None and [partner.get(index) for index in other.inputs] != list(one.inputs):
                return FirstDifference(entry=missing, only_in="first", gap=gap, floors=ratio)
            return FirstDifference(entry=other if other.place else one, gap=gap, floors=ratio)
    return _find_unpaired(first, second, aligned) if exact else rounded


def find_one_at_a_time(
    first: Values, second: Values, floors: Sequence[float], *, epsilon: float, patience: float
) -> FirstDifference | None:
    """As `find`, with outputs that are computed one at a time, so that a compiler may merge what leads to each.

    Args:
      first: of the reference.
      second: of the mode that differs.
      floors: noise of each entry of `first`.
      epsilon: of the dtype that the step computes in.
      patience: seconds after which no more are computed.
    """
    partner = {j: i for i, j in align(first.entries, second.entries)}
    began = time.monotonic()

    def measure(these: Sequence[int]) -> list[tuple[float, tolerance.Gap | None]]:
        if time.monotonic() - began > patience:
            raise TimeoutError  # nothing is known of these, not that they agree
        found: list[tuple[float, tolerance.Gap | None]] = []
        ones, others = first.values_of([partner[j] for j in these]), second.values_of(these)
        for j, one, other in zip(these, ones, others, strict=True):
            if one is None or other is None or one.shape != other.shape:
                found.append((0.0, None))
                continue
            gap = tolerance.measure_gap(one, other)
            found.append((_ratio(gap, floors[partner[j]], epsilon, one.dtype.name), gap))
        return found

    @functools.cache
    def measure_one(j: int) -> tuple[float, tolerance.Gap | None]:
        return measure([j])[0]

    rounded = None
    with contextlib.suppress(TimeoutError):
        for line in _by_line(second.entries, partner).values():
            used = {k for j in line for k in second.entries[j].inputs}
            # What a line hands on is computed together, which merges no less, and is compiled once.
            if all(ratio <= tolerance.LIMIT for ratio, _ in measure([j for j in line if j not in used])):
                continue
            for j in line:
                ratio, gap = measure_one(j)
                if gap is None or ratio <= tolerance.LIMIT:
                    continue
                one, other = first.entries[partner[j]], second.entries[j]
                before = max((measure_one(k)[0] for k in _aligned_inputs(second.entries, j, partner)), default=0.0)
                operands = functools.partial(first.values_of, one.inputs)
                kind = _classify(one, other, operands, gap, ratio, before, epsilon)
                if kind == "difference":
                    return FirstDifference(entry=other, gap=gap, floors=ratio)
                if kind == "rounding" and rounded is None:
                    rounded = FirstDifference(entry=other, gap=gap, floors=ratio, rounding=True)
    return rounded


def _values_at(trace: OpTrace, positions: Sequence[int]) -> list[np.ndarray | None]:
    return [trace[position].value for position in positions]


def _by_line(trace: OpTrace, partner: Mapping[int, int]) -> dict[tuple, list[int]]:
    """Positions of what both traces have of the user's lines: a line at a time, gradients apart, in the order of the trace."""
    found: dict[tuple, list[int]] = {}
    for j, entry in enumerate(trace):
        if j in partner and entry.place is not None and entry.inputs:
            found.setdefault((entry.place, entry.gradient), []).append(j)
    return found


def _ratio(gap: tolerance.Gap, floor: float, epsilon: float, dtype: str) -> float:
    """A gap in noise floors; the floor is at least the spacing of the output's own dtype."""
    floor = max(floor, max(epsilon, tolerance.epsilon(dtype)) * gap.scale)
    return 0.0 if gap.absolute == 0 else gap.absolute / floor if floor else np.inf


def _classify(
    one: OpOutput,
    other: OpOutput,
    read_operands: Callable[[], Iterable[np.ndarray | None]],
    gap: tolerance.Gap,
    ratio: float,
    before: float,
    epsilon: float,
    exact: bool = False,
) -> str | None:
    """What begins at an operation whose inputs are `before` noise floors apart: a `difference`, `rounding`, or nothing."""
    sudden = ratio > _JUMP * before or (before == 0.0 if exact else before <= tolerance.LIMIT and ratio > 2.0 * before)
    if not sudden or np.isinf(before) or ratio <= (0.0 if exact else tolerance.LIMIT):
        return None
    if before > 0 and _FLIPS.search(one.op) is not None and gap.nonfinite is None:
        return "rounding" if _is_near_threshold(one, read_operands, gap, epsilon) else "difference"
    if ratio > (0.0 if exact else _allowed(one)):
        return "rounding" if _cancels(one, other, read_operands, gap, epsilon) else "difference"
    return "rounding" if one.most_terms > 1 else None


def _cancels(
    one: OpOutput,
    other: OpOutput,
    read_operands: Callable[[], Iterable[np.ndarray | None]],
    gap: tolerance.Gap,
    epsilon: float,
) -> bool:
    """Whether a difference is in the last places of numbers next to equal that are subtracted.

    A mode that fuses `x * scale + shift` does not round the product and loses less there. Where one of the numbers is a
    constant (`(x + 1e4) - 1e4`), a compiler computed it beforehand and the loss that the user wrote is gone: no rounding.
    """
    if one.op not in CANCELS or one.of_constant or other.of_constant:
        return False
    return gap.absolute <= tolerance.LIMIT * _last_places(read_operands(), epsilon)


def _is_near_threshold(
    one: OpOutput, read_operands: Callable[[], Iterable[np.ndarray | None]], gap: tolerance.Gap, epsilon: float
) -> bool:
    """Whether a difference is one that a threshold makes of rounding.

    A number out of range is no such: modes make another integer of it each.
    """
    if one.op not in _TO_INTEGERS or one.value is None or (one.op == "Cast" and one.value.dtype.kind not in "iu"):
        return True
    operands = [value for value in read_operands() if value is not None and value.size]
    if one.op == "Cast":
        held = np.iinfo(one.value.dtype)
        if any(value.min() < held.min or value.max() > held.max for value in operands):
            return False
    return gap.absolute <= 1.0 + tolerance.LIMIT * _last_places(operands, epsilon)


def _last_places(operands: Iterable[np.ndarray | None], epsilon: float) -> float:
    """The size of the last place of the largest number."""
    places = (
        max(epsilon, tolerance.epsilon(value.dtype.name)) * float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
        for value in operands
        if value is not None and value.dtype.kind not in "b"
    )
    return max(places, default=0.0)


def _allowed(entry: OpOutput) -> float:
    """Noise floors that two outputs of one operation may be apart although its inputs are not.

    A sum of k numbers of one sign, added one after the other, is off by up to k / 2 units in its last place, and by half
    of that where many of them are equal (a black image): XLA on a CPU adds so.
    """
    return tolerance.LIMIT * (1.0 + entry.most_terms / 4.0)


def _aligned_inputs(trace: OpTrace, position: int, aligned: Mapping) -> list[int]:
    """The nearest operations before one that both traces have."""
    found, waiting, known = [], list(trace[position].inputs), set()
    while waiting:
        index = waiting.pop()
        if index in known:
            continue
        known.add(index)
        if index in aligned:
            found.append(index)
        else:
            waiting.extend(trace[index].inputs)
    return found


def _reads_variable(trace: OpTrace, position: int, aligned: Mapping) -> bool:
    """Whether an operation reads a variable, or was computed from a reading that only this trace has."""
    waiting, known = [position], set()
    while waiting:
        index = waiting.pop()
        if trace[index].op == "ReadVariableOp":
            return True
        known.add(index)
        waiting.extend(k for k in trace[index].inputs if k not in aligned and k not in known)
    return False


def _first_unread(trace: OpTrace, position: int) -> OpOutput | None:
    """The first operation whose size depends on data, among those without a value that lead to one directly."""
    found, waiting = set[int](), list(trace[position].inputs)
    while waiting:
        index = waiting.pop()
        if index not in found and trace[index].value is None and None in trace[index].shape:
            found.add(index)
            waiting.extend(trace[index].inputs)
    return trace[min(found)] if found else None


def _first_unmatched(trace: OpTrace, position: int, partner: Mapping[int, int]) -> OpOutput | None:
    """The first operation that only this trace has, among those that lead to one that both have."""
    found, waiting, known = [], list(trace[position].inputs), set()
    while waiting:
        index = waiting.pop()
        if index in known or index in partner:
            continue
        known.add(index)
        entry = trace[index]
        if entry.place and entry.value is not None and entry.op not in (*_CONSTANTS, "ReadVariableOp"):
            found.append(index)
        waiting.extend(entry.inputs)
    return trace[min(found)] if found else None


def _find_unpaired(first: OpTrace, second: OpTrace, aligned: Sequence[tuple[int, int]]) -> FirstDifference | None:
    """The first operation that ran only once."""
    for only_in, trace, paired in (
        ("second", second, {j for _, j in aligned}),
        ("first", first, {i for i, _ in aligned}),
    ):
        for index, entry in enumerate(trace):
            if index not in paired and entry.place is not None:
                return FirstDifference(entry=entry, only_in=only_in)
    return None
