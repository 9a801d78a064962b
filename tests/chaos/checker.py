"""Nothing lost: six checks of a history (docs/explanation/recovery.md lists them). Pure: records in, violations out.

1. Every request has exactly one outcome, by its deadline and a bound, and no error that the table of faults
   (`allowed.py`) does not allow it.
2. A reply carries its own request's id, and derives from that request's rows.
3. Each row of a request that is not idempotent ran at most once; where the outcome is OK, exactly once; where it is a
   refusal from before the dispatch, never. No row of any request runs that was not sent, or long after its end.
4. As many rows come back as went in, in order. Of an idempotent request that is OK every row ran.
5. The frontends counted what their clients saw, and the routers' books balance.
6. At rest everything is at its baseline.

The order of rows is in the digest: `rows.rows_hash` of the reply's source equals that of the request only if they are
the same rows in the same order.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.allowed import SLACK_NS, TABLE, TIGHT, Allowance
from tests.chaos.history import (
    BEHIND,
    CUT,
    DISCONNECTED,
    GAVE_UP,
    NO_ANSWER,
    ONCE,
    Count,
    Exec,
    Fault,
    History,
    Invoke,
    Outcome,
)

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
# How long after its deadline a request's outcome may come: what is needed to notice it and to say so, under load.
LATE_NS: Final = 2 * NS_PER_S
# Processes that a request and its outcome pass. Where the generator, which only has to wake up in time, was behind its
# own schedule, the machine was short of time, and each of them may have been as far behind.
HOPS: Final = 6
# How long after its caller gave it up, or had its outcome, a request may still begin to run.
ENDED_NS: Final = 2 * NS_PER_S
# The server's answer is not known of these: it may have counted anything, and the method may have run.
UNCERTAIN: Final = frozenset({GAVE_UP, DISCONNECTED, NO_ANSWER, BEHIND, CUT})
# Refusals that say that the request never reached a replica.
_NEVER_RAN_CODES: Final = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED"})
_NEVER_RAN: Final = re.compile(
    r"before the request was queued|while the request was queued|the queue is full|the queue holds at most"
    r"|would wait about|waited too long in the queue|as many as are answered in good time|would finish in about"
    r"|knows no deployments yet|is draining; try again"
)


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken. `check` is its number above, `request` the id, 0 where it is about no single one."""

    check: int
    request: int
    message: str

    def __str__(self) -> str:
        return f"[{self.check}] {self.message}"


