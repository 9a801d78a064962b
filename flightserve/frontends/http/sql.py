"""`/v1/sql`: any SQL for a warehouse, by `POST`, and where the operator allows it (`allow_get`) by `GET`.

    {"query": "SELECT ... WHERE carrier = $1", "parameters": ["UA"], "warehouse": "flights", "shape": "rows"}

| `parameters` | |
|---|---|
| `["UA", 1]` | one execution, by position (`$1`, `?`) |
| `{"carrier": "UA", "month": 1}` | one execution, by name (`$carrier`) |
| `[["UA", 1], ["AA", 2]]`, `[{"carrier": "UA"}, ...]` | one execution for each row; results one after another |
| none, `null`, `[]` | a query without parameters |

So a list by itself is a row where all of `parameters` are lists; a single parameter that is a list goes by name. The
types are those of JSON; the warehouse converts them to what the query takes them for. `warehouse` (or the header
`x-warehouse`) is needed where there are several. The answer's form follows `Accept`: JSON, NDJSON, CSV, Arrow or
Parquet, streamed as the engine produces it. With `"shape": "columns"` JSON goes by columns; that one is collected.

Values are as in `json.columns`, numbers by `"integers"` and `"nan"` as `json.style` says; names that come twice are
numbered, but in Arrow.

A body of `text/plain` or `application/sql` is the query's text; all else is in the URL then, as of a `GET`, which
`sql_urls` reads. `HEAD` says what `GET` would, and runs nothing. Before a `GET` runs, its statement is described: where
the warehouse has a tag for the rows, the answer has an ETag, and is 304 for who has it already. Should the tables
change in between, the query runs all the same, and its answer is not to be kept.

The request is an `Exchange` like a call, with the same bounds, and `streams` answers it. This module reads it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import pyarrow as pa

from flightserve.clock import NEVER_NS, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.service import AsyncCall
from flightserve.contracts.warehouse import QUERY
from flightserve.errors import InvalidArgument, NotFound, Unimplemented
from flightserve.fabric.memory.batches import SchemaCache, encoded
from flightserve.frontends.edge import meta_of
from flightserve.frontends.http.bodies import ARROW, CSV, HTML, JSON, NDJSON, PARQUET, form_in, form_out, packing
from flightserve.frontends.http.encoders import ENCODERS, CsvPieces, Encoder, JsonColumnTexts
from flightserve.frontends.http.entering import begin, of
from flightserve.frontends.http.errors import UnsupportedMediaType
from flightserve.frontends.http.etags import NO_STORE, etag_of, is_named, kept_lines
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.file_names import disposition
from flightserve.frontends.http.html_rows import POLICY, HtmlRows
from flightserve.frontends.http.ranges import (
    TAGGED_NS,
    UNTAGGED_NS,
    WHOLE,
    KeptAnswers,
    Range,
    Wanted,
    place,
    read_range,
)
from flightserve.frontends.http.sql_urls import InUrl, in_url, is_text
from flightserve.frontends.json.arrays import BadValue, infer_array
from flightserve.frontends.json.columns import keys_within, refuse_repeated_keys
from flightserve.frontends.json.style import Style, sql_style
from flightserve.frontends.sql.calls import SqlCalls
from flightserve.frontends.sql.gateway import Statement, choose

if TYPE_CHECKING:
    from flightserve.frontends.http.calls import HttpCalls

PATH: Final = b"/v1/sql"


class QueryRoute(CallRoute):
    """That of a query."""


class QueryByUrl(QueryRoute):
    """The same of a GET or HEAD, whose query is in the URL."""


# What `HttpCalls.route_of` gives for PATH. It stands for no deployment: which one is meant is in the body.
SQL: Final = QueryRoute("v1", "sql")
BY_URL: Final = QueryByUrl("v1", "sql")
FORMS: Final = (JSON, NDJSON, CSV, ARROW, PARQUET)
# A page is for who opens a URL.
FORMS_BY_URL: Final = (*FORMS, HTML)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# What a query's body may be, as an error says it.
_READ: Final = "application/json, text/plain and application/sql"
# Bodies larger than this are read in a thread.
_THREAD_BYTES_MIN: Final = 64 << 10
_UNSET: Final = msgspec.UNSET
_NONE: Final = type(None)
_SCHEMAS: Final = SchemaCache()


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    query: str
    parameters: Any = _UNSET
    warehouse: str | msgspec.UnsetType = _UNSET
    shape: Literal["rows", "columns"] | msgspec.UnsetType = _UNSET
    integers: Literal["text", "number"] | msgspec.UnsetType = _UNSET
    nan: Literal["null", "text"] | msgspec.UnsetType = _UNSET


_DECODER: Final = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """A parsed body. `parameters` is an Arrow IPC stream, or empty."""

    query: str
    parameters: bytes
    warehouse: str
    as_rows: bool
    style: Style


def is_query(route: CallRoute) -> bool:
    """Whether the route stands for a query's."""
    return route is SQL or route is BY_URL


