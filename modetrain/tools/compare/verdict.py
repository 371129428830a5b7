"""What a variant's steps are worth next to the reference's: a verdict for every tensor of every step.

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
      verdict: `bitwise`, `within noise` or `DIFFERENT`; `confirm.py` makes some of the latter `rounding`.
      floors: largest difference in noise floors; infinite where NaNs stand in other places.
      relative: largest difference over largest magnitude; of variables and slots, of their change in the step.
      index: of the largest difference.
      expected, got: the two modes' values there, after the step.
      ulp: how many numbers lie between them.
      nonfinite: what is said of NaNs and infinities in one mode only.
    """

    step: int
    tensor: str
    kind: str
    verdict: str
    floors: float = 0.0
    relative: float = 0.0
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    ulp: int | None = None
    nonfinite: str | None = None


def compare_step(
    number: int,
    start: State,
    wanted: Observation,
    found: Observation,
    layout: Mapping[str, StateEntry],
    floors: Mapping[str, float],
    compute_dtype: str,
) -> list[Verdict]:
    """Verdicts on one step, neither of which raised anything.

    Args:
      number: which.
      start: the state before it.
      wanted: what the reference did.
      found: what the variant did.
      layout: what each entry of the state is.
      floors: the noise floor of each quantity, by label.
      compute_dtype: the dtype that most of the step computes in.
    """
    expected, got = quantities(start, wanted, layout), quantities(start, found, layout)
    largest = {kind: _largest(expected, kind) for kind in ("gradient", "variable")}
    verdicts = []
    for label, quantity in expected.items():
        if label not in got:
            verdicts.append(
                Verdict(step=number, tensor=label, kind=quantity.kind, verdict=tolerance.DIFFERENT, floors=np.inf)
            )
            continue
        verdicts.append(
            _one(number, label, quantity, got[label], floors.get(label, 0.0), compute_dtype, largest.get(quantity.kind))
        )
    return verdicts


def _one(
    number: int,
    label: str,
    quantity: Quantity,
    other: Quantity,
    measured: float,
    compute_dtype: str,
    largest: float | None,
) -> Verdict:
    if quantity.value.shape != other.value.shape:
        return Verdict(step=number, tensor=label, kind=quantity.kind, verdict=tolerance.DIFFERENT, floors=np.inf)
    gap = tolerance.measure_gap(quantity.value, other.value, quantity.spacing)
    floor = measured
    if quantity.value.dtype.kind == "f":
        # Where the reference is exactly zero there is no magnitude to be relative to but that of its like.
        scale = gap.scale or largest or 0.0
        floor = max(measured, tolerance.epsilon(compute_dtype) * scale)
    verdict = tolerance.classify(gap, floor)
    if gap.index is None:
        return Verdict(step=number, tensor=label, kind=quantity.kind, verdict=verdict)
    expected, got = float(quantity.after[gap.index]), float(other.after[gap.index])
    return Verdict(
        step=number,
        tensor=label,
        kind=quantity.kind,
        verdict=verdict,
        floors=gap.excess / floor if floor else np.inf if gap.excess else 0.0,
        relative=gap.relative,
        index=gap.index,
        expected=expected,
        got=got,
        ulp=tolerance.ulps(expected, got, quantity.dtype),
        nonfinite=gap.nonfinite,
    )


def _largest(found: Mapping[str, Quantity], kind: str) -> float:
    values = [np.abs(q.value[np.isfinite(q.value)]).max(initial=0.0) for q in found.values() if q.kind == kind]
    return float(max(values, default=0.0))
