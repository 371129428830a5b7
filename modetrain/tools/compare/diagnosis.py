"""Writes findings: from verdicts, from what was raised, and from the explanation found for it.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from modetrain.diagnostics.location import Location
from modetrain.tools.compare.comparison import KINDS, Difference
from modetrain.tools.compare.observation import ImpureStep, ProcessDeath, StepError
from modetrain.tools.compare.verdict import Verdict

# Nearer to the cause first: a wrong update follows from a wrong gradient, a wrong gradient mostly from a wrong loss.
_ORDER = ("metric", "gradient", "variable", "state", "slot")
_GUARDS = (
    "Fix it, or clip it: a compiled step does not check by itself. A run with mode.guards=true, the default of mode=xla, "
    "raises it from the compiled program; a comparison leaves the guards out to show it."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a step differs, as far as it is known.

    Attributes:
      kind: of the finding, where it is more than its numbers say (`random`, `impure`).
      op: type of the first operation whose output differs.
      place: the user's line that made it.
      sentences: on it.
      blame: see `Difference.blame`.
      advice: what to do about it.
      rounding: it begins at an operation that adds up, and differs by no more than another order makes.
    """

    kind: str | None = None
    op: str | None = None
    place: Location | None = None
    sentences: tuple[str, ...] = ()
    blame: str | None = None
    advice: str | None = None
    rounding: bool = False


def different(mode: str, verdicts: Sequence[Verdict], first_step: int, why: Explanation | None) -> Difference:
    """The finding made of all verdicts `DIFFERENT` of a mode."""
    step = min(one.step for one in verdicts)
    here = sorted((one for one in verdicts if one.step == step), key=lambda one: _ORDER.index(one.kind))
    nearest = [one for one in here if one.kind == here[0].kind]
    nonfinite = next((one for one in here if one.nonfinite), None)
    worst = nonfinite or max(nearest, key=lambda one: one.floors)
    sentences = [_numbers(worst, first_step)]
    if len(here) > 1:
        sentences.append(f"{len(here)} tensors differ in that step.")
    finding = Difference(
        mode=mode,
        kind=(why.kind if why else None) or ("nonfinite" if nonfinite else "different"),
        message="",
        step=first_step + step + 1,
        tensor=worst.tensor,
        tensors=tuple(one.tensor for one in here),
        steps=len({one.step for one in verdicts}),
        index=worst.index,
        expected=worst.expected,
        got=worst.got,
        relative=worst.relative,
        ulp=worst.ulp,
        floors=worst.floors,
    )
    return _add_explanation(finding, sentences, why)


def impure(
    reference: str, others: Sequence[str], found: Sequence[ImpureStep], first_step: int, why: Explanation | None
) -> list[Difference]:
    """The finding that the reference gives other numbers when a step is repeated, for every mode compared with it."""
    if not others:
        return []
    first = found[0]
    step = first_step + first.step + 1
    kind = (why.kind if why else None) or "impure"
    if kind == "random":
        what = f"different random numbers: repeated from one state on one batch, step {step} of {reference} draws others, which"
        sentence = f"{what} change {list_names(first.tensors)}; no other mode can draw the same."
    else:
        what = f"the step is no function of (state, batch): repeated from one state on one batch, step {step} of {reference}"
        sentence = f"{what} gives other values of {list_names(first.tensors)}; no other mode can do the same."
    finding = Difference(
        mode=others[0],
        kind=kind,
        message="",
        step=step,
        tensor=first.tensors[0],
        tensors=first.tensors,
        steps=len(found),
        blame="python" if kind == "impure" else None,
    )
    finding = _add_explanation(finding, [sentence], why)
    same = f"as {others[0]}: {KINDS[kind]}."
    return [finding, *(dataclasses.replace(finding, mode=mode, message=same) for mode in others[1:])]


