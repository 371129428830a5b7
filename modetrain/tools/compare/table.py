"""A comparison for the terminal: how far each mode is from the reference, how fast it is, and the findings."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from modetrain.tools.compare import tolerance
from modetrain.tools.compare.comparison import TENSORS, TIMES, Comparison

_COLOURS = {tolerance.DIFFERENT: "red", "failed": "red", "not comparable": "yellow", "reference": "dim"}


def render(comparison: Comparison) -> RenderableType:
    """Renders both tables and the findings."""
    steps = f"{comparison.steps} step{'s' if comparison.steps != 1 else ''}"
    title = (
        f"{steps}, each from the state of {comparison.reference}" if comparison.steps else "no step could be compared"
    )
    agreement = Table(title=title, title_justify="left")
    agreement.add_column("mode")
    agreement.add_column("verdict")
    for heading in TENSORS.values():
        agreement.add_column(heading)
    agreement.add_column("weights apart after drifting", justify="right")
    for mode, result in comparison.arms.items():
        cells = [result.farthest(kind) for kind in TENSORS]
        apart = f"{result.distance[-1]:.1e}" if result.distance else ""
        if mode == comparison.reference and apart:
            apart += " (by noise)"
        agreement.add_row(mode, Text(result.verdict, style=_COLOURS.get(result.verdict, "green")), *cells, apart)
    note = f"largest distance in noise floors of {comparison.reference}'s own step; up to {comparison.limit:.0f} is agreement"
    if any(result.verdict == tolerance.ROUNDING for result in comparison.arms.values()):
        note += "; so is what vanishes in float64 (rounding)"
    return Group(agreement, Text(note, style="dim"), _times(comparison), *_findings(comparison))


def _times(comparison: Comparison) -> Table:
    table = Table(title="time", title_justify="left")
    for heading in TIMES:
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for row in comparison.times():
        table.add_row(*row)
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
