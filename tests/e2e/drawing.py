"""The dashboard drawn as an SVG, from what its queries return: there is no Grafana here to look at it in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

CELL, LINE, GAP = 50, 30, 4  # one of Grafana's 24 columns and one of its rows, in pixels
PALETTE = ("#56a64b", "#e0a800", "#3274d9", "#e0504f", "#8f3bb8", "#ff780a", "#2fa8a0", "#a0522d")
COLOURS = {"green": "#56a64b", "red": "#e0504f", "orange": "#ff780a", "yellow": "#e0a800", "blue": "#3274d9"}
_STYLE = """
text{font:11px sans-serif;fill:#24292f}.page{fill:#f4f5f5}.panel{fill:#fff;stroke:#d5d7da}.grid{stroke:#e4e6e8}
.title{font-weight:600}.quiet{fill:#6b7280}.value{font:600 26px sans-serif;fill:#fff}.row{font:600 14px sans-serif}
@media(prefers-color-scheme:dark){text{fill:#d8d9da}.page{fill:#111217}.panel{fill:#181b1f;stroke:#2c3036}
.grid{stroke:#2a2e34}.quiet{fill:#9aa0a6}}"""


@dataclass(frozen=True)
class Line:
    """What one query returned under one set of labels: its legend, and its points (Unix time, value)."""

    legend: str
    points: Sequence[tuple[float, float]]


Asked = Callable[[dict[str, Any]], list[Line]]


def draw(dashboard: dict[str, Any], asked: Asked, rows: int) -> str:
    """Return the SVG of the panels that begin in the first ``rows`` rows; ``asked`` runs a panel's target."""
    panels = [panel for panel in dashboard["panels"] if panel["gridPos"]["y"] < rows]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * LINE + GAP
    drawn = "\n".join(_panel(panel, asked) for panel in panels)
    size = f'viewBox="0 0 {24 * CELL} {height}" width="{24 * CELL}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>\n'
        f'<rect class="page" width="100%" height="100%"/>\n{drawn}\n</svg>\n'
    )


def legend(template: str, labels: dict[str, str], expression: str) -> str:
    """Return a series' name as Grafana makes it of ``{{label}}``; without a template, that of its labels."""
    if template and template != "__auto":
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), template)
    return ", ".join(labels.values()) or expression[:40]


def value(number: float, unit: str) -> str:
    """Return a number in Grafana's unit, as a person reads it."""
    if unit == "s":
        return next(
            (f"{number / size:.3g} {name}" for name, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
             if abs(number) >= size), f"{number * 1000:.3g} ms" if number else "0 s",
        )  # fmt: skip
    if unit in ("bytes", "Bps"):
        end = "/s" if unit == "Bps" else ""
        for name in ("B", "KiB", "MiB", "GiB"):
            if abs(number) < 1024:
                return f"{number:.3g} {name}{end}"
            number /= 1024
        return f"{number:.3g} TiB{end}"
    return f"{number:.3g}" + {"reqps": " req/s", "cps": "/s"}.get(unit, "")


def _panel(panel: dict[str, Any], asked: Asked) -> str:
    at = panel["gridPos"]
    x, y, width, height = at["x"] * CELL, at["y"] * LINE, at["w"] * CELL, at["h"] * LINE
    if panel["type"] == "row":
        return f'<text class="row" x="{x + 8}" y="{y + 21}">▾ {escape(panel["title"])}</text>'
    lines = [line for target in panel["targets"] for line in asked(target)]
    defaults = panel["fieldConfig"]["defaults"]
    inner = _stat if panel["type"] == "stat" else _series
    return (
        f'<g transform="translate({x + GAP},{y + GAP})">'
        f'<rect class="panel" width="{width - GAP}" height="{height - GAP}" rx="3"/>'
        f"{inner(lines, defaults, width - GAP, height - GAP)}"
        f'<text class="title" x="10" y="18">{escape(panel["title"])}</text></g>'
    )


def _stat(lines: list[Line], defaults: dict[str, Any], width: int, height: int) -> str:
    last = lines[0].points[-1][1] if lines and lines[0].points else None
    shown = str(defaults.get("noValue", "No data")) if last is None else value(last, defaults["unit"])
    colour = "#6b7280"
    for step in defaults["thresholds"]["steps"]:
        if last is not None and (step["value"] is None or last >= step["value"]):
            colour = COLOURS.get(step["color"], step["color"])
    return (
        f'<rect x="1" y="26" width="{width - 2}" height="{height - 27}" fill="{colour}"/>'
        f'<text class="value" x="{width // 2}" y="{height // 2 + 22}" text-anchor="middle">{escape(shown)}</text>'
    )


def _series(lines: list[Line], defaults: dict[str, Any], width: int, height: int) -> str:
    points = [point for line in lines for point in line.points]
    if not points:
        return f'<text class="quiet" x="{width // 2}" y="{height // 2}" text-anchor="middle">No data</text>'
    left, top, right, bottom = 86, 30, width - 12, height - 76
    begin, end = min(at for at, _ in points), max(at for at, _ in points)
    low, high = min(0.0, *(number for _, number in points)), max(number for _, number in points)
    high = high * 1.05 if high > low else low + 1
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        text = escape(value(low + share * (high - low), defaults["unit"]))
        drawn.append(f'<line class="grid" x1="{left}" y1="{y:.0f}" x2="{right}" y2="{y:.0f}"/>')
        drawn.append(f'<text class="quiet" x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{text}</text>')
    for minutes in range(0, int((end - begin) // 60) + 1, 10 if end - begin > 1200 else 5):
        x = left + (right - left) * minutes * 60 / max(end - begin, 1)
        drawn.append(f'<text class="quiet" x="{x:.0f}" y="{bottom + 15}" text-anchor="middle">{minutes} min</text>')
    names: dict[str, str] = {}
    for number, line in enumerate(lines):
        colour = names.setdefault(line.legend, PALETTE[number % len(PALETTE)])
        path = " ".join(
            f"{left + (right - left) * (at - begin) / max(end - begin, 1):.1f},"
            f"{bottom - (bottom - top) * (size - low) / (high - low):.1f}"
            for at, size in line.points
        )
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
    return "".join(drawn) + _legend(names, width, bottom + 31)


def _legend(names: dict[str, str], width: int, y: int) -> str:
    drawn, x = [], 12.0
    for name, colour in names.items():
        wide = 24 + 6.5 * len(name)
        if x + wide > width and x > 12:
            x, y = 12.0, y + 15
        drawn.append(f'<rect x="{x:.0f}" y="{y - 7}" width="10" height="4" fill="{colour}"/>')
        drawn.append(f'<text x="{x + 14:.0f}" y="{y}">{escape(name)}</text>')
        x += wide
    return "".join(drawn)
