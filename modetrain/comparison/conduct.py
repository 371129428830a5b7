"""The course of a comparison: the reference's steps, every other mode's, a verdict on each, and the cause of differences.

Who runs the arms is a `Runner`'s business: processes of their own from the command line, this process in the library.
Imports no TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from modetrain.comparison import cause, judge, tolerance
from modetrain.comparison.findings import ArmResult, Comparison, Finding
from modetrain.comparison.judge import Verdict
from modetrain.comparison.place import Place
from modetrain.comparison.seen import ArmReport, Impure, Seen, Speed
from modetrain.comparison.shelf import Shelf, before

# Before a difference is reported, the noise of its steps is measured with so many more draws: a maximum or a kink of a ReLU
# that rounding flips shows in few of them.
_MORE_DRAWS = 20
_STEPS_TO_CONFIRM = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Death:
    """A process that died before it had done its job.

    Attributes:
      how: `SIGSEGV`, or `exit code 3`.
      phase: what it was doing.
      tail: what it printed last.
      place: the user's line that it was in.
    """

    how: str
    phase: str
    tail: str = ""
    place: Place | None = None


class Runner(Protocol):
    """Runs arms; what they find is on the shelf."""

    shelf: Shelf

    def lead(self, mode: str) -> ArmReport | Death:
        """The reference's part."""
        ...

    def follow(self, mode: str) -> ArmReport | Death:
        """Another mode's part."""
        ...

    def floors(self, numbers: Sequence[int], draws: int) -> dict[int, dict[str, float]] | Death:
        """The noise of some steps by more draws."""
        ...

    def variant(self, mode: str, change: str, numbers: Sequence[int]) -> ArmReport | Death | None:
        """Some steps of a mode with something changed (`float64`, `strict`, `onednn`), on the shelf as `<mode>@<change>`.

        None where that cannot be had.
        """
        ...

    def explain(self, mode: str, number: int) -> cause.Explanation | None:
        """Why a step differs; None where that cannot be said."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arm:
    result: ArmResult
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def conduct(
    runner: Runner, modes: Sequence[str], *, steps: int, first_step: int, draws: int, say: Callable[[str], None]
) -> Comparison:
    """Compares the modes with the first of them.

    Args:
      runner: runs arms.
      modes: the reference first.
      steps: how many.
      first_step: number of the first one in the run.
      draws: repetitions of each step that its noise is measured with.
      say: told what is under way.
    """
    reference, *others = modes
    shelf = runner.shelf
    empty = Comparison(reference=reference, modes=tuple(modes), first_step=first_step, steps=0, draws=draws)
    say(f"{reference}: {steps} steps, each again, and again with rounding noise")
    lead = runner.lead(reference)
    if isinstance(lead, Death):
        failed = {reference: ArmResult(verdict="failed")}
        return dataclasses.replace(empty, findings=(crashed(reference, lead),), arms=failed)
    course = _Course(runner=runner, lead=lead, reference=reference, first_step=first_step)
    impure: list[Impure] = shelf.get(f"{reference}/impure") if shelf.has(f"{reference}/impure") else []
    findings: list[Finding] = []
    notes = [f"{reference}: {note}" for note in lead.notes]
    if impure:
        say(f"{reference}: the same step gave other numbers; looking for the cause")
        why = runner.explain(reference, impure[0].step)
        findings.extend(cause.impure(reference, others, impure, first_step, why))
    arms = {reference: course.reference_result()}
    raised = course.raised()
    if raised is not None:
        number, error = raised
        notes.append(f"{reference} raises in step {first_step + number + 1}: {error}" + _at(error))
    for mode in others:
        say(f"{mode}: the same steps from the same states")
        arm = course.arm(mode, comparable=not impure, say=say)
        arms[mode] = arm.result
        findings.extend(arm.findings)
        notes.extend(arm.notes)
    return dataclasses.replace(
        empty, steps=lead.steps, findings=tuple(findings), arms=arms, notes=tuple(dict.fromkeys(notes))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Course:
    """What is known once the reference has run."""

    runner: Runner
    lead: ArmReport
    reference: str
    first_step: int

    def raised(self):
        last: Seen = self.runner.shelf.get(f"{self.reference}/{self.lead.steps - 1}")
        return None if last.error is None else (self.lead.steps - 1, last.error)

    def reference_result(self) -> ArmResult:
        return ArmResult(
            verdict="reference",
            effective=self.lead.effective,
            losses=self._losses(self.reference),
            drift=self.lead.drift,
            distance=self.lead.distance,
            speed=self.lead.speed,
            break_even_steps=None,
        )

    def arm(self, mode: str, *, comparable: bool, say: Callable[[str], None]) -> _Arm:
        report = self.runner.follow(mode)
        if isinstance(report, Death):
            return _Arm(result=ArmResult(verdict="failed"), findings=(crashed(mode, report),))
        notes = tuple(f"{mode}: {note}" for note in report.notes)
        if report.error is not None:
            return self._not_built(mode, report, notes)
        findings: list[Finding] = []
        errors = self._errors(mode)
        if comparable and errors is not None:
            findings.append(errors)
        verdicts = self._confirmed(mode, say) if comparable else []
        different = [one for one in verdicts if one.verdict == tolerance.DIFFERENT]
        if different:
            say(f"{mode}: looking for the first operation that differs")
            step = min(one.step for one in different)
            why = self._blamed(mode, report, [one for one in different if one.step == step], say)
            findings.append(cause.different(mode, different, self.first_step, why))
        result = self._result(mode, report, verdicts, comparable=comparable, failed=errors is not None)
        return _Arm(result=result, findings=tuple(findings), notes=notes)

    def _blamed(
        self, mode: str, report: ArmReport, here: Sequence[Verdict], say: Callable[[str], None]
    ) -> cause.Explanation:
        """The explanation of a step that differs, with what makes the difference found out by leaving things out."""
        why = self.runner.explain(mode, here[0].step) or cause.Explanation()
        if why.kind == "random" or why.blame == "tracing":
            return why
        if report.effective.get("replicas", 1) != self.lead.effective.get("replicas", 1):
            return dataclasses.replace(why, blame="replicas")
        say(f"{mode}: trying the same step without graph optimizations, and in float64")
        said, blame, number = list(why.said), why.blame, here[0].step
        wide = {one.tensor: one.relative for one in self._pairs(mode, "float64", [number])}
        strict = self._agrees_without(mode, "strict", here)
        if strict is False:
            blame = "tracing"
            said.append(
                "Without graph optimizations it differs as well: the traced step is another one than the eager one."
            )
        elif strict and report.effective.get("compile") == "xla":
            blame = "xla"
            said.append("As a graph without optimizations the step agrees: XLA makes the difference.")
        elif strict:
            blame = "onednn" if self._agrees_without(mode, "onednn", here) else "grappler"
            name = {"onednn": "oneDNN's kernels", "grappler": "TensorFlow's graph optimizer (grappler)"}[blame]
            said.append(f"{name} makes the difference: without it the step agrees (mode.strict=true).")
        if wide:
            gone = all(wide.get(one.tensor, np.inf) <= 1e-4 * one.relative for one in here)
            said.append(
                "In float64 the modes agree: it is a cancellation, which one of them computes more exactly."
                if gone
                else "In float64 they differ as well: it is no rounding."
            )
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
        again = judge.step(number, start, wanted, got, self.lead.layout, floors, self.lead.compute_dtype)
        names = {one.tensor for one in here}
        return all(one.verdict != tolerance.DIFFERENT for one in again if one.tensor in names)

    def _not_built(self, mode: str, report: ArmReport, notes: tuple[str, ...]) -> _Arm:
        raised = self.raised()
        result = ArmResult(verdict="failed", effective=report.effective)
        assert report.error is not None
        if raised is not None and raised[0] == 0 and raised[1].type == report.error.type:
            return _Arm(result=dataclasses.replace(result, verdict=tolerance.BITWISE), notes=notes)
        return _Arm(result=result, findings=(cause.not_built(mode, self.reference, report.error),), notes=notes)

    def _errors(self, mode: str) -> Finding | None:
        """A step that raises in one of the two modes only."""
        for number in range(self.lead.steps):
            wanted: Seen = self.runner.shelf.get(f"{self.reference}/{number}")
            found: Seen = self.runner.shelf.get(f"{mode}/{number}")
            if (wanted.error is None) != (found.error is None):
                return cause.raises(mode, self.reference, self.first_step + number + 1, wanted.error, found.error)
        return None

    def _verdicts(self, mode: str, floors: dict[int, dict[str, float]]) -> list[Verdict]:
        shelf, found = self.runner.shelf, []
        for number in range(self.lead.steps):
            wanted, got = shelf.get(f"{self.reference}/{number}"), shelf.get(f"{mode}/{number}")
            if wanted.error is None and got.error is None:
                start = before(shelf, self.reference, number)
                dtype = self.lead.compute_dtype
                found += judge.step(number, start, wanted, got, self.lead.layout, floors.get(number, {}), dtype)
        return found

    def _confirmed(self, mode: str, say: Callable[[str], None]) -> list[Verdict]:
        """Verdicts, of which differences have been measured against more of the reference's noise."""
        shelf = self.runner.shelf
        floors: dict[int, dict[str, float]] = shelf.get(f"{self.reference}/floors")
        confirmed: set[int] = shelf.get("confirmed") if shelf.has("confirmed") else set()
        while True:
            verdicts = self._without_rounding(mode, self._verdicts(mode, floors), say)
            differing = _differing(verdicts)
            if not differing or differing[0] in confirmed:
                return verdicts
            wanted = [number for number in differing if number not in confirmed][:_STEPS_TO_CONFIRM]
            say(f"{mode}: differs; measuring the noise of {self.reference} more closely to be sure")
            more = self.runner.floors(wanted, _MORE_DRAWS)
            for number, found in ({} if isinstance(more, Death) else more).items():
                for label, floor in found.items():
                    floors[number][label] = max(floors[number].get(label, 0.0), floor)
            confirmed |= set(wanted)
            shelf.put("confirmed", confirmed)
            shelf.put(f"{self.reference}/floors", floors)

    def _without_rounding(self, mode: str, verdicts: list[Verdict], say: Callable[[str], None]) -> list[Verdict]:
        """The verdicts, of which those that float64 makes disappear are called rounding."""
        numbers = [number for number in _differing(verdicts) if _may_be_rounding(verdicts, number)]
        if not numbers:
            return verdicts
        if not self.runner.shelf.has(f"{mode}@float64/{numbers[0]}"):
            say(f"{mode}: differs a little; trying the same steps in float64")
        relative: dict[tuple[int, str], float] = {}
        for one in self._pairs(mode, "float64", numbers):
            relative[one.step, one.tensor] = one.relative

        def seen_again(one: Verdict) -> Verdict:
            wide = relative.get((one.step, one.tensor), np.inf)
            if one.verdict == tolerance.DIFFERENT and tolerance.is_rounding(one.relative, one.floors, wide):
                return dataclasses.replace(one, verdict=tolerance.ROUNDING)
            return one

        return [seen_again(one) for one in verdicts]

    def _pairs(self, mode: str, change: str, numbers: Sequence[int]) -> list[Verdict]:
        """Verdicts on a mode next to the reference, both with something changed; empty where that cannot be had."""
        shelf, found = self.runner.shelf, []
        for name in (self.reference, mode):
            kept = f"{name}@{change}"
            missing = [number for number in numbers if not shelf.has(f"{kept}/{number}")]
            report = self.runner.variant(name, change, missing) if missing else None
            if missing and (not isinstance(report, ArmReport) or report.error is not None):
                return []
        for number in numbers:
            wanted, got = (shelf.get(f"{name}@{change}/{number}") for name in (self.reference, mode))
            if wanted.error is None and got.error is None:
                start = before(shelf, self.reference, number)
                found += judge.step(number, start, wanted, got, self.lead.layout, {}, "float64")
        return found

    def _result(
        self, mode: str, report: ArmReport, verdicts: Sequence[Verdict], *, comparable: bool, failed: bool
    ) -> ArmResult:
        counts: dict[str, collections.Counter[str]] = {}
        worst: dict[str, Verdict] = {}
        by_step = dict.fromkeys(range(self.lead.steps), 0.0)
        for one in verdicts:
            counts.setdefault(one.kind, collections.Counter())[one.verdict] += 1
            if one.kind not in worst or one.floors > worst[one.kind].floors:
                worst[one.kind] = one
            by_step[one.step] = max(by_step[one.step], one.floors)
        order = (tolerance.DIFFERENT, tolerance.ROUNDING, tolerance.WITHIN, tolerance.BITWISE)
        seen = {one.verdict for one in verdicts}
        verdict = next((name for name in order if name in seen), tolerance.BITWISE)
        if failed:
            verdict = tolerance.DIFFERENT
        return ArmResult(
            verdict=verdict if comparable else "not comparable",
            effective=report.effective,
            counts={kind: dict(count) for kind, count in counts.items()},
            worst=worst,
            worst_floors=tuple(by_step.values()) if comparable else (),
            first_difference=next((one for one in verdicts if one.verdict != tolerance.BITWISE), None),
            losses=self._losses(mode),
            drift=report.drift,
            distance=report.distance,
            speed=report.speed,
            break_even_steps=break_even(report.speed, self.lead.speed),
        )

    def _losses(self, mode: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for number in range(self.lead.steps):
            metrics = self.runner.shelf.get(f"{mode}/{number}").metrics
            for name in self.lead.drift:
                if name in metrics:
                    found.setdefault(name, []).append(metrics[name])
        return found


def _differing(verdicts: Sequence[Verdict]) -> list[int]:
    return sorted({one.step for one in verdicts if one.verdict == tolerance.DIFFERENT})


def _may_be_rounding(verdicts: Sequence[Verdict], number: int) -> bool:
    here = [one for one in verdicts if one.step == number and one.verdict == tolerance.DIFFERENT]
    return all(one.floors <= tolerance.ROUNDING_LIMIT for one in here)


def break_even(speed: Speed | None, reference: Speed | None) -> float | None:
    """Steps after which an arm with its compiling has taken less time than the reference; None where it never will."""
    if speed is None or reference is None or speed.step_ms is None or reference.step_ms is None:
        return None
    owed, saved = speed.compile_s - reference.compile_s, reference.step_ms["p50"] - speed.step_ms["p50"]
    if owed <= 0:
        return 0.0 if saved >= 0 else None
    return owed * 1e3 / saved if saved > 0 else None


def crashed(mode: str, death: Death) -> Finding:
    """The finding that a process died."""
    message = f"the process died ({death.how}) during: {death.phase}."
    if death.place:
        message += f" It was at {death.place}."
    elif death.tail:
        message += f" It said last: {death.tail}"
    return Finding(mode=mode, kind="crash", message=message, place=death.place)


def _at(error) -> str:
    return f" ({error.place})" if error.place else ""
