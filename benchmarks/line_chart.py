"""Line charts as plain SVG, side by side, readable on light and on dark pages without a script or a font of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, GAP = 300, 210, 64
LEFT, TOP, BOTTOM = 46, 62, 44
TICKS = 5
# Okabe and Ito's colours, told apart by people who see fewer, and by their dashes too.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .faint { fill: #57606a }
.axis, .grid, .rule { stroke: #8c959f; fill: none } .grid { opacity: .25 } .rule { stroke-dasharray: 2 3 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.s0 { stroke: #d55e00; stroke-dasharray: 2 3 } .s1 { stroke: #0072b2; stroke-dasharray: 7 4 } .s2 { stroke: #009e73 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #9da7b3 }
  .s0 { stroke: #ff9d57 } .s1 { stroke: #56b4e9 } .s2 { stroke: #3ddc97 }
}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend and its (x, y) points in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. Lines of one name have one colour in all panels. `rule` is a level to mark, with its label."""

    title: str
    series: tuple[Series, ...]
    rule: tuple[float, str] | None = None


def svg(panels: Sequence[Panel], x_label: str) -> str:
    """All panels in one row over a common kind of x axis, with a legend on top."""
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    width = LEFT + len(panels) * (WIDTH + GAP)
    height = TOP + HEIGHT + BOTTOM
    body = [_legend(names)]
    for index, panel in enumerate(panels):
        body.append(
            f'<g transform="translate({LEFT + index * (WIDTH + GAP)} {TOP})">{_panel(panel, names, x_label)}</g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _legend(names: Sequence[str]) -> str:
    parts, x = [], LEFT
    for index, name in enumerate(names):
        parts.append(f'<path class="line s{index}" d="M{x} 14h26"/><text x="{x + 32}" y="18">{escape(name)}</text>')
        x += 56 + 7 * len(name)
    return "".join(parts)


def _panel(panel: Panel, names: Sequence[str], x_label: str) -> str:
    points = [point for series in panel.series for point in series.points]
    x_max = max(x for x, _ in points)
    levels = [y for _, y in points] + ([panel.rule[0]] if panel.rule else [])
    y_step = _step(max(levels))
    y_max = y_step * max(1, -(-max(levels) // y_step))

    def at(x: float, y: float) -> str:
        return f"{x / x_max * WIDTH:.1f} {HEIGHT - y / y_max * HEIGHT:.1f}"

    parts = [f'<text class="title" x="0" y="-14">{escape(panel.title)}</text>']
    level = 0.0
    while level <= y_max * 1.001:
        y = HEIGHT - level / y_max * HEIGHT
        parts.append(f'<path class="grid" d="M0 {y:.1f}H{WIDTH}"/>')
        parts.append(f'<text class="faint" x="-6" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>')
        level = round(level + y_step, 9)
    for tick in range(int(x_max) + 1):
        x = tick / x_max * WIDTH
        parts.append(f'<text class="faint" x="{x:.1f}" y="{HEIGHT + 17}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text class="faint" x="{WIDTH / 2}" y="{HEIGHT + 36}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<path class="axis" d="M0 0V{HEIGHT}H{WIDTH}"/>')
    if panel.rule:
        value, label = panel.rule
        y = HEIGHT - value / y_max * HEIGHT
        parts.append(f'<path class="rule" d="M0 {y:.1f}H{WIDTH}"/>')
        parts.append(f'<text class="faint" x="{WIDTH - 4}" y="{y + 15:.1f}" text-anchor="end">{escape(label)}</text>')
    for series in panel.series:
        path = "L".join(at(x, y) for x, y in series.points)
        parts.append(f'<path class="line s{names.index(series.name)}" d="M{path}"/>')
    return "\n".join(parts)


def _step(largest: float) -> float:
    """A round distance of the lines of the grid: 1, 2 or 5 times a power of ten."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if largest <= step * factor * TICKS:
                return step * factor
        step *= 10
