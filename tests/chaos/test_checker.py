"""The checker can fail: histories without fault pass, and each planted bug is found and names its request."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import checker, rows
from tests.chaos.history import (
    BEHIND,
    DISCONNECTED,
    GAVE_UP,
    IDEMPOTENT,
    KINDS,
    NO_ANSWER,
    ONCE,
    STREAM,
    Balance,
    Count,
    Exec,
    Fault,
    History,
    Invoke,
    Journal,
    Leak,
    Outcome,
    read,
)

S = 1_000_000_000
MS = 1_000_000
BEGIN_NS = 100 * S
METHODS = {IDEMPOTENT: "derive", ONCE: "once", STREAM: "pieces"}


def invoke_of(request_id: int, kind: str = IDEMPOTENT, count: int = 4, **changes: Any) -> Invoke:
    """A request of `count` rows, sent 10 ms after the one before it, with 10 s to live."""
    sent_ns = BEGIN_NS + request_id * 10 * MS
    invoke = Invoke(
        request_id, "http", "frontend-0", "Fifo", METHODS[kind], kind, count,
        rows.rows_hash(rows.make(request_id, count)), sent_ns, sent_ns, 10_000,
    )  # fmt: skip
    return msgspec.structs.replace(invoke, **changes)


def answer_of(invoke: Invoke, code: str = "OK", after_ms: float = 5.0, **changes: Any) -> Outcome:
    """What a client of a system without fault writes down."""
    at_ns = invoke.sent_ns + int(after_ms * MS)
    if code == "OK":
        outcome = Outcome(invoke.id, code, at_ns, "", invoke.rows, invoke.rows_hash, (invoke.id,))
    else:
        outcome = Outcome(invoke.id, code, at_ns, "the replica died")
    return msgspec.structs.replace(outcome, **changes)


def exec_of(invoke: Invoke, first: int = 0, count: int | None = None, pid: int = 7, after_ms: float = 2.0) -> Exec:
    at_ns = invoke.sent_ns + int(after_ms * MS)
    return Exec(invoke.id, first, invoke.rows if count is None else count, pid, "e", at_ns)


def slices_of(invoke: Invoke, cuts: list[int]) -> list[Exec]:
    edges = sorted({0, invoke.rows, *(cut for cut in cuts if cut < invoke.rows)})
    return [exec_of(invoke, a, b - a, pid=index) for index, (a, b) in enumerate(itertools.pairwise(edges))]


def counts_of(history: History) -> list[Count]:
    """What frontends count that count right."""
    by_place: dict[tuple[str, str, str, str], int] = {}
    codes = {outcome.id: outcome.code for outcome in history.outcomes}
    for invoke in history.invokes:
        key = (invoke.protocol, invoke.deployment, invoke.method, codes[invoke.id])
        by_place[key] = by_place.get(key, 0) + 1
    return [Count(*key, counted, 0, 1 << 60) for key, counted in by_place.items()]


@st.composite
def good_histories(draw: st.DrawFn) -> History:
    """Requests of every kind and size, cut into slices, some of the idempotent ones run twice by other replicas."""
    history = History()
    for request_id in range(1, draw(st.integers(2, 8)) + 1):
        kind = draw(st.sampled_from(KINDS))
        protocol = draw(st.sampled_from(["http", "grpc", "flight", "zmq"]))
        invoke = invoke_of(request_id, kind, draw(st.integers(2, 50)), protocol=protocol)
        runs = slices_of(invoke, draw(st.lists(st.integers(1, 49), max_size=3)))
        if kind == IDEMPOTENT and draw(st.booleans()):
            runs += [exec_of(invoke, run.first, run.rows, pid=99) for run in runs[:1]]
        history.add([invoke, *runs, answer_of(invoke)])
    history.add(counts_of(history))
    return history.add([Balance("router-0", "Fifo", 9, {"completed": 8, "cancelled": 1})])


def messages(history: History) -> list[str]:
    return [str(violation) for violation in checker.check(history)]


@given(good_histories())
def test_what_is_right_passes(history: History) -> None:
    assert messages(history) == []


# ---- planted bugs: each takes a good history and the number of a request in it


def drop(history: History, at: int) -> None:
    del history.outcomes[at]


def duplicate(history: History, at: int) -> None:
    history.outcomes.append(history.outcomes[at])


def swap(history: History, at: int) -> None:
    """Two replies change places: each caller gets the other's rows."""
    one, other = history.outcomes[at], history.outcomes[at - 1]
    history.outcomes[at] = msgspec.structs.replace(other, id=one.id)
    history.outcomes[at - 1] = msgspec.structs.replace(one, id=other.id)


