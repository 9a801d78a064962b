"""Contests as pictures (PNG), drawn by matplotlib: HTTP JSON by system and connections, and bars by how far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contests import bars
from benchmarks.contests.contest import Contest
from benchmarks.figures import Figure, Sample

DPI = 110
# Okabe and Ito's colours, told apart by people who see fewer, and marks: of each number of connections.
MARKS = (("#56b4e9", "o"), ("#0072b2", "s"), ("#d55e00", "^"))
PASS, MISS = "#009e73", "#d55e00"
Value = Callable[[Sample], float | None]
PANELS: tuple[tuple[str, Value], ...] = (
    ("requests a second", lambda sample: sample.value),
    ("p99, ms", lambda sample: _told(sample, "p99_us", 1e-3)),
    ("CPU seconds a thousand requests", lambda sample: _told(sample, "cpu_s_per_1000")),
    ("memory under load, MB", lambda sample: _told(sample, "pss_mb")),
)


def _told(sample: Sample, key: str, factor: float = 1.0) -> float | None:
    return factor * sample.extra[key] if key in sample.extra else None


def draw(contests: Sequence[Contest], figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write the pictures that these results give."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    systems = by_system(contests)
    if systems:
        drawn.append(_save(http(systems), folder / "peers-http.png"))
    judged = [figure for figure in figures if figure.bar is not None and figure.result() is not None]
    if judged:
        drawn.append(_save(distances(judged), folder / "peers-bars.png"))
    return drawn


def by_system(contests: Sequence[Contest]) -> dict[str, dict[int, tuple[Sample, ...]]]:
    """The samples of HTTP JSON, by system and connections, the fastest system first. flightserve's are of the run with
    most systems."""
    found: dict[str, dict[int, tuple[Sample, ...]]] = {}
    for beside in ("", *(peer.name for peer in bars.ALONE)):
        for connections in bars.CONNECTIONS:
            for contest in contests:
                if contest.measure == bars.json(connections, beside):
                    for system, samples in contest.sides.items():
                        found.setdefault(system, {}).setdefault(connections, samples)
    return dict(sorted(found.items(), key=lambda item: -_of(max(item[1]), item[1], PANELS[0][1])))


def _of(connections: int, samples: Mapping[int, Sequence[Sample]], value: Value) -> float:
    told = [each for each in map(value, samples.get(connections, ())) if each]
    return statistics.median(told) if told else math.nan


def http(systems: Mapping[str, Mapping[int, Sequence[Sample]]]) -> Any:
    """A panel for each quantity: a system a line, a mark for each number of connections."""
    from matplotlib.figure import Figure as Canvas

    names = list(systems)
    canvas = Canvas(figsize=(11, 1.6 + 0.55 * len(names)), layout="constrained")
    for number, (axes, (title, value)) in enumerate(zip(canvas.subplots(2, 2).flat, PANELS, strict=True)):
        told = False
        for connections, (colour, mark) in zip(bars.CONNECTIONS, MARKS, strict=True):
            lengths = [_of(connections, systems[name], value) for name in names]
            told = told or not all(map(math.isnan, lengths))
            label = f"{connections} connections" if not number else None
            axes.plot(lengths, range(len(names)), mark, color=colour, label=label)
        axes.set(title=title, ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
        axes.set_yticklabels(names)
        if told and value is not PANELS[-1][1]:
            _logarithmic(axes)
        else:
            axes.set_xlim(0, None)
        axes.grid(alpha=0.3)
    canvas.legend(loc="outside lower center", ncols=len(bars.CONNECTIONS), frameon=False)
    return canvas


def distances(figures: Sequence[Figure]) -> Any:
    """How many times better than its bar each is; 1 is the bar."""
    from matplotlib.figure import Figure as Canvas

    lengths = [distance(figure) for figure in figures]
    canvas = Canvas(figsize=(11, 1 + 0.3 * len(figures)), layout="constrained")
    axes = canvas.subplots()
    colours = [PASS if figure.verdict() == "pass" else MISS for figure in figures]
    axes.barh(range(len(figures)), [length - 1 for length in lengths], left=1, color=colours)
    axes.set(ylim=(len(figures) - 0.5, -0.5), yticks=range(len(figures)))
    axes.set_xlabel("times as good as the bar")
    axes.set_yticklabels([f"{figure.name}  {figure.bar}" for figure in figures], fontsize="small")
    _logarithmic(axes)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    return canvas


def _logarithmic(axes: Any) -> None:
    """A scale of powers of ten with numbers that are read as they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize="small")


def distance(figure: Figure) -> float:
    """The result over its bar, so that more is better."""
    result, bar = figure.result(), figure.bar
    assert result is not None
    assert bar is not None
    return result / bar.number if bar.sense == "at_least" else bar.number / result


def _save(canvas: Any, path: Path) -> Path:
    canvas.savefig(path, dpi=DPI, metadata={"Software": None})
    return path
