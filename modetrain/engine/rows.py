"""Rows are what a call of the program returned: (total, count) of every metric of every step.

`Recent` keeps those of the last steps, of which `results.train` are the means: the same whatever the calls were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from modetrain.engine.metrics import Means

# results["train"] is the mean over so many last steps.
_RECENT = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What a call of the program returned.

    Attributes:
      first: steps completed before the call.
      names: the metrics.
      values: float64 [steps, metrics, 2] of (total, count) over all replicas.
    """

    first: int
    names: tuple[str, ...]
    values: np.ndarray


class Recent:
    """The rows of the last 100 steps."""

    def __init__(self) -> None:
        self._rows: Rows | None = None

    def add(self, rows: Rows) -> None:
        """Takes the rows of one more call."""
        known = self._rows.values if self._rows is not None and self._rows.names == rows.names else rows.values[:0]
        self._rows = Rows(first=0, names=rows.names, values=np.concatenate([known, rows.values])[-_RECENT:])

    def means(self) -> dict[str, float]:
        """Per metric the mean over these steps."""
        return Means.of(self._rows.names, self._rows.values).means() if self._rows is not None else {}

    def state(self) -> dict[str, Any]:
        """All of it as JSON."""
        if self._rows is None:
            return {}
        return {"names": list(self._rows.names), "values": self._rows.values.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        self._rows = None
        if state:
            values = np.array(state["values"], np.float64).reshape(-1, len(state["names"]), 2)
            self._rows = Rows(first=0, names=tuple(state["names"]), values=values)