def truncate(history: History, at: int) -> None:
    outcome = history.outcomes[at]
    history.outcomes[at] = msgspec.structs.replace(outcome, rows=outcome.rows - 1)


def reorder(history: History, at: int) -> None:
    """The right rows in another order have another digest."""
    batch = rows.make(history.outcomes[at].id, history.outcomes[at].rows)
    turned = rows.rows_hash(batch.take(list(reversed(range(batch.num_rows)))))
    history.outcomes[at] = msgspec.structs.replace(history.outcomes[at], rows_hash=turned)


def late(history: History, at: int) -> None:
    after_ns = history.invokes[at].deadline_ns + checker.LATE_NS + 1
    history.outcomes[at] = msgspec.structs.replace(history.outcomes[at], at_ns=after_ns)


def fail(history: History, at: int) -> None:
    """An error, and no fault that would excuse it."""
    history.outcomes[at] = answer_of(history.invokes[at], "UNAVAILABLE")


def hang(history: History, at: int) -> None:
    history.outcomes[at] = answer_of(history.invokes[at], NO_ANSWER)


def invent(history: History, at: int) -> None:
    """An answer to a request that nobody sent; its id begins like the other's."""
    history.outcomes.append(msgspec.structs.replace(history.outcomes[at], id=history.outcomes[at].id * 1000))


def run_beyond(history: History, at: int) -> None:
    invoke = history.invokes[at]
    history.execs.append(exec_of(invoke, invoke.rows, 1, pid=5))


def never_run(history: History, at: int) -> None:
    history.execs[:] = [run for run in history.execs if run.id != history.invokes[at].id]


def run_late(history: History, at: int) -> None:
    """A replica begins with a request long after its caller was answered."""
    invoke = history.invokes[at]
    history.invokes[at] = invoke = msgspec.structs.replace(invoke, kind=IDEMPOTENT)
    history.execs.append(exec_of(invoke, after_ms=60_000))


def miscount(history: History, at: int) -> None:
    count = history.counts[at % len(history.counts)]
    history.counts[at % len(history.counts)] = msgspec.structs.replace(count, counted=count.counted + 1)


BUGS: dict[Callable[[History, int], None], tuple[int, str]] = {
    drop: (1, "has no outcome"),
    duplicate: (1, "has 2 outcomes: OK, OK"),
    late: (1, "late"),
    fail: (1, "may not fail so: UNAVAILABLE"),
    hang: (1, "was never answered"),
    invent: (1, "that was never sent"),
    swap: (2, "crossed replies"),
    reorder: (2, "rows in another order"),
    truncate: (4, "was answered with"),
    run_beyond: (3, "which it does not have"),
    never_run: (0, "never ran"),
    run_late: (3, "after its outcome"),
    miscount: (5, "counters disagree"),
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
@given(history=good_histories(), data=st.data())
def test_planted_bugs_are_found_and_named(
    bug: Callable[[History, int], None], history: History, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(history.invokes) - 1))
    bug(history, at)
    number, words = BUGS[bug]
    found = [v for v in checker.check(history) if number in (0, v.check) and words in v.message]
    assert found, messages(history)
    assert f"request {history.invokes[at].id}" in "".join(v.message for v in found) or bug is miscount
    # No other request is accused, but the one it changed places with.
    assert len({violation.request for violation in found}) <= 2


# ---- what may not run twice


def once_history(*runs: tuple[int, int, int], code: str = "OK", message: str = "") -> History:
    """A request of 10 rows that is not idempotent, and runs as (first, rows, pid)."""
    invoke = invoke_of(1, ONCE, 10)
    execs = [exec_of(invoke, first, count, pid) for first, count, pid in runs]
    fault = Fault("replica-kill", "replica-Fifo-0", 7, BEGIN_NS, BEGIN_NS + S)
    return History().add([invoke, *execs, answer_of(invoke, code, message=message), fault])


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (once_history((0, 10, 7), (0, 10, 8)), "request 1 .* rows \\[0, 10\\) ran again, in replicas 7 and 8"),
        (once_history((0, 10, 7), (0, 10, 7)), "ran again, in replica 7"),
        (once_history((0, 6, 7), (4, 6, 8)), "rows \\[4, 10\\) ran again"),
        (once_history((0, 6, 7)), "OK, but 4 of its rows never ran"),
        (once_history(), "OK, but 10 of its rows never ran"),
        (
            once_history((0, 10, 7), code="UNAVAILABLE", message="the server is draining; try again"),
            "refused before it ran",
        ),
    ],
)
def test_runs_that_may_not_be(history: History, words: str) -> None:
    (violation,) = checker.check(history)
    assert violation.request == 1
    assert violation.check == 3
    assert re.search(words, violation.message), violation.message