class Books:
    """A history by request."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.invokes = {invoke.id: invoke for invoke in history.invokes}
        self.outcomes: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in history.outcomes:
            self.outcomes[outcome.id].append(outcome)
        self.execs: dict[int, list[Exec]] = defaultdict(list)
        for run in history.execs:
            self.execs[run.id].append(run)
        # By second, the most that a request was sent after its time.
        self._lags_ns: dict[int, int] = {}
        for invoke in history.invokes:
            second = invoke.sent_ns // NS_PER_S
            self._lags_ns[second] = max(self._lags_ns.get(second, 0), invoke.sent_ns - invoke.intended_ns)
        self.stopped_pids = {fault.pid for fault in history.faults if fault.kind.endswith("-stop")}

    def excusing(self, invoke: Invoke, end_ns: int) -> Iterator[Allowance]:
        """The allowances of the faults whose window the request met."""
        for fault in self.history.faults:
            allowance = TABLE[fault.kind]
            if allowance.own_connections and fault.target != invoke.frontend:
                continue
            if invoke.sent_ns <= closes_ns(fault) and end_ns >= fault.begin_ns:
                yield allowance

    def late_ns(self, invoke: Invoke) -> int:
        """The last moment for the request's outcome."""
        last_ns = invoke.deadline_ns + LATE_NS + HOPS * self.lag_ns(invoke)
        for fault in self.history.faults:
            allowance = TABLE[fault.kind]
            own = not allowance.own_connections or fault.target == invoke.frontend
            if allowance.delays and own and fault.begin_ns <= last_ns and invoke.sent_ns <= closes_ns(fault):
                last_ns = max(last_ns, closes_ns(fault) + LATE_NS)
        return last_ns

    def lag_ns(self, invoke: Invoke) -> int:
        """How far behind the generator was at the most while the request was under way."""
        seconds = range(invoke.sent_ns // NS_PER_S, (invoke.deadline_ns + LATE_NS) // NS_PER_S + 1)
        return max((self._lags_ns[second] for second in seconds if second in self._lags_ns), default=0)

    def story(self, request_id: int) -> str:
        """All that is known of a request, one record a line, in the order of time."""
        invoke = self.invokes.get(request_id)
        records: list[tuple[int, object]] = [(invoke.sent_ns, invoke)] if invoke else []
        records += [(run.at_ns, run) for run in self.execs[request_id]]
        records += [(outcome.at_ns, outcome) for outcome in self.outcomes[request_id]]
        if invoke and records:
            last_ns = max(at_ns for at_ns, _ in records)
            meets = [f for f in self.history.faults if f.begin_ns <= last_ns and f.end_ns >= invoke.sent_ns]
            records += [(fault.begin_ns, fault) for fault in meets]
        begin_ns = invoke.sent_ns if invoke else min((at_ns for at_ns, _ in records), default=0)
        lines = [f"  {(at_ns - begin_ns) / 1e6:+10.1f} ms  {record!r}" for at_ns, record in sorted(records, key=_time)]
        return "\n".join(lines)


def _time(entry: tuple[int, object]) -> int:
    return entry[0]


def closes_ns(fault: Fault) -> int:
    """When a fault stops to excuse errors."""
    bound_ns = fault.begin_ns + int(TABLE[fault.kind].bound_s * NS_PER_S)
    return min(fault.end_ns, bound_ns) + SLACK_NS


def check(history: History) -> list[Violation]:
    """All violations, by check and in the order of the requests."""
    books = Books(history)
    return [violation for each in CHECKS for violation in each(books)]


# ---- 1: outcomes


def check_outcomes(books: Books) -> Iterator[Violation]:
    """One outcome each, in time, and none that may not be."""
    for invoke in books.history.invokes:
        outcomes = books.outcomes.get(invoke.id, [])
        if not outcomes and not invoke.doomed:
            yield Violation(1, invoke.id, f"{invoke} has no outcome: it was lost")
        elif len(outcomes) > 1:
            codes = ", ".join(outcome.code for outcome in outcomes)
            yield Violation(1, invoke.id, f"{invoke} has {len(outcomes)} outcomes: {codes}")
        for outcome in outcomes:
            yield from _check_outcome(books, invoke, outcome)
    for outcome in books.history.outcomes:
        if outcome.id not in books.invokes:
            yield Violation(1, outcome.id, f"an outcome, {outcome.code}, of request {outcome.id} that was never sent")
    for fault in books.history.faults:
        if not fault.recovered:
            yield Violation(1, 0, f"{fault.kind} of {fault.target or 'the app'}: not whole again in time: {fault.note}")


def _check_outcome(books: Books, invoke: Invoke, outcome: Outcome) -> Iterator[Violation]:
    late_ns = outcome.at_ns - books.late_ns(invoke)
    if outcome.code == NO_ANSWER:
        yield Violation(1, invoke.id, f"{invoke} was never answered: its client waited until {_by(invoke, outcome)}")
    elif late_ns > 0 and outcome.code != GAVE_UP:
        yield Violation(1, invoke.id, f"{invoke} has its outcome, {outcome.code}, late: {_by(invoke, outcome)}")
    elif not _is_allowed(books, invoke, outcome):
        yield Violation(1, invoke.id, f"{invoke} may not fail so: {outcome.code}: {outcome.message}")


def _by(invoke: Invoke, outcome: Outcome) -> str:
    return f"{(outcome.at_ns - invoke.deadline_ns) / 1e9:+.2f} s from its deadline of {invoke.timeout_ms} ms"


def _is_allowed(books: Books, invoke: Invoke, outcome: Outcome) -> bool:
    code = outcome.code
    if code in (invoke.expect, GAVE_UP):
        return True
    if code == BEHIND:
        return any(other.code not in ("OK", BEHIND) for other in books.outcomes.get(outcome.after, []))
    meant = {code}
    if code == CUT:
        meant = {DISCONNECTED, "UNAVAILABLE"} | (TIGHT if invoke.tight else set())
    elif invoke.protocol == "flight" and code == "UNAVAILABLE":
        # What pyarrow's server says for RESOURCE_EXHAUSTED.
        meant = {code, "RESOURCE_EXHAUSTED"}
    if meant & TIGHT and (invoke.tight or HOPS * books.lag_ns(invoke) > invoke.timeout_ms * NS_PER_MS):
        return True
    allowances = books.excusing(invoke, outcome.at_ns)
    return any(meant & allowance.codes.get(invoke.kind, frozenset()) for allowance in allowances)


# ---- 2 and 4: rows


def check_replies(books: Books) -> Iterator[Violation]:
    """Replies have their own request's rows: all of them, as they were."""
    for invoke in books.history.invokes:
        for outcome in books.outcomes.get(invoke.id, []):
            if outcome.code != "OK":
                continue
            strangers = [request_id for request_id in outcome.ids if request_id != invoke.id]
            if strangers:
                names = ", ".join(str(books.invokes.get(request_id, request_id)) for request_id in strangers)
                yield Violation(2, invoke.id, f"{invoke} was answered with rows of {names}: crossed replies")
            elif outcome.rows != invoke.rows:
                yield Violation(4, invoke.id, f"{invoke} was answered with {outcome.rows} rows")
            elif outcome.rows_hash != invoke.rows_hash:
                yield Violation(2, invoke.id, f"{invoke} was answered with other values, or its rows in another order")


# ---- 3 and 4: runs


def check_runs(books: Books) -> Iterator[Violation]:
    """What ran, how often, and when."""
    for request_id, runs in books.execs.items():
        if request_id not in books.invokes:
            yield Violation(3, request_id, f"rows of request {request_id} ran, which was never sent")
            continue
        invoke = books.invokes[request_id]
        for run in runs:
            if run.first < 0 or run.first + run.rows > invoke.rows:
                yield Violation(3, request_id, f"{invoke}: rows {_span(run)} ran, which it does not have")
    for invoke in books.history.invokes:
        runs = books.execs.get(invoke.id, [])
        outcomes = books.outcomes.get(invoke.id, [])
        if invoke.kind == ONCE:
            yield from _check_once(invoke, runs, outcomes)
        elif any(outcome.code == "OK" for outcome in outcomes) and (missing := _missing(invoke, runs)):
            yield Violation(4, invoke.id, f"{invoke} is OK, but {missing} of its rows never ran")
        yield from _check_ended(books, invoke, runs, outcomes)


def _span(run: Exec) -> str:
    return f"[{run.first}, {run.first + run.rows})"


def _missing(invoke: Invoke, runs: list[Exec]) -> int:
    covered, until = 0, 0
    for run in sorted(runs, key=lambda run: run.first):
        first, last = max(run.first, until), run.first + run.rows
        covered += max(0, last - first)
        until = max(until, last)
    return invoke.rows - covered


def _check_once(invoke: Invoke, runs: list[Exec], outcomes: list[Outcome]) -> Iterator[Violation]:
    until, before = 0, None
    for run in sorted(runs, key=lambda run: (run.first, run.at_ns)):
        if before is not None and run.first < until:
            pids = f"in replicas {before.pid} and {run.pid}" if before.pid != run.pid else f"in replica {run.pid}"
            yield Violation(3, invoke.id, f"{invoke} is not idempotent, and rows {_span(run)} ran again, {pids}")
            return
        until, before = max(until, run.first + run.rows), run
    for outcome in outcomes:
        if outcome.code == "OK" and (missing := _missing(invoke, runs)):
            yield Violation(3, invoke.id, f"{invoke} is not idempotent and OK, but {missing} of its rows never ran")
        if runs and (outcome.code in _NEVER_RAN_CODES or _NEVER_RAN.search(outcome.message)):
            yield Violation(3, invoke.id, f"{invoke} was refused before it ran ({outcome.message}), but ran")


def _check_ended(books: Books, invoke: Invoke, runs: list[Exec], outcomes: list[Outcome]) -> Iterator[Violation]:
    """Nothing starts to run for a caller that has its outcome. A replica that was stopped may not have heard, and over
    ZeroMQ nobody hears of a caller that gives up: there the deadline ends it."""
    if not outcomes:
        return
    ended_ns = max(outcome.at_ns for outcome in outcomes)
    if invoke.protocol == "zmq" and outcomes[0].code == GAVE_UP:
        ended_ns = max(ended_ns, invoke.sent_ns + invoke.timeout_ms * NS_PER_MS)
    for run in runs:
        if run.at_ns > ended_ns + ENDED_NS + HOPS * books.lag_ns(invoke) and run.pid not in books.stopped_pids:
            after_s = (run.at_ns - ended_ns) / NS_PER_S
            yield Violation(
                3, invoke.id, f"{invoke} began to run {after_s:.2f} s after its outcome, {outcomes[0].code}"
            )
            return


# ---- 5: counters


def check_counts(books: Books) -> Iterator[Violation]:
    """Frontends against clients, and each router against itself."""
    spans: dict[tuple[int, int], list[Count]] = defaultdict(list)
    for count in books.history.counts:
        spans[count.begin_ns, count.end_ns].append(count)
    for span, counts in spans.items():
        yield from _check_span(books, span, counts)
    for balance in books.history.balances:
        ended = sum(balance.outcomes.values())
        if ended != balance.arrived:
            counted = ", ".join(f"{count} {name}" for name, count in balance.outcomes.items() if count)
            yield Violation(
                5, 0, f"{balance.router} at rest: {balance.arrived} requests of {balance.deployment} arrived, "
                f"{ended} have an outcome ({counted})",
            )  # fmt: skip


def _check_span(books: Books, span: tuple[int, int], counts: list[Count]) -> Iterator[Violation]:
    sure: Counter[tuple[str, str, str, str]] = Counter()
    open_ended: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str, str], int] = {}
    for invoke in books.history.invokes:
        if not span[0] <= invoke.sent_ns <= span[1]:
            continue
        place = (invoke.protocol, invoke.deployment, invoke.method)
        outcomes = books.outcomes.get(invoke.id, [])
        if not outcomes or any(outcome.own or outcome.code in UNCERTAIN for outcome in outcomes):
            open_ended[place] += 1
            continue
        for outcome in outcomes:
            sure[*place, outcome.code] += 1
            examples[*place, outcome.code] = invoke.id
    counted: Counter[tuple[str, str, str, str]] = Counter()
    for count in counts:
        seen = "UNAVAILABLE" if count.protocol == "flight" and count.code == "RESOURCE_EXHAUSTED" else count.code
        counted[count.protocol, count.deployment, count.method, seen] += count.counted
    complete = all(count.complete for count in counts)
    for key in sorted(sure.keys() | counted.keys()):
        least = sure[key] if complete else 0
        most = sure[key] + open_ended[key[:3]]
        if not least <= counted[key] <= most:
            protocol, deployment, method, code = key
            wanted = f"{least}" if least == most else f"{least} to {most}"
            example = f", one of them request {examples[key]}" if key in examples else ""
            yield Violation(
                5, examples.get(key, 0), f"counters disagree: {protocol} {deployment}.{method} {code}: the frontends "
                f"count {counted[key]}, their clients {wanted}{example}",
            )  # fmt: skip


# ---- 6: rest


def check_rest(books: Books) -> Iterator[Violation]:
    """Back at the baseline."""
    for leak in books.history.leaks:
        message = f"{leak.where}: {leak.what} is {leak.now:g} at rest, {leak.baseline:g} before"
        yield Violation(6, 0, message)


CHECKS: Final[tuple[Callable[[Books], Iterator[Violation]], ...]] = (
    check_outcomes,
    check_replies,
    check_runs,
    check_counts,
    check_rest,
)
