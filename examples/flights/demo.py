"""`make demo`: every method of the example through every protocol, on all 336,776 flights; then SQL (`sql_demo`).

Each answer is compared exactly with what the class answers when its methods are called directly, so the four
protocols agree with each other where they agree with that; and with `reference.py`, which is plain pyarrow.
The exit status is 1 where anything differs or fails, so that this is a test, too.

Where the example runs is taken from --addresses or FLIGHTSERVE_ADDRESSES (the JSON of the `ready` line), else
from the default ports; where nothing answers there, the demo starts the example by itself on free ports and
stops it at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pyarrow as pa

from examples.flights import clients, data, reference, sql_demo
from examples.flights.launch import Example

DEFAULT_ADDRESSES = {
    "http": "http://127.0.0.1:8080",
    "grpc": "127.0.0.1:50051",
    "flight": "grpc://127.0.0.1:8815",
    "zmq": "tcp://127.0.0.1:5555",
}
DEPLOYMENT = "Flights"
REQUEST_ROWS = 65_536
JSON_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Case:
    """One method: the columns it is sent, and whether all rows go as one request."""

    method: str
    columns: tuple[str, ...]
    whole: bool
    reference: Callable[[pa.Table], pa.Table]
    relative: float = 0.0


_DELAYS = ("dep_delay", "arr_delay")
CASES = (
    Case("distance", ("origin", "dest", "air_time"), False, reference.distance, reference.RELATIVE_TOLERANCE),
    Case("explain", ("carrier", "flight", "origin", "dest", *_DELAYS), False, reference.explain),
    Case("carriers", ("carrier", *_DELAYS), True, reference.carriers),
    Case("worst", ("month", "carrier", "flight", "origin", "dest", "time_hour", "arr_delay"), True, reference.worst),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the printed table. `problem` is "" where all agrees."""

    protocol: str
    method: str
    rows_in: int
    rows_out: int
    seconds: float
    problem: str


def requests_for(case: Case, flights: pa.Table) -> list[pa.RecordBatch]:
    """The rows as the case sends them: one record batch, or several of `REQUEST_ROWS`."""
    table = flights.select(list(case.columns)).combine_chunks()
    return list(table.to_batches(max_chunksize=None if case.whole else REQUEST_ROWS))


def call_directly(method: str, requests: Sequence[pa.RecordBatch]) -> pa.Table:
    """What the class answers without flightserve in between."""
    from examples.flights.app import Flights

    flights: Any = Flights()
    if method == "explain":
        rows = [flights.explain(row) for batch in requests for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows)
    if method == "distance":
        return pa.Table.from_batches([flights.distance(batch) for batch in requests])
    table = pa.Table.from_batches(requests)
    return flights.carriers(table) if method == "carriers" else pa.Table.from_batches(list(flights.worst(table)))


def compare(case: Case, answer: pa.Table, direct: pa.Table, plain: pa.Table) -> str:
    """What is wrong with an answer, or ""."""
    if wrong := reference.difference(direct, answer):
        return f"not what the class answers: {wrong}"
    if wrong := reference.difference(plain, answer, case.relative):
        return f"not what plain pyarrow answers: {wrong}"
    return ""


def in_words(error: Exception) -> str:
    """An error on one line, whatever its library makes of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def run_case(client: clients.Client, protocol: str, case: Case, flights: pa.Table) -> tuple[Line, pa.Table | None]:
    """Call one method through one protocol; the seconds hold the client's own encoding and decoding."""
    requests = requests_for(case, flights)
    started = time.perf_counter()
    try:
        replies = client.call(DEPLOYMENT, case.method, requests)
    except Exception as error:  # the libraries share no base class, and a demo reports every failure alike
        seconds = time.perf_counter() - started
        return Line(protocol, case.method, flights.num_rows, 0, seconds, in_words(error)), None
    seconds = time.perf_counter() - started
    answer = pa.concat_tables(replies)
    return Line(protocol, case.method, flights.num_rows, answer.num_rows, seconds, ""), answer


