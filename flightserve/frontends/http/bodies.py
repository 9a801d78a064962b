"""What a request's headers say of bodies: which form comes in, which goes out, and how to unpack, within bounds."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from flightserve.errors import InvalidArgument, TooLarge
from flightserve.frontends.http.errors import NotAcceptable, UnsupportedMediaType

JSON: Final = b"application/json"
ARROW: Final = b"application/vnd.apache.arrow.stream"
NDJSON: Final = b"application/x-ndjson"
EVENTS: Final = b"text/event-stream"
CSV: Final = b"text/csv"
PARQUET: Final = b"application/vnd.apache.parquet"
HTML: Final = b"text/html"
FORMS_IN: Final = (JSON, ARROW)
FORMS_OUT: Final = (JSON, ARROW, NDJSON, EVENTS)
_PIECE_BYTES: Final = 1 << 20


@functools.lru_cache(maxsize=256)
def form_in(content_type: bytes | None, read: str = f"{JSON.decode()} and {ARROW.decode()}") -> bytes:
    """JSON or ARROW. Raises UnsupportedMediaType (415), which says what is `read`. A body without a type is taken for
    JSON."""
    if content_type is None:
        return JSON
    essence, _, parameters = content_type.lower().partition(b";")
    essence = essence.strip()
    charset = parameters.partition(b"charset=")[2].partition(b";")[0].strip(b'" ')
    if essence in FORMS_IN and charset in (b"", b"utf-8", b"utf8"):
        return JSON if essence == JSON else ARROW
    shown = content_type[:128].decode("latin-1")
    raise UnsupportedMediaType(f"Content-Type is {shown!r}; {read} are read")


@functools.lru_cache(maxsize=256)
def form_out(accept: bytes | None, sent: bytes, forms: tuple[bytes, ...] = FORMS_OUT) -> bytes:
    """The form of the answer: what `Accept` likes best, the question's form among equals. Raises NotAcceptable."""
    if accept is None or accept == b"*/*" or not accept.strip():
        return sent
    wishes = [_wish(part) for part in accept.lower().split(b",") if part.strip()]
    best, best_quality = b"", 0.0
    for form in (sent, *(f for f in forms if f != sent)):
        quality = _quality(form, wishes)
        if quality > best_quality:
            best, best_quality = form, quality
    if best:
        return best
    produced = ", ".join(form.decode() for form in forms)
    raise NotAcceptable(f"Accept is {accept[:128].decode('latin-1')!r}; what can be produced: {produced}")


def _wish(part: bytes) -> tuple[bytes, float]:
    form, *parameters = part.split(b";")
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                return form.strip(), float(value)
            except ValueError:
                return form.strip(), 0.0
    return form.strip(), 1.0


def _quality(form: bytes, wishes: Sequence[tuple[bytes, float]]) -> float:
    """The most specific range that matches decides (RFC 9110, 12.5.1)."""
    for pattern in (form, form.partition(b"/")[0] + b"/*", b"*/*"):
        for wished, quality in wishes:
            if wished == pattern:
                return quality
    return 0.0


@functools.lru_cache(maxsize=256)
def packing(content_encoding: bytes | None) -> str:
    """`gzip`, `deflate`, `zstd` or "" for none. Raises UnsupportedMediaType."""
    if content_encoding is None:
        return ""
    name = content_encoding.strip().lower()
    if name in (b"", b"identity"):
        return ""
    if name in (b"gzip", b"x-gzip", b"deflate", b"zstd"):
        return name.decode().removeprefix("x-")
    shown = content_encoding[:64].decode("latin-1")
    raise UnsupportedMediaType(f"Content-Encoding is {shown!r}; gzip, deflate and zstd are read")


def unpack(pieces: Sequence[bytes], how: str, bytes_max: int) -> list[bytes]:
    """A packed body's content, never more than `bytes_max` of it in memory. Raises TooLarge, InvalidArgument."""
    return _unzstd(pieces, bytes_max) if how == "zstd" else _inflate(pieces, how, bytes_max)


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body unpacks to more than {bytes_max} bytes")


def _inflate(pieces: Sequence[bytes], how: str, bytes_max: int) -> list[bytes]:
    out: list[bytes] = []
    room = bytes_max
    # In HTTP deflate has zlib's head (RFC 9110, 8.4.1.2).
    wbits = 31 if how == "gzip" else 15
    reader = zlib.decompressobj(wbits)
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if reader.eof:  # another member of the same file
                    reader = zlib.decompressobj(wbits)
                content = reader.decompress(rest, min(room + 1, _PIECE_BYTES))
                room -= len(content)
                if room < 0:
                    raise _too_large(bytes_max)
                if content:
                    out.append(content)
                rest = reader.unused_data if reader.eof else reader.unconsumed_tail
    except zlib.error as error:
        raise InvalidArgument(f"the body is not {how}: {error}") from error
    # What the last piece still holds: input is gone, output is not.
    while not reader.eof and (content := reader.decompress(b"", min(room + 1, _PIECE_BYTES))):
        room -= len(content)
        if room < 0:
            raise _too_large(bytes_max)
        out.append(content)
    if not reader.eof:
        raise InvalidArgument(f"the {how} body ends early")
    return out


def _unzstd(pieces: Sequence[bytes], bytes_max: int) -> list[bytes]:
    out: list[bytes] = []
    room = bytes_max
    try:
        with pa.CompressedInputStream(pa.BufferReader(b"".join(pieces)), "zstd") as reader:
            # Not `read`, which loses what it allocated where it raises.
            while content := reader.read_buffer(min(room + 1, _PIECE_BYTES)).to_pybytes():
                room -= len(content)
                if room < 0:
                    raise _too_large(bytes_max)
                out.append(content)
    except (OSError, pa.ArrowException) as error:
        raise InvalidArgument(f"the body is not zstd: {error}") from error
    return out
