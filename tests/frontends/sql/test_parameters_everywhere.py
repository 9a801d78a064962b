"""Parameters over ADBC, HTTP and gRPC: each answers as the engine embedded in a program does (`parameter_table`)."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import grpc
import httpx
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import FrontendOptions
from flightserve.fabric.memory.batches import stream_of
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto.flightserve_pb2_grpc import FlightServeStub
from flightserve.testing import LocalService
from tests.frontends.http.support import ARROW, table_of
from tests.sql.statements.parameter_table import ROWS, STATEMENTS, VALUES, Embedded, comparable, rows_of

# A part of the table: `tests/sql/statements/test_parameters_as_the_engine.py` asks a replica for all. Whoever asks, and
# with whatever values, it is the same statement a second time.
VALUE = "SELECT ? AS v"
CASES = {VALUE: [[value] for value in VALUES]} | {
    sql: [list(values) for values in executions[:1]] for sql, executions in STATEMENTS.items()
}
CALLERS_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


class Clients:
    """One warehouse behind three protocols; each question gives a table, or None for an error of the caller's."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._http = httpx.Client(base_url=addresses["http"], timeout=30)
        self._adbc = adbc.connect(addresses["flight"], autocommit=True)
        self._channel = grpc.insecure_channel(addresses["grpc"])
        self._grpc = FlightServeStub(self._channel)

    def close(self) -> None:
        self._http.close()
        self._adbc.close()
        self._channel.close()

    def adbc(self, sql: str, rows: Any) -> pa.Table | None:
        with self._adbc.cursor() as cursor:
            try:
                cursor.execute(sql, rows)
                return cursor.fetch_arrow_table()
            except adbc.ProgrammingError:
                return None

    def grpc(self, sql: str, rows: pa.RecordBatch) -> pa.Table | None:
        request = pb.QueryRequest(query=sql, parameters=bytes(stream_of([rows])))
        try:
            replies = list(self._grpc.Query(request))
        except grpc.RpcError as error:
            if error.code() in CALLERS_FAULT:
                return None
            raise
        return pa.concat_tables([pa.ipc.open_stream(reply.arrow_stream).read_all() for reply in replies])

    def http(self, sql: str, values: list[Any]) -> pa.Table | None:
        sent = {"query": sql, "parameters": [values]}
        reply = self._http.post("/v1/sql", json=sent, headers={"accept": ARROW})
        if reply.status_code == 200:
            return table_of(reply.content)
        assert reply.status_code in (400, 404), reply.text
        return None


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    options = FrontendOptions(http_port=0, grpc_port=0, flight_port=0, zmq_port=None)
    with LocalService(fs.App(fs.sql.Warehouse({"t": ROWS}, name="lake", threads=1))) as service:
        host = FrontendHost(service, options, Metrics())
        try:
            asking = Clients(host.start())
            yield asking
            asking.close()
        finally:
            host.stop()


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    engine = Embedded()
    yield engine
    engine.close()


def is_json(value: Any) -> bool:
    """Whether JSON says the value, as that."""
    if isinstance(value, list):
        return all(map(is_json, value))
    if isinstance(value, dict):
        return all(map(is_json, value.values()))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 2**64)


def said(table: pa.Table | None) -> tuple[list[str], list[str]] | None:
    return None if table is None else comparable(table)


@pytest.mark.parametrize("sql", CASES)
def test_each_protocol_answers_as_the_engine(clients: Clients, embedded: Embedded, sql: str) -> None:
    for values in CASES[sql]:
        wanted = embedded.answer(sql, values)
        rows = rows_of(values)
        assert said(clients.adbc(sql, rows)) == wanted, f"ADBC: {sql} {values}"
        assert said(clients.grpc(sql, rows)) == wanted, f"gRPC: {sql} {values}"
        if is_json(values):
            assert said(clients.http(sql, values)) == wanted, f"HTTP: {sql} {values}"


