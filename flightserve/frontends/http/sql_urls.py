"""A query that is in a URL: what its parts are.

| name | |
|---|---|
| `query` | the statement; a body that is its text has it instead |
| `p=UA&p=1`, `p.carrier=UA` | parameters by position, by name: texts, read as SQL reads literals |
| `parameters` | parameters as JSON, in place of these |
| `format` | a key of `FORMATS`; it counts more than `Accept` |
| `filename` | what the answer is called when it is kept; its ending is added |
| `bom` | `1`: CSV begins with a byte order mark, by which Excel knows UTF-8 |
| `warehouse`, `shape`, `integers`, `nan` | as in a body |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import httptools

from flightserve.errors import InvalidArgument
from flightserve.frontends.http.bodies import ARROW, CSV, HTML, JSON, NDJSON, PARQUET
from flightserve.frontends.json.style import INTEGERS, NANS

FORMATS: Final = {"json": JSON, "ndjson": NDJSON, "csv": CSV, "arrow": ARROW, "parquet": PARQUET, "html": HTML}
# Parts of one URL, most of them parameters.
PARTS_MAX: Final = 256
_CHOICES: Final = {
    "format": tuple(FORMATS),
    "shape": ("rows", "columns"),
    "integers": INTEGERS,
    "nan": NANS,
    "bom": ("0", "1"),
}
_NAMES: Final = ("query", "parameters", "warehouse", "filename", *_CHOICES)
_BY_POSITION: Final = "p"
_BY_NAME: Final = "p."


@dataclass(frozen=True, slots=True)
class InUrl:
    """What a URL says. `query` is None where the body has it, `format` the media type, b"" where none is named.
    `parameters` is JSON; `values` are those that came one by one, a list or a dict. `pairs` is all of it as it came."""

    query: str | None
    parameters: str
    values: list[str] | dict[str, str]
    warehouse: str
    format: bytes
    shape: str
    integers: str
    nan: str
    filename: str
    bom: bool
    pairs: tuple[tuple[str, str], ...]


def in_url(url: bytes, with_query: bool) -> InUrl:
    """Raises InvalidArgument."""
    pairs = pairs_of(url)
    given = once([(name, value) for name, value in pairs if name != _BY_POSITION])
    values = _values([value for name, value in pairs if name == _BY_POSITION], given)
    for name, value in given.items():
        if name not in _NAMES or (name == "query" and not with_query):
            shown = ", ".join((*_NAMES[not with_query :], "p, p.NAME"))
            raise InvalidArgument(f"the URL has {name[:64]!r}; it may have {shown}")
        if value not in _CHOICES.get(name, (value,)):
            raise InvalidArgument(f"{name} is {value[:64]!r}; it is one of {', '.join(_CHOICES[name])}")
    if with_query and not given.get("query"):
        raise InvalidArgument("a GET asks by /v1/sql?query=SELECT...")
    form, get = FORMATS.get(given.get("format", ""), b""), given.get
    if get("bom") == "1" and form != CSV:
        raise InvalidArgument("bom=1 is for format=csv")
    if values and get("parameters"):
        raise InvalidArgument("parameters come as JSON (parameters=) or one by one (p=), not as both")
    return InUrl(
        query=get("query"),
        parameters=get("parameters", ""),
        values=values,
        warehouse=get("warehouse", ""),
        format=form,
        shape=get("shape", "rows"),
        integers=get("integers", "text"),
        nan=get("nan", ""),
        filename=get("filename", ""),
        bom=get("bom") == "1",
        pairs=tuple(pairs),
    )


def pairs_of(url: bytes) -> list[tuple[str, str]]:
    """What the URL's query has, in order. Raises InvalidArgument."""
    raw = httptools.parse_url(url).query or b""
    try:
        return parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict",
            max_num_fields=PARTS_MAX,
        )  # fmt: skip
    except ValueError as error:
        raise InvalidArgument(
            f"the URL's query is no list of name=value in UTF-8, with %25 for % and %2B for +, of at most {PARTS_MAX}"
        ) from error


def once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The values by their names. Raises InvalidArgument for one that comes twice."""
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument(f"{twice[:64]!r} comes twice in the URL")
    return given


def _values(by_position: list[str], given: dict[str, str]) -> list[str] | dict[str, str]:
    """The parameters that come one by one; those with names are taken out of `given`."""
    names = [name for name in given if name.startswith(_BY_NAME) and name != _BY_NAME]
    by_name: dict[str, Any] = {name.removeprefix(_BY_NAME): given.pop(name) for name in names}
    if by_name and by_position:
        raise InvalidArgument("parameters come by position (p=) or by name (p.NAME=), not both ways")
    return by_name or by_position


def is_text(content_type: bytes | None) -> bool:
    """A body that is the query's text, in UTF-8."""
    essence, _, parameters = (content_type or b"").lower().partition(b";")
    charset = parameters.partition(b"charset=")[2].partition(b";")[0].strip(b'" ')
    return essence.strip() in (b"text/plain", b"application/sql") and charset in (b"", b"utf-8", b"utf8", b"us-ascii")
