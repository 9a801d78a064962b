"""Memory that the engine does not count: who is blamed for it, what may be mapped, and a process that is held to it."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS, NS_PER_S
from flightserve.errors import OutOfMemory, ReplicaFailed
from flightserve.sql.engine import Engine, query_watch
from flightserve.sql.engine.errors import translate
from flightserve.sql.engine.memory import (
    FLOOR_BYTES,
    GROWN_BYTES_MIN,
    MIB,
    YIELD_NS,
    Grant,
    Judge,
    bound,
    private_bytes,
    usage,
)
from flightserve.sql.engine.query_watch import QueryWatch
from tests.sql.warehouses import opened, watching

BOUND = 1000 * MIB


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened() as engine:
        yield engine


def test_the_query_that_grew_is_blamed_and_not_the_oldest() -> None:
    judge: Judge[str] = Judge()
    assert judge.look(100 * MIB, BOUND, ["old"], ["old"]) is None
    assert judge.look(110 * MIB, BOUND, ["old", "new"], ["old"]) is None
    assert judge.look(1100 * MIB, BOUND, ["old", "new"], ["new"]) == "new"


def test_of_equals_the_oldest() -> None:
    judge: Judge[str] = Judge()
    judge.look(100 * MIB, BOUND, ["a", "b"], ["a", "b"])
    assert judge.look(1100 * MIB, BOUND, ["a", "b"], ["a", "b"]) == "a"


def test_nobody_is_blamed_for_what_was_there_before() -> None:
    judge: Judge[str] = Judge()
    assert judge.look(1100 * MIB, BOUND, ["small"], ["small"]) is None
    assert judge.look(1100 * MIB + GROWN_BYTES_MIN - 1, BOUND, ["small"], ["small"]) is None
    assert judge.look(1100 * MIB + GROWN_BYTES_MIN, BOUND, ["small"], ["small"]) == "small"


def test_one_at_a_time_until_it_has_ended() -> None:
    judge: Judge[str] = Judge()
    judge.look(0, BOUND, ["a", "b"], ["a", "b"])
    assert judge.look(1100 * MIB, BOUND, ["a", "b"], ["a", "b"]) == "a"
    judge.told("a", 0)
    assert judge.look(1200 * MIB, BOUND, ["a", "b"], ["a", "b"]) is None
    assert judge.look(1200 * MIB, BOUND, ["b"], ["b"]) == "b"


def test_what_was_given_back_is_forgiven() -> None:
    judge: Judge[str] = Judge()
    for resident in (0, 900, 10, 910, 20):
        judge.look(resident * MIB, BOUND, ["a"], ["a"])
    judge.look(20 * MIB, BOUND, ["a", "b"], [])
    assert judge.look(1020 * MIB, BOUND, ["a", "b"], ["b"]) == "b"


def test_one_that_does_not_yield_costs_the_process_only_while_it_is_over() -> None:
    judge: Judge[str] = Judge()
    judge.look(0, BOUND, ["a"], ["a"])
    judge.look(1100 * MIB, BOUND, ["a"], ["a"])
    judge.told("a", 0)
    assert not judge.stuck(True, YIELD_NS)
    assert judge.stuck(True, YIELD_NS + 1)
    assert not judge.stuck(False, YIELD_NS + 1)
    assert not judge.stuck(True, 2 * YIELD_NS)
    assert judge.stuck(True, 2 * YIELD_NS + 2)
    judge.look(1100 * MIB, BOUND, [], [])
    assert not judge.stuck(True, 99 * YIELD_NS)


def test_what_one_took_that_has_ended_is_put_down_to_nobody() -> None:
    judge: Judge[str] = Judge()
    judge.look(100 * MIB, BOUND, ["greedy", "small"], ["greedy"])
    # Between two looks the greedy one grew and failed; its memory is not back yet.
    judge.begin_anew(1100 * MIB)
    assert judge.look(1100 * MIB, BOUND, ["small"], ["small"]) is None
    assert judge.look(1100 * MIB + GROWN_BYTES_MIN, BOUND, ["small"], ["small"]) == "small"


looks = st.lists(
    st.tuples(st.integers(0, 2000), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))), min_size=1, max_size=30
)


@given(looks)
def test_the_judge_against_plain_books(steps: list[tuple[int, set[int], set[int]]]) -> None:
    """Only a running query is named, only over the bound, only when it grew, and none grew more."""
    judge: Judge[int] = Judge()
    before, grown = None, {}
    for number, (mib, running, some) in enumerate(steps):
        active, resident = sorted(running & some), mib * MIB
        grown = {key: grown.get(key, 0.0) for key in sorted(running)}
        for key in active if before is not None else ():
            grown[key] = max(0.0, grown[key] + (resident - before) / len(active))
        before = resident
        named = judge.look(resident, BOUND, sorted(running), active)
        if named is None:
            free = not judge._told
            assert resident <= BOUND or not free or max(grown.values(), default=0.0) < GROWN_BYTES_MIN
            continue
        assert named in running and resident > BOUND and grown[named] == max(grown.values()) >= GROWN_BYTES_MIN
        judge.told(named, number)


@given(st.lists(st.tuples(st.integers(0, 2 * BOUND), st.integers(0, 8 * BOUND)), min_size=1, max_size=30))
def test_what_may_be_mapped(looks: list[tuple[int, int]]) -> None:
    """Exactly the headroom while there is some; over the bound it never rises, and never over the floor."""
    grant, before = Grant(), None
    for resident, mapped in looks:
        limit = grant.renew(resident, mapped, BOUND)
        headroom = BOUND - resident
        if headroom > FLOOR_BYTES:
            assert limit - mapped == headroom
        else:
            assert limit <= mapped + FLOOR_BYTES
            assert before is None or limit <= before
        before = limit


def test_a_grant_is_tight_while_much_is_in_use() -> None:
    grant = Grant()
    for resident, tight in [
        (200, False),
        (290, False),
        (310, True),
        (900, True),
        (290, False),
        (100, False),
        (210, False),
    ]:
        grant.renew(resident * MIB, 0, BOUND)
        assert grant.tight is tight, resident
    # The more there was, the sooner.
    grant.renew(230 * MIB, 0, BOUND)
    assert grant.tight


def test_the_bound_is_above_the_engine_s_limit_and_below_the_machine() -> None:
    assert bound(50 * MIB, 300 * MIB) > 350 * MIB
    assert bound(50 * MIB, 300 * MIB, 2) == bound(50 * MIB, 300 * MIB) + 300 * MIB + 300 * MIB // 8
    assert bound(0, 1 << 50) < 1 << 45


def test_the_kernel_s_figures() -> None:
    pages = b"1000 600 200 5 0 700 0\n"
    assert usage(pages) == (400 * 4096, 700 * 4096)
    assert 0 < private_bytes() < 1 << 40


def test_an_allocation_that_failed_is_no_bug() -> None:
    assert type(translate(RuntimeError("std::bad_alloc"))) is OutOfMemory


class Looked:
    """Memory that is looked at, with what each look does."""

    def __init__(self, *looks: Callable[[], None]) -> None:
        self._looks = list(looks)
        self.failures: list[ReplicaFailed] = []
        self.broke = threading.Event()
        self.tight = False

    def look(self, *_: object) -> None:
        if self._looks:
            self._looks.pop(0)()

    def broken(self, failure: ReplicaFailed) -> None:
        self.failures.append(failure)
        self.broke.set()


@contextlib.contextmanager
def watched(watch: QueryWatch, session: duckdb.DuckDBPyConnection) -> Iterator[None]:
    query = watch.begin(session, NEVER_NS, lambda: False)
    try:
        yield
    finally:
        watch.end(query)


def raising(error: BaseException) -> Callable[[], None]:
    def look() -> None:
        raise error

    return look


def test_the_watch_survives_having_no_memory(engine: Engine) -> None:
    with watching() as watch:
        again = threading.Event()
        watch.memory = Looked(raising(MemoryError()), raising(MemoryError()), again.set)  # type: ignore[assignment]
        with engine.session() as session, watched(watch, session):
            assert again.wait(20)


def test_the_watch_is_not_woken_for_each_query(engine: Engine) -> None:
    with watching() as watch, engine.session() as session:
        looks = itertools.count()
        seen = threading.Event()
        watch.memory = Looked(*[lambda: (next(looks), seen.set())] * 100_000)  # type: ignore[arg-type, assignment]
        for _ in range(10_000):
            with watched(watch, session):
                pass
        assert seen.wait(20)
        assert next(looks) < 5_000


def test_the_watch_looks_at_once_while_much_memory_is_in_use(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_watch, "WATCH_NS", 3600 * NS_PER_S)
    with watching() as watch, engine.session() as session:
        looks: queue.SimpleQueue[None] = queue.SimpleQueue()
        watch.memory = memory = Looked(*[lambda: looks.put(None)] * 100)  # type: ignore[assignment]
        with watched(watch, session):
            looks.get(timeout=20)
        memory.tight = True  # type: ignore[attr-defined]
        for _ in range(5):
            with watched(watch, session):
                looks.get(timeout=20)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_ends_otherwise_costs_the_replica(engine: Engine) -> None:
    with watching() as watch:
        looked = Looked(raising(ZeroDivisionError()))
        watch.memory = looked  # type: ignore[assignment]
        with engine.session() as session, watched(watch, session):
            assert looked.broke.wait(20)
    assert "ZeroDivisionError" in str(looked.failures)


HELD = """
import json, sys, threading
from flightserve.errors import FlightserveError
from flightserve.sql.engine.result_stream import ResultStream
from flightserve.sql.engine.memory import MemoryWatch, bound, private_bytes
from tests.sql.warehouses import PEOPLE, opened, watching

