"""Finds the cause of a difference by leaving things out, one at a time.

First the steps before: what a recipe that has run none computes otherwise has nothing to do with modes. Then float64: what it
leaves is no rounding. What vanishes there is rounding if it begins at an operation that adds up, and differs there by no more
than another order makes; otherwise it is a cancellation that one mode suffers and the other does not. Where float64 cannot be
had, or no operation is found, more draws of noise decide. Then the graph optimizer, oneDNN and XLA are left out.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import tolerance
from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.observation import VariantReport
from modetrain.tools.compare.reference import Reference
from modetrain.tools.compare.runner import Runner
from modetrain.tools.compare.verdict import Verdict

log = logging.getLogger(__name__)

# A maximum or a kink of a ReLU that rounding flips shows in few draws.
_MORE_DRAWS = 20
_STEPS_TO_REPEAT = 5
# How much larger a later difference is, so that its step is looked into as well.
_MUCH_LARGER = 10.0
# Stands for the relative difference of NaNs and infinities, which is infinite.
_NONFINITE_RELATIVE = 1e-6
# A loss that is further off shows that nothing but rounding is left of it, in one mode at least: more than another order.
_MOST_OF_LOSS = 1e-2
_CANCELLING = ("Sub", "Add", "AddV2")
_SHARES = (
    "Each replica computes on its share of the batch and the mean over replicas is taken: what is no mean over examples (a sum, "
    "a maximum, a division by a constant) becomes something else.",
)
_BY_EXAMPLE = "Return one value per example, to minimize() too; do=inspect with the same mode= looks for more."
_OTHER_STEP = "Without graph optimizations it differs as well: the traced step is another one than the eager one."
_EARLIER = "The step is no function of (state, batch): {} gives other numbers in step {} where none was made before."
_REPLICAS_ADD = "In float64 it agrees: several replicas add in an order of their own."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModeVerdicts:
    """Verdicts on all steps of a mode, and why it differs, where it does."""

    verdicts: Sequence[Verdict]
    why: Explanation | None = None

    @property
    def different(self) -> list[Verdict]:
        """The verdicts that stay `DIFFERENT`."""
        return _different(self.verdicts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Float64:
    """Both modes' steps in float64.

    Attributes:
      found: verdicts by step and tensor.
      narrow: by dtype a line of the user's that computes in less all the same.
    """

    found: Mapping[tuple[int, str], Verdict]
    narrow: Mapping[str, Location]

    def distance(self, verdict: Verdict) -> float:
        """How far apart the tensor is that a verdict is on, relative to its magnitude in the verdict's own precision.

        A gradient that is zero but for rounding (of a bias before a batch normalisation) has none of its own in float64.
        """
        one = self.found.get((verdict.step, verdict.tensor))
        if one is None:
            return np.inf
        if not one.absolute or not np.isfinite(verdict.relative):
            return one.relative
        return one.absolute * (verdict.relative / verdict.absolute)

    def agrees(self, verdict: Verdict) -> bool:
        """Whether nothing is left of a difference."""
        relative = _NONFINITE_RELATIVE if verdict.nonfinite else verdict.relative
        return tolerance.vanishes(relative, self.distance(verdict))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """Judges modes by the reference's steps.

    Attributes:
      runner: runs variants again, with something changed.
      reference: its steps.
    """

    runner: Runner
    reference: Reference

    def explain(self, mode: str, report: VariantReport) -> ModeVerdicts:
        """Verdicts on the steps of a mode, those `DIFFERENT` confirmed and explained."""
        verdicts = self._verdicts(mode)
        if not _different(verdicts):
            return ModeVerdicts(verdicts=verdicts)
        if (earlier := self._explain_by_earlier_steps(mode, verdicts)) is not None:
            return ModeVerdicts(verdicts=verdicts, why=earlier)
        log.info(f"  {mode}: differs; trying the same steps in float64")
        wide, dtype = self._in_float64(mode, _steps(verdicts)), None
        if wide is not None and wide.narrow and not all(map(wide.agrees, _different(verdicts))):
            # What is left may be rounding of that line.
            dtype = max(wide.narrow, key=tolerance.epsilon)
            log.info(f"  {mode}: {wide.narrow[dtype].shown} computes in {dtype} all the same")
            wide = None
        if wide is None:
            log.info(f"  {mode}: float64 cannot be had; measuring the noise of {self.reference.name} more closely")
            verdicts = self._with_more_draws(mode, verdicts, dtype)
        left = _different(verdicts)
        if not left:
            return ModeVerdicts(verdicts=verdicts)
        agrees = None if wide is None else all(map(wide.agrees, left))
        # Replicas add in an order of their own, and their steps are not looked into: float64 decides.
        if agrees and self._has_other_replicas(report):
            return ModeVerdicts(verdicts=_as_rounding(verdicts), why=Explanation(sentences=(_REPLICAS_ADD,)))
        verdicts, steps, agrees = _steps_to_explain(verdicts, wide, agrees)
        left = _different(verdicts)
        log.info(f"  {mode}: looking for the first operation that differs")
        for number in steps:
            why = self._explain_step(mode, number, agrees)
            if not why.rounding:
                verdicts = _as_rounding(verdicts, functools.partial(_is_before, number))
                break
        small = all(one.floors <= tolerance.ROUNDING_LIMIT for one in left)
        large = any(one.nonfinite or self._is_loss_far_off(one) for one in left)
        if why.rounding and not large and (agrees or (agrees is None and small)):
            sentences = ("In float64 it agrees.", *why.sentences) if agrees else why.sentences
            return ModeVerdicts(verdicts=_as_rounding(verdicts), why=dataclasses.replace(why, sentences=sentences))
        if agrees and small and why == Explanation(sentences=why.sentences):
            log.info(f"  {mode}: nothing found; measuring the noise of {self.reference.name} more closely")
            verdicts = self._with_more_draws(mode, verdicts)
            if not _different(verdicts):
                return ModeVerdicts(verdicts=verdicts)
        here = [one for one in _different(verdicts) if one.step == _steps(verdicts)[0]]
        return ModeVerdicts(verdicts=verdicts, why=self._blame(mode, report, here, why, agrees))

    def _has_other_replicas(self, report: VariantReport) -> bool:
        return report.effective.get("replicas", 1) != self.reference.report.effective.get("replicas", 1)

    def _is_loss_far_off(self, verdict: Verdict) -> bool:
        is_loss = verdict.kind == "metric" and verdict.tensor in self.reference.report.drift
        return is_loss and verdict.relative > _MOST_OF_LOSS

    def _verdicts(self, mode: str) -> list[Verdict]:
        found = (self.reference.compare(mode, number) for number in range(self.reference.report.steps))
        return [verdict for verdicts in found for verdict in verdicts or ()]

    def _explain_by_earlier_steps(self, mode: str, verdicts: Sequence[Verdict]) -> Explanation | None:
        """Why the reference's own step is another where its recipe has run none before; None where it is the same.

        The last step shows it best: what the first steps keep, and when, does not matter there.
        """
        number, reference = _steps(verdicts)[-1], self.reference
        name = f"{reference.name}@fresh"
        if number == 0:
            return None
        if not reference.store.has(f"{name}/{number}"):
            log.info(f"  {mode}: differs; making step {number + 1} of {reference.name} without those before")
            if self.runner.rerun(reference.name, "fresh", [number]) is None:
                return None
        if not _different(reference.compare(name, number) or ()):
            return None
        sentence = _EARLIER.format(reference.name, number + 1)
        return self._add_tracing(mode, number, Explanation(kind="impure", sentences=(sentence,), blame="python"))

    def _add_tracing(self, mode: str, number: int, why: Explanation) -> Explanation:
        """The explanation at the line that tracing changes, where one is known."""
        found = self.runner.explain_tracing(mode, number)
        if found is None:
            return why
        sentences = (*why.sentences, *found.sentences)
        return dataclasses.replace(why, place=found.place, sentences=sentences, advice=found.advice)

    def _in_float64(self, mode: str, numbers: Sequence[int]) -> _Float64 | None:
        """Both modes in float64; None where that cannot be had."""
        store, narrow = self.reference.store, dict[str, Location]()
        for name in (self.reference.name, mode):
            missing = [number for number in numbers if not store.has(f"{name}@float64/{number}")]
            if missing:
                report = self.runner.rerun(name, "float64", missing)
                if report is None:
                    return None
                narrow |= report.narrow
        wide = {}
        for number in numbers:
            found = self.reference.compare(f"{mode}@float64", number, change="float64", noise={}, dtype="float64")
            if found is None:
                return None
            wide.update({(number, verdict.tensor): verdict for verdict in found})
        return _Float64(found=wide, narrow=narrow)

    def _with_more_draws(self, mode: str, verdicts: list[Verdict], dtype: str | None = None) -> list[Verdict]:
        """The verdicts by noise that is measured with more draws, in the first steps that differ.

        Args:
          mode: which.
          verdicts: on its steps.
          dtype: that a line of the user's computes in; None where all is computed as the models do.
        """
        store, floors = self.reference.store, self.reference.noise
        measured: set[int] = store.get("measured closely", set())
        while (steps := _steps(verdicts)) and steps[0] not in measured:
            wanted = [number for number in steps if number not in measured][:_STEPS_TO_REPEAT]
            for number, found in self.runner.measure_noise(wanted, _MORE_DRAWS, dtype).items():
                for label, floor in found.items():
                    floors[number][label] = max(floors[number].get(label, 0.0), floor)
            measured |= set(wanted)
            store.put("measured closely", measured)
            store.put(f"{self.reference.name}/floors", floors)
            verdicts = self._verdicts(mode)
        return verdicts

    def _explain_step(self, mode: str, number: int, agrees: bool | None) -> Explanation:
        # A difference that float64 leaves stands out there, and rounding does not.
        why = self.runner.explain(mode, number, "float64") if agrees is False else None
        if why is None or (why.op is None and why.place is None):  # what a compiler merges does not show there either
            why = self.runner.explain(mode, number) or why
        return why or Explanation()

    def _blame(
        self, mode: str, report: VariantReport, here: Sequence[Verdict], why: Explanation, agrees: bool | None
    ) -> Explanation:
        """The explanation, with what makes the difference."""
        if why.kind == "random":
            return why
        if why.blame == "tracing":
            return self._add_tracing(mode, here[0].step, why)
        if self._has_other_replicas(report):
            return dataclasses.replace(
                why, blame="replicas", sentences=why.sentences or _SHARES, advice=why.advice or _BY_EXAMPLE
            )
        log.info(f"  {mode}: trying the same step without graph optimizations")
        strict = self._agrees_without(mode, "strict", here)
        blame, more = why.blame, []
        if strict is False:
            blame = "tracing"
            why = self._add_tracing(
                mode, here[0].step, dataclasses.replace(why, sentences=(*why.sentences, _OTHER_STEP))
            )
        elif strict and report.effective.get("compile") == "xla":
            blame = "xla"
            more.append("As a graph without optimizations the step agrees: XLA makes the difference.")
        elif strict:
            blame = "onednn" if self._agrees_without(mode, "onednn", here) else "grappler"
            name = {"onednn": "oneDNN's kernels", "grappler": "TensorFlow's graph optimizer (grappler)"}[blame]
            more.append(f"{name} makes the difference: without it the step agrees (mode.strict=true).")
        if agrees and any(one.nonfinite for one in here):
            more.append("In float64 the modes agree.")
        elif agrees and why.op in _CANCELLING:
            more.append("In float64 the modes agree: it is a cancellation, which one of them computes more exactly.")
        elif agrees:
            more.append("In float64 the modes agree: one of them rounds what the other does not.")
        elif agrees is False:
            more.append("In float64 they differ as well: it is no rounding.")
        return dataclasses.replace(why, sentences=(*why.sentences, *more), blame=blame)

    def _agrees_without(self, mode: str, change: str, here: Sequence[Verdict]) -> bool | None:
        """Whether a step agrees once something is left out, in all that differs with it; None where that cannot be had."""
        number = here[0].step
        if self.runner.rerun(mode, change, [number]) is None:
            return None
        found = self.reference.compare(f"{mode}@{change}", number)
        if found is None:
            return None
        again = {verdict.tensor: verdict for verdict in found}
        # The graph rounds too: what is left is small next to what there was.
        return all(
            again[one.tensor].verdict != tolerance.DIFFERENT or again[one.tensor].relative < 0.1 * one.relative
            for one in here
        )


def _steps_to_explain(
    verdicts: list[Verdict], wide: _Float64 | None, agrees: bool | None
) -> tuple[list[Verdict], list[int], bool | None]:
    """The steps to look into, one after the other until one is explained.

    Returns:
      The verdicts, with `rounding` for what is not looked into; the steps; whether the first of them agrees in float64.
    """
    left = _different(verdicts)
    if wide is not None and not agrees:  # begins with a step in which something is no rounding for sure
        sure = next(one.step for one in left if one.nonfinite or not wide.agrees(one))

        def is_rounding(one: Verdict) -> bool:
            return one.step < sure or tolerance.is_rounding(one.relative, one.floors, wide.distance(one))

        verdicts = _as_rounding(verdicts, is_rounding)
        return verdicts, [sure], all(wide.agrees(one) for one in _different(verdicts) if one.step == sure)
    # What begins small may be rounding where the largest difference is not.
    first, worst = left[0].step, max(left, key=lambda one: one.floors)
    larger = worst.floors > _MUCH_LARGER * max(one.floors for one in left if one.step == first)
    return verdicts, [first, worst.step] if larger else [first], agrees


def _different(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.verdict == tolerance.DIFFERENT]


def _steps(verdicts: Sequence[Verdict]) -> list[int]:
    return sorted({verdict.step for verdict in _different(verdicts)})


def _is_before(number: int, verdict: Verdict) -> bool:
    return verdict.step < number


def _as_rounding(verdicts: Sequence[Verdict], where: Callable[[Verdict], bool] = lambda verdict: True) -> list[Verdict]:
    """The verdicts, with `rounding` for those `DIFFERENT` that meet a condition."""
    return [
        dataclasses.replace(one, verdict=tolerance.ROUNDING)
        if one.verdict == tolerance.DIFFERENT and where(one)
        else one
        for one in verdicts
    ]
