"""Charts as inline SVG, coloured by the page's style sheet; no chart needs a script.

Classes m0, m1, … colour models in order of seniority, `better`, `worse` and `open` decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with its interval on a horizontal axis; `kind` is its CSS class, `hint` its tooltip."""

    mean: float
    low: float
    high: float
    kind: str
    hint: str


_LEFT, _RIGHT, _ROW = 82, 14, 30


def intervals(rows: Mapping[str, Sequence[Mark]], span: Point, unit: str, *, zero: bool = False) -> Markup:
    """A forest plot: a line of marks per row, the last row ("overall") set apart. `span` is the axis."""
    width = 560
    low, high = span
    scale = (width - _LEFT - _RIGHT) / (high - low)
    bottom = _ROW * len(rows) + 8

    def x(value: float) -> float:
        return round(_LEFT + (min(max(value, low), high) - low) * scale, 1)

    parts = []
    for tick in ticks(low, high, 6):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="small middle" x="{x(tick)}" y="{bottom + 14}">{number(tick)}</text>')
    if zero:
        parts.append(f'<line class="axis" x1="{x(0)}" x2="{x(0)}" y1="4" y2="{bottom}"/>')
    for row, (name, marks) in enumerate(rows.items()):
        middle = row * _ROW + _ROW / 2 + 4
        if row == len(rows) - 1:
            parts.append(f'<line class="axis" x1="0" x2="{width}" y1="{row * _ROW + 4}" y2="{row * _ROW + 4}"/>')
        strong = " strong" if row == len(rows) - 1 else ""
        parts.append(f'<text class="label{strong}" x="{_LEFT - 8}" y="{middle + 4}">{escape(name)}</text>')
        for k, mark in enumerate(marks):
            y = round(middle + (k - (len(marks) - 1) / 2) * 7, 1)
            parts.append(
                f'<g class="{mark.kind}"><title>{escape(mark.hint)}</title>'
                f'<line x1="{x(mark.low)}" x2="{x(mark.high)}" y1="{y}" y2="{y}"/>'
                f'<circle cx="{x(mark.mean)}" cy="{y}" r="3.2"/></g>'
            )
    parts.append(
        f'<text class="small middle" x="{(_LEFT + width - _RIGHT) / 2}" y="{bottom + 30}">{escape(unit)}</text>'
    )
    return _svg("forest", width, bottom + 34, parts, unit)


def curve(title: str, series: Mapping[str, Sequence[Point]]) -> Markup:
    """A small line chart; a series is a list of (step, value), steps ascending. Values that are not finite
    break the line."""
    width, height, left, top = 250, 130, 40, 22
    finite = [p for points in series.values() for p in points if math.isfinite(p[1])]
    if not finite:
        return Markup()
    first, last = min(p[0] for p in finite), max(p[0] for p in finite)
    low, high = padded(min(p[1] for p in finite), max(p[1] for p in finite))

    def x(step: float) -> float:
        return round(left + (step - first) / ((last - first) or 1) * (width - left - 8), 1)

    def y(value: float) -> float:
        return round(height - 18 - (value - low) / (high - low) * (height - 18 - top), 1)

    parts = [f'<text class="title" x="{left}" y="12">{escape(title)}</text>']
    for tick in ticks(low, high, 4):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="small end" x="{left - 4}" y="{y(tick) + 3}">{number(tick)}</text>')
    parts.append(f'<text class="small" x="{left}" y="{height - 4}">{number(first)}</text>')
    parts.append(f'<text class="small end" x="{width - 8}" y="{height - 4}">step {number(last)}</text>')
    for k, (name, points) in enumerate(series.items()):
        drawn = " ".join(f"{x(step)},{y(value)}" for step, value in points if math.isfinite(value))
        parts.append(f'<polyline class="s{k}" points="{drawn}"><title>{escape(name)}</title></polyline>')
        if len(series) > 1:
            at = width - 8 - 62 * (len(series) - 1 - k)
            parts.append(f'<text class="small end s{k}" x="{at}" y="12">{escape(name)}</text>')
    return _svg("curve", width, height, parts, title)


def _svg(kind: str, width: float, height: float, parts: Sequence[str], label: str) -> Markup:
    head = f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")  # noqa: S704 - numbers and escaped text only


def padded(low: float, high: float) -> Point:
    """The range with a little air; never empty."""
    air = 0.06 * (high - low) or max(abs(high) * 0.1, 0.05)
    return low - air, high + air


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's text: up to three significant digits, no "-0"."""
    return f"{0.0 if abs(value) < 1e-12 else value:.3g}"
