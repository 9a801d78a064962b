"""What data frames become in Arrow is taken by methods that declare plainer types: by every protocol and onwards."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.errors import MethodFailed
from flightserve.fabric.memory.batches import stream_of
from tests.fabric.memory.test_decode import EOS, messages
from tests.frontends.ends_support import Served, all_served
from tests.plane import plane
from tests.served.callers import CALLERS, all_callers

VALUES = {"s": ["a", None, "b"], "i": [1, 2, 3]}
ROWS = [{"s": "a", "i": 1}, {"s": None, "i": 2}, {"s": "b", "i": 3}]
INPUT = pa.schema([("s", pa.string()), ("i", pa.int32())])


@fs.deployment(max_batch_rows=2)
class Shop:
    @fs.method(input=INPUT)
    def sell(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema.field("s").type == pa.string() and batch.schema.field("i").type == pa.int32()
        return batch.select(["s", "i"])

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


def frames() -> dict[str, pa.Table]:
    categories = pl.DataFrame({**VALUES, "s": pl.Series(VALUES["s"], dtype=pl.Categorical)})
    return {
        "polars": pl.DataFrame(VALUES).to_arrow(),
        "polars, views": pl.DataFrame(VALUES).to_arrow(compat_level=pl.CompatLevel.newest()),
        "polars, categories": categories.to_arrow(),
        "pandas": pa.Table.from_pandas(pd.DataFrame(VALUES)),
        "pandas, categories": pa.Table.from_pandas(pd.DataFrame({**VALUES, "s": pd.Categorical(VALUES["s"])})),
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
