"""Batches of a result as pieces of one HTTP body, in each form that is streamed.

An encoder belongs to one answer: `piece` gives the bytes that a batch adds, "" while there is nothing to send yet,
and `end` the rest. Values are said as `json.columns` says them, in CSV too; there lists and objects are JSON texts, a
null is an empty field, an empty string is `""`, NaN is `nan` unless it is to be null. Names that come twice in an
answer to SQL are numbered, but for Arrow, which has places for columns. A result that a form cannot say is
NotAcceptable (406): the same query can be had as Arrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pyarrow.types as pt

from flightserve.errors import MethodFailed, TooLarge
from flightserve.frontends.http.bodies import ARROW, CSV, JSON, NDJSON, PARQUET
from flightserve.frontends.http.errors import NotAcceptable
from flightserve.frontends.json.columns import JsonColumns
from flightserve.frontends.json.style import METHODS, Style, numbered
from flightserve.frontends.json.values import PLAIN_SCALE_MAX, is_plain, texts_of, values_of

# Rows that become text at once: the text and its Python values are several times the size of the columns.
TEXT_ROWS_MAX: Final = 16_384


class Encoder(Protocol):
    """See the module. `form` is the answer's Content-Type, `rows_max` how many rows `piece` takes at once, 0 for any
    number. Once `full` it needs no more of them."""

    form: bytes
    rows_max: int
    full: bool

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """The bytes that this batch adds. The first brings the schema."""
        ...

    def end(self) -> bytes:
        """The end of the body. Asked once, after at least one `piece`."""
        ...


class Sink:
    """A file that gives away what was written to it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> int:
        """Take it."""
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """All that was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """What was written stays."""
        self.closed = True


class _Written:
    """Encoders by one of pyarrow's writers, which `_open` makes of a file and a schema."""

    _open: staticmethod[[Any, pa.Schema], Any]
    form = b""
    rows_max = 0
    full = False

    def __init__(self, style: Style = METHODS) -> None:
        self._style = style
        self._sink = Sink()
        self._writer: Any = None

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        if self._writer is None:
            self._writer = self._open(pa.PythonFile(self._sink, mode="w"), batch.schema)
        # Without its rows a batch has told its schema; in Parquet it would be an empty row group.
        if batch.num_rows:
            self._writer.write_batch(batch)
        return self._sink.take()

    def end(self) -> bytes:
        """See `Encoder`."""
        self._writer.close()
        return self._sink.take()


