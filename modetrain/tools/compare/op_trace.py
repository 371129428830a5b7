"""The trace of what one step computes: an entry for each output of each operation, in the order of the program.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from modetrain.diagnostics.location import Location

_ADDS_UP = re.compile(
    r"MatMul|Conv|Sum|Mean|Softmax|BatchNorm|Einsum|Pool|L2Loss|AddN|SegmentSum|Scatter|BiasAddGrad|Norm|Cum|Apply"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpOutput:
    """One output of one operation.

    Attributes:
      op: type of the operation.
      value: its output, or evenly spread elements of it; None where it is no number.
      shape: of the whole output; None for a size that depends on data.
      place: the user's line that made it; None for the library's own.
      gradient: whether it is part of a gradient, whose line is that of the forward operation.
      inputs: positions in the trace of what it was computed from.
      constant: whether it depends on neither the batch nor the variables; a compiler may compute it beforehand.
      of_constant: whether one of its inputs is constant.
      most_terms: how many numbers each number of the output may be a sum of.
    """

    op: str
    value: np.ndarray | None
    shape: tuple[int | None, ...]
    place: Location | None
    gradient: bool
    inputs: tuple[int, ...]
    constant: bool = False
    of_constant: bool = False
    most_terms: float = 1.0

    @property
    def key(self) -> tuple:
        """What identifies it where two traces are aligned."""
        where = (self.place.file, self.place.line) if self.place else None
        return self.op, self.shape, where


OpTrace: TypeAlias = list[OpOutput]


def most_terms(op: str, inputs: Sequence[int], output: int) -> float:
    """How many numbers each number of the output may be a sum of, by the sizes alone: k for [m, k] x [k, n]."""
    if not _ADDS_UP.search(op):
        return 1.0
    first, second, *_ = sorted([*inputs, 1, 1], reverse=True)
    largest = first / max(output, 1)
    return max(1.0, largest, (first * second / max(output, 1)) ** 0.5)