@pytest.mark.parametrize(
    "history",
    [
        once_history((0, 6, 7), (6, 4, 8)),
        once_history((0, 10, 7), code="UNAVAILABLE", message="the replica died"),
        once_history(code="UNAVAILABLE", message="the server is draining; try again"),
    ],
)
def test_runs_that_may_be(history: History) -> None:
    assert messages(history) == []


# ---- which errors are allowed


def one_error(kind: str, code: str, fault: Fault | None, **changes: Any) -> History:
    """A request that fails 500 ms after it was sent."""
    invoke = invoke_of(1, kind, **changes)
    history = History().add([invoke, answer_of(invoke, code, after_ms=500)])
    return history.add([fault] if fault else [])


def kill_of(kind: str, begin_s: float = -1.0, end_s: float = 2.0, target: str = "x") -> Fault:
    return Fault(kind, target, 7, BEGIN_NS + int(begin_s * S), BEGIN_NS + int(end_s * S))


KILL = kill_of("replica-kill")


@pytest.mark.parametrize(
    "history",
    [
        one_error(ONCE, "UNAVAILABLE", KILL),
        one_error(STREAM, "UNAVAILABLE", KILL),
        one_error(ONCE, "UNAVAILABLE", kill_of("router-kill")),
        one_error(IDEMPOTENT, DISCONNECTED, kill_of("frontend-kill", target="frontend-0")),
        one_error(IDEMPOTENT, "RESOURCE_EXHAUSTED", kill_of("memory-full")),
        one_error(IDEMPOTENT, "UNAVAILABLE", kill_of("memory-full"), protocol="flight"),
        one_error(IDEMPOTENT, "DEADLINE_EXCEEDED", None, tight=True),
        one_error(IDEMPOTENT, GAVE_UP, None),
        one_error(IDEMPOTENT, "INTERNAL", None, expect="INTERNAL"),
    ],
)
def test_errors_that_the_table_allows(history: History) -> None:
    assert messages(history) == []


@pytest.mark.parametrize(
    "history",
    [
        one_error(IDEMPOTENT, "UNAVAILABLE", KILL),
        one_error(ONCE, "INTERNAL", KILL),
        one_error(ONCE, "UNAVAILABLE", None),
        one_error(ONCE, "UNAVAILABLE", kill_of("replica-kill", begin_s=-9.0, end_s=-8.0)),
        one_error(ONCE, "UNAVAILABLE", kill_of("replica-kill", begin_s=-60.0, end_s=2.0)),
        one_error(ONCE, "UNAVAILABLE", kill_of("replica-kill", begin_s=3.0, end_s=4.0)),
        one_error(ONCE, "UNAVAILABLE", kill_of("supervisor-kill")),
        one_error(IDEMPOTENT, DISCONNECTED, kill_of("frontend-kill", target="frontend-1")),
        one_error(IDEMPOTENT, "DEADLINE_EXCEEDED", None),
        one_error(IDEMPOTENT, "OK", None, expect="INTERNAL"),
        one_error(IDEMPOTENT, "UNAVAILABLE", kill_of("memory-full")),
        one_error(IDEMPOTENT, BEHIND, None),
    ],
)
def test_errors_that_it_does_not_allow(history: History) -> None:
    found = [violation for violation in checker.check(history) if "may not fail so" in violation.message]
    assert [violation.request for violation in found] == [1]


def test_what_is_behind_an_allowed_error_in_a_stream_may_end_with_it() -> None:
    first, second = invoke_of(1, ONCE, protocol="flight"), invoke_of(2, ONCE, protocol="flight")
    history = History().add([first, second, KILL, answer_of(first, "UNAVAILABLE"), answer_of(second, BEHIND, after=1)])
    assert messages(history) == []
    history.outcomes[0] = answer_of(first)
    assert any("request 2" in message and "may not fail so" in message for message in messages(history))


def test_a_frozen_frontend_delays_its_own_clients_only() -> None:
    def history(target: str) -> History:
        fault = kill_of("frontend-stop", end_s=4.0, target=target)
        invoke = invoke_of(1, timeout_ms=100)
        return History().add([invoke, fault, answer_of(invoke, DISCONNECTED, after_ms=6500)])

    assert messages(history("frontend-0")) == []
    assert any("late" in message for message in messages(history("frontend-1")))


