"""How far two results of one step may be apart: as far as rounding noise alone moves that step.

A step is repeated with inputs and state moved by one unit in the last place. How far that moves a tensor is the tensor's noise
floor. A mode whose result is within `LIMIT` floors computes the same in another order.

An update that is small next to the variable is rounded to the variable's own spacing, and all draws may agree in that. So the
last two units of what is stored never count as a difference.
"""

from __future__ import annotations

import dataclasses

import numpy as np

BITWISE, WITHIN, ROUNDING, DIFFERENT = "bitwise", "within noise", "rounding", "DIFFERENT"
# Clean steps were measured at up to 3 floors, an input scaled by 1.00001 from 36 on.
LIMIT = 10.0
# Units in the last place of what is stored that two modes may differ by, whatever the draws show.
FREE_ULPS = 2.0
# XLA on a CPU adds long sums one number after the other where other kernels add in a tree, and loses more digits than draws of
# noise show. Up to this many floors a difference may be such rounding where float64 cannot be had, or where something else
# in the mode differs for sure.
ROUNDING_LIMIT = 1000.0
# What is left in float64 of a difference that rounding made in float32, at most; 2e-9 is expected.
_VANISHED = 1e-4
_EPSILONS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-23, "float64": 2.0**-52}


def epsilon(dtype: str) -> float:
    """Relative spacing of the numbers of a dtype."""
    return _EPSILONS.get(dtype, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """How far two arrays are apart.

    Attributes:
      absolute: the largest difference; infinite where NaNs and infinities are in other places.
      excess: the largest difference beyond what storing the values may round away.
      scale: the largest expected magnitude.
      index: of the largest difference; None where there is none.
      expected, got: the values there.
      nonfinite: a sentence on NaNs and infinities that are in other places; None where there are none.
    """

    absolute: float
    excess: float
    scale: float
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    nonfinite: str | None = None

    @property
    def relative(self) -> float:
        """Largest difference over largest magnitude."""
        if self.absolute == 0.0:
            return 0.0
        return self.absolute / self.scale if self.scale else np.inf


def measure_gap(expected: np.ndarray, got: np.ndarray, spacing: np.ndarray | float = 0.0) -> Gap:
    """Measures how far `got` is from `expected`, which has the same shape.

    Args:
      expected, got: the arrays.
      spacing: of the numbers that the values were stored as.
    """
    wanted, found = _numbers(expected), _numbers(got)
    finite = np.isfinite(wanted)
    scale = float(np.max(np.abs(wanted), where=finite, initial=0.0))
    # NaN equals NaN here, and an infinity itself.
    other = (np.isnan(wanted) != np.isnan(found)) | (
        ~(np.isnan(wanted) | np.isnan(found)) & (finite != np.isfinite(found))
    )
    other |= np.isinf(wanted) & np.isinf(found) & (wanted != found)
    if other.any():
        index = _first(other)
        where = (float(wanted[index]), float(found[index]))
        made = "NaN" if np.isnan(where).any() else "an infinity"
        share = f"{int(other.sum())} of {other.size} values are {made} in one mode only"
        return Gap(
            absolute=np.inf, excess=np.inf, scale=scale, index=index, expected=where[0], got=where[1], nonfinite=share
        )
    both = finite & np.isfinite(found)
    apart = np.abs(np.subtract(wanted, found, where=both, out=np.zeros_like(wanted)))
    largest = float(apart.max(initial=0.0))
    if largest == 0.0:
        return Gap(absolute=0.0, excess=0.0, scale=scale)
    beyond = apart - FREE_ULPS * spacing
    excess = max(float(beyond.max()), 0.0)
    index = _first(beyond == excess) if excess else _first(apart == largest)
    values = (float(wanted[index]), float(found[index]))
    return Gap(absolute=largest, excess=excess, scale=scale, index=index, expected=values[0], got=values[1])


def classify(found: Gap, floor: float) -> str:
    """The verdict on a gap, by the noise floor in the same unit."""
    if found.absolute == 0.0:
        return BITWISE
    return WITHIN if found.excess <= LIMIT * floor else DIFFERENT


def vanishes(relative: float, relative_in_float64: float) -> bool:
    """Whether a difference is rounding: in float64 next to nothing is left of it."""
    return relative_in_float64 <= max(_VANISHED * relative, 1e-12)


def is_rounding(relative: float, floors: float, relative_in_float64: float) -> bool:
    """Whether a difference is rounding, and no larger than long sums make it."""
    return floors <= ROUNDING_LIMIT and vanishes(relative, relative_in_float64)


def spacing(array: np.ndarray) -> np.ndarray:
    """The distance of each number to the next one of its dtype."""
    if array.dtype.name in _EPSILONS:
        wide = np.spacing(np.where(np.isfinite(array), np.abs(array), 0).astype(array.dtype))
        return wide.astype(np.float64)
    return np.zeros(array.shape)


def ulps(expected: float, got: float, dtype: str) -> int | None:
    """How many numbers of the dtype lie between two values; None for NaNs, and for dtypes without such steps."""
    kinds = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
    if dtype not in kinds or not (np.isfinite(expected) and np.isfinite(got)):
        return None

    def position(value: float) -> int:
        kind = kinds[dtype]
        bits = int(np.asarray(value, kind).view(np.dtype(f"i{np.dtype(kind).itemsize}")))
        return bits if bits >= 0 else -(bits & (2 ** (8 * np.dtype(kind).itemsize - 1) - 1))

    return abs(position(expected) - position(got))


def perturb(array: np.ndarray, size: float, rng: np.random.Generator, *, constant: bool = False) -> np.ndarray:
    """A float array with each number moved up or down by the relative `size`; by one unit in its last place at least.

    Args:
      array: of any dtype; integers are not moved.
      size: relative.
      rng: decides which way.
      constant: whether a column or a row that holds one number holds one number afterwards, too: such a feature of a batch is
        constant, not nearly so, and its variance is zero.
    """
    if array.dtype.name not in _EPSILONS:
        return array
    sign = rng.choice(np.array([-1.0, 1.0]), array.shape)
    for axis in range(array.ndim if constant and array.size else 0):
        same = (array == array.take([0], axis)).all(axis, keepdims=True)
        sign = np.where(same, sign.take([0], axis), sign)
    shifted = (array.astype(np.float64) * (1.0 + sign * size)).astype(array.dtype)
    stuck = (shifted == array) & (array != 0) & np.isfinite(array)
    return np.where(stuck, np.nextafter(array, (sign * np.inf).astype(array.dtype)), shifted)


def _numbers(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
