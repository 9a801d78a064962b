"""What a run comes to, from its history: requests, faults, recovery and latencies, as values and as tables. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.checker import Violation, closes_ns
from tests.chaos.history import IDEMPOTENT, Fault, History, Invoke, Outcome

S: Final = 1e9
# Seconds until the requests that a death met are answered by others: the bars.
BARS_S: Final = {"replica-kill": 1.0, "router-kill": 2.0}


@dataclass(slots=True)
class Result:
    """All that is said of a run."""

    seed: int
    seconds: float
    capacity_per_s: float
    rate_per_s: float
    requests: dict[str, dict[str, int]]
    faults: dict[str, dict[str, Any]]
    latencies_ms: dict[str, dict[str, float]]
    bars: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)


def requests_by_code(history: History) -> dict[str, dict[str, int]]:
    """Outcomes by protocol and code; those of processes that were killed apart."""
    codes: dict[str, Counter[str]] = defaultdict(Counter)
    outcomes = {outcome.id: outcome.code for outcome in history.outcomes}
    for invoke in history.invokes:
        place = "killed clients" if invoke.doomed else invoke.protocol
        codes[place][outcomes.get(invoke.id, "(none)")] += 1
    return {place: dict(counts.most_common()) for place, counts in sorted(codes.items())}


def latencies_ms(history: History, span_ns: tuple[int, int]) -> dict[str, dict[str, float]]:
    """p50, p99 and the worst of OK requests that were sent in the span, from their intended time, in milliseconds: by
    protocol, of those that met no fault, of those that did, and of those that met slow readers and nothing else."""
    outcomes = {outcome.id: outcome for outcome in history.outcomes if outcome.code == "OK"}
    times: dict[str, list[float]] = defaultdict(list)
    spans = [(fault.begin_ns, closes_ns(fault), fault.kind) for fault in history.faults]
    for invoke in history.invokes:
        outcome = outcomes.get(invoke.id)
        if outcome is None or invoke.doomed or not span_ns[0] <= invoke.sent_ns <= span_ns[1]:
            continue
        ms = (outcome.at_ns - invoke.intended_ns) / 1e6
        times[invoke.protocol].append(ms)
        met = {kind for begin_ns, end_ns, kind in spans if invoke.sent_ns <= end_ns and outcome.at_ns >= begin_ns}
        times["no fault near" if not met else "with faults"].append(ms)
        if met == {"slow-readers"}:
            times["slow readers only"].append(ms)
    return {name: _percentiles(values) for name, values in sorted(times.items())}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "count": float(len(ordered)),
        "p50": ordered[last // 2],
        "p99": ordered[min(last, len(ordered) * 99 // 100)],
        "max": ordered[last],
    }


@dataclass(frozen=True, slots=True)
class Recovery:
    """How one fault was got over, in seconds after it: `answered_s` when the last of the idempotent requests that it
    met was answered OK, `resumed_s` when the first request sent later was; None where there was no such request."""

    fault: Fault
    whole_s: float
    answered_s: float | None
    resumed_s: float | None


def recoveries(history: History) -> list[Recovery]:
    """One for each fault. A replica's requests are those that it was running; a router's and a frontend's, those that
    were on their way; sent later counts what goes the way of the target."""
    answered = _answered(history)
    ran_on: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for run in history.execs:
        ran_on[run.pid].append((run.at_ns, run.id))
    return [_recovery(fault, answered, ran_on[fault.pid]) for fault in history.faults]


def _answered(history: History) -> dict[int, tuple[Invoke, Outcome]]:
    invokes = {invoke.id: invoke for invoke in history.invokes}
    return {
        outcome.id: (invokes[outcome.id], outcome)
        for outcome in history.outcomes
        if outcome.code == "OK" and outcome.id in invokes
    }


def _recovery(fault: Fault, answered: Mapping[int, tuple[Invoke, Outcome]], ran: Iterable[tuple[int, int]]) -> Recovery:
    mine = {request_id for at_ns, request_id in ran if at_ns <= fault.begin_ns}
    met: list[float] = []
    later: list[float] = []
    for request_id, (invoke, outcome) in answered.items():
        if not _goes_by(fault, invoke):
            continue
        after_s = (outcome.at_ns - fault.begin_ns) / S
        if invoke.sent_ns > fault.begin_ns:
            later.append(after_s)
        elif after_s > 0 and invoke.kind == IDEMPOTENT and (not fault.kind.startswith("replica") or request_id in mine):
            met.append(after_s)
    whole_s = (fault.end_ns - fault.begin_ns) / S
    return Recovery(fault, whole_s, max(met, default=None), min(later, default=None))


def _goes_by(fault: Fault, invoke: Invoke) -> bool:
    tier, _, rest = fault.target.partition("-")
    if tier == "frontend":
        return invoke.frontend == fault.target
    if tier == "replica":
        return rest.startswith(f"{invoke.deployment}-")
    return True


def faults_by_kind(history: History, found: Sequence[Recovery]) -> dict[str, dict[str, Any]]:
    """How many of each kind, and the median and worst of their recoveries."""
    kinds: dict[str, dict[str, Any]] = {}
    for kind in sorted({fault.kind for fault in history.faults}):
        mine = [recovery for recovery in found if recovery.fault.kind == kind]
        kinds[kind] = {"count": len(mine), "not recovered": sum(not each.fault.recovered for each in mine)}
        for name in ("whole_s", "answered_s", "resumed_s"):
            values = [value for each in mine if (value := getattr(each, name)) is not None]
            kinds[kind][name] = {"median": statistics.median(values), "max": max(values)} if values else None
    return kinds


def bars(found: Sequence[Recovery]) -> dict[str, dict[str, Any]]:
    """The issue's bars against what was measured."""
    judged = {}
    for kind, bar_s in BARS_S.items():
        values = [r.answered_s for r in found if r.fault.kind == kind and r.answered_s is not None]
        worst = max(values, default=None)
        judged[kind] = {
            "bar_s": bar_s,
            "worst_s": worst,
            "met": f"{sum(value < bar_s for value in values)} of {len(values)}",
        }
    return judged


