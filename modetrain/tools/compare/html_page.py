"""compare.html: the comparison as one page that needs no other file, to open from a disk or to attach to an issue."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from modetrain.tools.compare import svg_plot
from modetrain.tools.compare.comparison import TENSORS, TIMES, Comparison, Difference, ModeResult

NAME = "compare.html"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #68707a; --line: #d9dde2; --bad: #b3261e;
  --good: #1a7f37 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --faint: #9aa3ad; --line: #353b42;
  --bad: #ff8a80; --good: #6fdc8c } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.faint, figcaption, .tick, .axis, .note { color: var(--faint); fill: var(--faint) }
.good { color: var(--good) } .bad { color: var(--bad) }
table { border-collapse: collapse; display: block; overflow-x: auto } th, td { padding: .25rem .7rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap } th:first-child, td:first-child,
  td:nth-child(2), th:nth-child(2) { text-align: left }
.finding { border-left: 4px solid var(--bad); padding: .1rem 1rem; margin: 1rem 0 }
code, pre { font: 13px/1.5 ui-monospace, monospace }
pre { background: color-mix(in srgb, var(--line) 40%, transparent); padding: .5rem .8rem; overflow-x: auto }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 1.5rem } figure { margin: 0 }
figcaption { font-weight: 600; color: var(--ink) } svg { width: 100%; height: auto } .legend svg { width: 26px; height: 10px }
.tick, .axis, .note { font-size: 12px } .grid { stroke: var(--line) } .limit { stroke: var(--bad); stroke-dasharray: 6 4 }
.legend span { margin-right: 1.2rem; font-size: 13px }
"""


def render(comparison: Comparison, *, title: str, command: str, facts: Mapping[str, str]) -> str:
    """Renders the whole page."""
    verdict = '<span class="good">agree</span>' if comparison.agrees else '<span class="bad">do not agree</span>'
    modes = ", ".join(comparison.modes)
    parts = [
        f"<h1>{html.escape(title)}: {html.escape(modes)} {verdict}</h1>",
        f'<p class="faint">{html.escape(_compared(comparison))}</p><pre>{html.escape(command)}</pre>',
        *(_finding(one) for one in comparison.findings),
        *(f'<p class="faint">{html.escape(note)}</p>' for note in comparison.notes),
        "<h2>Agreement</h2>",
        _agreement(comparison),
        f'<p class="faint">{html.escape(_explained(comparison))}</p>',
        '<div class="plots">',
        *_plots(comparison),
        "</div>",
        "<h2>Time</h2>",
        _times(comparison),
        "<h2>Made with</h2>",
        f'<p class="faint">{html.escape(", ".join(f"{name} {value}" for name, value in facts.items()))}</p>',
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>\n'
    )


def _compared(comparison: Comparison) -> str:
    if comparison.steps == 0:
        return "no step could be compared"
    steps = f"{comparison.steps} step{'s' if comparison.steps > 1 else ''}"
    draws = f"{comparison.draws} draw{'s' if comparison.draws > 1 else ''}"
    return f"{steps}, each from the state of {comparison.reference}; noise measured with {draws} a step"


def _explained(comparison: Comparison) -> str:
    return (
        "Numbers are the largest distance in noise floors: 1 is what moving every input and weight of "
        f"{comparison.reference}'s step by one unit in the last place does. Up to {comparison.limit:.0f} is agreement, and so is "
        "rounding: what vanishes once the step runs in float64. Of variables and optimizer slots the change in the step is "
        "compared."
    )


def _finding(one: Difference) -> str:
    line = f"<pre>{html.escape(str(one.place))}</pre>" if one.place else ""
    return (
        f'<div class="finding"><p><b>{html.escape(one.mode)}: {html.escape(one.kind)}'
        f"{f', blame: {one.blame}' if one.blame else ''}</b><br>{html.escape(one.message)}</p>{line}</div>"
    )


def _agreement(comparison: Comparison) -> str:
    head = ["mode", "verdict", *TENSORS.values(), "first difference"]
    rows = []
    for mode, result in comparison.arms.items():
        first = result.first_difference
        element = list(first.index) if first and first.index else ""
        where = f"step {comparison.first_step + first.step + 1}: {first.tensor}{element}" if first else ""
        rows.append([mode, result.verdict, *(result.farthest(kind) for kind in TENSORS), where])
    return _table(head, rows)


def _plots(comparison: Comparison) -> list[str]:
    arms, first = comparison.arms, comparison.first_step + 1

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(first + n, value) for n, value in enumerate(values)]

    reference = arms.get(comparison.reference)
    drawn = []
    for loss in reference.losses if reference else ():
        curves = {mode: points(result.losses.get(loss, ())) for mode, result in arms.items()}
        drawn.append(svg_plot.lines(f"{loss}, each step from {comparison.reference}'s state", curves, x="step", y=loss))
    floors = {mode: points(result.worst_floors) for mode, result in arms.items() if mode != comparison.reference}
    drawn.append(
        svg_plot.lines(
            "Largest distance of any tensor, in noise floors",
            floors,
            nothing="nothing to show: all equal" if any(floors.values()) else "nothing was compared",
            x="step",
            y="noise floors",
            log=True,
            limit=comparison.limit,
            limit_label="limit",
        )
    )
    apart = {
        f"{mode} moved by one rounding" if mode == comparison.reference else mode: points(result.distance)
        for mode, result in arms.items()
    }
    drawn.append(
        svg_plot.lines(
            "Left alone: how far the weights drift", apart, x="step", y=f"relative to {comparison.reference}", log=True
        )
    )
    timed = {
        mode: result.time
        for mode, result in arms.items()
        if result.time is not None and result.time.step_ms is not None
    }
    if timed:
        split = {
            mode: {
                "trace and compile": time.compile_s * 1e3,
                "first step": time.first_step_ms or 0.0,
                "100 steps": time.step_ms["p50"] * 100,  # type: ignore[index]
            }
            for mode, time in timed.items()
        }
        drawn.append(svg_plot.bars("Where the time of a run of 100 steps goes", split, x="ms"))
        drawn.append(_break_even(comparison, timed))
    return drawn


def _break_even(comparison: Comparison, timed) -> str:
    paid = [result.break_even_steps for result in comparison.arms.values() if result.break_even_steps]
    until = min(max(2.0 * max(paid, default=500.0), 100.0), 1e6)
    curves = {
        mode: [(n, time.compile_s + time.step_ms["p50"] * n / 1e3) for n in (0.0, until)]
        for mode, time in timed.items()
    }
    return svg_plot.lines(
        "When compiling has paid off: seconds after a number of steps", curves, x="steps", y="seconds"
    )


def _times(comparison: Comparison) -> str:
    costs = (_all_reduce_cost(mode, result) for mode, result in comparison.arms.items())
    return _table(TIMES, comparison.times()) + "".join(costs)


def _all_reduce_cost(mode: str, result: ModeResult) -> str:
    cost = result.time.all_reduce if result.time else None
    if cost is None:
        return ""
    bandwidth = cost["bandwidth_mb_per_s"]
    text = (
        f"{mode}: {cost['tensors_per_step']} all-reduces a step over {result.effective['replicas']} replicas, of "
        f"{cost['bytes_per_step'] / 2**20:,.2f} MB together; each takes {cost['latency_ms']:.3f} ms"
        + (f" and 1 ms more for every {bandwidth / 1e3:,.2f} MB" if bandwidth else "")
    )
    return f'<p class="faint">{html.escape(text)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"
