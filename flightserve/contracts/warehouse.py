"""What a warehouse's replicas answer and the SQL frontends ask: the methods, what they take and what they give.

A warehouse is a deployment (`DeploymentSpec.kind` is `KIND`) whose replicas have, beside its queries by name, the
methods in `METHODS`. Both sides write and read their batches by what stands here.

| method | input | output |
|---|---|---|
| `query` | one row (`REQUEST`): `sql`, `parameters` (an Arrow IPC stream, or null) | streamed batches, at least one |
| `query_tagged` | as `query`, and `tag`: what `describe` said | as `query`; refused where the tag is another now |
| `execute` | parameter rows, the statement in their schema's metadata (`SQL_KEY`) | each row's result, by `rid` |
| `describe` | as `query`; the parameters' rows are not read, their types are | one row (`DESCRIPTION`) |
| `tables` | as `query`; not read | one row for each table (`TABLE_ROWS`) |
| `refresh` | as `query`; not read | one row (`REFRESHED`): the replica that was asked looked at its tables' files |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import InvalidArgument
from flightserve.types import WAREHOUSE_KIND, DeploymentSpec, MethodSpec

KIND: Final = WAREHOUSE_KIND

QUERY: Final = "query"
QUERY_TAGGED: Final = "query_tagged"
EXECUTE: Final = "execute"
DESCRIBE: Final = "describe"
TABLES: Final = "tables"
REFRESH: Final = "refresh"

# Where `execute` finds the statement. Requests share a micro-batch where their schemas are equal, metadata and all.
SQL_KEY: Final = b"flightserve.sql"
# Of a statement, in UTF-8. The parsed tree takes some 400 times the text's memory, and twice that while it is made.
SQL_BYTES_MAX: Final = 256 << 10
# What one execution by `execute` may give: its result waits to be whole, and goes to a Flight client as one message.
EXECUTED_BYTES_MAX: Final = 1 << 20

REQUEST: Final = pa.schema([pa.field("sql", pa.string(), nullable=False), pa.field("parameters", pa.binary())])
TAGGED_REQUEST: Final = pa.schema([*REQUEST, pa.field("tag", pa.string(), nullable=False)])
DESCRIPTION: Final = pa.schema(
    [
        ("result_schema", pa.binary()),
        ("parameter_schema", pa.binary()),
        ("merged", pa.bool_()),
        ("reason", pa.string()),
        # The same as long as the result is; "" where nobody can say that it is.
        ("tag", pa.string()),
    ]
)
TABLE_ROWS: Final = pa.schema(
    [
        ("table_name", pa.string()),
        ("table_type", pa.string()),
        ("table_schema", pa.binary()),
        # Of the files as they were when they were read; why newer ones are not served, "" where they are.
        ("version", pa.string()),
        ("problem", pa.string()),
        # -1 where it takes reading the files to know.
        ("num_rows", pa.int64()),
    ]
)
# `replica` is some name of the process; `changes` counts how often it took new files into service.
REFRESHED: Final = pa.schema([("replica", pa.string()), ("changes", pa.int64()), ("problem", pa.string())])


def _method(name: str, output: pa.Schema | None, doc: str, takes: pa.Schema = REQUEST, example: str = "") -> MethodSpec:
    """A method that takes `REQUEST`s, and streams where its output depends on it."""
    return MethodSpec(
        name,
        row_aligned=False,
        streaming=output is None,
        input_schema=takes.serialize().to_pybytes(),
        output_schema=None if output is None else output.serialize().to_pybytes(),
        doc=doc,
        example=_stream(request_row(example)) if example else None,
    )


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def request_row(sql: str, parameters: bytes = b"") -> pa.RecordBatch:
    """The one row that all methods but `execute` take. `parameters` is an Arrow IPC stream, or empty."""
    return pa.record_batch([[sql], [parameters or None]], schema=REQUEST)


_EXAMPLE: Final = "SELECT 1 AS one"

METHODS: Final = (
    _method(QUERY, None, "Run SQL: rows `sql` and `parameters`; streams the result.", example=_EXAMPLE),
    _method(
        QUERY_TAGGED,
        None,
        "Run SQL whose result is still what `tag` stands for, which `describe` told; otherwise it is Unavailable.",
        TAGGED_REQUEST,
    ),
    _method(
        DESCRIBE,
        DESCRIPTION,
        "What a statement takes and gives, and whether executions of it are merged; nothing is run but what a PIVOT "
        "looks its values up by. Without parameter rows, a result that depends on the parameters' types has no schema.",
        example=_EXAMPLE,
    ),
    _method(TABLES, TABLE_ROWS, "The warehouse's tables.", example="tables"),
    _method(
        REFRESH,
        REFRESHED,
        "Look whether the tables' files changed, and serve them as they are now; in this replica alone.",
        example="refresh",
    ),
    MethodSpec(
        EXECUTE,
        row_aligned=False,
        delimited=True,
        doc="Run SQL for each row of parameters, together with all executions of that text that wait: where they can "
        f"be merged, as one query. The text is in the schema's metadata, `{SQL_KEY.decode()}`. Results over "
        f"{EXECUTED_BYTES_MAX >> 20} MiB are refused (TooLarge); `query` streams them.",
    ),
)

_INTERNAL: Final = frozenset(method.name for method in METHODS)


def is_internal(spec: DeploymentSpec, method: MethodSpec) -> bool:
    """A method that frontends call, not clients."""
    return spec.kind == KIND and method.name in _INTERNAL


# ---- what goes in


def tagged_row(sql: str, parameters: bytes, tag: str) -> pa.RecordBatch:
    """The one row that `query_tagged` takes."""
    return pa.record_batch([[sql], [parameters or None], [tag]], schema=TAGGED_REQUEST)


def read_request(batch: pa.RecordBatch) -> tuple[str, bytes | None]:
    """The statement and its parameters. Raises InvalidArgument."""
    if batch.num_rows != 1:
        raise InvalidArgument(f"{batch.num_rows} rows came; a request has one statement, in one row")
    sql = batch.column("sql")[0].as_py()
    if sql is None:
        raise InvalidArgument("the statement is null")
    return sql, batch.column("parameters")[0].as_py()


def execution_batch(sql: str, rows: pa.RecordBatch) -> pa.RecordBatch:
    """What `execute` takes: the rows of parameters, with the statement."""
    return rows.replace_schema_metadata({SQL_KEY: sql.encode()})


def read_execution(batch: pa.RecordBatch) -> tuple[str, pa.RecordBatch]:
    """The statement and the rows of its parameters. Raises InvalidArgument."""
    text = (batch.schema.metadata or {}).get(SQL_KEY)
    if text is None:
        raise InvalidArgument(f"the schema's metadata has no {SQL_KEY.decode()!r}: the statement")
    try:
        return str(text, "utf-8"), batch.replace_schema_metadata(None)
    except UnicodeDecodeError as error:
        raise InvalidArgument("the statement is no UTF-8") from error


# ---- what comes out


def unnumbered(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What `execute` answered to one row, without that row's number, which is the first column."""
    return batch.select(range(1, batch.num_columns))


