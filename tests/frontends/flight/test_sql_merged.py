"""Prepared statements of several ADBC clients, run as one query: over the real data plane, with the real clients.

The first execution is held inside the replica until all others wait in the router, so that they share a micro-batch.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.contracts.warehouse import EXECUTED_BYTES_MAX
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.proto import flight_pb2
from tests.frontends.sql.support import Runs
from tests.plane import Plane, plane
from tests.sql.warehouses import PEOPLE
from tests.support import eventually

BY_ID = "SELECT id, name, $1 AS asked FROM people WHERE id = $1 OR $1 IS NULL ORDER BY id"
NAMES = PEOPLE["name"].to_pylist()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Plane, str]]:
    (bound,) = fs.App(fs.sql.Warehouse({"people": PEOPLE}, name="lake", threads=2, memory_limit="300MB"))
    with plane(bound) as running:
        frontend = FlightFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        try:
            yield running, frontend.start()
        finally:
            frontend.stop()
            running.targets[0].close()


@pytest.fixture
def runs(served: tuple[Plane, str], monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(served[0].targets[0]._tables.current.runner, monkeypatch)


def ask(address: str, sql: str, value: pa.Scalar) -> pa.Table:
    """The result for one bound value."""
    with adbc.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql, bound(value))
        return cursor.fetch_arrow_table()


def bound(*values: pa.Scalar) -> pa.RecordBatch:
    return pa.record_batch([pa.array([value.as_py() for value in values], values[0].type)], names=["0"])


def together(served: tuple[Plane, str], runs: Runs, jobs: Sequence[tuple[str, pa.Scalar]]) -> list[Any]:
    """The jobs' results or errors, each by a client of its own; all but the first of each text wait in the router until
    all have come. All are described before: that would wait behind what is held."""
    running, address = served
    groups = len({sql for sql, _ in jobs})
    with contextlib.ExitStack() as stack:
        cursors = []
        for sql, value in jobs:
            connection = stack.enter_context(adbc.connect(address, autocommit=True))
            cursor = stack.enter_context(connection.cursor())
            cursors.append((cursor, *cursor.adbc_execute_partitions(sql, bound(value))))

        def read(cursor: Any, partitions: list[bytes], schema: pa.Schema) -> Any:
            try:
                cursor.adbc_read_partition(partitions[0])
                table = cursor.fetch_arrow_table()
            except adbc_driver_manager.Error as error:
                return error
            assert table.schema == schema
            return table

        runs.hold = True
        clients = stack.enter_context(ThreadPoolExecutor(len(jobs)))
        try:
            answers = [clients.submit(read, *each) for each in cursors]
            queued = len(jobs) - groups
            eventually(lambda: running.router.statistics()["lake.queued_requests"] == queued, 20, "the others wait")
        finally:
            runs.go.set()
        return [answer.result(30) for answer in answers]


class Member:
    """A client of its own, that reads one execution's ticket on a thread."""

    def __init__(self, stack: contextlib.ExitStack, address: str, sql: str, value: pa.Scalar) -> None:
        connection = stack.enter_context(adbc.connect(address, autocommit=True))
        cursor = stack.enter_context(connection.cursor())
        (partition,), _ = cursor.adbc_execute_partitions(sql, bound(value))
        self._info = flight.FlightInfo.deserialize(partition)
        self._client = stack.enter_context(flight.connect(address))
        self._thread = stack.enter_context(ThreadPoolExecutor(1))
        self.answer: Any = None

    def start(self) -> None:
        self.answer = self._thread.submit(self._read)

    def _read(self) -> pa.Table:
        reader = self._client.do_get(self._info.endpoints[0].ticket)
        # Not read_all: when its server cancels, pyarrow takes it for Ctrl-C.
        batches = []
        with contextlib.suppress(StopIteration):
            while True:
                batches.append(reader.read_chunk().data)
        return pa.Table.from_batches(batches, reader.schema)

    def cancel(self) -> None:
        """As an ADBC client does it."""
        info = flight_pb2.FlightInfo.FromString(self._info.serialize())
        body = flight_pb2.CancelFlightInfoRequest(info=info).SerializeToString()
        list(self._client.do_action(flight.Action("CancelFlightInfo", body)))

    def cancelled(self) -> None:
        """Wait until it is."""
        with pytest.raises(flight.FlightCancelledError):
            self.answer.result(20)