def open_exchange(exchange: Exchange, limits: EdgeLimits) -> None:
    """What the head says. Raises UnsupportedMediaType, NotAcceptable."""
    get = exchange.headers.get
    by_url = exchange.route is BY_URL
    exchange.size_max = 0 if by_url else limits.json_bytes_max
    if by_url or is_text(get(b"content-type")):
        exchange.body = in_url(exchange.url, by_url)
    elif form_in(get(b"content-type"), _READ) is not JSON:
        raise UnsupportedMediaType(f"a query is {JSON.decode()} or text; {ARROW.decode()} has no place for its text")
    named = exchange.body.format if exchange.body is not None else b""
    exchange.form_out = named or form_out(get(b"accept"), JSON, FORMS_BY_URL if by_url else FORMS)
    exchange.packed = packing(get(b"content-encoding"))
    if by_url:
        exchange.error_lines = NO_STORE


async def start(calls: HttpCalls, exchange: Exchange, body: bytes) -> tuple[AsyncCall | None, Encoder]:
    """Start the query: its batches, and what writes them; no batches where all was said without them. Raises what is
    wrong with the request."""
    limits = calls.limits
    by_url = exchange.route is BY_URL
    if exchange.body is not None:
        asked = _read_url(exchange.body, body, limits)
    elif len(body) >= _THREAD_BYTES_MIN:
        asked = await asyncio.get_running_loop().run_in_executor(None, parse, body, limits)
    else:
        asked = parse(body, limits)
    spec = choose(calls.service, _warehouse(asked.warehouse, exchange.header("x-warehouse")))
    exchange.spec = calls.service.method(spec.name, QUERY)[1]
    # From here on it counts as a call of the warehouse.
    exchange.route = exchange.known = type(exchange.route)(spec.name, QUERY)
    exchange.meta = meta_of(exchange.header, spec, limits, exchange.arrived_ns, NEVER_NS, exchange.caller)
    exchange.request_id = exchange.meta.request_id
    if calls.closed:
        begin(calls, exchange, "sql", spec, exchange.size)
    statement = Statement(spec.name, asked.query, asked.parameters)
    lines = disposition(exchange.form_out, "" if exchange.body is None else exchange.body.filename)
    if exchange.form_out == HTML:
        lines += POLICY
    encoder = _encoder(exchange, asked, limits)
    if not by_url:
        exchange.good_lines = lines
        return calls.sql.start(statement, exchange.meta), encoder
    call = await _start_by_url(calls, exchange, statement, lines, encoder)
    return call, encoder


async def _start_by_url(
    calls: HttpCalls, exchange: Exchange, statement: Statement, lines: bytes, encoder: Encoder
) -> AsyncCall | None:
    url: InUrl = exchange.body
    principal = of(exchange)
    # What is kept is somebody's, for as long as he has the rights by which he got it.
    owner = principal.name, principal.rights
    written = (encoder.form, url.shape, url.integers, url.nan, url.bom)
    if exchange.form_out != HTML:
        lines += b"accept-ranges: bytes\r\n"
    exchange.good_lines = not_kept = lines + NO_STORE
    tag, etag = await _tag_of(calls.sql, exchange, statement), b""
    if tag:
        etag = etag_of(tag, (written, principal.name) if principal.name else written)
        exchange.good_lines = lines + kept_lines(etag, calls.closed)
        if is_named(etag, exchange.headers.get(b"if-none-match")):
            exchange.not_modified()
            return None
    client = (exchange.protocol.client or ("",))[0]
    of_client = Wanted((client, owner, statement, written), _part_of(exchange), UNTAGGED_NS)
    wanted = Wanted((statement.warehouse, owner, etag), of_client.part, TAGGED_NS) if tag else of_client
    if _answer_kept(calls.kept_answers, exchange, wanted, encoder.form):
        return None
    if exchange.head_only:
        exchange.tell(encoder.form)
        return None
    if wanted.part.begins and wanted.part != WHOLE:
        exchange.ranged = wanted
    if not tag:
        return calls.sql.start(statement, exchange.meta)

    def changed() -> None:
        exchange.good_lines = not_kept
        if exchange.ranged is not None:
            exchange.ranged = of_client

    return calls.sql.start_tagged(statement, exchange.meta, tag, changed)


async def _tag_of(sql: SqlCalls, exchange: Exchange, statement: Statement) -> str:
    try:
        return await sql.tag_of(statement, exchange.meta)
    except (InvalidArgument, NotFound, Unimplemented):
        if exchange.head_only:
            raise
        # Whatever it is, the run says it better; and some are bound only by running.
        return ""


def _part_of(exchange: Exchange) -> Range:
    """What is asked for. Our ETags are weak ones, which `If-Range` may not name."""
    get = exchange.headers.get
    if exchange.head_only or exchange.form_out == HTML or get(b"if-range") is not None:
        return WHOLE
    return read_range(get(b"range")) or WHOLE


