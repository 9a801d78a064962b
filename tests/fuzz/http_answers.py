"""Answers of HTTP/1.1, read as strictly as RFC 9112 lets a client: what a proxy would choke on is a finding."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from tests.fuzz.findings import Finding, check_code

_LINE: Final = re.compile(rb"HTTP/1\.1 (\d{3}) [\x20-\x7e]*")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*)")
_NO_BODY: Final = (204, 304)


class Reply(NamedTuple):
    """One answer. `whole` is false where the connection ended inside it."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    whole: bool = True

    @property
    def says_close(self) -> bool:
        return b"close" in self.fields.get(b"connection", b"").lower()


def read(data: bytes, heads: bool = False) -> list[Reply]:
    """All answers of a connection that has ended; with `heads` the requests were HEAD. Raises Finding."""
    found = []
    while data:
        reply, data = _read_one(data, heads)
        if reply.status != 100:
            found.append(reply)
        if not reply.whole:
            break
    return found


def _read_one(data: bytes, is_head: bool) -> tuple[Reply, bytes]:
    head, blank, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None or not blank:
        raise Finding(f"no head of an answer: {data[:200]!r}")
    fields: dict[bytes, bytes] = {}
    for each in lines:
        field = _FIELD.fullmatch(each)
        if field is None:
            raise Finding(f"no header line: {each[:200]!r}")
        name = field[1].lower()
        if name in fields and name in (b"content-length", b"transfer-encoding", b"content-type"):
            raise Finding(f"{name.decode()} twice: {head[:500]!r}")
        fields[name] = field[2]
    status = int(line[1])
    if is_head or status in _NO_BODY or status < 200:
        return Reply(status, fields, b""), rest
    body, rest, whole = _body(fields, rest)
    return Reply(status, fields, body, whole), rest


def _body(fields: dict[bytes, bytes], rest: bytes) -> tuple[bytes, bytes, bool]:
    if b"transfer-encoding" in fields:
        if b"content-length" in fields or fields[b"transfer-encoding"] != b"chunked":
            raise Finding(f"a body framed two ways: {fields}")
        return _unchunked(rest)
    if b"content-length" not in fields:
        return rest, b"", True  # until the end, as to HTTP/1.0
    length = int(fields[b"content-length"])
    return rest[:length], rest[length:], len(rest) >= length


def _unchunked(rest: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return body, b"", False
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", line):
            raise Finding(f"no size of a chunk: {line[:100]!r}")
        size = int(line, 16)
        if not size:
            return body, rest.removeprefix(b"\r\n"), rest.startswith(b"\r\n")
        if len(rest) < size + 2:
            return body + rest[:size], b"", False
        body, rest = body + rest[:size], rest[size + 2 :]


def check(reply: Reply) -> str:
    """The answer's code. Raises Finding for one that nobody may get."""
    if reply.status < 400:
        return "OK"
    if not reply.body or not reply.whole:
        return str(reply.status)  # of HEAD, or cut off
    try:
        error = json.loads(reply.body)["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise Finding(f"{reply.status} without an error as JSON: {reply.body[:300]!r}") from error
    if isinstance(error, str):  # KServe's
        if reply.status == 500:
            raise Finding(f"500: {error[:500]}")
        return check_code("INVALID_ARGUMENT", error)
    return check_code(error["code"], error["message"])
