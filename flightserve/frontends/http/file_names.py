"""What an answer is called when it is kept as a file (RFC 6266): by whoever asks, or by what it is."""

from __future__ import annotations

import unicodedata
from typing import Final
from urllib.parse import quote

from flightserve.errors import InvalidArgument
from flightserve.frontends.http.bodies import ARROW, CSV, HTML, JSON, NDJSON, PARQUET

ENDINGS: Final = {CSV: "csv", PARQUET: "parquet", ARROW: "arrows", JSON: "json", NDJSON: "ndjson", HTML: "html"}
# Forms that nobody reads in a window.
FILES: Final = frozenset((CSV, PARQUET, ARROW))
NAME_CHARS_MAX: Final = 128
# What `filename*` has as it is (RFC 8187, attr-char), beside what quote() never touches.
_PLAIN: Final = "!#$&+^`|"
# What ends a quoted text, begins an escape there, or is read as one by some browsers.
_RISKY: Final = frozenset('"\\%;')


def disposition(form: bytes, name: str) -> bytes:
    """The header line, with its line end, of an answer of that form; b"" for one that is shown and not kept. `name` may
    be empty. Raises InvalidArgument for what is no file's name."""
    if not name and form not in FILES:
        return b""
    _check(name)
    ending = "." + ENDINGS[form]
    name = name or "query"
    if not name.lower().endswith(ending):
        name += ending
    plain = "".join(each if " " <= each <= "~" and each not in _RISKY else "_" for each in name)
    line = f'content-disposition: attachment; filename="{plain}"'
    if plain != name:
        line += f"; filename*=UTF-8''{quote(name, safe=_PLAIN)}"
    return line.encode("ascii") + b"\r\n"


def _check(name: str) -> None:
    if len(name) > NAME_CHARS_MAX:
        raise InvalidArgument(f"filename has {len(name)} characters; at most {NAME_CHARS_MAX} are taken")
    # Controls, what turns the direction of writing, line ends, and halves of characters.
    hidden = any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in name)
    if hidden or "/" in name or "\\" in name or name[:1] == "." or (name and not name.strip()):
        raise InvalidArgument("filename is a file's name without folders, controls and a dot at its begin")
