"""The course of a comparison: the reference's steps, those of every other mode, a verdict on each, and the causes.

A `Runner` runs the variants, in processes of their own or in this one. Imports no TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from modetrain.tools.compare import diagnosis, tolerance
from modetrain.tools.compare.attribution import Attribution
from modetrain.tools.compare.comparison import Comparison, Difference, ModeResult
from modetrain.tools.compare.observation import ImpureStep, ProcessDeath, StepError, Times, VariantReport, quantities
from modetrain.tools.compare.reference import Reference
from modetrain.tools.compare.runner import Runner
from modetrain.tools.compare.verdict import Verdict

log = logging.getLogger(__name__)

_WORST_FIRST = (tolerance.DIFFERENT, tolerance.ROUNDING, tolerance.WITHIN)
_FAILED = ModeResult(verdict="failed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What came of one mode; `fails_alike` is whether it raises the reference's error where the reference does."""

    result: ModeResult
    findings: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    fails_alike: bool = False


def run_comparison(runner: Runner, modes: Sequence[str], *, steps: int, first_step: int, draws: int) -> Comparison:
    """Compares the modes with the first of them.

    Args:
      runner: runs variants.
      modes: the reference first.
      steps: how many.
      first_step: number of the first one in the run.
      draws: repetitions of each step that measure its noise.
    """
    name, *others = modes
    empty = Comparison(reference=name, modes=tuple(modes), first_step=first_step, steps=0, draws=draws)
    log.info(f"  {name}: {steps} steps, each again, and again with rounding noise")
    report = runner.run_reference(draws)
    if isinstance(report, ProcessDeath):
        return dataclasses.replace(empty, findings=(diagnosis.crash(name, report),), arms={name: _FAILED})
    reference = Reference(name=name, store=runner.store, report=report)
    comparer = _Comparer(runner=runner, reference=reference, first_step=first_step)
    findings: list[Difference] = []
    notes = [f"{name}: {note}" for note in report.notes] + comparer.notes_on_nonfinite()
    impure: list[ImpureStep] = runner.store.get(f"{name}/impure", [])
    if impure:
        log.info(f"  {name}: the same step gave other numbers; looking for the cause")
        why = runner.explain(name, impure[0].step)
        findings += diagnosis.impure(name, others, impure, first_step, why)
    results = {name: comparer.reference_result()}
    raised = comparer.raised()
    if raised is not None:
        number, error = raised
        where = f" ({error.place})" if error.place else ""
        notes.append(f"{name} raises in step {first_step + number + 1}: {error}{where}")
    alike: list[str] = []
    for mode in others:
        log.info(f"  {mode}: the same steps from the same states")
        outcome = comparer.run_mode(mode, comparable=not impure)
        results[mode] = outcome.result
        findings += outcome.findings
        notes += outcome.notes
        alike += [mode] if outcome.fails_alike else []
    # A mode that goes on where the reference cannot is reported with the reference's error.
    if comparer.compared == 0 and raised is not None and not any(finding.step is not None for finding in findings):
        findings.insert(0, diagnosis.fails(name, others, alike, first_step + 1, raised[1]))
    return dataclasses.replace(
        empty, steps=comparer.compared, findings=tuple(findings), arms=results, notes=tuple(dict.fromkeys(notes))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Comparer:
    """A comparison whose reference has run."""

    runner: Runner
    reference: Reference
    first_step: int

    def raised(self) -> tuple[int, StepError] | None:
        """The step in which the reference raises, and what."""
        last = self.reference.report.steps - 1
        error = self.reference.observation(last).error
        return None if error is None else (last, error)

    @property
    def compared(self) -> int:
        """How many steps the reference could make."""
        return self.reference.report.steps - (self.raised() is not None)

    def notes_on_nonfinite(self) -> list[str]:
        """A note where the reference's own metrics or gradients are NaN or infinite; other modes may have the same."""
        for number in range(self.compared):
            before, layout = self.reference.state_before(number), self.reference.report.layout
            found = quantities(before, self.reference.observation(number), layout)
            names = [
                label
                for label, quantity in found.items()
                if quantity.kind in ("metric", "gradient") and not np.isfinite(quantity.value).all()
            ]
            if names:
                step = self.first_step + number + 1
                return [f"{self.reference.name}: not finite itself in step {step}: {diagnosis.list_names(names)}"]
        return []

    def reference_result(self) -> ModeResult:
        report = self.reference.report
        return ModeResult(
            verdict="reference" if self.compared else "failed",
            effective=report.effective,
            losses=self._losses(self.reference.name),
            drift=report.drift,
            distance=report.distance,
            time=report.time,
        )

    def run_mode(self, mode: str, *, comparable: bool) -> _Outcome:
        """Runs a mode, judges its steps and looks for the cause of differences."""
        report = self.runner.run_mode(mode)
        if isinstance(report, ProcessDeath):
            return _Outcome(result=_FAILED, findings=(diagnosis.crash(mode, report),))
        notes = tuple(f"{mode}: {note}" for note in report.notes)
        if report.error is not None:
            return self._not_built(mode, report, report.error, notes)
        if not comparable:
            return _Outcome(result=self._result(mode, report, (), verdict="not comparable"), notes=notes)
        error, alike = self._errors(mode)
        found = Attribution(runner=self.runner, reference=self.reference).explain(mode, report)
        findings = [error] if error is not None else []
        if found.different:
            findings.append(diagnosis.different(mode, found.different, self.first_step, found.why))
        rounded = [verdict for verdict in found.verdicts if verdict.verdict == tolerance.ROUNDING]
        if rounded and not found.different:
            worst = max(rounded, key=lambda verdict: verdict.relative)
            sentences = found.why.sentences if found.why else ()
            notes += (diagnosis.note_on_rounding(mode, worst, self.first_step, sentences),)
        kinds = {verdict.verdict for verdict in found.verdicts} | ({tolerance.DIFFERENT} if error else set())
        best = tolerance.BITWISE if found.verdicts else "failed"
        verdict = next((kind for kind in _WORST_FIRST if kind in kinds), best)
        result = self._result(mode, report, found.verdicts, verdict=verdict)
        return _Outcome(result=result, findings=tuple(findings), notes=notes, fails_alike=alike)

    def _not_built(self, mode: str, report: VariantReport, error: StepError, notes: tuple[str, ...]) -> _Outcome:
        result = ModeResult(verdict="failed", effective=report.effective)
        raised = self.raised()
        fails = raised is not None and raised[0] == 0
        # A compiler's error has the type, and the line, of what the operation itself would raise.
        if raised is not None and fails and raised[1].place == error.place and str(raised[1]) == str(error):
            return _Outcome(result=result, notes=notes, fails_alike=True)
        finding = diagnosis.not_built(mode, self.reference.name, error, also_fails=fails)
        return _Outcome(result=result, findings=(finding,), notes=notes)

    def _errors(self, mode: str) -> tuple[Difference | None, bool]:
        """A step that raises in one of the two modes only, or another error; and whether one raises alike in both."""
        for number in range(self.reference.report.steps):
            expected = self.reference.observation(number).error
            got = self.runner.store.observation(mode, number).error
            if expected is not None and got is not None and (expected.type, expected.place) == (got.type, got.place):
                return None, True
            if expected is not None or got is not None:
                step = self.first_step + number + 1
                return diagnosis.raises(mode, self.reference.name, step, expected, got), False
        return None, False

    def _result(self, mode: str, report: VariantReport, verdicts: Sequence[Verdict], *, verdict: str) -> ModeResult:
        counts: dict[str, collections.Counter[str]] = {}
        worst: dict[str, Verdict] = {}
        by_step = dict.fromkeys(range(self.reference.report.steps), 0.0)
        for one in verdicts:
            counts.setdefault(one.kind, collections.Counter())[one.verdict] += 1
            if one.kind not in worst or one.floors > worst[one.kind].floors:
                worst[one.kind] = one
            by_step[one.step] = max(by_step[one.step], one.floors)
        return ModeResult(
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
            break_even_steps=break_even(report.time, self.reference.report.time),
        )

    def _losses(self, mode: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for number in range(self.reference.report.steps):
            metrics = self.runner.store.observation(mode, number).metrics
            for name in self.reference.report.drift:
                if name in metrics:
                    found.setdefault(name, []).append(metrics[name])
        return found


def break_even(times: Times | None, reference: Times | None) -> float | None:
    """Steps after which a mode with its compiling has taken less time than the reference; None where it never does."""
    if times is None or reference is None or times.step_ms is None or reference.step_ms is None:
        return None
    owed, saved = times.compile_s - reference.compile_s, reference.step_ms["p50"] - times.step_ms["p50"]
    if owed <= 0:
        return 0.0 if saved >= 0 else None
    return owed * 1e3 / saved if saved > 0 else None
