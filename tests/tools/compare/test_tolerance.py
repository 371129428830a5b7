"""How far apart is too far: gaps, units in the last place, verdicts, and what rounding noise does to numbers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from modetrain.tools.compare import tolerance


def test_equal_arrays_are_bitwise_equal_nans_and_infinities_included():
    array = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    found = tolerance.measure_gap(array, array.copy())
    assert (found.absolute, found.index, found.nonfinite) == (0.0, None, None)
    assert tolerance.classify(found, 0.0) == tolerance.BITWISE


@pytest.mark.parametrize(
    ("expected", "got", "index"),
    [([1.0, 2.0], [1.0, np.nan], (1,)), ([np.nan, 2.0], [1.0, 2.0], (0,)), ([np.inf], [-np.inf], (0,))],
)
def test_nans_and_infinities_in_one_mode_only_are_different_whatever_the_noise(expected, got, index):
    found = tolerance.measure_gap(np.array(expected), np.array(got))
    assert found.index == index
    assert found.nonfinite
    assert tolerance.classify(found, 1e30) == tolerance.DIFFERENT


def test_a_gap_names_the_element_that_is_furthest_apart():
    found = tolerance.measure_gap(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.5], [3.1, 4.0]]))
    assert (found.index, found.expected, found.got) == ((0, 1), 2.0, 2.5)
    assert found.relative == pytest.approx(0.5 / 4.0)


def test_up_to_ten_floors_agree():
    found = tolerance.measure_gap(np.array([1.0]), np.array([1.0 + 1e-6]))
    assert tolerance.classify(found, 1.1e-7) == tolerance.WITHIN
    assert tolerance.classify(found, 0.9e-7) == tolerance.DIFFERENT


def test_the_last_two_units_of_what_is_stored_are_no_difference():
    """An update of 0.001 on a weight of 0.3 is rounded to the weight's spacing, in which all draws may agree."""
    weight = np.float32(0.3)
    spacing = float(np.spacing(weight))
    for units, verdict in ((1, tolerance.WITHIN), (2, tolerance.WITHIN), (3, tolerance.DIFFERENT)):
        found = tolerance.measure_gap(np.array([1e-3]), np.array([1e-3 + units * spacing]), np.array([spacing]))
        assert tolerance.classify(found, 0.0) == verdict, units


@pytest.mark.parametrize(("dtype", "kind"), [("float32", np.float32), ("float64", np.float64), ("float16", np.float16)])
def test_units_in_the_last_place(dtype, kind):
    one = kind(1.0)
    up = np.nextafter(one, kind(2.0))
    assert tolerance.ulps(float(one), float(up), dtype) == 1
    smallest = np.nextafter(kind(0.0), kind(1.0))
    assert tolerance.ulps(-float(smallest), float(smallest), dtype) == 2, "across zero"
    assert tolerance.ulps(np.nan, 1.0, dtype) is None


def test_noise_moves_every_number_but_zero_by_its_last_place():
    rng = np.random.default_rng(0)
    array = np.concatenate([[0.0], rng.normal(size=1000), rng.normal(size=1000) * 1e-20]).astype(np.float32)
    moved = tolerance.perturb(array, tolerance.epsilon("float32"), rng)
    assert moved.dtype == array.dtype
    assert moved[0] == 0.0
    assert (moved[1:] != array[1:]).all()
    np.testing.assert_allclose(moved, array, rtol=3e-7)
    assert (moved > array).any()
    assert (moved < array).any()


def test_noise_moves_what_is_stored_in_bfloat16_or_float16_too():
    rng = np.random.default_rng(0)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        array = rng.normal(size=100).astype(dtype)
        moved = tolerance.perturb(array, tolerance.epsilon("float32"), rng)
        assert moved.dtype == array.dtype
        assert (moved != array).all()
        apart = np.abs(moved.astype(np.float64) - array.astype(np.float64))
        np.testing.assert_array_less(apart, 1.01 * tolerance.spacing(array))


def test_a_constant_column_or_row_of_a_batch_stays_constant():
    array = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    array[:, 1], array[3, :] = 123456789.0, 7.0
    array[3, 1] = 123456789.0
    moved = tolerance.perturb(array, 1e-7, np.random.default_rng(1), constant=True)
    assert np.ptp(moved[:, 1]) == 0.0
    assert moved[0, 1] != array[0, 1]
    assert np.unique(np.sign(moved - array)[:, 0]).size == 2, "other columns move by element"
    row = tolerance.perturb(np.full([1, 6], 3.0, np.float32), 1e-7, np.random.default_rng(1), constant=True)
    assert np.ptp(row) == 0.0


def test_noise_leaves_integers_alone():
    array = np.arange(5, dtype=np.uint8)
    assert tolerance.perturb(array, 0.1, np.random.default_rng(0)) is array


def test_what_vanishes_in_float64_is_rounding_unless_it_is_large():
    assert tolerance.is_rounding(1e-5, 80.0, 1e-14)
    assert not tolerance.is_rounding(1e-5, 80.0, 1e-5), "a wrong factor is there in float64 too"
    assert not tolerance.is_rounding(1e-2, 1e5, 1e-11), "a cancellation"
