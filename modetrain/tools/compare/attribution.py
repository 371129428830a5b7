"""From a verdict DIFFERENT to a finding, or to rounding: what a difference comes from is found out by leaving things out.

First the steps before: what a new recipe computes otherwise is no matter of modes. Then float64. What it leaves is no rounding.
What vanishes there is rounding if it begins at an operation that adds up, and differs there by no more than another order makes;
else a cancellation that one mode suffers and the other does not. Where float64 cannot be had, or no operation is found, more
draws of noise have to do. Then the graph optimizer, oneDNN and XLA are left out, to see which it was.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import tolerance, verdict
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.observation import ArmReport
from modetrain.tools.compare.runner import Death, Runner
from modetrain.tools.compare.store import before
from modetrain.tools.compare.verdict import Verdict

# A maximum or a kink of a ReLU that rounding flips shows in few draws.
_MORE_DRAWS = 20
_STEPS_TO_REPEAT = 5
# By how much a later step has to be further apart to be looked into as well.
_MUCH_MORE = 10.0
_OF_SHARES = (
    "Each replica computes on its share of the batch and the mean over replicas is taken: what is no mean over examples (a sum, "
    "a maximum, a division by a constant) becomes something else.",
)
# What stands for the relative difference of NaNs and infinities, which is infinite.
_OF_NONFINITE = 1e-6
_OTHER_STEP = "Without graph optimizations it differs as well: the traced step is another one than the eager one."
_OF_EARLIER = "The step is no function of (state, batch): {} gives other numbers in step {} where none was made before."
_CANCEL = ("Sub", "Add", "AddV2")
_OF_REPLICAS = "In float64 it agrees: several replicas add in an order of their own."
_BY_EXAMPLE = "Return one value per example, to minimize() too; do=inspect with the same mode= looks for more."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdicts on all steps of an arm, and why it differs, where it does."""

    verdicts: tuple[Verdict, ...]
    why: Explanation | None = None

    @property
    def different(self) -> list[Verdict]:
        """What is left of differences."""
        return _different(self.verdicts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wide:
    """Both modes' steps in float64.

    Attributes:
      apart: relative distances by step and tensor.
      narrow: a line of the user's that computes in less all the same.
    """

    apart: Mapping[tuple[int, str], float]
    narrow: Location | None

    def relative(self, one: Verdict) -> float:
        """The relative distance of what a verdict is on."""
        return self.apart.get((one.step, one.tensor), np.inf)

    def gone(self, one: Verdict) -> bool:
        """Whether nothing is left of a difference."""
        return tolerance.vanishes(_OF_NONFINITE if one.nonfinite else one.relative, self.relative(one))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Court:
    """Judges arms by the reference's steps.

    Attributes:
      runner: runs arms once more, with something changed.
      lead: what the reference had to tell.
      reference: its name.
      say: told what is under way.
    """

    runner: Runner
    lead: ArmReport
    reference: str
    say: Callable[[str], None]

    def judge(self, mode: str, report: ArmReport) -> Judgement:
        """Verdicts on the steps of an arm, those DIFFERENT confirmed and explained."""
        verdicts = self._verdicts(mode)
        if not _steps(verdicts):
            return Judgement(verdicts=tuple(verdicts))
        if (of_earlier := self._of_earlier_steps(mode, verdicts)) is not None:
            return Judgement(verdicts=tuple(verdicts), why=of_earlier)
        self.say(f"{mode}: differs; trying the same steps in float64")
        wide = self._in_float64(mode, _steps(verdicts))
        if wide is not None and wide.narrow and not all(map(wide.gone, _different(verdicts))):
            # What is left may be rounding of that line.
            self.say(f"{mode}: {wide.narrow.shown} computes in float32 all the same")
            wide = None
        if wide is None:
            self.say(f"{mode}: float64 cannot be had; measuring the noise of {self.reference} more closely")
            verdicts = self._with_more_draws(mode, verdicts)
        left = _different(verdicts)
        if not left:
            return Judgement(verdicts=tuple(verdicts))
        gone = None if wide is None else all(map(wide.gone, left))
        # Replicas add in an order of their own, and their steps are not looked into: float64 has to do.
        if gone and report.effective.get("replicas", 1) != self.lead.effective.get("replicas", 1):
            return Judgement(
                verdicts=tuple(_as_rounding(one) for one in verdicts), why=Explanation(said=(_OF_REPLICAS,))
            )
        looked_at = [left[0].step]
        if wide is not None and not gone:  # begin with a step in which something is no rounding for sure
            sure = next(one.step for one in left if one.nonfinite or not wide.gone(one))
            verdicts = [
                _as_rounding(one)
                if one.step < sure or tolerance.is_rounding(one.relative, one.floors, wide.relative(one))
                else one
                for one in verdicts
            ]
            left = _different(verdicts)
            gone, looked_at = all(wide.gone(one) for one in left if one.step == sure), [sure]
        else:  # what begins small may be rounding where the largest difference is not
            worst = max(left, key=lambda one: one.floors)
            if worst.floors > _MUCH_MORE * max(one.floors for one in left if one.step == left[0].step):
                looked_at.append(worst.step)
        self.say(f"{mode}: looking for the first operation that differs")
        for number in looked_at:
            why = self._why(mode, number, gone)
            if not why.rounding:
                verdicts = [_as_rounding(one) if one.step < number else one for one in verdicts]
                break
        small = all(one.floors <= tolerance.ROUNDING_LIMIT for one in left)
        if why.rounding and not any(one.nonfinite for one in left) and (gone or (gone is None and small)):
            said = ("In float64 it agrees.", *why.said) if gone else why.said
            return Judgement(
                verdicts=tuple(_as_rounding(one) for one in verdicts), why=dataclasses.replace(why, said=said)
            )
        if gone and small and why == Explanation(said=why.said):
            self.say(f"{mode}: nothing found; measuring the noise of {self.reference} more closely")
            verdicts = self._with_more_draws(mode, verdicts)
            if not _steps(verdicts):
                return Judgement(verdicts=tuple(verdicts))
        first = _steps(verdicts)[0]
        here = [one for one in verdicts if one.step == first and one.verdict == tolerance.DIFFERENT]
        return Judgement(verdicts=tuple(verdicts), why=self._blamed(mode, report, here, why, gone))

    def _verdicts(self, mode: str) -> list[Verdict]:
        shelf, found = self.runner.shelf, []
        floors = shelf.get(f"{self.reference}/floors")
        for number in range(self.lead.steps):
            wanted, got = shelf.get(f"{self.reference}/{number}"), shelf.get(f"{mode}/{number}")
            if wanted.error is None and got.error is None:
                start, dtype = before(shelf, self.reference, number), self.lead.compute_dtype
                found += verdict.step(number, start, wanted, got, self.lead.layout, floors.get(number, {}), dtype)
        return found

    def _of_earlier_steps(self, mode: str, verdicts: Sequence[Verdict]) -> Explanation | None:
        """Why the reference's own step is another where its recipe has made none before; None where it is the same.

        The last step is the one to see it in: nothing has to be kept from the first on, and that may differ by rounding alone.
        """
        number = _steps(verdicts)[-1]
        shelf, name = self.runner.shelf, f"{self.reference}@again"
        if number == 0:
            return None
        if not shelf.has(f"{name}/{number}"):
            self.say(f"{mode}: differs; making step {number + 1} of {self.reference} without those before")
            report = self.runner.variant(self.reference, "again", [number])
            if not isinstance(report, ArmReport) or report.error is not None:
                return None
        wanted, got = shelf.get(f"{self.reference}/{number}"), shelf.get(f"{name}/{number}")
        floors = shelf.get(f"{self.reference}/floors").get(number, {})
        start, layout, dtype = before(shelf, self.reference, number), self.lead.layout, self.lead.compute_dtype
        if got.error is not None or not _different(verdict.step(number, start, wanted, got, layout, floors, dtype)):
            return None
        why = Explanation(kind="impure", said=(_OF_EARLIER.format(self.reference, number + 1),), blame="python")
        return self._with_tracing(mode, number, why)

    def _with_tracing(self, mode: str, number: int, why: Explanation) -> Explanation:
        """The explanation at the line that tracing changes, where one is known."""
        told = self.runner.tracing(mode, number)
        if told is None:
            return why
        return dataclasses.replace(why, place=told.place, said=(*why.said, *told.said), advice=told.advice)

    def _in_float64(self, mode: str, numbers: Sequence[int]) -> _Wide | None:
        """Both modes in float64; None where that cannot be had."""
        shelf, found, narrow = self.runner.shelf, {}, None
        for name in (self.reference, mode):
            missing = [number for number in numbers if not shelf.has(f"{name}@float64/{number}")]
            report = self.runner.variant(name, "float64", missing) if missing else None
            if missing and (not isinstance(report, ArmReport) or report.error is not None):
                return None
            narrow = report.narrow if isinstance(report, ArmReport) and report.narrow else narrow
        for number in numbers:
            wanted, got = (shelf.get(f"{name}@float64/{number}") for name in (self.reference, mode))
            if wanted.error is not None or got.error is not None:
                return None
            start = before(shelf, self.reference, number)
            for one in verdict.step(number, start, wanted, got, self.lead.layout, {}, "float64"):
                found[number, one.tensor] = one.relative
        return _Wide(apart=found, narrow=narrow)

    def _with_more_draws(self, mode: str, verdicts: list[Verdict]) -> list[Verdict]:
        shelf = self.runner.shelf
        floors = shelf.get(f"{self.reference}/floors")
        measured: set[int] = shelf.get("measured closely") if shelf.has("measured closely") else set()
        while (steps := _steps(verdicts)) and steps[0] not in measured:
            wanted = [number for number in steps if number not in measured][:_STEPS_TO_REPEAT]
            more = self.runner.floors(wanted, _MORE_DRAWS)
            for number, found in ({} if isinstance(more, Death) else more).items():
                for label, floor in found.items():
                    floors[number][label] = max(floors[number].get(label, 0.0), floor)
            measured |= set(wanted)
            shelf.put("measured closely", measured)
            shelf.put(f"{self.reference}/floors", floors)
            verdicts = self._verdicts(mode)
        return verdicts

    def _why(self, mode: str, number: int, gone: bool | None) -> Explanation:
        # A difference that float64 leaves stands out there, and rounding does not.
        why = self.runner.explain(mode, number, "float64") if gone is False else None
        if why is None or (why.op is None and why.place is None):  # nor does what is merged only show there
            why = self.runner.explain(mode, number) or why
        return why or Explanation()

    def _blamed(
        self, mode: str, report: ArmReport, here: Sequence[Verdict], why: Explanation, gone: bool | None
    ) -> Explanation:
        """The explanation, with what makes the difference found out by leaving things out."""
        if why.kind == "random":
            return why
        if why.blame == "tracing":
            return self._with_tracing(mode, here[0].step, why)
        if report.effective.get("replicas", 1) != self.lead.effective.get("replicas", 1):
            return dataclasses.replace(
                why, blame="replicas", said=why.said or _OF_SHARES, advice=why.advice or _BY_EXAMPLE
            )
        self.say(f"{mode}: trying the same step without graph optimizations")
        said, blame = list(why.said), why.blame
        strict = self._agrees_without(mode, "strict", here)
        if strict is False:
            why = self._with_tracing(mode, here[0].step, dataclasses.replace(why, said=(*said, _OTHER_STEP)))
            said, blame = list(why.said), "tracing"
        elif strict and report.effective.get("compile") == "xla":
            blame = "xla"
            said.append("As a graph without optimizations the step agrees: XLA makes the difference.")
        elif strict:
            blame = "onednn" if self._agrees_without(mode, "onednn", here) else "grappler"
            name = {"onednn": "oneDNN's kernels", "grappler": "TensorFlow's graph optimizer (grappler)"}[blame]
            said.append(f"{name} makes the difference: without it the step agrees (mode.strict=true).")
        if gone and any(one.nonfinite for one in here):
            said.append("In float64 the modes agree.")
        elif gone and why.op in _CANCEL:
            said.append("In float64 the modes agree: it is a cancellation, which one of them computes more exactly.")
        elif gone:
            said.append("In float64 the modes agree: one of them rounds what the other does not.")
        elif gone is False:
            said.append("In float64 they differ as well: it is no rounding.")
        return dataclasses.replace(why, said=tuple(said), blame=blame)

    def _agrees_without(self, mode: str, change: str, here: Sequence[Verdict]) -> bool | None:
        """Whether a step agrees once something is left out, in all that differs with it; None where that cannot be had."""
        shelf, number = self.runner.shelf, here[0].step
        report = self.runner.variant(mode, change, [number])
        if not isinstance(report, ArmReport) or report.error is not None:
            return None
        wanted, got = shelf.get(f"{self.reference}/{number}"), shelf.get(f"{mode}@{change}/{number}")
        if got.error is not None:
            return None
        start, floors = before(shelf, self.reference, number), shelf.get(f"{self.reference}/floors")[number]
        again = {
            one.tensor: one
            for one in verdict.step(number, start, wanted, got, self.lead.layout, floors, self.lead.compute_dtype)
        }
        # The graph rounds too: what is left has to be small next to what there was.
        return all(
            again[one.tensor].verdict != tolerance.DIFFERENT or again[one.tensor].relative < 0.1 * one.relative
            for one in here
        )


def _different(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [one for one in verdicts if one.verdict == tolerance.DIFFERENT]


def _steps(verdicts: Sequence[Verdict]) -> list[int]:
    return sorted({one.step for one in _different(verdicts)})


def _as_rounding(one: Verdict) -> Verdict:
    if one.verdict != tolerance.DIFFERENT:
        return one
    return dataclasses.replace(one, verdict=tolerance.ROUNDING)