DAY, NOON = datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4, 5)
# Columns of one parameter, and what they mean where that is not what Arrow's Python says.
LAYOUTS: dict[str, tuple[pa.Array, list[Any] | None]] = {
    "dictionary of texts": (pa.array(["a", None, "b"]).dictionary_encode(), None),
    "dictionary of numbers": (pa.array([1, None, 2]).dictionary_encode(), None),
    "dictionary of dates": (pa.array([DAY, None, DAY]).dictionary_encode(), None),
    "dictionary of timestamps": (pa.array([NOON, None, NOON]).dictionary_encode(), None),
    "dictionary of decimals": (pa.array([Decimal("1.5"), None, Decimal("2.5")]).dictionary_encode(), None),
    "dictionary in a list": (pa.array([["a"], None, ["b"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), None),
    "run ends of texts": (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), None),
    "run ends of numbers": (pa.RunEndEncodedArray.from_arrays([2, 3], [1, 2]), None),
    "views of texts": (pa.array(["a", None, "long enough to be elsewhere"], pa.string_view()), None),
    "large texts": (pa.array(["a", None], pa.large_string()), None),
    "views of bytes": (pa.array([b"a", None, b"\0" * 40], pa.binary_view()), None),
    "large bytes": (pa.array([b"a", None], pa.large_binary()), None),
    "bytes of one length": (pa.array([b"abc", None], pa.binary(3)), None),
    "views of lists": (pa.array([[1, 2], None, []], pa.list_view(pa.int32())), None),
    "large views of lists": (pa.array([[1, 2], None, []], pa.large_list_view(pa.int64())), None),
    "large lists": (pa.array([["a"], None, []], pa.large_list(pa.string())), None),
    "lists of one length": (pa.array([[1, 2], None], pa.list_(pa.int16(), 2)), None),
    "lists of views": (pa.array([[[1]], None, [[], None]], pa.list_(pa.list_view(pa.int8()))), None),
    "structs of views": (
        pa.array(
            [{"a": [1.5], "b": "x"}, None], pa.struct([("a", pa.list_view(pa.float16())), ("b", pa.large_string())])
        ),
        None,
    ),
    "maps of views": (pa.array([[("a", [1])], None, []], pa.map_(pa.string_view(), pa.large_list(pa.int8()))), None),
    "half floats": (pa.array([1.5, None, -0.0], pa.float16()), None),
    "floats": (pa.array([1.5, None], pa.float32()), None),
    "small decimals": (pa.array([Decimal("1.50"), None], pa.decimal32(5, 2)), None),
    "middle decimals": (pa.array([Decimal("1.50"), None], pa.decimal64(12, 2)), None),
    "large decimals": (pa.array([Decimal("1.50"), None], pa.decimal256(40, 2)), None),
    "uuids": (pa.array([uuid.UUID(int=7).bytes, None], pa.uuid()), [str(uuid.UUID(int=7)), None]),
    "uuids in lists": (
        pa.ListArray.from_arrays(pa.array([0, 1, 1], pa.int32()), pa.array([uuid.UUID(int=7).bytes], pa.uuid())),
        [[str(uuid.UUID(int=7))], []],
    ),
    "booleans of bytes": (pa.array([1, 0, None], pa.bool8()), [True, False, None]),
    "json": (pa.array(['{"a": 1}', None], pa.json_()), None),
    "tensors": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2]], pa.list_(pa.int32(), 2))
        ),
        [[1, 2]],
    ),
    "nulls": (pa.nulls(2), None),
    "dates of milliseconds": (pa.array([DAY, None], pa.date64()), None),
    "years beyond Python's": (pa.array([4_000_000, -800_000, None], pa.int32()).view(pa.date32()), None),
    **{f"times of {kind}": (pa.array([NOON.time(), None], kind), None) for kind in (pa.time32("s"), pa.time64("us"))},
    **{f"times of {kind}": (pa.array([NOON.time(), None], kind), None) for kind in (pa.time32("ms"), pa.time64("ns"))},
    **{
        f"timestamps of {unit}, {zone}": (pa.array([NOON, None], pa.timestamp(unit, zone)), None)
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "+05:30", "America/New_York")
    },
    "instants beyond Python's": (pa.array([2**62, -(2**62), 2**63 - 1], pa.int64()).view(pa.timestamp("us")), None),
    **{
        f"durations of {unit}": (
            pa.array([90_000, None], pa.duration(unit)),
            [pa.MonthDayNano([0, 90_000 // 86_400 if unit == "s" else 0, nanoseconds]), None],
        )
        for unit, nanoseconds in (("s", 3600 * 10**9), ("ms", 90 * 10**9), ("us", 90 * 10**6), ("ns", 90_000))
    },
    "durations below a microsecond": (
        pa.array([1_999, -1_999, 999], pa.duration("ns")),
        [pa.MonthDayNano([0, 0, nanoseconds]) for nanoseconds in (1000, -1000, 0)],
    ),
    "intervals": (
        pa.array([(1, 2, 3000), None, (0, 0, 999)], pa.month_day_nano_interval()),
        [pa.MonthDayNano([1, 2, 3000]), None, pa.MonthDayNano([0, 0, 0])],
    ),
    "unions of one kind": (
        pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, None]), pa.array(["", ""])]),
        None,
    ),
}


def meant(array: pa.Array) -> list[Any]:
    """Values that can be compared where Python has none: instants by their counts, in microseconds."""
    if pa.types.is_dictionary(array.type):
        return meant(array.dictionary_decode())
    if pa.types.is_timestamp(array.type):
        return array.cast(pa.timestamp("us", array.type.tz)).view(pa.int64()).to_pylist()
    return array.cast(pa.date32()).view(pa.int32()).to_pylist() if pa.types.is_date(array.type) else array.to_pylist()


def rows_in(columns: list[pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(columns, names=["0"])


def one_of(column: pa.Array, place: int) -> pa.Array:
    """One value, copied where Arrow can: the driver does not write slices of all layouts."""
    try:
        return column.take([place])
    except pa.ArrowNotImplementedError:
        return column.slice(place, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_means_its_values(clients: Clients, name: str) -> None:
    column, values = LAYOUTS[name]
    wanted = meant(column) if values is None else values
    rows = rows_in([column])
    for ask in (clients.adbc, clients.grpc):
        each = [ask("SELECT ? AS v", rows_in([one_of(column, n)])) for n in range(len(column))]
        # Many are merged, one runs by itself: the same names, types and values.
        all_at_once = ask("SELECT ? AS v", rows)
        assert all_at_once is not None
        assert meant(all_at_once.column("v").combine_chunks()) == wanted
        for n, one in enumerate(each):
            assert one is not None and one.schema == all_at_once.schema
            assert meant(one.column("v").combine_chunks()) == [wanted[n]]