def raises(mode: str, reference: str, step: int, expected: StepError | None, got: StepError | None) -> Difference:
    """The finding that one of two modes raises, or each of them another error."""
    error = got or expected
    assert error is not None
    advice = error.advice or ""
    if expected is not None and got is not None:
        where = f" ({expected.place})" if expected.place else ""
        message = f"step {step}: {mode} raises {got}; {reference} raises {expected}{where}."
    elif expected is not None:
        message = f"step {step}: {reference} raises {error}; {mode} raises nothing and goes on with other numbers."
        advice = _GUARDS
    else:
        message = f"step {step}: {mode} raises {error}; {reference} does not."
    message += f" {error.place}" if error.place else ""
    return Difference(mode=mode, kind="error", message=message, step=step, place=error.place, advice=advice)


def fails(reference: str, others: Sequence[str], alike: Sequence[str], step: int, error: StepError) -> Difference:
    """The finding that the reference cannot make its first step: there is nothing to compare."""
    sentences = [f"step {step}: {reference} raises {error}."]
    if error.place:
        sentences.append(f"{error.place}.")
    sentences.append("No step could be compared.")
    if list(alike) == list(others):
        sentences.append("All modes fail alike.")
    elif alike:
        sentences.append(f"{', '.join(alike)} fail{'s' if len(alike) == 1 else ''} alike.")
    if error.advice:
        sentences.append(error.advice)
    message = " ".join(sentences)
    return Difference(mode=reference, kind="error", message=message, step=step, place=error.place, advice=error.advice)


def not_built(mode: str, reference: str, error: StepError, *, also_fails: bool = False) -> Difference:
    """The finding that a mode cannot trace or compile the step, while the reference runs, or raises another error."""
    message = f"cannot be traced or compiled, and {reference} {'fails otherwise' if also_fails else 'runs'}: {error}"
    message += f" {error.place}" if error.place else ""
    message += f" {error.advice}" if error.advice else ""
    return Difference(mode=mode, kind="error", message=message, place=error.place, advice=error.advice, blame="tracing")


def crash(mode: str, death: ProcessDeath) -> Difference:
    """The finding that the process of a mode died."""
    message = f"the process died ({death.how}) during: {death.phase}."
    if death.place:
        message += f" It was at {death.place}."
    elif death.tail:
        message += f" It said last: {death.tail}"
    return Difference(mode=mode, kind="crash", message=message, place=death.place)


def note_on_rounding(mode: str, worst: Verdict, first_step: int, sentences: Sequence[str]) -> str:
    """What is said of a mode whose differences are all rounding."""
    where = f"{worst.tensor} in step {first_step + worst.step + 1}, relative {worst.relative:.0e}"
    first = f"{mode}: rounds otherwise, by up to {worst.floors:,.0f} times what noise does ({where})."
    return " ".join([first, *sentences])


def list_names(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _add_explanation(finding: Difference, sentences: Sequence[str], why: Explanation | None) -> Difference:
    if why is None:
        return dataclasses.replace(finding, message=" ".join(sentences))
    message = " ".join([*sentences, *why.sentences, *([why.advice] if why.advice else [])])
    blame = why.blame or finding.blame
    return dataclasses.replace(finding, message=message, op=why.op, place=why.place, blame=blame, advice=why.advice)


def _numbers(one: Verdict, first_step: int) -> str:
    where = f"step {first_step + one.step + 1}: {one.tensor}{list(one.index) if one.index else ''}"
    if one.index is None:
        return f"{where} is not there, or has another shape."
    apart = f"{where} is {one.got:.9g} and not {one.expected:.9g}"
    if one.nonfinite:
        return f"{apart} ({one.nonfinite})."
    units = f", {one.ulp:,} ulp" if one.ulp is not None else ""
    noise = "rounding noise does not move it"
    if np.isfinite(one.floors):
        noise = f"{one.floors:,.0f} times what rounding noise does"
    return f"{apart} (relative {one.relative:.1e}{units}; {noise})."
