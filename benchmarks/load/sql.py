"""SQL load, and the embedded engine it is compared with: TPC-H, scans, small queries, merged lookups.

Everything that DuckDB answers inside this process is a baseline; everything over a connection is the subject. All
answers are compared with what they have to be: TPC-H's with the engine's own, lookups with ones computed without it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import orjson
import pyarrow as pa
import uvloop
from adbc_driver_flightsql import DatabaseOptions
from pyarrow import flight, parquet

from benchmarks import lookups, tpch
from benchmarks.load import http
from benchmarks.load.orders import WrongAnswer, latencies, obey

SMALL = "SELECT n_name, n_regionkey FROM nation WHERE n_nationkey = 7"


@functools.cache
def embedded(scale: float, threads: int) -> duckdb.DuckDBPyConnection:
    """The TPC-H tables in the engine's memory."""
    engine = duckdb.connect(config={"threads": threads})
    for name, path in tpch.ensure(scale).items():
        engine.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{path}')")
    return engine


@functools.cache
def embedded_facts() -> duckdb.DuckDBPyConnection:
    """The table of `lookups` in the engine's memory."""
    engine = duckdb.connect(config={"threads": lookups.THREADS})
    facts = lookups.table()  # noqa: F841 - read by its name in the next line
    engine.execute("CREATE TABLE facts AS SELECT * FROM facts")
    return engine


@functools.cache
def connected(address: str, message_bytes_max: int = 0) -> Any:
    """An ADBC connection; 0 leaves the largest message to the driver, which takes 16 MiB."""
    option = DatabaseOptions.WITH_MAX_MSG_SIZE.value
    return adbc.connect(address, {option: str(message_bytes_max)} if message_bytes_max else None, autocommit=True)


@functools.cache
def answers(scale: float, threads: int) -> dict[int, pa.Table]:
    """What the engine answers to the 22 queries."""
    return {number: embedded(scale, threads).sql(sql).to_arrow_table() for number, sql in tpch.QUERIES.items()}


# ---- TPC-H


def tpch_embedded(scale: float, threads: int) -> dict[str, Any]:
    """All 22 queries in the engine: `total_s`."""
    engine = embedded(scale, threads)
    return tpch_all(lambda sql: engine.sql(sql).to_arrow_table(), scale, threads)


def tpch_adbc(address: str, scale: float, threads: int, message_bytes_max: int = 0) -> dict[str, Any]:
    """All 22 queries over ADBC: `total_s`."""
    with connected(address, message_bytes_max).cursor() as cursor:

        def fetched(sql: str) -> pa.Table:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()

        return tpch_all(fetched, scale, threads)


def tpch_all(run: Callable[[str], pa.Table], scale: float, threads: int) -> dict[str, Any]:
    """Each query's time, and their sum; every answer is compared with the engine's, off the clock."""
    seconds: dict[int, float] = {}
    for number, sql in tpch.QUERIES.items():
        begun = time.perf_counter()
        table = run(sql)
        seconds[number] = time.perf_counter() - begun
        compare(number, table, answers(scale, threads)[number])
    return {"total_s": sum(seconds.values()), "seconds": seconds, "answered": len(seconds), "verified": len(seconds)}


def compare(number: int, got: pa.Table, wanted: pa.Table) -> None:
    """Row by row, as `alike`. Raises WrongAnswer."""
    rows, expected = got.to_pylist(), wanted.to_pylist()
    if len(rows) != len(expected):
        raise WrongAnswer(f"query {number}: {len(rows)} rows where {len(expected)} were expected")
    for row, want in zip(rows, expected, strict=True):
        for a, b in zip(row.values(), want.values(), strict=True):
            if not alike(a, b):
                raise WrongAnswer(f"query {number}: {row} where {want} was expected")


def alike(a: Any, b: Any) -> bool:
    """Equal, but for the last bits of floating-point sums, and the digits that a decimal does not have of a float (some
    engines give an average of decimals as one)."""
    if a == b:
        return True
    if not isinstance(a, float | Decimal) or not isinstance(b, float | Decimal):
        return False
    digits = [value.as_tuple().exponent for value in (a, b) if isinstance(value, Decimal)]
    if len(digits) == 2:
        return False
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=10.0 ** int(digits[0]) if digits else 0.0)