class ArrowPieces(_Written):
    """One Arrow IPC stream."""

    form = ARROW
    _open = staticmethod(pa.ipc.new_stream)

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`. Raises MethodFailed for a batch that is not like the first."""
        try:
            return super().piece(batch)
        except pa.ArrowException as error:
            raise MethodFailed(f"a batch of the reply does not have the schema of the first: {error}") from error


class ParquetPieces(_Written):
    """One Parquet file, a row group for each batch."""

    form = PARQUET
    _open = staticmethod(pyarrow.parquet.ParquetWriter)

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        try:
            return super().piece(self._named(batch))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise _unsayable(PARQUET, error) from error

    def _named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = _names(batch, self._style)
        return batch if names == batch.schema.names else batch.rename_columns(names)


class CsvPieces(_Written):
    """CSV with a line of names; strings are quoted, so that an empty one is not a null. `before` stands before all."""

    # Without it some clients read a text/... as Latin-1.
    form = CSV + b"; charset=utf-8"
    rows_max = TEXT_ROWS_MAX
    _open = staticmethod(pyarrow.csv.CSVWriter)

    def __init__(self, style: Style = METHODS, before: bytes = b"") -> None:
        super().__init__(style)
        self._before = before

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        before, self._before = self._before, b""
        try:
            columns = [csv_column(column, self._style) for column in batch.columns]
            return before + super().piece(pa.RecordBatch.from_arrays(columns, names=_names(batch, self._style)))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise _unsayable(CSV, error) from error


class JsonLines:
    """NDJSON: an object a line."""

    form = NDJSON
    rows_max = TEXT_ROWS_MAX
    full = False

    def __init__(self, style: Style = METHODS) -> None:
        self._style = style

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        return lines_of(batch, self._style)

    def end(self) -> bytes:
        """Nothing ends it."""
        return b""


class JsonRows:
    """`{"rows": [...]}`, written as the rows come."""

    form = JSON
    rows_max = TEXT_ROWS_MAX
    full = False

    def __init__(self, style: Style = METHODS) -> None:
        self._style = style
        self._before = b'{"rows":['

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        rows = orjson.dumps(_json(batch, self._style).rows(0, batch.num_rows), option=orjson.OPT_NON_STR_KEYS)[1:-1]
        if not rows:
            return b""
        before, self._before = self._before, b","
        return before + rows

    def end(self) -> bytes:
        """See `Encoder`."""
        return b"]}" if self._before == b"," else self._before + b"]}"


class JsonColumnTexts:
    """`{"columns": {...}}`. The first column ends only when the result does, so all of the text is held: `bytes_max` of
    it, else TooLarge."""

    form = JSON
    rows_max = TEXT_ROWS_MAX
    full = False

    def __init__(self, bytes_max: int, style: Style = METHODS) -> None:
        self._bytes_max = bytes_max
        self._style = style
        self._nbytes = 0
        self._texts: dict[str, list[bytes]] = {}

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        for name, values in _json(batch, self._style).lists():
            texts = self._texts.setdefault(name, [])
            if values:
                texts.append(orjson.dumps(values, option=orjson.OPT_NON_STR_KEYS)[1:-1])
                self._nbytes += len(texts[-1])
        if self._nbytes > self._bytes_max:
            raise TooLarge(
                f"the result is more than {self._bytes_max} bytes of JSON; ask for rows, which are streamed, or for "
                f"{ARROW.decode()}"
            )
        return b""

    def end(self) -> bytes:
        """See `Encoder`."""
        columns = [orjson.dumps(name) + b":[" + b",".join(texts) + b"]" for name, texts in self._texts.items()]
        return b'{"columns":{' + b",".join(columns) + b"}}"


ENCODERS: Final[dict[bytes, Callable[..., Encoder]]] = {
    JSON: JsonRows,
    NDJSON: JsonLines,
    CSV: CsvPieces,
    ARROW: ArrowPieces,
    PARQUET: ParquetPieces,
}


def _names(batch: pa.RecordBatch, style: Style) -> list[str]:
    names: list[str] = batch.schema.names
    return numbered(names) if style.unique and len(set(names)) < len(names) else names


def csv_column(array: pa.Array, style: Style = METHODS) -> pa.Array:
    """A column as CSV has it: numbers, booleans and strings as they are, instants and decimals as their texts,
    everything else as its JSON. Its type depends on the column's type alone: the file has one for all batches. Raises
    as `values_of`."""
    kind = array.type
    if pt.is_dictionary(kind):
        return csv_column(array.dictionary_decode(), style)
    if pt.is_string_view(kind):
        return array.cast(pa.string())
    if pt.is_floating(kind) and style.nan == "null":
        return pc.if_else(pc.is_finite(array), array, None)
    if pt.is_time(kind):
        array.validate(full=True)
        return array
    if is_plain(kind) and not pt.is_null(kind):
        return array
    if pt.is_decimal(kind):
        # Where its text is a number, it is written without quotes.
        return array if 0 <= kind.scale <= PLAIN_SCALE_MAX else texts_of(array)
    if pt.is_duration(kind):
        return array.cast(pa.int64())
    if pt.is_timestamp(kind) or pt.is_date(kind) or pt.is_null(kind):
        return texts_of(array)
    texts = [v if v is None or isinstance(v, str) else orjson.dumps(v).decode() for v in values_of(array, style)]
    return pa.array(texts, pa.string())


def lines_of(batch: pa.RecordBatch, style: Style) -> bytes:
    """All rows as NDJSON. Raises NotAcceptable."""
    return _json(batch, style).lines()


def _json(batch: pa.RecordBatch, style: Style) -> JsonColumns:
    try:
        return JsonColumns(batch, style)
    except MethodFailed as error:
        raise NotAcceptable(error.message) from error


def _unsayable(form: bytes, error: Exception) -> NotAcceptable:
    detail = str(error).partition("\n")[0][:200]
    return NotAcceptable(f"the result cannot be said in {form.decode()}; ask for {ARROW.decode()}: {detail}")