def render(result: Result) -> str:
    """The tables, for people."""
    parts = [
        f"chaos run: seed {result.seed}, {result.seconds:.0f} s, capacity {result.capacity_per_s:.0f}/s, "
        f"load {result.rate_per_s:.0f}/s, {sum(each['count'] for each in result.faults.values())} faults"
    ]
    parts.append(_table(["requests", "outcomes"], [[p, _joined(c)] for p, c in result.requests.items()]))
    parts.append(
        _table(
            ["fault", "count", "whole again, s", "requests met answered, s", "first later answer, s"],
            [
                [kind, each["count"], *(_pair(each[name]) for name in ("whole_s", "answered_s", "resumed_s"))]
                for kind, each in result.faults.items()
            ],
        )
    )
    parts.append(
        _table(
            ["latency, ms", "count", "p50", "p99", "max"],
            [
                [name, f"{each['count']:.0f}", *(f"{each[column]:.1f}" for column in ("p50", "p99", "max"))]
                for name, each in result.latencies_ms.items()
            ],
        )
    )
    parts.append(
        _table(
            ["bar", "under, s", "worst, s", "met"],
            [
                [kind, each["bar_s"], "-" if each["worst_s"] is None else f"{each['worst_s']:.2f}", each["met"]]
                for kind, each in result.bars.items()
            ],
        )
    )
    parts += [f"note: {note}" for note in result.notes]
    if result.violations:
        parts.append(f"{len(result.violations)} VIOLATIONS (seed {result.seed})")
        parts += result.violations[:40] + result.stories
    else:
        parts.append("every check held")
    return "\n\n".join(parts)


def by_check(violations: Iterable[Violation]) -> dict[str, int]:
    """How many of each number."""
    return dict(Counter(str(violation.check) for violation in violations))


def _joined(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in counts.items())


def _pair(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['median']:.2f} (max {value['max']:.2f})"


def _table(head: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    cells = [[str(cell) for cell in line] for line in [head, *lines]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
