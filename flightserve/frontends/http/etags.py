"""Answers that a client or a cache may have already (RFC 9110, 13): their ETags, and whether one is named.

An ETag stands for the rows (the tag that the warehouse tells of them) and for how they are written. It is a weak one:
rows without an order may come in another, and Parquet in other pieces.
"""

from __future__ import annotations

import hashlib
from typing import Final

# Nobody can say that the next answer is the same.
NO_STORE: Final = b"cache-control: no-store\r\n"
_FORM_BYTES: Final = 4


def etag_of(tag: str, written: object) -> bytes:
    """The ETag of rows that `tag` stands for, `written` so (something that is told apart by its repr)."""
    form = hashlib.blake2b(repr(written).encode(), digest_size=_FORM_BYTES).hexdigest()
    return f'W/"{tag}-{form}"'.encode()


def kept_lines(etag: bytes, closed: bool = False) -> bytes:
    """The header lines of an answer that may be kept, to be asked for again by its ETag; where callers have to say who
    they are (`closed`), by its reader alone."""
    how, more = (b"private, no-cache", b"authorization, ") if closed else (b"no-cache", b"")
    return b"etag: %b\r\ncache-control: %b\r\nvary: accept, %bx-warehouse\r\n" % (etag, how, more)


def is_named(etag: bytes, if_none_match: bytes | None) -> bool:
    """Whether the header `If-None-Match` names the ETag, or any."""
    if if_none_match is None:
        return False
    named = [each.strip() for each in if_none_match.split(b",")]
    opaque = etag.removeprefix(b"W/")
    return b"*" in named or any(each.removeprefix(b"W/") == opaque for each in named)
