"""What data frames become in Arrow is taken by methods that declare plainer types: by every protocol and onwards."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.errors import MethodFailed
from flightserve.fabric.memory.batches import stream_of
from tests.fabric.memory.test_decode import EOS, messages
from tests.frontends.ends_support import Served, all_served
from tests.plane import plane
from tests.served.callers import CALLERS, all_callers

VALUES = {"s": ["a", None, "b"], "i": [1, 2, 3]}
ROWS = [{"s": "a", "i": 1}, {"s": None, "i": 2}, {"s": "b", "i": 3}]
INPUT = pa.schema([("s", pa.string()), ("i", pa.int32())])
RECORDED = Path(__file__).parent / "recorded" / "arrow_js.arrows"
OF_JAVASCRIPT = pa.schema(
    [
        ("nothing", pa.string()), ("at", pa.struct([("y", pa.string()), ("x", pa.int64())])), ("big", pa.int16()),
        ("sizes", pa.list_(pa.uint8())), ("when", pa.timestamp("us")), ("ok", pa.bool_()), ("small", pa.int64()),
        ("count", pa.int32()), ("name", pa.string()),
    ]
)  # fmt: skip
OF_LIBRARIES = pa.schema(
    [
        ("whole", pa.int16()), ("float", pa.float32()), ("text", pa.string()), ("category", pa.string()),
        ("flag", pa.bool_()), ("day", pa.date32()), ("moment", pa.timestamp("ms")),
        ("instant", pa.timestamp("ms", "UTC")), ("span", pa.duration("ms")), ("money", pa.decimal128(9, 2)),
        ("words", pa.list_(pa.string())), ("inner", pa.struct([("b", pa.string()), ("a", pa.int8())])),
        ("nothing", pa.string()),
    ]
)  # fmt: skip
MOMENT = datetime.datetime(2024, 5, 1, 12, 30)
BERLIN = ZoneInfo("Europe/Berlin")
COLUMNS = {
    "whole": [1, None, 3],
    "float": [0.5, None, -2.0],
    "text": ["a", None, "a text that lies outside of its view"],
    "category": ["x", "y", None],
    "flag": [True, None, False],
    "day": [datetime.date(2024, 5, 1), None, datetime.date(1969, 12, 31)],
    "moment": [MOMENT, None, MOMENT],
    "instant": [MOMENT.replace(tzinfo=BERLIN), None, MOMENT.replace(tzinfo=BERLIN)],
    "span": [datetime.timedelta(hours=1), None, datetime.timedelta(0)],
    "money": [decimal.Decimal("1.50"), None, decimal.Decimal("-0.01")],
    "words": [["a", "b"], [], None],
    "inner": [{"a": 1, "b": "x"}, {"a": None, "b": None}, {"a": 3, "b": "z"}],
    "nothing": [None, None, None],
}


@fs.deployment(max_batch_rows=2)
class Shop:
    @fs.method(input=INPUT)
    def sell(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema == INPUT
        return batch

    @fs.method(input=OF_JAVASCRIPT)
    def of_javascript(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema == OF_JAVASCRIPT
        return batch

    @fs.method(input=OF_LIBRARIES)
    def of_libraries(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema == OF_LIBRARIES
        return batch

    @fs.method(input=INPUT, strict=True)
    def exact(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Asks:
    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def sell(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.shop.sell(batch)

    async def sell_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        answer: pa.RecordBatch = await self.shop.sell.aio(batch)  # type: ignore[attr-defined]
        return answer


FACTOR = pa.dictionary(pa.int8(), pa.string())


def frames() -> dict[str, pa.Table]:
    categories = pl.DataFrame({**VALUES, "s": pl.Series(VALUES["s"], dtype=pl.Categorical)})
    return {
        "polars": pl.DataFrame(VALUES).to_arrow(),
        "polars, views": pl.DataFrame(VALUES).to_arrow(compat_level=pl.CompatLevel.newest()),
        "polars, categories": categories.to_arrow(),
        "pandas": pa.Table.from_pandas(pd.DataFrame(VALUES)),
        "pandas, categories": pa.Table.from_pandas(pd.DataFrame({**VALUES, "s": pd.Categorical(VALUES["s"])})),
        "pandas, sorted": pa.Table.from_pandas(pd.DataFrame(VALUES).iloc[[1, 0, 2]].iloc[[1, 0, 2]]),
        "R, factors": pa.table(
            {"i": pa.array([1, 2, 3], pa.int32()), "s": pa.array(VALUES["s"]).dictionary_encode().cast(FACTOR)}
        ).replace_schema_metadata({"r": "A\n3\n263169\n197888\n5\nUTF-8\n531\n1\n531\n2\n254\n254\n"}),
        "pandas, floats": pa.Table.from_pandas(pd.DataFrame({"s": VALUES["s"], "i": [1.0, 2.0, 3.0]})),
    }


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with all_served(Shop) as served:
        yield served


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_data_frames_are_taken(served: Served, protocol: str) -> None:
    with all_callers(served.addresses) as callers:
        for name, table in frames().items():
            answer = callers[protocol].call("sell", bytes(stream_of(table.to_batches())), "Shop")
            assert answer.code == "OK" and answer.rows is not None, (name, answer)
            assert answer.rows.to_pylist() == ROWS, name


def frames_of_all_types() -> dict[str, pa.Table]:
    made = pl.DataFrame(COLUMNS, schema_overrides={"category": pl.Categorical, "money": pl.Decimal(20, 2)})
    frame = pd.DataFrame(COLUMNS).convert_dtypes().assign(category=pd.Categorical(COLUMNS["category"]))
    return {
        "polars": made.to_arrow(),
        "polars, views": made.to_arrow(compat_level=pl.CompatLevel.newest()),
        "polars, Enum": made.with_columns(made["category"].cast(pl.Enum(["y", "x"]))).to_arrow(),
        "pandas": pa.Table.from_pandas(pd.DataFrame(COLUMNS)),
        "pandas, nanoseconds": pa.Table.from_pandas(pd.DataFrame(COLUMNS).astype({"moment": "datetime64[ns]"})),
        "pandas, nullable": pa.Table.from_pandas(frame),
        "pandas, arrow": pa.Table.from_pandas(pd.DataFrame(COLUMNS).convert_dtypes(dtype_backend="pyarrow")),
    }


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_all_types_of_libraries(served: Served, protocol: str) -> None:
    expected = pa.table(COLUMNS, schema=OF_LIBRARIES).to_pylist()
    with all_callers(served.addresses) as callers:
        for name, table in frames_of_all_types().items():
            answer = callers[protocol].call("of_libraries", bytes(stream_of(table.to_batches())), "Shop")
            assert answer.rows is not None, (name, answer)
            assert answer.rows.schema == OF_LIBRARIES and answer.rows.to_pylist() == expected, name
            if name.startswith("polars"):
                assert pl.DataFrame(answer.rows)["text"].to_list() == COLUMNS["text"]


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_a_table_of_javascript(served: Served, protocol: str) -> None:
    recorded = RECORDED.read_bytes()
    with all_callers(served.addresses) as callers:
        answer = callers[protocol].call("of_javascript", recorded, "Shop")
    assert answer.rows is not None, answer
    sent = pa.ipc.open_stream(recorded).read_all()
    assert answer.rows.to_pylist() == sent.select(OF_JAVASCRIPT.names).to_pylist()
    assert sent.schema.field("nothing").type == pa.float64()


def test_each_batch_of_a_flight_stream_is_judged_by_its_values(served: Served) -> None:
    path = flight.FlightDescriptor.for_path("Shop", "sell")
    batches = [pa.record_batch({"s": pa.array([None], pa.float64()), "i": [n]}) for n in (1, 2)]
    wrong = pa.record_batch({"s": pa.array([1.5]), "i": [3]})
    refused = pytest.raises(pa.ArrowInvalid, match=r"Shop\.sell does not take these columns: column 's' is double")
    with flight.connect(served.addresses["flight"]) as client:
        writer, reader = client.do_exchange(path)
        writer.begin(wrong.schema)
        for batch in (*batches, wrong):
            writer.write_batch(batch)
        assert [reader.read_chunk().data["i"].to_pylist() for _ in batches] == [[1], [2]]
        with refused:
            reader.read_chunk()
        with refused:
            writer.close()
        put, _ = client.do_put(path, wrong.schema)
        for batch in (*batches, wrong):
            put.write_batch(batch)
        with refused:
            put.close()


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_what_does_not_fit_is_named_and_strict_methods_take_nothing_else(served: Served, protocol: str) -> None:
    large = pa.table({"s": ["a", "b"], "i": [1, 2**40]})
    with all_callers(served.addresses) as callers:
        answer = callers[protocol].call("sell", bytes(stream_of(large.to_batches())), "Shop")
        assert answer.code == "INVALID_ARGUMENT"
        assert "Shop.sell: row 1 of column 'i': 1099511627776 does not fit int32, which is declared" in answer.message
        answer = callers[protocol].call("exact", bytes(stream_of(frames()["pandas"].to_batches())), "Shop")
        assert answer.code == "INVALID_ARGUMENT" and "column 'i' is int64, not int32" in answer.message


def test_categories_that_grow_within_a_stream(served: Served) -> None:
    """As apache-arrow for JavaScript sends them."""
    words = [["a"], ["a", "b"], ["z"]]
    batches = [
        pa.record_batch({"s": pa.DictionaryArray.from_arrays(pa.array([len(each) - 1], pa.int32()), each), "i": [1]})
        for each in words
    ]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    stream = bytes(sink.getvalue())
    assert b"".join(messages(stream)) + EOS == stream
    with all_callers(served.addresses) as callers:
        for protocol in ("http", "grpc", "zmq"):
            answer = callers[protocol].call("sell", stream, "Shop")
            assert answer.rows is not None and answer.rows["s"].to_pylist() == ["a", "b", "z"], (protocol, answer)
    client = flight.connect(served.addresses["flight"])
    writer, reader = client.do_exchange(
        flight.FlightDescriptor.for_path("Shop", "sell"), flight.FlightCallOptions(write_options=options)
    )
    with client, writer:
        writer.begin(batches[0].schema, options=options)
        got = []
        for batch in batches:
            writer.write_batch(batch)
            got += reader.read_chunk().data["s"].to_pylist()
        writer.done_writing()
    assert got == ["a", "b", "z"]


@pytest.mark.parametrize("method", ["sell", "sell_async"])
def test_onward_calls_cast_as_well(method: str) -> None:
    with plane(Asks.bind(Shop.bind())) as running:
        for table in frames().values():
            (batch,) = table.to_batches()
            assert pa.Table.from_batches(running.call(method, batch)).to_pylist() == ROWS
        with pytest.raises(MethodFailed, match=r"called Shop\.sell .*: row 0 of column 'i'"):
            running.call(method, pa.record_batch({"s": ["a"], "i": [2**40]}))


@pytest.mark.parametrize("strict", [False, True])
def test_methods_are_as_strict_as_their_deployment_where_they_do_not_say(strict: bool) -> None:
    @fs.deployment(strict=strict)
    class Served:
        @fs.method(input=INPUT)
        def silent(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

        @fs.method(input=INPUT, strict=not strict)
        def other(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    methods = spec_of(fs.bind(Served)).methods
    assert {method.name: method.strict for method in methods} == {"silent": strict, "other": not strict}