# ---- scans


def scan(address: str, scale: float) -> dict[str, Any]:
    """All of lineitem to a pyarrow client: `rows_per_s`."""
    rows = parquet.read_metadata(tpch.ensure(scale)["lineitem"]).num_rows
    with flight.connect(address) as client:
        begun = time.perf_counter()
        info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT * FROM lineitem"))
        got = sum(piece.data.num_rows for piece in client.do_get(info.endpoints[0].ticket))
        seconds = time.perf_counter() - begun
    if got != rows:
        raise WrongAnswer(f"{got} rows where {rows} were expected")
    return {"rows_per_s": got / seconds, "answered": 1, "verified": 1}


def slow_scan(address: str, seconds: float) -> dict[str, Any]:
    """Take the full scan a batch at a time, slowly; answers how many rows came."""
    got = 0
    with flight.connect(address) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT * FROM lineitem"))
        reader = client.do_get(info.endpoints[0].ticket)
        until = time.perf_counter() + seconds
        for piece in reader:
            got += piece.data.num_rows
            if time.perf_counter() >= until:
                reader.cancel()
                break
            time.sleep(0.05)
    return {"rows": got}


# ---- one small query


def small_adbc(address: str, seconds: float) -> dict[str, Any]:
    """The small query again and again over one ADBC connection: `p50_us`."""
    with connected(address).cursor() as cursor:

        def once() -> None:
            cursor.execute(SMALL)
            if cursor.fetchall() != [("GERMANY", 3)]:
                raise WrongAnswer("the small query")

        return timed(once, seconds)


def small_embedded(address: str, scale: float, threads: int, seconds: float) -> dict[str, Any]:
    """The same in the engine, and three bare RPCs (two actions and a stream of one batch) beside it: `p50_us`."""
    engine = embedded(scale, threads)
    with flight.connect(address) as client:

        def once() -> None:
            engine.execute(SMALL).fetchall()
            list(client.do_action("echo"))
            client.get_flight_info(flight.FlightDescriptor.for_path("echo"))
            client.do_get(flight.Ticket(b"echo")).read_all()

        return timed(once, seconds)


def timed(once: Callable[[], None], seconds: float) -> dict[str, Any]:
    """`once` until the time is over, after one that does not count."""
    once()
    times_ns: list[int] = []
    until_ns = time.perf_counter_ns() + int(seconds * 1e9)
    now = time.perf_counter_ns()
    while now < until_ns:
        once()
        before, now = now, time.perf_counter_ns()
        times_ns.append(now - before)
    return {**latencies(times_ns), "answered": len(times_ns), "verified": len(times_ns)}


# ---- merged executions


@functools.cache
def expected() -> lookups.Expected:
    """What the named queries answer."""
    return lookups.Expected()


STATEMENT = lookups.POINT.replace("$id", "?")
COLUMNS = {"point": ("id", lookups.ROWS), "grouped": ("grp", lookups.GROUPS)}


def one_by_one(query: str, seconds: float) -> dict[str, Any]:
    """A named query in the engine, one execution after another: `answers_per_s`."""
    engine = embedded_facts()
    sql = lookups.POINT if query == "point" else lookups.GROUPED
    column, values = COLUMNS[query]
    got: list[list[Any]] = []
    begun = time.perf_counter()
    while (took := time.perf_counter() - begun) < seconds:
        got.append(engine.execute(sql, {column: len(got) * 7919 % values}).fetchall())
    wanted = expected().answer(query, lookups.asked(0, len(got), values)).to_pylist()
    if [(rid, *row) for rid, rows in enumerate(got) for row in rows] != [tuple(row.values()) for row in wanted]:
        raise WrongAnswer("the engine and the expected answers differ")
    return {"answers_per_s": len(got) / took, "answered": len(got), "verified": len(got)}


