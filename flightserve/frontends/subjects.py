"""Subjects of client certificates as text: RFC 2253, as `openssl x509 -noout -subject -nameopt RFC2253` writes it, and
as gRPC gives it. The `ssl` module gives the names and values; how they are written is said here.

Names come in reverse, as that form has them, and by OpenSSL's short names. What is no ASCII is written by its bytes,
`\\C3\\BC`, so the text is ASCII.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

_SPECIAL: Final = re.compile(r'[,+"\\<>;]|^[ #]| $')
_UTF8_STRING: Final = 0x0C


def subject_of(certificate: Mapping[str, Any] | None) -> str:
    """Of what `SSLObject.getpeercert` gives; "" where there is none, or it has no subject."""
    names = (certificate or {}).get("subject", ())
    return ",".join("+".join(_written(*pair) for pair in reversed(several)) for several in reversed(names))


def _written(name: str, value: str) -> str:
    if name[:1].isdigit():
        # Of what OpenSSL has no name for, its encoding is shown; of texts that is nearly always this one.
        content = value.encode()
        return f"{name}=#{(_length(len(content)) + content).hex().upper()}"
    escaped = _SPECIAL.sub(lambda found: "\\" + found[0], value)
    return f"{_short(name)}={''.join(map(_byte, escaped.encode()))}"


def _short(name: str) -> str:
    shown: str = ssl._ASN1Object.fromname(name).shortname
    return shown


def _byte(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:02X}"


def _length(size: int) -> bytes:
    """The head of such a text in DER."""
    if size < 0x80:
        return bytes((_UTF8_STRING, size))
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((_UTF8_STRING, 0x80 | len(digits))) + digits
