"""What is said of a difference: the finding made of a verdict, of what was raised, and of the explanation found for it.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from modetrain.diagnostics.location import Location
from modetrain.tools.compare.comparison import KINDS, Finding
from modetrain.tools.compare.observation import Impure, StepError
from modetrain.tools.compare.verdict import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a step differs, as far as could be found out.

    Attributes:
      kind: of the finding, where it is more than its numbers say (`random`, `impure`).
      op: type of the first operation whose output differs.
      place: the user's line that made it.
      said: sentences on it.
      blame: see `Finding.blame`.
      advice: what to do about it.
      rounding: it begins at an operation that adds up, and differs by no more than what another order does.
    """

    kind: str | None = None
    op: str | None = None
    place: Location | None = None
    said: tuple[str, ...] = ()
    blame: str | None = None
    advice: str | None = None
    rounding: bool = False


# Nearer to the cause first: a wrong update follows from a wrong gradient, a wrong gradient mostly from a wrong loss.
_ORDER = ("metric", "gradient", "variable", "state", "slot")


def different(mode: str, verdicts: Sequence[Verdict], first_step: int, found: Explanation | None) -> Finding:
    """The finding made of all verdicts DIFFERENT of a mode."""
    step = min(one.step for one in verdicts)
    here = sorted((one for one in verdicts if one.step == step), key=lambda one: _ORDER.index(one.kind))
    kinds = {one.kind for one in here}
    shown = _largest(here, next(name for name in _ORDER if name in kinds))
    nonfinite = next((one for one in here if one.nonfinite), None)
    shown = nonfinite or shown
    kind: str = (found.kind if found else None) or ("nonfinite" if nonfinite else "different")
    steps = len({one.step for one in verdicts})
    said = [_numbers(shown, first_step)]
    if len(here) > 1:
        said.append(f"{len(here)} tensors differ in that step.")
    return _with(
        found,
        Finding(
            mode=mode,
            kind=kind,
            message="",
            step=first_step + step + 1,
            tensor=shown.tensor,
            tensors=tuple(one.tensor for one in here),
            steps=steps,
            index=shown.index,
            expected=shown.expected,
            got=shown.got,
            relative=shown.relative,
            ulp=shown.ulp,
            floors=shown.floors,
        ),
        said,
    )


def impure(
    reference: str, others: Sequence[str], found: Sequence[Impure], first_step: int, why: Explanation | None
) -> list[Finding]:
    """The finding that the reference gives other numbers when a step is repeated, for every mode compared with it."""
    first = found[0]
    step = first_step + first.step + 1
    kind = (why.kind if why else None) or "impure"
    if kind == "random":
        what = f"different random numbers: repeated from one state on one batch, step {step} of {reference} draws others, which"
        said = f"{what} change {listed(first.tensors)}; no other mode can draw the same."
    else:
        what = f"the step is no function of (state, batch): repeated from one state on one batch, step {step} of {reference}"
        said = f"{what} gives other values of {listed(first.tensors)}; no other mode can do the same."
    findings: list[Finding] = []
    for mode in others:
        finding = Finding(
            mode=mode,
            kind=kind,
            message="",
            step=step,
            tensor=first.tensors[0],
            tensors=first.tensors,
            steps=len(found),
            blame="python" if kind == "impure" else None,
        )
        finding = _with(why, finding, [said])
        if findings:
            finding = dataclasses.replace(finding, message=f"as {others[0]}: {KINDS[kind]}.")
        findings.append(finding)
    return findings


def raises(mode: str, reference: str, step: int, wanted: StepError | None, found: StepError | None) -> Finding:
    """The finding that one of two modes raises, or each of them something else."""
    error = wanted or found
    assert error is not None
    if wanted is not None and found is not None:
        error = found
        message = f"step {step}: {mode} raises {found}; {reference} raises {wanted}"
        message += f" ({wanted.place})." if wanted.place else "."
        advice = found.advice or ""
    elif wanted is not None:
        message = f"step {step}: {reference} raises {error}; {mode} raises nothing and goes on with other numbers."
        advice = (
            "Mend it, or clip it: a compiled step does not check by itself. A run with mode.guards=true, the default of mode=xla, "
            "raises it from the compiled program; a comparison leaves the guards out to show it."
        )
    else:
        message = f"step {step}: {mode} raises {error}; {reference} does not."
        advice = error.advice or ""
    message += f" {error.place}" if error.place else ""
    return Finding(mode=mode, kind="error", message=message, step=step, place=error.place, advice=advice)


def fails(reference: str, others: Sequence[str], alike: Sequence[str], step: int, error: StepError) -> Finding:
    """The finding that the reference cannot make its first step: there is nothing to compare."""
    said = [f"step {step}: {reference} raises {error}."]
    if error.place:
        said.append(f"{error.place}.")
    said.append("No step could be compared.")
    if list(alike) == list(others):
        said.append("All modes fail alike.")
    elif alike:
        said.append(f"{', '.join(alike)} fail{'s' if len(alike) == 1 else ''} alike.")
    if error.advice:
        said.append(error.advice)
    return Finding(
        mode=reference, kind="error", message=" ".join(said), step=step, place=error.place, advice=error.advice
    )


def not_built(mode: str, reference: str, error: StepError, *, also_fails: bool = False) -> Finding:
    """The finding that a mode cannot even trace or compile the step, while the reference runs, or fails otherwise."""
    other = "fails otherwise" if also_fails else "runs"
    message = f"cannot be traced or compiled, and {reference} {other}: {error}" + (
        f" {error.place}" if error.place else ""
    )
    if error.advice:
        message += f" {error.advice}"
    return Finding(mode=mode, kind="error", message=message, place=error.place, advice=error.advice, blame="tracing")


def _with(why: Explanation | None, finding: Finding, said: Sequence[str]) -> Finding:
    if why is None:
        return dataclasses.replace(finding, message=" ".join(said))
    message = " ".join([*said, *why.said, *([why.advice] if why.advice else [])])
    blame = why.blame or finding.blame
    return dataclasses.replace(finding, message=message, op=why.op, place=why.place, blame=blame, advice=why.advice)


def _largest(verdicts: Sequence[Verdict], kind: str) -> Verdict:
    return max((one for one in verdicts if one.kind == kind), key=lambda one: one.floors)


def _numbers(one: Verdict, first_step: int) -> str:
    where = f"{one.tensor}{list(one.index) if one.index else ''}"
    if one.index is None:
        return f"step {first_step + one.step + 1}: {where} is not there, or has another shape."
    apart = f"{one.got:.9g} and not {one.expected:.9g}"
    if one.nonfinite:
        return f"step {first_step + one.step + 1}: {where} is {apart} ({one.nonfinite})."
    units = f", {one.ulp:,} ulp" if one.ulp is not None else ""
    noise = (
        f"{one.floors:,.0f} times what rounding noise does"
        if np.isfinite(one.floors)
        else "rounding noise does not move it"
    )
    return f"step {first_step + one.step + 1}: {where} is {apart} (relative {one.relative:.1e}{units}; {noise})."


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
