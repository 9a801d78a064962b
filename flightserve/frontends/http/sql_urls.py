"""A query that is in a URL: what its parts are, and what the answer is called when it is kept as a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast
from urllib.parse import parse_qsl

import httptools

from flightserve.errors import InvalidArgument
from flightserve.frontends.http.bodies import ARROW, CSV, JSON, NDJSON, PARQUET

FORMATS: Final = {"json": JSON, "ndjson": NDJSON, "csv": CSV, "arrow": ARROW, "parquet": PARQUET}
DOWNLOADS: Final = {
    form: b'content-disposition: attachment; filename="query.%b"\r\n' % ending
    for form, ending in ((CSV, b"csv"), (PARQUET, b"parquet"), (ARROW, b"arrows"))
}
# Of answers to a GET, which caches would keep: tables change. Whatever a value looks like, it is no page.
NOT_KEPT: Final = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
_CHOICES: Final = {"format": tuple(FORMATS), "shape": ("rows", "columns"), "integers": ("text", "number")}
_NAMES: Final = ("query", "parameters", "warehouse", *_CHOICES)


@dataclass(frozen=True, slots=True)
class InUrl:
    """What a URL says. `query` is None where the body has it, `format` the media type, b"" where none is named."""

    query: str | None
    parameters: str
    warehouse: str
    format: bytes
    shape: str
    integers: Literal["text", "number"]


def in_url(url: bytes, with_query: bool) -> InUrl:
    """Raises InvalidArgument."""
    raw = httptools.parse_url(url).query or b""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict",
            max_num_fields=len(_NAMES),
        )  # fmt: skip
    except ValueError as error:
        raise InvalidArgument(
            f"the URL's query is no list of name=value in UTF-8, with %25 for % and %2B for +, of {', '.join(_NAMES)}"
        ) from error
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InvalidArgument("a name comes twice in the URL")
    for name, value in given.items():
        if name not in _NAMES or (name == "query" and not with_query):
            raise InvalidArgument(f"the URL has {name[:64]!r}; it may have {', '.join(_NAMES[not with_query :])}")
        if value not in _CHOICES.get(name, (value,)):
            raise InvalidArgument(f"{name} is {value[:64]!r}; it is one of {', '.join(_CHOICES[name])}")
    if with_query and not given.get("query"):
        raise InvalidArgument("a GET asks by /v1/sql?query=SELECT...")
    integers = cast(Literal["text", "number"], given.get("integers", "text"))
    form = FORMATS.get(given.get("format", ""), b"")
    return InUrl(given.get("query"), given.get("parameters", ""), given.get("warehouse", ""), form,
                 given.get("shape", "rows"), integers)  # fmt: skip


def is_text(content_type: bytes | None) -> bool:
    """A body that is the query's text, in UTF-8."""
    essence, _, parameters = (content_type or b"").lower().partition(b";")
    charset = parameters.partition(b"charset=")[2].partition(b";")[0].strip(b'" ')
    return essence.strip() in (b"text/plain", b"application/sql") and charset in (b"", b"utf-8", b"utf8", b"us-ascii")
