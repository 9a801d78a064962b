"""SQL load, and the embedded engine it is compared with: TPC-H, scans, small queries, merged lookups.

Everything that DuckDB answers inside this process is a baseline; everything over a connection is the subject. Answers
of the subject are compared with the engine's own: TPC-H in the first pass, lookups in every request.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import httpx
import pyarrow as pa
from pyarrow import flight

from benchmarks import lookups, tpch
from benchmarks.load.orders import WrongAnswer, latencies, obey

SMALL = "SELECT n_name, n_regionkey FROM nation WHERE n_nationkey = 7"
TIMEOUT_S = 120.0


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
def connected(address: str) -> Any:
    """An ADBC connection."""
    return adbc.connect(address, autocommit=True)


@functools.cache
def answers(scale: float, threads: int) -> dict[int, pa.Table]:
    """What the engine answers to the 22 queries."""
    return {number: embedded(scale, threads).sql(sql).to_arrow_table() for number, sql in tpch.QUERIES.items()}


# ---- TPC-H


def tpch_embedded(scale: float, threads: int) -> dict[str, Any]:
    """All 22 queries in the engine: `total_s`."""
    engine = embedded(scale, threads)
    begun = time.perf_counter()
    for sql in tpch.QUERIES.values():
        engine.sql(sql).to_arrow_table()
    return {"total_s": time.perf_counter() - begun, "answered": len(tpch.QUERIES), "verified": 0}


def tpch_adbc(address: str, scale: float, threads: int, check: bool = True) -> dict[str, Any]:
    """All 22 queries over ADBC: `total_s`. Each answer is compared with the engine's where `check` says so."""
    total_s = 0.0
    with connected(address).cursor() as cursor:
        for number, sql in tpch.QUERIES.items():
            begun = time.perf_counter()
            cursor.execute(sql)
            table = cursor.fetch_arrow_table()
            total_s += time.perf_counter() - begun
            if check:
                compare(number, table, answers(scale, threads)[number])
    return {"total_s": total_s, "answered": len(tpch.QUERIES), "verified": len(tpch.QUERIES) if check else 0}


def compare(number: int, got: pa.Table, wanted: pa.Table) -> None:
    """Row by row; floating-point sums may differ in their last bits."""
    rows, expected = got.to_pylist(), wanted.to_pylist()
    if len(rows) != len(expected):
        raise WrongAnswer(f"query {number}: {len(rows)} rows where {len(expected)} were expected")
    for row, want in zip(rows, expected, strict=True):
        for a, b in zip(row.values(), want.values(), strict=True):
            if a != b and not (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-9)):
                raise WrongAnswer(f"query {number}: {row} where {want} was expected")


# ---- scans


def scan(address: str, rows: int) -> dict[str, Any]:
    """All of lineitem to a pyarrow client: `rows_per_s`."""
    with flight.connect(address) as client:
        begun = time.perf_counter()
        info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT * FROM lineitem"))
        got = sum(piece.data.num_rows for piece in client.do_get(info.endpoints[0].ticket))
        seconds = time.perf_counter() - begun
    if rows and got != rows:
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


def one_by_one(query: str, seconds: float) -> dict[str, Any]:
    """A named query in the engine, one execution after another: `answers_per_s`."""
    engine = embedded_facts()
    sql, column, values = (
        (lookups.POINT, "id", lookups.ROWS) if query == "point" else (lookups.GROUPED, "grp", lookups.GROUPS)
    )
    number = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        engine.execute(sql, {column: number * 7919 % values}).fetchall()
        number += 1
    return {"answers_per_s": number / (time.perf_counter() - begun), "answered": number}


async def _http_points(url: str, in_flight: int, seconds: float) -> dict[str, Any]:
    count = 0
    until = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)

    async def caller(number: int, client: httpx.AsyncClient) -> None:
        nonlocal count
        while time.perf_counter() < until:
            number = (number + 7919) % lookups.ROWS
            answer = await client.post(url, json={"columns": {"id": [number]}})
            columns = answer.json()["columns"]
            if columns["id"] != [number] or columns["label"] != [f"label {number}"]:
                raise WrongAnswer(f"asked for {number}, got {columns}")
            count += 1

    begun = time.perf_counter()
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S, trust_env=False) as client:
        await asyncio.gather(*(caller(number * 31, client) for number in range(in_flight)))
    return {"answers_per_s": count / (time.perf_counter() - begun), "answered": count, "verified": count}


def http_points(url: str, in_flight: int, seconds: float) -> dict[str, Any]:
    """Point lookups as JSON, one in each request, so many in flight: `answers_per_s`."""
    return asyncio.run(_http_points(url, in_flight, seconds))


def exchange(address: str, query: str, rows: int, seconds: float) -> dict[str, Any]:
    """A named query over one DoExchange stream, `rows` executions a batch: `answers_per_s`."""
    column, values = ("id", lookups.ROWS) if query == "point" else ("grp", lookups.GROUPS)
    schema = pa.schema([(column, pa.int64())])
    count, number = 0, 0
    with flight.connect(address) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("lookups", query))
        with writer:
            writer.begin(schema)
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds:
                asked = [(number + i) * 7919 % values for i in range(rows)]
                number += rows
                writer.write_batch(pa.record_batch([pa.array(asked, pa.int64())], schema=schema))
                reply = reader.read_chunk().data
                if query == "point" and reply["id"].to_pylist() != asked:
                    raise WrongAnswer("a point lookup answered other rows")
                count += rows
            took = time.perf_counter() - begun
            writer.done_writing()
    return {"answers_per_s": count / took, "answered": count, "verified": count if query == "point" else 0}


def bound(address: str, rows: int, together: bool) -> dict[str, Any]:
    """A SELECT with a parameter, executed for so many rows over ADBC: bound `together`, or one after another. Answers
    `seconds`."""
    sql = lookups.POINT.replace("$id", "?")
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