class Point(http.Connection):
    """A point lookup of another row in each request."""

    def __init__(self, url: str, run: http.Run, number: int) -> None:
        super().__init__(run)
        where = urlsplit(url)
        self._head = (
            f"POST {where.path} HTTP/1.1\r\nhost: {where.netloc}\r\naccept: application/json\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._id = number * 31

    def request(self) -> bytes:
        """The next row."""
        self._id = (self._id + 7919) % lookups.ROWS
        body = b'{"columns":{"id":[%d]}}' % self._id
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    def check(self, body: bytes) -> None:
        """That row, all of it."""
        columns = orjson.loads(body)["columns"]
        amount = amounts()[self._id]
        if columns != {"rid": [0], "id": [self._id], "label": [f"label {self._id}"], "amount": [amount]}:
            raise WrongAnswer(f"asked for {self._id}, got {columns}")


class Statement(Point):
    """The same lookup as a statement with a parameter."""

    def request(self) -> bytes:
        """The next row."""
        self._id = (self._id + 7919) % lookups.ROWS
        body = b'{"query":"%b","parameters":[%d],"shape":"columns"}' % (STATEMENT.encode(), self._id)
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    def check(self, body: bytes) -> None:
        """That row, all of it."""
        columns = orjson.loads(body)["columns"]
        if columns != {"id": [self._id], "label": [f"label {self._id}"], "amount": [amounts()[self._id]]}:
            raise WrongAnswer(f"asked for {self._id}, got {columns}")


@functools.cache
def amounts() -> list[int]:
    """The column of the points, by id."""
    values: list[int] = expected().points["amount"].to_pylist()
    return values


def http_points(url: str, in_flight: int, seconds: float, statements: bool = False) -> dict[str, Any]:
    """Point lookups as JSON, one in each request, so many in flight; by the query's name, or as `statements`:
    `answers_per_s`."""
    amounts()
    lookup = functools.partial(Statement if statements else Point, url)
    answer = uvloop.run(http.closed_loop(url, in_flight, seconds, lookup))
    return {"answers_per_s": answer.pop("calls_per_s"), **answer}


def exchange(address: str, query: str, rows: int, seconds: float) -> dict[str, Any]:
    """A named query over one DoExchange stream, `rows` executions a batch, each batch once the last one is answered:
    `answers_per_s`."""
    column, values = COLUMNS[query]
    schema = pa.schema([(column, pa.int64())])
    replies: list[pa.RecordBatch] = []
    with flight.connect(address) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("lookups", query))
        with writer:
            writer.begin(schema)
            begun = time.perf_counter()
            while (took := time.perf_counter() - begun) < seconds:
                asked = lookups.asked(len(replies) * rows, rows, values)
                writer.write_batch(pa.record_batch([pa.array(asked)], schema=schema))
                replies.append(reader.read_chunk().data)
            writer.done_writing()
    for number, reply in enumerate(replies):
        if not reply.equals(expected().answer(query, lookups.asked(number * rows, rows, values))):
            raise WrongAnswer(f"batch {number} of {query}")
    count = len(replies) * rows
    return {"answers_per_s": count / took, "answered": count, "verified": count}


def bound(address: str, rows: int, together: bool) -> dict[str, Any]:
    """A SELECT with a parameter, executed for so many rows over ADBC: bound `together`, or one after another. Answers
    `seconds`."""
    sql = STATEMENT
    asked = [number * 7919 % lookups.ROWS for number in range(rows)]
    got: list[int] = []
    with connected(address).cursor() as cursor:
        begun = time.perf_counter()
        if together:
            cursor.execute(sql, pa.record_batch([pa.array(asked, pa.int64())], names=["0"]))
            got = [row[0] for row in cursor.fetchall()]
        else:
            for number in asked:
                cursor.execute(sql, (number,))
                got.append(cursor.fetchall()[0][0])
        seconds = time.perf_counter() - begun
    if got != asked:
        raise WrongAnswer("the rows bound together answered other rows")
    return {"seconds": seconds, "answered": rows, "verified": rows}


if __name__ == "__main__":
    obey(
        {
            order.__name__: order
            for order in (
                *(tpch_embedded, tpch_adbc, scan, slow_scan, small_adbc, small_embedded),
                *(one_by_one, http_points, exchange, bound),
            )
        }
    )
