"""A verdict for every tensor of a step: how far a variant's is from the reference's.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from modetrain.tools.compare import tolerance
from modetrain.tools.compare.observation import Observation, Quantity, State, StateEntry, quantities


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One tensor of one step.

    Attributes:
      step: which, from 0.
      tensor: its label.
      kind: `metric`, `gradient`, `variable`, `slot` or `state`.
      verdict: `bitwise`, `within noise` or `DIFFERENT`; `attribution.py` turns some of the latter into `rounding`.
      floors: largest difference in noise floors; infinite where NaNs are in other places.
      absolute: largest difference.
      relative: largest difference over largest magnitude; of variables and slots, of their change in the step.
      index: of the largest difference.
      expected, got: the two modes' values there, after the step.
      ulp: how many numbers lie between them.
      nonfinite: a sentence on NaNs and infinities in one mode only.
    """

    step: int
    tensor: str
    kind: str
    verdict: str
    floors: float = 0.0
    absolute: float = 0.0
    relative: float = 0.0
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    ulp: int | None = None
    nonfinite: str | None = None


def compare_step(
    number: int,
    start: State,
    expected: Observation,
    got: Observation,
    layout: Mapping[str, StateEntry],
    floors: Mapping[str, float],
    compute_dtype: str,
) -> list[Verdict]:
    """Verdicts on one step that raises in neither variant.

    Args:
      number: which.
      start: the state before it.
      expected: what the reference did.
      got: what the other variant did.
      layout: what each entry of the state is.
      floors: the noise floor of each quantity, by label.
      compute_dtype: the dtype that most of the step computes in.
    """
    wanted, found = quantities(start, expected, layout), quantities(start, got, layout)
    # Where the reference is exactly zero, the largest gradient or change gives the magnitude.
    largest = {kind: _largest(wanted, kind) for kind in ("gradient", "variable")}
    epsilon = tolerance.epsilon(compute_dtype)
    return [
        _compare(number, label, one, found.get(label), floors.get(label, 0.0), epsilon, largest.get(one.kind, 0.0))
        for label, one in wanted.items()
    ]


def _compare(
    number: int, label: str, one: Quantity, other: Quantity | None, floor: float, epsilon: float, largest: float
) -> Verdict:
    if other is None or one.value.shape != other.value.shape:
        return Verdict(step=number, tensor=label, kind=one.kind, verdict=tolerance.DIFFERENT, floors=np.inf)
    gap = tolerance.measure_gap(one.value, other.value, one.spacing)
    if one.value.dtype.kind == "f":
        floor = max(floor, epsilon * (gap.scale or largest))
    verdict = Verdict(step=number, tensor=label, kind=one.kind, verdict=tolerance.classify(gap, floor))
    if gap.index is None:
        return verdict
    expected, got = float(one.after[gap.index]), float(other.after[gap.index])
    return dataclasses.replace(
        verdict,
        floors=gap.excess / floor if floor else np.inf if gap.excess else 0.0,
        absolute=gap.absolute,
        relative=gap.relative,
        index=gap.index,
        expected=expected,
        got=got,
        ulp=tolerance.ulps(expected, got, one.dtype),
        nonfinite=gap.nonfinite,
    )


def _largest(found: Mapping[str, Quantity], kind: str) -> float:
    values = [np.abs(q.value[np.isfinite(q.value)]).max(initial=0.0) for q in found.values() if q.kind == kind]
    return float(max(values, default=0.0))
