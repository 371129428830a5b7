"""The course of a comparison: the reference's steps, every other mode's, a verdict on each, and the cause of differences.

Who runs the arms is a `Runner`'s business: processes of their own from the command line, this process in the library.
Imports no TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from modetrain.tools.compare import diagnosis, tolerance
from modetrain.tools.compare.attribution import Court
from modetrain.tools.compare.comparison import ArmResult, Comparison, Finding
from modetrain.tools.compare.observation import ArmReport, Impure, Seen, StepError, Times, quantities
from modetrain.tools.compare.runner import Death, Runner
from modetrain.tools.compare.store import before
from modetrain.tools.compare.verdict import Verdict

_WORST_FIRST = (tolerance.DIFFERENT, tolerance.ROUNDING, tolerance.WITHIN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arm:
    result: ArmResult
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    alike: bool = False  # fails where the reference does, with the same error


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
    notes = [f"{reference}: {note}" for note in lead.notes] + course.not_finite()
    if impure:
        say(f"{reference}: the same step gave other numbers; looking for the cause")
        why = runner.explain(reference, impure[0].step)
        findings.extend(diagnosis.impure(reference, others, impure, first_step, why))
    arms = {reference: course.reference_result()}
    raised = course.raised()
    if raised is not None:
        number, error = raised
        notes.append(f"{reference} raises in step {first_step + number + 1}: {error}" + _at(error))
    alike: list[str] = []
    for mode in others:
        say(f"{mode}: the same steps from the same states")
        arm = course.arm(mode, comparable=not impure, say=say)
        arms[mode] = arm.result
        findings.extend(arm.findings)
        notes.extend(arm.notes)
        alike += [mode] if arm.alike else []
    # A mode that goes on where the reference cannot is told with the reference's error.
    if course.compared == 0 and raised is not None and not any(one.step is not None for one in findings):
        findings.insert(0, diagnosis.fails(reference, others, alike, first_step + 1, raised[1]))
    return dataclasses.replace(
        empty, steps=course.compared, findings=tuple(findings), arms=arms, notes=tuple(dict.fromkeys(notes))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Course:
    """What is known once the reference has run."""

    runner: Runner
    lead: ArmReport
    reference: str
    first_step: int

    def raised(self) -> tuple[int, StepError] | None:
        last: Seen = self.runner.shelf.get(f"{self.reference}/{self.lead.steps - 1}")
        return None if last.error is None else (self.lead.steps - 1, last.error)

    @property
    def compared(self) -> int:
        """Steps that the reference could make."""
        return self.lead.steps - (self.raised() is not None)

    def not_finite(self) -> list[str]:
        """A note where the reference's own metrics or gradients are NaN or infinite, in which other modes may follow it."""
        shelf = self.runner.shelf
        for number in range(self.compared):
            seen: Seen = shelf.get(f"{self.reference}/{number}")
            found = quantities(before(shelf, self.reference, number), seen, self.lead.layout)
            names = [
                label
                for label, one in found.items()
                if one.kind in ("metric", "gradient") and not np.isfinite(one.value).all()
            ]
            if names:
                step = self.first_step + number + 1
                return [f"{self.reference}: not finite itself in step {step}: {diagnosis.listed(names)}"]
        return []

    def reference_result(self) -> ArmResult:
        return ArmResult(
            verdict="reference" if self.compared else "failed",
            effective=self.lead.effective,
            losses=self._losses(self.reference),
            drift=self.lead.drift,
            distance=self.lead.distance,
            time=self.lead.time,
            break_even_steps=None,
        )

    def arm(self, mode: str, *, comparable: bool, say: Callable[[str], None]) -> _Arm:
        report = self.runner.follow(mode)
        if isinstance(report, Death):
            return _Arm(result=ArmResult(verdict="failed"), findings=(crashed(mode, report),))
        notes = tuple(f"{mode}: {note}" for note in report.notes)
        if report.error is not None:
            return self._not_built(mode, report, notes)
        if not comparable:
            return _Arm(result=self._result(mode, report, (), verdict="not comparable"), notes=notes)
        findings = []
        errors, alike = self._errors(mode)
        court = Court(runner=self.runner, lead=self.lead, reference=self.reference, say=say)
        judged = court.judge(mode, report)
        if errors is not None:
            findings.append(errors)
        if judged.different:
            findings.append(diagnosis.different(mode, judged.different, self.first_step, judged.why))
        rounded = [one for one in judged.verdicts if one.verdict == tolerance.ROUNDING]
        if rounded and not judged.different:
            worst = max(rounded, key=lambda one: one.relative)
            notes += (_rounded(mode, worst, self.first_step, judged.why.said if judged.why else ()),)
        seen = {one.verdict for one in judged.verdicts} | ({tolerance.DIFFERENT} if errors else set())
        nothing = tolerance.BITWISE if judged.verdicts else "failed"
        verdict = next((name for name in _WORST_FIRST if name in seen), nothing)
        return _Arm(
            result=self._result(mode, report, judged.verdicts, verdict=verdict),
            findings=tuple(findings),
            notes=notes,
            alike=alike,
        )

    def _not_built(self, mode: str, report: ArmReport, notes: tuple[str, ...]) -> _Arm:
        raised = self.raised()
        result = ArmResult(verdict="failed", effective=report.effective)
        assert report.error is not None
        if raised is not None and raised[0] == 0:
            # A compiler's error has the type, and the line, of what the operation itself would raise.
            if raised[1].place == report.error.place and str(raised[1]) == str(report.error):
                return _Arm(result=result, notes=notes, alike=True)
            return _Arm(
                result=result,
                findings=(diagnosis.not_built(mode, self.reference, report.error, also_fails=True),),
                notes=notes,
            )
        return _Arm(result=result, findings=(diagnosis.not_built(mode, self.reference, report.error),), notes=notes)

    def _errors(self, mode: str) -> tuple[Finding | None, bool]:
        """A step that raises in one of the two modes only, or otherwise; and whether one raises alike in both."""
        for number in range(self.lead.steps):
            wanted: StepError | None = self.runner.shelf.get(f"{self.reference}/{number}").error
            found: StepError | None = self.runner.shelf.get(f"{mode}/{number}").error
            if wanted is not None and found is not None and wanted.type == found.type and wanted.place == found.place:
                return None, True
            if wanted is not None or found is not None:
                return diagnosis.raises(mode, self.reference, self.first_step + number + 1, wanted, found), False
        return None, False

    def _result(self, mode: str, report: ArmReport, verdicts: Sequence[Verdict], *, verdict: str) -> ArmResult:
        counts: dict[str, collections.Counter[str]] = {}
        worst: dict[str, Verdict] = {}
        by_step = dict.fromkeys(range(self.lead.steps), 0.0)
        for one in verdicts:
            counts.setdefault(one.kind, collections.Counter())[one.verdict] += 1
            if one.kind not in worst or one.floors > worst[one.kind].floors:
                worst[one.kind] = one
            by_step[one.step] = max(by_step[one.step], one.floors)
        return ArmResult(
            verdict=verdict,
            effective=report.effective,
            counts={kind: dict(count) for kind, count in counts.items()},
            worst=worst,
            worst_floors=tuple(by_step.values()) if verdicts else (),
            first_difference=next((one for one in verdicts if one.verdict != tolerance.BITWISE), None),
            losses=self._losses(mode),
            drift=report.drift,
            distance=report.distance,
            time=report.time,
            break_even_steps=break_even(report.time, self.lead.time),
        )

    def _losses(self, mode: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for number in range(self.lead.steps):
            metrics = self.runner.shelf.get(f"{mode}/{number}").metrics
            for name in self.lead.drift:
                if name in metrics:
                    found.setdefault(name, []).append(metrics[name])
        return found


def break_even(arm: Times | None, reference: Times | None) -> float | None:
    """Steps after which an arm with its compiling has taken less time than the reference; None where it never will."""
    if arm is None or reference is None or arm.step_ms is None or reference.step_ms is None:
        return None
    owed, saved = arm.compile_s - reference.compile_s, reference.step_ms["p50"] - arm.step_ms["p50"]
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


def _rounded(mode: str, one: Verdict, first_step: int, why: Sequence[str]) -> str:
    apart = (
        f"by up to {one.floors:,.0f} times what noise does ({one.tensor} in step {first_step + one.step + 1}, relative"
    )
    return " ".join([f"{mode}: rounds otherwise, {apart} {one.relative:.0e}).", *why])


def _at(error: StepError) -> str:
    return f" ({error.place})" if error.place else ""
