"""Rows of a query as a page, for who opens its URL in a browser: a table of the first rows, and links to all of them.

A page of no script: what is in it is text, whatever it looks like. The head waits for the first rows like any other
answer's, and the query ends with the page's last row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final
from urllib.parse import urlencode

import orjson
import pyarrow as pa
import pyarrow.types as pt

from flightserve.frontends.http.bodies import HTML
from flightserve.frontends.http.errors import NotAcceptable
from flightserve.frontends.http.sql_urls import FORMATS
from flightserve.frontends.json.style import Style
from flightserve.frontends.json.values import values_of

ROWS_MAX: Final = 1000
CELL_CHARS_MAX: Final = 2000
TITLE_CHARS_MAX: Final = 80
# Of a page that loads and sends nothing.
POLICY: Final = (
    b"content-security-policy: default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'\r\n"
)
_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 1rem }
pre { white-space: pre-wrap; background: #8882; padding: .5rem }
div { overflow: auto; max-height: 80vh }
table { border-collapse: collapse }
th, td { border: 1px solid #8886; padding: .15rem .6rem; text-align: left; vertical-align: top }
th { position: sticky; top: 0; background: Canvas }
.n { text-align: right; font-variant-numeric: tabular-nums }
.null { opacity: .6 }
"""


class HtmlRows:
    """See the module (`encoders.Encoder`)."""

    form = HTML + b"; charset=utf-8"
    rows_max = ROWS_MAX

    def __init__(self, query: str, asked: Sequence[tuple[str, str]], style: Style) -> None:
        """`asked` are the names and values of the URL; the links are made of them."""
        self._query = query
        self._asked = asked
        self._style = style
        self._rows = 0
        self._begun = self.full = False

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        shown = batch.slice(0, ROWS_MAX - self._rows)
        self.full = shown.num_rows < batch.num_rows
        self._rows += shown.num_rows
        try:
            columns = [values_of(column, self._style) for column in shown.columns]
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise NotAcceptable("the result cannot be said in text/html; ask for format=arrow") from error
        classes = ["n" if _is_number(kind) else "" for kind in batch.schema.types]
        text = "" if self._begun else self._head(batch.schema.names, classes)
        self._begun = True
        return (text + "".join(_row(row, classes) for row in zip(*columns, strict=True))).encode("utf-8", "replace")

    def end(self) -> bytes:
        """See `Encoder`."""
        more = f"The first {ROWS_MAX:,} rows; there are more" if self.full else f"{self._rows:,} rows"
        if self._rows == 1:
            more = "1 row"
        return f"</tbody></table></div><p>{more}. {', '.join(self._links())}.</p></html>".encode()

    def _head(self, names: list[str], classes: list[str]) -> str:
        title, query = escape(self._query[:TITLE_CHARS_MAX]), escape(self._query)
        heads = "".join(
            f'<th scope="col" class="{kind}">{escape(name)}' for name, kind in zip(names, classes, strict=True)
        )
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style><pre>{query}</pre>"
            f'<div tabindex="0" role="region" aria-label="Rows"><table><thead><tr>{heads}</tr></thead><tbody>'
        )

    def _links(self) -> Iterator[str]:
        """All of the rows in the other forms."""
        kept = [(name, value) for name, value in self._asked if name not in ("format", "bom")]
        for name in FORMATS:
            if FORMATS[name] != HTML:
                yield f'<a href="{escape("?" + urlencode([*kept, ("format", name)]))}">{name}</a>'


def _row(values: tuple[object, ...], classes: list[str]) -> str:
    return "<tr>" + "".join(_cell(value, kind) for value, kind in zip(values, classes, strict=True))


def _cell(value: object, kind: str) -> str:
    if value is None:
        return '<td class="null">null'
    if isinstance(value, str | float):
        # JSON has no NaN and no infinity.
        text = str(value)
    else:
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    if len(text) > CELL_CHARS_MAX:
        text = text[:CELL_CHARS_MAX] + "\N{HORIZONTAL ELLIPSIS}"
    return f'<td class="{kind}">{escape(text)}' if kind else f"<td>{escape(text)}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))
