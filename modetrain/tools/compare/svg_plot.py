"""Plots as SVG text: lines over steps, and stacked bars. No library, no script, no network."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, WIDTH - 14, 20, HEIGHT - 44
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
      series: points of each line; those that are not finite are left out.
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
        return _frame(title, _text(WIDTH / 2, HEIGHT / 2, nothing, "note", "middle"))
    xs = [a for a, _ in everything]
    ys = [b for _, b in everything] + ([limit] if limit is not None else [])
    to_x = _scale(min(xs), max(xs), _LEFT, _RIGHT)
    low, high = (math.log10(min(ys)), math.log10(max(ys))) if log else (min(ys), max(ys))
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    scale_y = _scale(low - room, high + room, _BOTTOM, _TOP)

    def to_y(value: float) -> float:
        return scale_y(math.log10(value) if log else value)

    body = []
    for tick in _ticks(low - room, high + room, 5):
        at = scale_y(tick)
        body += [
            _line(_LEFT, at, _RIGHT, at),
            _text(_LEFT - 6, at + 4, _number(10**tick if log else tick), "tick", "end"),
        ]
    body += [_text(to_x(tick), _BOTTOM + 16, _number(tick), "tick", "middle") for tick in _ticks(min(xs), max(xs), 6)]
    body += _axis_names(x, y)
    if limit is not None:
        at = to_y(limit)
        body += [_line(_LEFT, at, _RIGHT, at, "limit"), _text(_RIGHT - 4, at - 5, limit_label, "note", "end")]
    for number, points in enumerate(kept.values()):
        colour = COLOURS[number % 6]
        path = " ".join(f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in points)
        if points:
            body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{_dash(number)}/>')
        if len(points) == 1:
            ((a, b),) = points
            body.append(f'<circle cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="3" fill="{colour}"/>')
    return _frame(title, "".join(body), legend=list(kept))


def bars(title: str, rows: Mapping[str, Mapping[str, float]], *, x: str) -> str:
    """A horizontal bar for each row, of parts that lie one after the other."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    longest = max((sum(row.values()) for row in rows.values()), default=0.0) or 1.0
    to_x = _scale(0.0, longest, _LEFT + 34, _RIGHT - 40)
    room = (_BOTTOM - _TOP) / max(len(rows), 1)
    body = []
    for tick in _ticks(0.0, longest, 6):
        at = to_x(tick)
        body += [_line(at, _TOP, at, _BOTTOM), _text(at, _BOTTOM + 16, _number(tick), "tick", "middle")]
    body += _axis_names(x, "")
    for number, (name, row) in enumerate(rows.items()):
        top, done = _TOP + room * (number + 0.2), 0.0
        for part, value in row.items():
            left, right = to_x(done), to_x(done + value)
            body.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0):.1f}" height="{room * 0.6:.1f}" '
                f'fill="{COLOURS[parts.index(part) % 6]}"><title>{html.escape(f"{name}: {part} {value:.3g}")}</title></rect>'
            )
            done += value
        middle = top + room * 0.3 + 4
        body += [_text(_LEFT + 28, middle, name, "tick", "end"), _text(to_x(done) + 5, middle, _number(done), "tick")]
    return _frame(title, "".join(body), legend=parts, solid=True)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _dash(number: int) -> str:
    return f' stroke-dasharray="{_DASHES[number % 6]}"' if number else ""


def _axis_names(x: str, y: str) -> Iterator[str]:
    yield _text((_LEFT + _RIGHT) / 2, HEIGHT - 8, x, "axis", "middle")
    turned = f"translate(12 {(_TOP + _BOTTOM) / 2}) rotate(-90)"
    yield f'<text class="axis" transform="{turned}" text-anchor="middle">{html.escape(y)}</text>'


def _frame(title: str, body: str, legend: Sequence[str] = (), solid: bool = False) -> str:
    keys = "".join(
        f'<span><svg width="26" height="10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" '
        f'stroke="{COLOURS[number % 6]}" stroke-width="{8 if solid else 2}"{"" if solid else _dash(number)}/></svg> '
        f"{html.escape(name)}</span>"
        for number, name in enumerate(legend)
    )
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{body}</svg><div class="legend">{keys}</div></figure>'
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:,.4g}" if 1e-3 <= abs(value) < 1e6 else f"{value:.1e}"
