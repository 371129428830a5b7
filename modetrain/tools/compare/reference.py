"""The mode that all others are compared with, once its steps have run.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from modetrain.tools.compare import verdict
from modetrain.tools.compare.observation import Observation, State, VariantReport
from modetrain.tools.compare.store import ResultStore
from modetrain.tools.compare.verdict import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The first mode of a comparison.

    Attributes:
      name: of the mode.
      store: where its steps are, and those of other variants.
      report: on its steps.
    """

    name: str
    store: ResultStore
    report: VariantReport

    def observation(self, number: int) -> Observation:
        """What its step did."""
        return self.store.observation(self.name, number)

    def state_before(self, number: int) -> State:
        """The state that a step begins from, in every variant."""
        return self.store.state_before(self.name, number)

    @property
    def noise(self) -> dict[int, dict[str, float]]:
        """The noise floors of each step, by label."""
        return self.store.get(f"{self.name}/floors")

    def compare(
        self,
        variant: str,
        number: int,
        *,
        change: str = "",
        noise: Mapping[str, float] | None = None,
        dtype: str | None = None,
    ) -> list[Verdict] | None:
        """Verdicts on a step of a variant; None where one of the two raises.

        Args:
          variant: name of the variant.
          number: of the step.
          change: the reference with this change takes the place of the reference.
          noise: floors by label; those of the reference's step by default.
          dtype: that the step computes in; the reference's by default.
        """
        name = f"{self.name}@{change}" if change else self.name
        expected, got = self.store.observation(name, number), self.store.observation(variant, number)
        if expected.error is not None or got.error is not None:
            return None
        return verdict.compare_step(
            number,
            self.state_before(number),
            expected,
            got,
            self.report.layout,
            self.noise.get(number, {}) if noise is None else noise,
            dtype or self.report.compute_dtype,
        )
