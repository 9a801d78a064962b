"""Contests as Markdown, readable on a terminal too: the bars, and what each system did."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.contests.contest import OURS, Contest
from benchmarks.figures import Figure, Sample

BARS_HEAD = ("measure (against)", "unit", OURS, "the other", "ratio", "bar", "")
SYSTEMS_HEAD = ("measure", "system", "", "p50, ms", "p99, ms", "CPU s a thousand", "memory, MB")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are aligned."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    cells = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def about(document: Mapping[str, Any]) -> str:
    """Of when and of what a run is, in a line."""
    machine, settings = document["machine"], document["settings"]
    words = [
        document["time"],
        f"{machine['cores']} cores, Python {machine['python']}, pyarrow {machine['pyarrow']}",
        f"{settings['rounds']} rounds of {settings['seconds']:g} s",
        *([f"slowed to {settings['slowed']:g} of each core"] if settings["slowed"] else []),
        *([f"{settings['frontends']} frontends of flightserve"] if settings.get("frontends", 1) > 1 else []),
        f"load by {', '.join([*settings['programs'], 'our own'])}",
        *(f"{name} {version}" for name, version in settings["peers"].items() if version),
    ]
    return "; ".join(words)


def bars(figures: Sequence[Figure]) -> str:
    """The table of bars, and under it why systems are missing."""
    notes = dict.fromkeys(note for figure in figures for note in figure.notes)
    left_out = "\n\nLeft out:\n" + "".join(f"\n- {note}" for note in notes) if notes else ""
    return markdown(BARS_HEAD, [report.row(figure) for figure in figures]) + left_out


def systems(contests: Sequence[Contest]) -> str:
    """What each system did in each contest: medians over rounds."""
    return markdown(SYSTEMS_HEAD, [row for contest in contests for row in _rows(contest)])


def _rows(contest: Contest) -> Iterator[tuple[str, ...]]:
    for system, samples in contest.sides.items():
        value = f"{report.side(samples)} {contest.unit}"
        p50, p99 = (_median(samples, key, 1e-3) for key in ("p50_us", "p99_us"))
        yield contest.measure, system, value, p50, p99, _median(samples, "cpu_s_per_1000"), _median(samples, "pss_mb")


def _median(samples: Sequence[Sample], key: str, factor: float = 1.0) -> str:
    told = [sample.extra[key] for sample in samples if key in sample.extra]
    return report.number(factor * statistics.median(told)) if told else ""
