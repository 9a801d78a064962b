"""The warehouse's methods, as both sides have them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flightserve.contracts import warehouse as contract
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.frontends.sql.gateway import Statement, check
from flightserve.sql.warehouse.replica import WarehouseReplica

SCHEMA = pa.schema([("n", pa.int64())])
MESSAGE = SCHEMA.serialize().to_pybytes()


def test_replicas_have_every_method() -> None:
    names = sorted(method.name for method in contract.METHODS)
    assert names == ["describe", "execute", "query", "query_tagged", "refresh", "tables"]
    assert all(callable(getattr(WarehouseReplica, method.name)) for method in contract.METHODS)


@pytest.mark.parametrize("parameters", [b"", b"rows"])
def test_a_request_is_read_as_it_was_written(parameters: bytes) -> None:
    row = contract.request_row("SELECT 1", parameters)
    assert row.schema == contract.REQUEST
    assert contract.read_request(row) == ("SELECT 1", parameters or None)


@pytest.mark.parametrize("statements", [[], ["SELECT 1", "SELECT 2"]])
def test_a_request_is_one_row(statements: list[str]) -> None:
    rows = pa.record_batch([statements, [None] * len(statements)], schema=contract.REQUEST)
    with pytest.raises(InvalidArgument, match=f"{len(statements)} rows"):
        contract.read_request(rows)


def test_an_execution_is_read_as_it_was_written() -> None:
    rows = pa.record_batch([[1, 2]], schema=SCHEMA)
    assert contract.read_execution(contract.execution_batch("SELECT $1 -- é", rows)) == ("SELECT $1 -- é", rows)


@pytest.mark.parametrize("metadata", [None, {contract.SQL_KEY: b"\xff"}])
def test_an_execution_says_its_statement(metadata: dict[bytes, bytes] | None) -> None:
    with pytest.raises(InvalidArgument):
        contract.read_execution(pa.record_batch([[1]], schema=SCHEMA.with_metadata(metadata)))


@pytest.mark.parametrize("result", [MESSAGE, b""])
def test_a_description_is_read_as_it_was_written(result: bytes) -> None:
    description = contract.Description(result, MESSAGE, False, "why")
    (row,) = description.batch().to_pylist()
    assert contract.read_description(row) == description
    if result:
        assert description.result_schema == SCHEMA
    else:
        with pytest.raises(InvalidArgument):
            _ = description.result_schema


@pytest.mark.parametrize("count", [0, 1, 3])
def test_tables_are_read_as_they_were_written(count: int) -> None:
    tables = [contract.TableInfo(f"t{n}", "VIEW", SCHEMA, f"v{n}", "gone") for n in range(count)]
    batch = contract.tables_batch(tables)
    assert batch.schema == contract.TABLE_ROWS
    assert [contract.read_table(row) for row in batch.to_pylist()] == tables


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_statement_s_bytes_are_bounded_where_it_comes_in(letter: str) -> None:
    """By the same bound as in the engine's parser: what the edge lets through is parsed."""
    text = "SELECT 1 -- " + letter * ((contract.SQL_BYTES_MAX - 12) // len(letter.encode()))
    check(Statement("warehouse", text))
    with pytest.raises(TooLarge, match=str(contract.SQL_BYTES_MAX)):
        check(Statement("warehouse", text + letter))