@dataclass(frozen=True, slots=True)
class Description:
    """What a statement returns and takes (Arrow IPC schema messages), and whether its executions are merged or why they
    are not. `result` is empty where it depends on the types of parameters that are not bound. `tag` is the same as long
    as the result is, for these parameters; "" where nobody can say that."""

    result: bytes
    parameters: bytes
    merged: bool
    reason: str = ""
    tag: str = ""

    @property
    def result_schema(self) -> pa.Schema:
        """`result`, read. Raises InvalidArgument where it is not known."""
        if not self.result:
            raise InvalidArgument("the result depends on the statement's parameters, and no values came")
        return _schema(self.result)

    def batch(self) -> pa.RecordBatch:
        """`describe`'s answer."""
        values = [self.result or None, self.parameters, self.merged, self.reason, self.tag]
        return pa.record_batch([[value] for value in values], schema=DESCRIPTION)


def read_description(row: dict[str, Any]) -> Description:
    """The row of `describe`'s answer."""
    return Description(row["result_schema"] or b"", row["parameter_schema"], row["merged"], row["reason"], row["tag"])


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table of a warehouse. `kind` is BASE TABLE or VIEW; `version` is of its files as they were when they were read,
    and `problem` why newer ones are not served; `num_rows` is -1 where it takes reading the files to know."""

    name: str
    kind: str
    schema: pa.Schema
    version: str = ""
    problem: str = ""
    num_rows: int = -1

    @property
    def row(self) -> tuple[str, str, bytes, str, str, int]:
        """As in TABLE_ROWS."""
        schema = self.schema.serialize().to_pybytes()
        return self.name, self.kind, schema, self.version, self.problem, self.num_rows


def tables_batch(tables: Iterable[TableInfo]) -> pa.RecordBatch:
    """`tables`' answer."""
    rows = [each.row for each in tables]
    return pa.record_batch([[row[n] for row in rows] for n in range(len(TABLE_ROWS))], schema=TABLE_ROWS)


def read_table(row: dict[str, Any]) -> TableInfo:
    """A row of `tables`' answer."""
    schema = _schema(row["table_schema"])
    return TableInfo(row["table_name"], row["table_type"], schema, row["version"], row["problem"], row["num_rows"])


def _schema(message: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(message))