def _answer_kept(kept: KeptAnswers, exchange: Exchange, wanted: Wanted, form: bytes) -> bool:
    """Answer with what is kept, where it is. Without a tag it is for parts alone: a reader that was told its length
    would never get another."""
    if wanted.part == WHOLE and wanted.lifetime_ns == UNTAGGED_NS:
        return False
    answer = kept.find(wanted, monotonic_ns())
    if answer is None:
        return False
    if wanted.part == WHOLE:
        exchange.answer(form, answer)
    else:
        exchange.answer_part(form, answer, place(wanted.part, len(answer)))
    return True


def _encoder(exchange: Exchange, asked: SqlRequest, limits: EdgeLimits) -> Encoder:
    form, url = exchange.form_out, exchange.body
    if form == JSON and not asked.as_rows:
        return JsonColumnTexts(limits.json_bytes_max, asked.style)
    if form == HTML:
        return HtmlRows(asked.query, url.pairs, asked.style)
    if form == CSV and url is not None and url.bom:
        return CsvPieces(asked.style, _BYTE_ORDER_MARK)
    return ENCODERS[form](asked.style)


def _warehouse(in_body: str, in_header: str | None) -> str | None:
    if in_body and in_header and in_body != in_header:
        raise InvalidArgument("the body names another warehouse than x-warehouse does; leave one out")
    return in_body or in_header


def _read_url(url: InUrl, body: bytes, limits: EdgeLimits) -> SqlRequest:
    """What a URL asks, and a body that is a query's text."""
    query = url.query
    if query is None:
        try:
            query = body.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("the body is not UTF-8") from error
    given: Any = url.values
    if url.parameters:
        # As a body's, with the bounds of one.
        given = parse(b'{"query":"","parameters":%b}' % url.parameters.encode(), limits).parameters
    parameters = given if isinstance(given, bytes) else parameters_of(given, limits)
    return SqlRequest(query, parameters, url.warehouse, url.shape != "columns", sql_style(url.integers, url.nan))


def parse(data: bytes, limits: EdgeLimits) -> SqlRequest:
    """A body. Raises InvalidArgument."""
    try:
        body = _DECODER.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidArgument("the body is not UTF-8") from error
    except RecursionError as error:
        raise InvalidArgument(f"the body nests deeper than {limits.json_depth_max}") from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f'the body is not {{"query": "...", "parameters": [...]}}: {error}') from error
    fields = (body.query, body.parameters, body.warehouse, body.shape, body.integers, body.nan)
    keys = sum(field is not _UNSET for field in fields) + keys_within([body.parameters], 1, limits)
    refuse_repeated_keys(data, keys)
    given = None if body.parameters is _UNSET else body.parameters
    parameters = parameters_of(given, limits)
    style = sql_style(body.integers or "text", body.nan or "")
    return SqlRequest(body.query, parameters, body.warehouse or "", body.shape != "columns", style)


def parameters_of(given: Any, limits: EdgeLimits) -> bytes:
    """The parameters as an Arrow IPC stream with one row for each execution; empty where there are none. Raises
    InvalidArgument that names row and parameter."""
    if given is None or given == []:
        return b""
    if not isinstance(given, list | dict):
        raise InvalidArgument('"parameters" is a list (by position) or an object (by name)')
    many = isinstance(given, list) and type(given[0]) in (list, dict) and len(set(map(type, given))) == 1
    rows: Any = given if many else [given]
    columns = _by_name(rows) if isinstance(rows[0], dict) else _by_position(rows)
    if not columns:
        if len(rows) > 1:
            raise InvalidArgument(f"{len(rows)} executions came, and none of them has parameters")
        return b""
    if len(columns) > limits.columns_max:
        raise InvalidArgument(f"{len(columns)} parameters; at most {limits.columns_max} are taken")
    try:
        arrays = [_column(values, name) for name, values in columns.items()]
    except BadValue as error:
        raise InvalidArgument(f"parameters: {error.message}") from error
    return bytes(memoryview(encoded(pa.RecordBatch.from_arrays(arrays, list(columns)), _SCHEMAS)))


def _column(values: list[Any], name: str) -> pa.Array:
    """A parameter's values; whole numbers beyond 64 bits are decimals, as far as Arrow has digits. Raises BadValue."""
    if not set(map(type, values)) - {int, _NONE} and (whole := [value for value in values if value is not None]):
        first, last = min(whole), max(whole)
        fits = first >= -(2**63) and last < (2**63 if first < 0 else 2**64)
        if not fits and max(-first, last) < 10**38:
            return pa.array([None if value is None else Decimal(value) for value in values], pa.decimal128(38, 0))
    return infer_array(values, name)


def _by_position(rows: list[list[Any]]) -> dict[str, list[Any]]:
    width = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise InvalidArgument(f"parameters: row {number} has {len(row)} values, row 0 has {width}")
    return {str(place + 1): list(values) for place, values in enumerate(zip(*rows, strict=True))}


def _by_name(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if row.keys() != names:
            name = sorted(names ^ row.keys())[0]
            raise InvalidArgument(f"parameters: rows 0 and {number} differ: only one of them has {name[:64]!r}")
    return {name: [row[name] for row in rows] for name in names}