def run_json(client: clients.HttpClient, flights: pa.Table) -> Line:
    """The single-input method once more, as JSON rows each way."""
    case = next(case for case in CASES if case.method == "explain")
    table = flights.select(list(case.columns)).slice(0, JSON_ROWS)
    started = time.perf_counter()
    try:
        answer = pa.Table.from_pylist(client.call_json(DEPLOYMENT, case.method, table.to_pylist()))
    except Exception as error:  # as above
        seconds = time.perf_counter() - started
        return Line("http json", case.method, table.num_rows, 0, seconds, in_words(error))
    seconds = time.perf_counter() - started
    problem = reference.difference(case.reference(table), answer)
    return Line("http json", case.method, table.num_rows, answer.num_rows, seconds, problem)


def run_all(addresses: dict[str, str], flights: pa.Table) -> list[Line]:
    """Every method through every protocol that has an address."""
    expected = {
        case.method: (call_directly(case.method, requests_for(case, flights)), case.reference(flights))
        for case in CASES
    }
    lines = []
    for protocol, make_client in clients.CLIENTS.items():
        if protocol not in addresses:
            continue
        client = make_client(addresses[protocol])
        try:
            for case in CASES:
                line, answer = run_case(client, protocol, case, flights)
                if answer is not None:
                    line = replace(line, problem=compare(case, answer, *expected[case.method]))
                lines.append(line)
            if isinstance(client, clients.HttpClient):
                lines.append(run_json(client, flights))
        finally:
            client.close()
    return lines


def run_sql(addresses: dict[str, str]) -> list[Line]:
    """The warehouse through every protocol that takes SQL."""
    wanted = sql_demo.expected()
    lines = []
    for protocol in sql_demo.CLIENTS:
        address = addresses.get("flight" if protocol == "adbc" else protocol)
        if address is None:
            continue
        try:
            for name, executions, rows, seconds, problem in sql_demo.run(protocol, address, wanted):
                lines.append(Line(protocol, name, executions, rows, seconds, problem))
        except Exception as error:  # as in run_case
            lines.append(Line(protocol, "sql", 0, 0, 0.0, in_words(error)))
    return lines


def format_table(lines: Sequence[Line]) -> str:
    """The lines as they are printed."""
    rows = [f"{'protocol':<10} {'method':<17} {'rows in':>9} {'rows out':>9} {'seconds':>8} {'rows/s':>12}  agrees"]
    for line in lines:
        rate = line.rows_in / line.seconds if line.seconds else 0.0
        rows.append(
            f"{line.protocol:<10} {line.method:<17} {line.rows_in:>9,} {line.rows_out:>9,} {line.seconds:>8.3f}"
            f" {rate:>12,.0f}  {'NO: ' + line.problem if line.problem else 'yes'}"
        )
    return "\n".join(rows)


def answers_on(addresses: dict[str, str]) -> bool:
    """Whether the example is what answers on these addresses."""
    try:
        answer = httpx.get(addresses["http"] + "/v1/deployments", timeout=2.0, trust_env=False)
    except (httpx.HTTPError, KeyError):
        return False
    return answer.status_code == 200 and f'"{DEPLOYMENT}"' in answer.text


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--addresses",
        default=os.environ.get("FLIGHTSERVE_ADDRESSES"),
        help="the JSON object of the ready line (default: FLIGHTSERVE_ADDRESSES, else the default ports)",
    )
    parser.add_argument("--start", action="store_true", help="start the example even where one is running")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 where everything agrees."""
    options = _arguments(argv)
    flights = data.read("flights")
    if options.addresses:
        addresses = json.loads(options.addresses)
        return report([*run_all(addresses, flights), *run_sql(addresses)], addresses)
    if not options.start and answers_on(DEFAULT_ADDRESSES):
        lines = [*run_all(DEFAULT_ADDRESSES, flights), *run_sql(DEFAULT_ADDRESSES)]
        return report(lines, DEFAULT_ADDRESSES)
    print("Starting the example on free ports (`make run` keeps one running).", flush=True)
    with Example() as example:
        lines = [*run_all(example.addresses, flights), *run_sql(example.addresses)]
        return report(lines, example.addresses)


def report(lines: Sequence[Line], addresses: dict[str, str]) -> int:
    """Print the table and what it means; the exit status."""
    wrong = sum(bool(line.problem) for line in lines)
    print(json.dumps(addresses))
    print(format_table(lines))
    if not lines or wrong:
        print(f"{wrong} of {len(lines)} answers are wrong." if lines else "No protocol has an address.")
        return 1
    print(f"All {len(lines)} answers agree with the class called directly, plain pyarrow and plain DuckDB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
