"""The reaction to a NaN or an infinity in a loss or a gradient: stop, skip the update, or roll back.

Every update returns a flag with its metrics, in every mode: XLA leaves out TensorFlow's own checks. Each step has its own
flag, so the step is known exactly, even if a call runs many steps. `engine/optimizer.py` computes the flag, the trainer raises
`NonFiniteError` (`step_errors.py`), and `callbacks/rollback.py` goes back.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from modetrain.engine.metrics import NONFINITE, StepMetrics
from modetrain.settings import NonfiniteSettings

log = logging.getLogger(__name__)

LOSS = "loss"  # the name under which `minimize` returns the loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class NonFiniteValue:
    """A value that is not finite.

    Attributes:
      step: updates completed before its step.
      what: the value in words.
    """

    step: int
    what: str


class NonfiniteGuard:
    """Checks the metrics of every call for values that are not finite.

    Args:
      settings: the policy.

    Attributes:
      settings: as given.
      skipped: number of skipped updates so far.
      in_a_row: number of successive skipped updates up to now.
    """

    def __init__(self, settings: NonfiniteSettings):
        self.settings = settings
        self.skipped = 0
        self.in_a_row = 0

    def check(self, metrics: StepMetrics) -> tuple[StepMetrics, NonFiniteValue | None]:
        """Removes the flags, and the values of skipped steps that would spoil every mean.

        Returns:
          The other metrics, and the value that ends the run or rolls it back, or None.
        """
        if self.settings.policy == "ignore":
            return metrics, None
        flags = [n for n, name in enumerate(metrics.names) if name.split("/")[0] == NONFINITE]
        losses = [n for n, name in enumerate(metrics.names) if is_loss(name)]
        watched = [n for n, name in enumerate(metrics.names) if name == LOSS]
        finite = np.isfinite(metrics.values[:, :, 0])
        flagged = (metrics.values[:, flags, 0] != 0).any(axis=1)
        # A `loss` that is returned but not minimized has no flag; any other metric may be infinite or undefined.
        bad = flagged | ~finite[:, watched].all(axis=1)
        shown = [n for n in range(len(metrics.names)) if n not in flags]
        names = tuple(metrics.names[n] for n in shown)
        kept = dataclasses.replace(metrics, names=names, values=metrics.values[:, shown])
        if not bad.any():
            self.in_a_row = 0
            return kept, None
        if self.settings.policy != "skip":
            index = int(np.argmax(bad))
            return kept, NonFiniteValue(step=metrics.first + index, what=_what(metrics, index, losses))
        for index in range(len(bad)):
            if bad[index] and not flagged[index]:
                return kept, NonFiniteValue(
                    step=metrics.first + index, what=_what(metrics, index, losses) + ", which no update saw"
                )
            self.in_a_row = self.in_a_row + 1 if bad[index] else 0
            if bad[index] and not self.skipped:
                log.warning(
                    f"{_what(metrics, index, losses)} in step {metrics.first + index + 1}: its update is skipped "
                    "(nonfinite.policy=skip); later ones are only counted"
                )
            self.skipped += int(bad[index])
            if self.in_a_row > self.settings.limit:
                many = f", after nonfinite.limit={self.settings.limit} skipped updates in a row"
                return kept, NonFiniteValue(step=metrics.first + index, what=_what(metrics, index, losses) + many)
        values = kept.values.copy()
        values[bad[:, None] & ~np.isfinite(values[:, :, 0])] = 0.0  # a count of 0
        return dataclasses.replace(
            kept, values=values, sums={name: _without(bad, value) for name, value in kept.sums.items()}
        ), None

    def state(self) -> dict[str, Any]:
        """The counters, as JSON."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Loads what `state` returned."""
        self.skipped, self.in_a_row = state.get("skipped", 0), state.get("in_a_row", 0)


def is_loss(name: str) -> bool:
    """Whether a metric is called a loss: it is shown as one. Only gradients, what is minimized and `loss` are watched."""
    return LOSS in re.split(r"[^a-zA-Z]", name) and not name.startswith("loss_scale")


def _what(metrics: StepMetrics, index: int, losses: list[int]) -> str:
    for n in losses:
        total, count = metrics.values[index, n]
        if not np.isfinite(total):
            return f"{metrics.names[n]} is {total}"
        if n == losses[-1]:
            return f"a gradient is not finite ({metrics.names[n]} is {total / count if count else total:.4g})"
    return "a gradient is not finite"


def _without(bad: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Sums by step, with zeros for those of bad steps that are not finite: half of one would make a wrong figure."""
    whole = np.isfinite(sums).reshape(len(sums), -1).all(axis=1)
    return np.where((bad & ~whole).reshape(-1, *[1] * (sums.ndim - 1)), 0.0, sums)