def test_where_the_generator_was_behind_its_schedule_others_may_have_been() -> None:
    invoke = invoke_of(1, timeout_ms=100)
    after_ms = 100 + checker.LATE_NS / MS + 500
    late = [invoke, exec_of(invoke), answer_of(invoke, after_ms=after_ms)]
    assert any("late" in message for message in messages(History().add(late)))
    held_up = invoke_of(2, intended_ns=invoke_of(2).sent_ns - 100 * MS)
    assert messages(History().add([*late, held_up, exec_of(held_up), answer_of(held_up)])) == []
    expired = answer_of(invoke, "DEADLINE_EXCEEDED", after_ms=100)
    assert "may not fail so" in messages(History().add([invoke, expired]))[0]
    assert messages(History().add([invoke, expired, held_up, exec_of(held_up), answer_of(held_up)])) == []


def test_a_client_that_is_killed_takes_its_outcomes_along_and_nothing_else() -> None:
    invoke = invoke_of(1, ONCE, doomed=True)
    assert messages(History().add([invoke, exec_of(invoke)])) == []
    assert any("ran again" in m for m in messages(History().add([invoke, exec_of(invoke), exec_of(invoke, pid=8)])))


# ---- counters, rest, recovery


def test_counts_of_a_frontend_that_died_may_be_less_never_more() -> None:
    invoke = invoke_of(1)
    sent = [invoke, exec_of(invoke), answer_of(invoke)]

    def found(counted: int, complete: bool) -> list[str]:
        count = Count("http", "Fifo", "derive", "OK", counted, 0, 1 << 60, complete)
        return messages(History().add([*sent, count]))

    assert found(1, True) == found(1, False) == found(0, False) == []
    assert "the frontends count 0, their clients 1, one of them request 1" in found(0, True)[0]
    assert "count 2" in found(2, False)[0]


def test_a_request_without_the_server_s_word_may_be_counted_or_not() -> None:
    invoke = invoke_of(1)
    for counted in (0, 1):
        count = Count("http", "Fifo", "derive", "OK", counted, 0, 1 << 60)
        assert messages(History().add([invoke, answer_of(invoke, GAVE_UP), count])) == []


def test_books_that_do_not_balance_and_leaks_are_named() -> None:
    history = History().add(
        [Balance("router-1", "Fifo", 5, {"completed": 3, "failed": 1}), Leak("frontend-0", "fds", 40, 90)]
    )
    assert messages(history) == [
        "[5] router-1 at rest: 5 requests of Fifo arrived, 4 have an outcome (3 completed, 1 failed)",
        "[6] frontend-0: fds is 90 at rest, 40 before",
    ]


def test_a_fault_that_nothing_recovers_from_is_a_violation() -> None:
    history = History().add([Fault("router-kill", "router-0", 7, 0, 9 * S, False, "the app is degraded")])
    assert "router-kill of router-0: not whole again" in messages(history)[0]


# ---- rows and files


@given(st.integers(1, 1 << 40), st.integers(1, 300), st.sampled_from(["derive", "once", "row"]))
def test_a_reply_leads_back_to_its_rows(request_id: int, count: int, method: str) -> None:
    batch = rows.make(request_id, count)
    reply = rows.derive(batch, method)
    assert rows.source(reply, method).equals(batch)
    assert rows.rows_hash(rows.source(reply, "another")) != rows.rows_hash(batch)
    one_by_one = [rows.derive_one(value, method) for value in batch.column("value").to_pylist()]
    assert one_by_one == reply.column("value").to_pylist()


def test_runs_are_the_stretches_of_consecutive_rows() -> None:
    one, two = rows.make(1, 10), rows.make(2, 3)
    table = pa.Table.from_batches([one.slice(4, 3), two, one.slice(0, 2), one.slice(1, 2)]).combine_chunks()
    assert rows.runs(table.to_batches()[0]) == [(1, 4, 3), (2, 0, 3), (1, 0, 2), (1, 1, 2)]


def test_journals_keep_all_but_an_unfinished_line(tmp_path: Path) -> None:
    invoke = invoke_of(1)
    journal = Journal(tmp_path / "a.jsonl")
    journal.write([invoke, answer_of(invoke)])
    journal.write([exec_of(invoke)])
    journal.close()
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"type":"exec","id":')
    history = read(tmp_path)
    assert (history.invokes, history.outcomes, history.execs) == ([invoke], [answer_of(invoke)], [exec_of(invoke)])
