"""What float64 says of a difference."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.tools.compare import tolerance
from modetrain.tools.compare.attribution import _Float64
from modetrain.tools.compare.verdict import Verdict


def verdict(absolute, scale, **given):
    relative = absolute / scale if scale else np.inf if absolute else 0.0
    name = tolerance.DIFFERENT if absolute else tolerance.BITWISE
    return Verdict(step=0, tensor="a", kind="gradient", verdict=name, absolute=absolute, relative=relative, **given)


@pytest.mark.parametrize(
    ("apart", "in_float64", "agrees"),
    [
        ((1e-3, 1.0), (1e-12, 1.0), True),
        ((1e-3, 1.0), (1e-3, 1.0), False),
        ((1e-3, 1.0), (1e-6, 1.0), False),
        ((9e-7, 3e-7), (5e-16, 2e-16), True),  # zero but for rounding, as before a batch normalisation
        ((9e-7, 3e-7), (9e-7, 3e-7), False),  # small, and no rounding
        ((9e-7, 3e-7), (0.0, 0.0), True),
    ],
)
def test_what_vanishes_in_float64_is_measured_by_the_magnitude_in_the_precision_of_the_run(apart, in_float64, agrees):
    wide = _Float64(found={(0, "a"): verdict(*in_float64)}, narrow={})
    assert wide.agrees(verdict(*apart)) == agrees


def test_what_was_not_run_in_float64_does_not_agree():
    assert not _Float64(found={}, narrow={}).agrees(verdict(1e-3, 1.0))


def test_what_is_nan_in_one_mode_and_finite_in_float64_agrees():
    one = verdict(np.inf, 1.0, nonfinite="1 of 2 values are NaN in one mode only")
    assert _Float64(found={(0, "a"): verdict(1e-15, 1.0)}, narrow={}).agrees(one)
    assert not _Float64(found={(0, "a"): verdict(1e-5, 1.0)}, narrow={}).agrees(one)