def ints(*values: int | None) -> list[pa.Scalar]:
    return [pa.scalar(value, pa.int64()) for value in values]


def test_clients_of_one_text_share_a_query(served: tuple[Plane, str], runs: Runs) -> None:
    values = ints(1, 2, 3, 4, 5, 6, 7, None, 1, 1, None, 99)
    answers = together(served, runs, [(BY_ID, value) for value in values])
    for value, answer in zip(values, answers, strict=True):
        asked = value.as_py()
        ids = [n for n in range(1, 7) if asked in (None, n)]
        wanted = {"id": ids, "name": [NAMES[n - 1] for n in ids], "asked": [asked] * len(ids)}
        assert answer.to_pydict() == wanted
    assert (runs.by("one"), runs.by("merged"), runs.by("stream")) == ([1], [len(values) - 1], [])


def test_texts_are_not_mixed(served: tuple[Plane, str], runs: Runs) -> None:
    texts = ["SELECT $1::BIGINT + 1 AS n, 'a' AS t", "SELECT $1::BIGINT + 2 AS n, 'b' AS t"]
    jobs = [(text, value) for value in ints(10, 20, 30, 40) for text in texts]
    answers = together(served, runs, jobs)
    assert [answer.to_pylist() for answer in answers] == [
        [{"n": value.as_py() + 1 + texts.index(text), "t": "ab"[texts.index(text)]}] for text, value in jobs
    ]
    assert sorted(runs.seen) == sorted([(how, text, n) for text in texts for how, n in (("one", 1), ("merged", 3))])


def test_an_error_is_its_execution_s_alone(served: tuple[Plane, str], runs: Runs) -> None:
    sql = "SELECT id, $1::VARCHAR::INTEGER AS n FROM people WHERE id = 1"
    values = ["1", "2", "x", "4", "y", "6"]
    answers = together(served, runs, [(sql, pa.scalar(value)) for value in values])
    for value, answer in zip(values, answers, strict=True):
        if value.isdigit():
            assert answer.to_pylist() == [{"id": 1, "n": int(value)}]
        else:
            assert isinstance(answer, adbc_driver_manager.ProgrammingError) and "onver" in str(answer)
    assert runs.by("merged") == [len(values) - 1]


def merging(served: tuple[Plane, str], runs: Runs, members: Sequence[Member]) -> None:
    """Start all, the first of them first and by itself; the others are about to run together."""
    runs.hold = True
    first, *others = members
    first.start()
    eventually(lambda: runs.by("one"), 20, "the first runs")
    for member in others:
        member.start()
    queued = len(members) - 1
    eventually(lambda: served[0].router.statistics()["lake.queued_requests"] == queued, 20, "the others wait")
    runs.hold_merged = True
    runs.go.set()


def test_one_of_those_that_run_together_is_cancelled(served: tuple[Plane, str], runs: Runs) -> None:
    values = ints(6, 1, 2, 3, 4, 1)
    with contextlib.ExitStack() as stack:
        members = [Member(stack, served[1], BY_ID, value) for value in values]
        stack.callback(runs.finish.set)
        stack.callback(runs.go.set)
        merging(served, runs, members)
        assert runs.merging.wait(20)
        gone = members.pop(2)
        gone.cancel()
        # It need not wait for the others.
        gone.cancelled()
        runs.finish.set()
        answers = [member.answer.result(30)["id"].to_pylist() for member in members]
    assert answers == [[6], [1], [3], [4], [1]]
    assert (runs.by("one"), runs.by("merged")) == ([1], [len(values) - 1])


def test_what_runs_together_ends_when_all_are_cancelled(served: tuple[Plane, str], runs: Runs) -> None:
    busy = served[0].targets[0]._tables.current.engine._busy
    sql = "SELECT count(*) AS n FROM range(1000000000000) WHERE range > $1"
    with contextlib.ExitStack() as stack:
        members = [Member(stack, served[1], sql, value) for value in ints(1, 2, 3, 4)]
        stack.callback(runs.go.set)
        runs.finish.set()
        merging(served, runs, members)
        members[0].cancel()
        members[0].cancelled()
        assert runs.merging.wait(20)
        eventually(lambda: busy, 20, "it runs in the engine")
        for member in members[1:]:
            member.cancel()
        for member in members[1:]:
            member.cancelled()
        eventually(lambda: not busy, 20, "it does not run any more")
    assert runs.by("merged") == [3]
    assert ask(served[1], BY_ID, pa.scalar(3, pa.int64()))["id"].to_pylist() == [3]