base, outcomes, broken, kept = private_bytes(), {}, [], 0
with opened({"people": PEOPLE}, memory_limit="300MB") as engine, watching() as watch:
    watch.memory = MemoryWatch(broken.append)
    watch.memory.allow(bound(base, engine.memory_bytes))
    most, stop = [0], threading.Event()

    def look():
        while not stop.wait(0.01):
            most[0] = max(most[0], private_bytes())

    def run(sql):
        try:
            return sum(batch.num_rows for batch in ResultStream(engine, watch, sql))
        except FlightserveError as error:
            return type(error).__name__

    # It goes with the process where an assertion fails.
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    # A neighbour that is read slowly from the beginning to the end.
    neighbour = iter(ResultStream(engine, watch, "SELECT md5(range::VARCHAR) AS a FROM range(600000)"))
    rows = next(neighbour).num_rows
    for sql in json.loads(sys.argv[1]):
        before = private_bytes()
        outcomes[sql] = run(sql)
        kept = max(kept, private_bytes() - before)
        assert run("SELECT count(*) FROM people") == 1
    rows += sum(batch.num_rows for batch in neighbour)
    stop.set()
    looking.join()
    print(json.dumps({
        "outcomes": outcomes, "rows": rows, "broken": len(broken), "kept": kept,
        "most": most[0], "bound": watch.memory.bytes_max,
    }))
