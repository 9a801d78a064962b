"""Lines of the log between our processes, and what is made of text that is none of ours.

A record is one JSON object on a line: `{"time", "level", "logger", "process", "message", ...more}`. A child writes its
records to the file that Ray gave it for standard error; Ray brings that file's lines to whoever started the app, in
pieces where it read too early. There, everything is a record again (`Joining`): what the child wrote as such, and raw
text, of C libraries or of processes that the user's code started, as the message of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

Record: TypeAlias = dict[str, Any]

# What one message of the log may have, and what all else of one record: more is left out of the middle.
MESSAGE_CHARS_MAX: Final = 32 << 10
RECORD_CHARS_MAX: Final = 8 * MESSAGE_CHARS_MAX
# Lines of raw text that are put into one record, because they are one traceback.
FOLDED_LINES_MAX: Final = 500
# How records begin, in the order in which `encode` writes what every record has.
_BEGIN: Final = '{"time": "'
FIELDS: Final = ("time", "level", "logger", "process", "message")
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_TRACEBACK: Final = re.compile(r"^\s*(\+ Exception Group )?Traceback \(most recent call last\):$")
_CHAINED: Final = re.compile(r"^(The above exception was the direct cause|During handling of the above exception)")
# What moves a terminal's cursor, changes its state or turns its text around; `\t` and `\n` stay.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[PX^_\]][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]"
)


def shorten(text: str, most: int = MESSAGE_CHARS_MAX) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"


def encode(record: Mapping[str, Any]) -> str:
    """The record on a line, without the line's end. Values that JSON has not are texts; what is too large, or cannot be
    a text, is left out but for the fields that every record has."""
    try:
        line = json.dumps(record, default=str)
    except Exception:  # a value of the user's may raise anything
        line = ""
    if not line or len(line) > RECORD_CHARS_MAX:
        line = json.dumps({key: shorten(str(record.get(key, ""))) for key in FIELDS})
    return line


def decode(line: str) -> Record | None:
    """The record that the line is; None where it is none."""
    if not line.startswith(_BEGIN):
        return None
    try:
        # What is no number is a text from here on: JSON has none of these.
        found = json.loads(line, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in FIELDS)
    return found if whole and found["level"] in LEVELS else None


class Joining:
    """Lines of one file as Ray brings them, in: records and raw lines, out. A record that came in pieces is put
    together; what stands before one on its line is a line of its own."""

    def __init__(self) -> None:
        self._held = ""

    def __repr__(self) -> str:
        return f"<Joining: {len(self._held)} characters held>"

    def feed(self, lines: Iterable[str]) -> Iterator[Record | str]:
        """What the lines complete."""
        for line in lines:
            held, self._held = self._held, ""
            if held:
                if whole := decode(held + line):
                    yield whole
                    continue
                if _BEGIN not in line and len(held) + len(line) <= RECORD_CHARS_MAX:
                    self._held = held + line
                    continue
                yield held
            yield from self._one(line)

    def _one(self, line: str) -> Iterator[Record | str]:
        at = line.find(_BEGIN)
        if at < 0:
            yield line
            return
        if at:
            yield line[:at]
        rest = line[at:]
        if record := decode(rest):
            yield record
        elif _cut(rest):
            self._held = rest
        else:
            yield rest


def _cut(text: str) -> bool:
    """Whether it may be the beginning of a record: all of ours end in a brace."""
    return not text.endswith("}") and len(text) <= RECORD_CHARS_MAX


def fold(lines: Sequence[str]) -> Iterator[str]:
    """Messages of raw lines that came together. A line and those indented below it are one, and so is a traceback with
    the line that names the exception and the tracebacks of its causes; empty ones are none."""
    at = 0
    while at < len(lines):
        last = min(len(lines), at + FOLDED_LINES_MAX)
        end = _traceback_end(lines, at, last) if _TRACEBACK.match(lines[at]) else _indented_end(lines, at + 1, last)
        message = "\n".join(lines[at:end]).strip("\n").rstrip()
        if message:
            yield message
        at = end


def _indented_end(lines: Sequence[str], at: int, last: int) -> int:
    while at < last and lines[at][:1] in (" ", "\t"):
        at += 1
    return at


def _traceback_end(lines: Sequence[str], at: int, last: int) -> int:
    """Behind the traceback that begins there, with those that it names as its causes."""
    # The line that names the exception, and what is indented below it.
    end = _indented_end(lines, min(_indented_end(lines, at + 1, last) + 1, last), last)
    following = _next_filled(lines, end, last)
    if following < last and _CHAINED.match(lines[following]):
        begin = _next_filled(lines, following + 1, last)
        if begin < last and _TRACEBACK.match(lines[begin]):
            return _traceback_end(lines, begin, last)
    return end


def _next_filled(lines: Sequence[str], at: int, last: int) -> int:
    return next((place for place in range(at, last) if lines[place].strip()), last)


def neutral(text: str) -> str:
    """The text without what a terminal acts on: colours and movements are gone, other controls stand as `\\x07`."""
    return _UNPRINTABLE.sub(lambda found: _shown(found[0]), _ESCAPES.sub("", text))


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode()


def raw_record(time: str, process: str, message: str, is_error: bool = False) -> Record:
    """The record of text that is none of ours."""
    return {
        "time": time,
        "level": "INFO",
        "logger": "stderr" if is_error else "stdout",
        "process": process,
        "message": shorten(message),
    }
