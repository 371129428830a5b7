"""What a comparison found: findings as data, and how each mode did.

comparison.agrees          True where nothing was found
comparison.findings        what was, the first difference of each mode with its cause
str(comparison)            the same for people
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import tolerance
from modetrain.tools.compare.observation import Times
from modetrain.tools.compare.verdict import Verdict

# The kinds of findings.
KINDS = {
    "different": "a mode computes other numbers",
    "nonfinite": "NaNs or infinities in one mode only",
    "random": "different random numbers",
    "impure": "the step is no function of (state, batch)",
    "error": "a mode raises, or fails to raise, what the reference does not; or the reference raises at once",
    "crash": "the process of a mode died",
}
# The kinds of tensors that are compared, and the headings of their columns.
TENSORS = {
    "metric": "metrics",
    "gradient": "gradients",
    "variable": "variables",
    "slot": "slots",
    "state": "other state",
}
# The headings of the columns of `Comparison.times`.
TIMES = ("mode", "compile s", "first step ms", "p50 ms", "p90 ms", "examples/s", "peak MB", "traces", "pays off after")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One way in which a mode does not agree with the reference.

    Attributes:
      mode: the mode; the reference where that cannot make its first step.
      kind: one of `KINDS`.
      message: all of it in a few sentences.
      step: the first step in which it shows, by its number in the run; None where no step was reached.
      tensor: the tensor that shows it most clearly there; None where none was compared.
      tensors: all tensors that differ in that step.
      steps: in how many steps something differs.
      index, expected, got: the element of the largest difference, and both modes' values after the step.
      relative: largest difference over largest magnitude (of a variable or slot: of its change in the step).
      ulp: how many numbers lie between `expected` and `got`.
      floors: the difference in noise floors of the step; up to `tolerance.LIMIT` is agreement.
      op: type of the first operation whose output differs.
      place: the user's line that made it.
      blame: what makes the difference: `python`, `tracing`, `grappler`, `onednn`, `xla` or `replicas`; None where that is not
        known.
      advice: what to do about it.
    """

    mode: str
    kind: str
    message: str
    step: int | None = None
    tensor: str | None = None
    tensors: tuple[str, ...] = ()
    steps: int = 0
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    relative: float | None = None
    ulp: int | None = None
    floors: float | None = None
    op: str | None = None
    place: Location | None = None
    blame: str | None = None
    advice: str | None = None

    def __str__(self) -> str:
        return f"{self.mode}: {self.message}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModeResult:
    """How one mode did.

    Attributes:
      verdict: `reference`, `bitwise`, `within noise`, `rounding`, `DIFFERENT`, `not comparable`, `failed`.
      effective: what took effect of the mode.
      counts: per kind of tensor and verdict, how many (tensor, step) pairs.
      worst: per kind of tensor the verdict furthest from the reference, in noise floors.
      worst_floors: per step the largest distance in noise floors.
      first_difference: the first tensor that is not bitwise equal, and its step; None where all are.
      losses: per loss its value in each step, each from the reference's state.
      drift: per loss its values when the mode is left alone.
      distance: how far its weights are from the reference's then, relative to how far those have moved.
      time: times and memory; None where they could not be measured.
      break_even_steps: steps after which compiling has paid off against the reference; 0 where it costs nothing, None where
        it never does.
    """

    verdict: str
    effective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    worst: Mapping[str, Verdict] = dataclasses.field(default_factory=dict)
    worst_floors: Sequence[float] = ()
    first_difference: Verdict | None = None
    losses: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    drift: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    distance: Sequence[float] = ()
    time: Times | None = None
    break_even_steps: float | None = None

    def farthest(self, kind: str) -> str:
        """How far tensors of a kind are from the reference's, for a table: `bitwise`, `NaN` or noise floors."""
        counts = self.counts.get(kind)
        if not counts:
            return ""
        if set(counts) == {tolerance.BITWISE}:
            return tolerance.BITWISE
        worst = self.worst[kind]
        return "NaN" if worst.nonfinite else f"{worst.floors:,.1f}" if worst.floors < 1e6 else f"{worst.floors:.0e}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
      reference: the mode that the others are compared with.
      modes: all of them, the reference first.
      first_step: number of the first step in the run.
      steps: how many were compared.
      draws: repetitions of each step that its noise was measured with.
      findings: empty where all modes agree.
      arms: how each mode did.
      notes: worth knowing, and no disagreement.
      limit: noise floors up to which a mode agrees.
    """

    reference: str
    modes: tuple[str, ...]
    first_step: int
    steps: int
    draws: int
    findings: tuple[Difference, ...] = ()
    arms: Mapping[str, ModeResult] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    limit: float = tolerance.LIMIT

    @property
    def agrees(self) -> bool:
        """Whether every mode computes what the reference does, up to rounding."""
        return not self.findings

    def times(self) -> list[tuple[str, ...]]:
        """The speed of the modes, for a table with `TIMES` above it: a row for each that was measured."""
        rows: list[tuple[str, ...]] = []
        for mode, result in self.arms.items():
            time = result.time
            if time is None or time.step_ms is None:
                continue
            untimed = mode == self.reference or self.arms[self.reference].time is None
            paid = "" if untimed else "never" if result.break_even_steps is None else "at once"
            rows.append(
                (
                    mode,
                    f"{time.compile_s:.1f}",
                    f"{time.first_step_ms:.1f}",
                    f"{time.step_ms['p50']:.2f}",
                    f"{time.step_ms['p90']:.2f}",
                    f"{time.examples_per_s:,.0f}",
                    "" if time.peak_memory_mb is None else f"{time.peak_memory_mb:,.0f}",
                    str(time.traces),
                    f"{result.break_even_steps:,.0f} steps" if result.break_even_steps else paid,
                )
            )
        return rows

    def __str__(self) -> str:
        others = ", ".join(mode for mode in self.modes if mode != self.reference)
        steps = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        if self.agrees:
            farthest = max((max(result.worst_floors, default=0.0) for result in self.arms.values()), default=0.0)
            lines = [
                f"{others} agree{'' if ',' in others else 's'} with {self.reference} over {steps}, each from the same "
                f"state: at most {farthest:.1f} noise floors apart (limit {self.limit:.0f})"
            ]
        else:
            over = f" over {steps}" if self.steps else ": no step could be compared"
            lines = [f"{others} compared with {self.reference}{over}:", *(f"- {finding}" for finding in self.findings)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """As plain data; infinities and NaNs are texts there."""
        return {"agrees": self.agrees, **_plain(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Location):
        return {**dataclasses.asdict(value), "text": value.text}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    return value