def test_a_large_result_is_streamed_and_spares_the_others(served: tuple[Plane, str], runs: Runs) -> None:
    sql = "SELECT id, repeat('x', $1::BIGINT) AS t FROM people ORDER BY id"
    sizes = [1, EXECUTED_BYTES_MAX // 5, 3, 4, 5]
    answers = together(served, runs, [(sql, value) for value in ints(*sizes)])
    for size, answer in zip(sizes, answers, strict=True):
        assert answer.to_pydict() == {"id": list(range(1, 7)), "t": ["x" * size] * 6}
    assert runs.by("stream") == [1]
    # The text is known for it now: nothing is tried in vain.
    before = len(runs.by("one")), len(runs.by("merged"))
    small = ask(served[1], sql, pa.scalar(2, pa.int64()))
    assert small["t"].to_pylist() == ["xx"] * 6
    assert runs.by("stream") == [1, 1] and (len(runs.by("one")), len(runs.by("merged"))) == before


def test_a_result_of_many_batches_comes_whole(served: tuple[Plane, str], runs: Runs) -> None:
    got = ask(served[1], "SELECT range AS n FROM range(1000000) WHERE range >= $1", pa.scalar(5, pa.int64()))
    assert got["n"].to_pylist() == list(range(5, 1_000_000))
    assert runs.by("stream") == [1]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT name FROM people WHERE id > $1 LIMIT 1", {"0": [0]}),
        ("SELECT random() < 2 AND $1 > 0 AS yes", {"0": [1]}),
        ("SELECT name FROM people WHERE id = $1", {"0": [1, 2, 3]}),
        ("SELECT count(*) AS n FROM people", None),
        (f"SELECT name FROM people WHERE id = $1 -- {'x' * 20_000}", {"0": [1]}),
    ],
)
def test_what_is_not_for_it_runs_as_ever(
    served: tuple[Plane, str], runs: Runs, sql: str, rows: dict[str, list[int]] | None
) -> None:
    with adbc.connect(served[1], autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql, None if rows is None else pa.record_batch(rows))
        assert cursor.fetch_arrow_table().num_rows == (len(rows["0"]) if rows else 1)
    assert runs.by("stream") == [1]


def test_columns_are_as_they_were_told(served: tuple[Plane, str], runs: Runs) -> None:
    sql = (
        "SELECT $1, $1::BIGINT + 1, id AS rid, id AS rid, 'AA'::ENUM('AA', 'UA') AS e, 1.5::DECIMAL(9, 2) AS d, "
        "DATE '2013-01-02' AS day, [id] AS l, {'a': name} AS s FROM people WHERE id <= $1 ORDER BY id"
    )
    values = ints(0, 1, 2, None)
    answers = together(served, runs, [(sql, value) for value in values])
    assert [answer.num_rows for answer in answers] == [0, 1, 2, 0]
    with adbc.connect(served[1], autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql, bound(values[1], values[2]))
        streamed = cursor.fetch_arrow_table()
    assert [answer.schema for answer in answers] == [streamed.schema] * len(values)
    assert pa.concat_tables([answers[1], answers[2]]).equals(streamed)
    assert len(runs.by("merged")) == 2


def test_clients_that_do_not_wait_for_each_other(served: tuple[Plane, str], runs: Runs) -> None:
    def work(seed: int) -> int:
        numbers = random.Random(seed)
        with adbc.connect(served[1], autocommit=True) as connection, connection.cursor() as cursor:
            for _ in range(30):
                asked = numbers.choice([1, 2, 3, 4, 5, 6, 7, None])
                cursor.execute(BY_ID, (asked,))
                ids = [n for n in range(1, 7) if asked in (None, n)]
                assert cursor.fetchall() == [(n, NAMES[n - 1], asked) for n in ids]
        return 30

    with ThreadPoolExecutor(8) as clients:
        assert sum(clients.map(work, range(8))) == 240
    assert sum(count for _, _, count in runs.seen) == 240
