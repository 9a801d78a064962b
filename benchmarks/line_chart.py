"""Line charts side by side as SVG, drawn by matplotlib (extra `bench`), readable on light and on dark pages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PANEL_INCHES = (3.8, 3.4)
# Okabe and Ito's colours, told apart by people who see fewer, and by their dashes too.
COLOURS, DASHES = ("#d55e00", "#0072b2", "#009e73"), (":", "--", "-")
# Grey that is read on white and on black; the background stays the page's.
INK = "#7d8590"
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # The same drawing is the same file.
    "svg.hashsalt": "flightserve",
    "font.family": "sans-serif",
    **dict.fromkeys(_INKED, INK),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend and its (x, y) points in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. Lines of one name look alike in all panels. `rule` is a level to mark, with its label."""

    title: str
    series: tuple[Series, ...]
    rule: tuple[float, str] | None = None


def svg(panels: Sequence[Panel], x_label: str) -> str:
    """All panels in one row over a common kind of x axis, with a legend on top; at most as many lines as `COLOURS`."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    looks = dict(zip(names, zip(COLOURS, DASHES, strict=True), strict=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1]), layout="constrained")
        for number, (panel, axes) in enumerate(
            zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True)
        ):
            for series in panel.series:
                colour, dash = looks[series.name]
                axes.plot(*zip(*series.points, strict=True), dash, color=colour, gid=f"line {number} {series.name}")
            if panel.rule is not None:
                level, label = panel.rule
                axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
                axes.annotate(label, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
            axes.set(title=panel.title, xlabel=x_label, xlim=(0, None), ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.set_facecolor("none")
        handles = [line for line in figure.axes[0].get_lines() if line.get_gid()]
        figure.legend(handles, names[: len(handles)], loc="outside upper left", ncols=len(names), frameon=False)
        file = io.StringIO()
        # Without the date of drawing, so that the same drawing is the same file.
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
