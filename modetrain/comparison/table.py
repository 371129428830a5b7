"""What a person reads of a comparison in the terminal: how far each mode is from the reference, how fast it is, and findings."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from modetrain.comparison import tolerance
from modetrain.comparison.findings import ArmResult, Comparison

_KINDS = ("metric", "gradient", "variable", "slot", "state")
_COLOURS = {tolerance.DIFFERENT: "red", "failed": "red", "not comparable": "yellow", "reference": "dim"}


def of(comparison: Comparison) -> RenderableType:
    """Both tables and the findings."""
    steps = f"{comparison.steps} step{'s' if comparison.steps != 1 else ''}"
    title = (
        f"{steps}, each from the state of {comparison.reference}" if comparison.steps else "no step could be compared"
    )
    agreement = Table(title=title, title_justify="left")
    agreement.add_column("mode")
    agreement.add_column("verdict")
    for kind in _KINDS:
        agreement.add_column(f"{kind}s" if kind != "state" else "other state")
    agreement.add_column("weights apart after drifting", justify="right")
    for mode, arm in comparison.arms.items():
        cells = [_kind(arm, kind) for kind in _KINDS]
        apart = f"{arm.distance[-1]:.1e}" if arm.distance else ""
        if mode == comparison.reference and apart:
            apart += " (by noise)"
        agreement.add_row(mode, Text(arm.verdict, style=_COLOURS.get(arm.verdict, "green")), *cells, apart)
    note = f"largest distance in noise floors of {comparison.reference}'s own step; up to {comparison.limit:.0f} is agreement"
    if any(arm.verdict == tolerance.ROUNDING for arm in comparison.arms.values()):
        note += "; so is what vanishes in float64 (rounding)"
    return Group(agreement, Text(note, style="dim"), _times(comparison), *_findings(comparison))


def _kind(arm: ArmResult, kind: str) -> str:
    counts = arm.counts.get(kind)
    if not counts:
        return ""
    if set(counts) == {tolerance.BITWISE}:
        return "bitwise"
    worst = arm.worst[kind]
    return "NaN" if worst.nonfinite else f"{worst.floors:,.1f}" if worst.floors < 1e6 else f"{worst.floors:.0e}"


def _times(comparison: Comparison) -> Table:
    table = Table(title="time", title_justify="left")
    table.add_column("mode")
    headings = ("compile s", "first step ms", "p50 ms", "p90 ms", "examples/s", "peak MB", "traces", "pays off after")
    for heading in headings:
        table.add_column(heading, justify="right")
    for mode, arm in comparison.arms.items():
        time = arm.time
        if time is None or time.step_ms is None:
            continue
        untimed = mode == comparison.reference or comparison.arms[comparison.reference].time is None
        paid = "" if untimed else "never" if arm.break_even_steps is None else "at once"
        if arm.break_even_steps:
            paid = f"{arm.break_even_steps:,.0f} steps"
        table.add_row(
            mode,
            f"{time.compile_s:.1f}",
            f"{time.first_step_ms:.1f}",
            f"{time.step_ms['p50']:.2f}",
            f"{time.step_ms['p90']:.2f}",
            f"{time.examples_per_s:,.0f}",
            "" if time.peak_memory_mb is None else f"{time.peak_memory_mb:,.0f}",
            str(time.traces),
            paid,
        )
    return table


def _findings(comparison: Comparison) -> Iterator[RenderableType]:
    for finding in comparison.findings:
        yield Text(f"{finding.mode}: {finding.kind}", style="bold red")
        yield Padding(Text(finding.message), (0, 0, 0, 2))
    for note in comparison.notes:
        yield Text(f"note: {note}", style="dim")
    others = [mode for mode in comparison.modes if mode != comparison.reference]
    if comparison.agrees:
        yield Text(
            f"{', '.join(others)} agree{'s' * (len(others) == 1)} with {comparison.reference}", style="bold green"
        )
