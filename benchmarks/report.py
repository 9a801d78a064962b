"""Figures as a table for people and as JSON for comparison over time."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.figures import Figure, Sample, Spread

RESULTS = Path(__file__).parent / "results"
HEAD = ("measure", "unit", "flightserve", "baseline", "result", "bar", "")


def number(value: float) -> str:
    """Three significant digits, and thousands in groups: 0.0123, 1.23, 12.3, 12,345."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def side(samples: Sequence[Sample]) -> str:
    """`median (low-high)` of one side."""
    if not samples:
        return "-"
    spread = Spread.of([s.value for s in samples])
    return f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"


def row(figure: Figure) -> tuple[str, ...]:
    """The cells of one figure, as in HEAD."""
    result = figure.result()
    sign = "" if figure.compare == "value" else "x"
    return (
        figure.name,
        figure.unit,
        side(figure.subject),
        side(figure.baseline),
        "-" if result is None else number(result) + sign,
        "-" if figure.bar is None else str(figure.bar),
        figure.verdict(),
    )


def table(figures: Sequence[Figure]) -> str:
    """An aligned table with the notes of each figure under its line."""
    rows = [HEAD, *(row(f) for f in figures)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    for at, figure in reversed(list(enumerate(figures, start=2))):
        lines[at + 1 : at + 1] = [f"    {note}" for note in figure.notes]
    return "\n".join(lines)


def as_json(
    figures: Sequence[Figure], settings: dict[str, Any], failures: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The whole run: machine, settings, figures, and the benchmarks that could not be measured, with why."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "arch": platform.machine(),
            "python": platform.python_version(),
            "pyarrow": pa.__version__,
        },
        "settings": settings,
        "figures": [f.as_dict() for f in figures],
        "failures": dict(failures or {}),
    }


def write_json(document: dict[str, Any], path: Path | None) -> Path:
    """Write the document to `path`, or to a file named by its time in `benchmarks/results/`."""
    target = path or RESULTS / f"{document['time'].replace(':', '')}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")
    return target
