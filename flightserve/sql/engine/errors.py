"""What DuckDB raises, as flightserve's errors.

The kind of a DuckDB error is the first words of its text ("Binder Error: ..."): that is all that is left of errors
that come out of an open Arrow reader, which raises OSError for every one of them. Texts go to the caller without
paths of this machine and bounded.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from typing import Final

import duckdb
import pyarrow as pa

from flightserve.errors import (
    Cancelled,
    FlightserveError,
    InvalidArgument,
    NotFound,
    OutOfMemory,
    PermissionDenied,
    ReplicaFailed,
    Unimplemented,
)

MESSAGE_CHARACTERS_MAX: Final = 2048
# Of what is said of a file, so many lines of so many characters.
_LINES_SAID_MAX: Final = 8
_LINE_CHARACTERS_MAX: Final = 300
_NOT_SAID: Final = ("Original Line:", "LINE ", "Possible fixes:", "* ")
# It names settings, which have other names here.
_NOT_UTF8: Final = "This file is not utf-8 encoded"
_ENCODING: Final = "it is not UTF-8; the CSV option encoding says what it is: --csv encoding=latin-1, or utf-16"
NO_MEMORY: Final = "the query needs more memory than this server has for it"
NO_DISK: Final = "the query needs more disk for what its memory does not hold than this server has for it"
NO_FILES: Final = "the server cannot open another file for the query now"

_PREFIX: Final = re.compile(r"([A-Za-z][A-Za-z ]{0,40}?) Error: ")
# Absolute paths of one part or more, also as addresses; what follows a letter, a colon or a slash otherwise is part of
# something else.
_PATH: Final = re.compile(r"file://[^\s'\"]+|(?<![\w:/.<])/(?:[\w.+@~=*-]+/)*[\w.+@~=*-]+")
# Advice to change settings, which callers cannot, and what internal errors say of the engine's code.
_ADVICE: Final = re.compile(
    r"\s*(?:Possible solutions:|Did you mean to|Candidate functions:|Use \"SET |You can disable"
    r"|This limit was set by|Stack Trace:).*",
    re.DOTALL,
)

_INVALID: Final = (
    "Parser",
    "Syntax",
    "Binder",
    "Conversion",
    "Invalid Input",
    "Invalid type",
    "Invalid",
    "Out of Range",
    "Mismatch Type",
    "Unknown Type",
    "Decimal",
    "Divide by Zero",
    "Expression",
    "Parameter Not Resolved",
    "Parameter Not Allowed",
    "Planner",
    "Serialization",
    "Object Size",
    "Constraint",
)
_CLASSES: Final[dict[str, type[FlightserveError]]] = {
    **dict.fromkeys(_INVALID, InvalidArgument),
    "Catalog": NotFound,
    "Permission": PermissionDenied,
    "Out of Memory": OutOfMemory,
    "INTERRUPT": Cancelled,
    "Not implemented": Unimplemented,
    "INTERNAL": ReplicaFailed,
    "FATAL": ReplicaFailed,
}
# An extension that is not there, an attempt to change what is locked: DuckDB has its own words for each.
_LOCKED: Final = re.compile(r"configuration has been locked|disabled by configuration|disabled through configuration")
# What the kernel lacked for reading or spilling.
_SHORT: Final = {
    **{os.strerror(number): NO_DISK for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)},
    **{os.strerror(number): NO_FILES for number in (errno.EMFILE, errno.ENFILE)},
}


def kind_of_text(text: str) -> str:
    """DuckDB's name for the kind of the error, "" where the text has none."""
    found = _PREFIX.match(text)
    return found.group(1) if found else ""


def translate(error: BaseException) -> FlightserveError:
    """The error for the caller. One that is flightserve's already is given back as it is."""
    if isinstance(error, FlightserveError):
        return error
    text = _text_of(error)
    kind = kind_of_text(text)
    if _LOCKED.search(text) or kind == "Missing Extension":
        return PermissionDenied(scrub(text))
    # What C++ says where an allocation failed in a place that has no words of its own for it.
    if isinstance(error, MemoryError) or "bad_alloc" in text:
        return OutOfMemory(NO_MEMORY)
    if kind == "IO":
        for said, message in _SHORT.items():
            if said in text:
                return OutOfMemory(message)
    # Without a kind: what DuckDB's Python has no class of its own for, and what Arrow says of results it cannot take.
    other = InvalidArgument if type(error) is duckdb.Error or isinstance(error, pa.ArrowInvalid) else FlightserveError
    return _CLASSES.get(kind, other)(scrub(text) or type(error).__name__)


def _text_of(error: BaseException) -> str:
    """What the engine said. It quotes strings by bytes, and what is cut within a character is no UTF-8: Python then
    raises that, with the text in it."""
    if isinstance(error, UnicodeDecodeError):
        return error.object.decode(errors="replace")
    return str(error)


def explain(error: BaseException, files: Sequence[str] = ()) -> str:
    """What the engine says of a table's files, in one line for whoever mends them: the first lines, which are the
    reason; behind an empty line comes the statement, which is ours, and advice on settings. Of many files he has to
    know which; the folders they lie in are nobody's business, nor is the rest of a row that has a bad value."""
    text = _ADVICE.sub("", _text_of(error))
    for name in files:
        text = text.replace(name, os.path.basename(name))
    lines = text.partition("\n\n")[0].strip().splitlines()[:_LINES_SAID_MAX]
    lines = [_ENCODING if _NOT_UTF8 in line else line for line in lines]
    kept = [line[:_LINE_CHARACTERS_MAX].rstrip() for line in lines if not line.startswith(_NOT_SAID)]
    return scrub("; ".join(line for line in kept if line))


def scrub(text: str) -> str:
    """The text without paths, the engine's stack, and advice on settings, bounded."""
    text = _PATH.sub("<path>", _ADVICE.sub("", text)).strip()
    return text if len(text) <= MESSAGE_CHARACTERS_MAX else text[: MESSAGE_CHARACTERS_MAX - 3] + "..."
