"""Plots as SVG text: lines over steps, and stack_batches bars. No library, no script, no network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 14, 20, 44
# Distinct for people who see no red or no green (Okabe and Ito, 2008), and by their dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 2", "12 4")


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: bool = False,
    limit: float | None = None,
    limit_label: str = "",
    nothing: str = "nothing to show",
) -> str:
    """Lines, one for each name.

    Args:
      title: above the plot.
      series: points of each line, without those that are not finite.
      x, y: names of the axes.
      log: the vertical axis is logarithmic, and shows positive values alone.
      limit: a horizontal line.
      limit_label: the text at that line.
      nothing: the text where there is no point.
    """
    kept = {
        name: [(a, b) for a, b in points if math.isfinite(b) and (b > 0 or not log)] for name, points in series.items()
    }
    everything = [point for points in kept.values() for point in points]
    if not everything:
        return _frame(title, f'<text class="note" x="280" y="150" text-anchor="middle">{html.escape(nothing)}</text>')
    xs = [a for a, _ in everything]
    ys = [b for _, b in everything] + ([limit] if limit is not None else [])
    to_x = _scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    low, high = (math.log10(min(ys)), math.log10(max(ys))) if log else (min(ys), max(ys))
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    scale_y = _scale(low - room, high + room, HEIGHT - _BOTTOM, _TOP)

    def to_y(value: float) -> float:
        return scale_y(math.log10(value) if log else value)

    body = []
    for tick in _ticks(low - room, high + room, 5):
        at, label = scale_y(tick), _number(10**tick if log else tick)
        body.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        body.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in _ticks(min(xs), max(xs), 6):
        body.append(
            f'<text class="tick" x="{to_x(tick):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    body.append(_axis_names(x, y))
    if limit is not None:
        at = to_y(limit)
        body.append(f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        body.append(
            f'<text class="note" x="{WIDTH - _RIGHT - 4}" y="{at - 5:.1f}" text-anchor="end">{html.escape(limit_label)}</text>'
        )
    for number, points in enumerate(kept.values()):
        if points:
            path = " ".join(f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in points)
            dash = f' stroke-dasharray="{_DASHES[number % 6]}"' if number else ""
            body.append(
                f'<polyline points="{path}" fill="none" stroke="{COLOURS[number % 6]}" stroke-width="2"{dash}/>'
            )
            if len(points) == 1:
                a, b = points[0]
                body.append(f'<circle cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="3" fill="{COLOURS[number % 6]}"/>')
    return _frame(title, "".join(body), legend=list(kept))


def bars(title: str, rows: Mapping[str, Mapping[str, float]], *, x: str) -> str:
    """A horizontal bar for each row, of parts that lie one after the other."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    longest = max((sum(row.values()) for row in rows.values()), default=0.0) or 1.0
    to_x = _scale(0.0, longest, _LEFT + 34, WIDTH - _RIGHT - 40)
    room = (HEIGHT - _TOP - _BOTTOM) / max(len(rows), 1)
    body = []
    for tick in _ticks(0.0, longest, 6):
        at = to_x(tick)
        body.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        body.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    body.append(_axis_names(x, ""))
    for number, (name, row) in enumerate(rows.items()):
        top, done = _TOP + room * (number + 0.2), 0.0
        for part, value in row.items():
            left, right = to_x(done), to_x(done + value)
            colour = COLOURS[parts.index(part) % 6]
            body.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0):.1f}" height="{room * 0.6:.1f}" '
                f'fill="{colour}"><title>{html.escape(f"{name}: {part} {value:.3g}")}</title></rect>'
            )
            done += value
        middle = top + room * 0.3 + 4
        body.append(
            f'<text class="tick" x="{_LEFT + 28}" y="{middle:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
        body.append(f'<text class="tick" x="{to_x(done) + 5:.1f}" y="{middle:.1f}">{_number(done)}</text>')
    return _frame(title, "".join(body), legend=parts, solid=True)


def _axis_names(x: str, y: str) -> str:
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return (
        f'<text class="axis" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x)}</text>'
        f'<text class="axis" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y)}</text>'
    )


def _frame(title: str, body: str, legend: Sequence[str] = (), solid: bool = False) -> str:
    keys = "".join(
        f'<span><svg width="26" height="10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" '
        f'stroke="{COLOURS[n % 6]}" stroke-width="{8 if solid else 2}"'
        + (f' stroke-dasharray="{_DASHES[n % 6]}"' if n and not solid else "")
        + f"/></svg> {html.escape(name)}</span>"
        for n, name in enumerate(legend)
    )
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{body}</svg><div class="legend">{keys}</div></figure>'
    )


def _scale(low: float, high: float, start: float, end: float):
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:,.4g}" if 1e-3 <= abs(value) < 1e6 else f"{value:.1e}"