"""

GREEDY = [
    "SELECT repeat('x', 2000000000) AS a",
    "SELECT length(repeat('x', 1000000000)) AS a",
    "SELECT repeat('x', 700000000) AS a, repeat('y', 700000000) AS b, repeat('z', 700000000) AS c",
    "SELECT list_transform(range(3000000), lambda x: repeat('x', 1000)) AS a",
    "SELECT list(repeat('x', 100000) || i::VARCHAR) AS a FROM range(20000) t(i)",
]


def held(statements: list[str]) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", HELD, json.dumps(statements)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_a_process_is_held_to_its_bound_and_neighbours_are_unharmed() -> None:
    found = held(GREEDY)
    assert found["outcomes"] == dict.fromkeys(GREEDY, "OutOfMemory")
    assert found["rows"] == 600_000 and not found["broken"]
    # The engine's allocator kept 300 MiB of what had failed, and neighbours paid for it.
    assert found["kept"] < 64 * MIB, f"{found['kept'] // MIB} MiB"
    assert found["most"] < found["bound"] + 200 * MIB, f"{found['most'] // MIB} of {found['bound'] // MIB} MiB"


@pytest.mark.parametrize("sql", ["SELECT md5(range::VARCHAR) AS a FROM range(1500000) ORDER BY 1"])
def test_what_the_engine_can_spill_is_not_taken_for_greed(sql: str) -> None:
    assert held([sql])["outcomes"] == {sql: 1_500_000}
