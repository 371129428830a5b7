"""Who runs the arms of a comparison: processes of their own (`processes.py`), or this one (`library.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from modetrain.diagnostics.location import Location
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.observation import ArmReport
from modetrain.tools.compare.store import Shelf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Death:
    """A process that died before it had done its job.

    Attributes:
      how: `SIGSEGV`, or `exit code 3`, or a sentence on which of several workers failed first.
      phase: what it was doing.
      tail: what it printed last.
      place: the user's line that it was in.
    """

    how: str
    phase: str
    tail: str = ""
    place: Location | None = None


class Runner(Protocol):
    """Runs arms; their steps are then on the shelf as `<arm>/<number>`."""

    shelf: Shelf

    def lead(self, mode: str) -> ArmReport | Death:
        """The reference's part."""
        ...

    def follow(self, mode: str) -> ArmReport | Death:
        """Another mode's part."""
        ...

    def floors(self, numbers: Sequence[int], draws: int) -> dict[int, dict[str, float]] | Death:
        """The noise of some steps of the reference by more draws."""
        ...

    def variant(self, mode: str, change: str, numbers: Sequence[int]) -> ArmReport | Death | None:
        """Some steps of a mode with something changed, on the shelf under `<mode>@<change>`.

        Args:
          mode: which.
          change: `float64`, `strict` (a graph without optimizations), `onednn` (without oneDNN's kernels), or `again`: nothing,
            but that the recipe is a new one, which has made no step before.
          numbers: which steps.

        Returns:
          None where that cannot be had.
        """
        ...

    def explain(self, mode: str, number: int, change: str | None = None) -> Explanation | None:
        """Why a step differs, with something changed as in `variant`; None where that cannot be said."""
        ...

    def tracing(self, mode: str, number: int) -> Explanation | None:
        """What tracing changes of the Python of a step; None where nothing is known."""
        ...
