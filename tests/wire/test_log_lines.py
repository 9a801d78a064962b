"""Records of the log as lines, and what is made of text that is none of ours."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.wire.log_lines import (
    FOLDED_LINES_MAX,
    MESSAGE_CHARS_MAX,
    RECORD_CHARS_MAX,
    Joining,
    decode,
    encode,
    fold,
    neutral,
    shorten,
)


def record(message: str = "said", **more: Any) -> dict[str, Any]:
    said = {"time": "2026-01-31T12:00:00.000Z", "level": "INFO", "logger": "a", "process": "replica-M-0"}
    return {**said, "message": message, **more}


@given(st.text(), st.dictionaries(st.sampled_from(["rows", "request_ids"]), st.integers() | st.text()))
def test_a_record_is_one_line_and_comes_back(message: str, more: dict[str, Any]) -> None:
    line = encode(record(message, **more))
    assert "\n" not in line and line.isascii()
    assert decode(line) == record(message, **more)


class Unruly:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("value", [Unruly(), "x" * RECORD_CHARS_MAX, {1: {2: Unruly()}}, float("nan"), {Unruly(): 1}])
def test_whatever_a_user_adds_the_line_is_there_and_bounded(value: object) -> None:
    line = encode(record(extra=value))
    assert len(line) <= RECORD_CHARS_MAX
    found = decode(line)
    assert found is not None and found["message"] == "said"


def test_what_is_no_number_is_a_text_where_the_record_arrives() -> None:
    """`json` writes NaN, which other readers of JSON refuse."""
    found = decode(encode(record(loss=float("nan"), most=[float("-inf")])))
    assert found == record(loss="NaN", most=["-Infinity"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        '{"time": "x"}',
        '{"a": 1}',
        '["time"]',
        encode(record()).replace("INFO", "LOUD"),
        encode(record()) + "}",
        encode(record())[:-1] + ', "deep": ' + "[" * 100_000,
    ],
)
def test_what_only_looks_like_a_record_is_none(line: str) -> None:
    assert decode(line) is None


def test_texts_are_cut_in_the_middle_at_the_bound() -> None:
    assert shorten("x" * MESSAGE_CHARS_MAX) == "x" * MESSAGE_CHARS_MAX
    cut = shorten("a" + "x" * MESSAGE_CHARS_MAX + "z")
    assert cut.startswith("axx") and cut.endswith("xxz") and "2 characters" in cut


@given(st.lists(st.text("ab{", max_size=5) | st.just("RECORD"), max_size=8), st.data())
def test_lines_that_were_read_too_early_are_put_together(parts: list[str], data: st.DataObject) -> None:
    """Every record comes out whole, in order, wherever Ray cut it."""
    lines, expected = [], []
    for number, part in enumerate(parts):
        if part == "RECORD":
            made = record(f"number {number}")
            expected.append(made)
            line = encode(made)
            at = data.draw(st.integers(12, len(line) - 1))
            lines += [line[:at], line[at:]] if data.draw(st.booleans()) else [line]
        else:
            lines.append(part)
    found = list(Joining().feed(lines))
    assert [each for each in found if isinstance(each, dict)] == expected
    assert [each for each in found if isinstance(each, str)] == [part for part in parts if part != "RECORD"]


def test_what_stands_before_a_record_on_its_line_is_a_line_of_its_own() -> None:
    assert list(Joining().feed(["no newline" + encode(record())])) == ["no newline", record()]


def test_what_begins_like_a_record_and_never_ends_is_given_up() -> None:
    joining = Joining()
    begin = '{"time": "' + "x" * RECORD_CHARS_MAX
    assert list(joining.feed([begin, "next"])) == [begin, "next"]


TRACEBACK = ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "    1/0", "ValueError: no"]
CAUSE = ["", "The above exception was the direct cause of the following exception:", ""]


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["a", "", "b"], ["a", "b"]),
        (["before", *TRACEBACK, "after"], ["before", "\n".join(TRACEBACK), "after"]),
        ([*TRACEBACK, *CAUSE, *TRACEBACK, "after"], ["\n".join([*TRACEBACK, *CAUSE, *TRACEBACK]), "after"]),
        ([*TRACEBACK, *CAUSE, "other"], ["\n".join(TRACEBACK), CAUSE[1], "other"]),
        (["Fatal error", "", "Thread 1:", "  File a", "  File b"], ["Fatal error", "Thread 1:\n  File a\n  File b"]),
        (TRACEBACK[:2], ["\n".join(TRACEBACK[:2])]),
        (["  + Exception Group Traceback (most recent call last):", "  |   File a", "  | E: x"], None),
        ([], []),
    ],
)  # fmt: skip
def test_a_traceback_is_one_message(lines: list[str], messages: list[str] | None) -> None:
    assert list(fold(lines)) == (["\n".join(lines)] if messages is None else messages)


@given(st.lists(st.sampled_from(["", "a", "  b", *TRACEBACK, *CAUSE]), max_size=30))
def test_folding_loses_no_line(lines: list[str]) -> None:
    said = "\n".join(fold(lines)).split("\n")
    assert [line for line in said if line.strip()] == [line for line in lines if line.strip()]


def test_folding_is_bounded() -> None:
    assert max(len(each.split("\n")) for each in fold(["a", *["  b"] * (3 * FOLDED_LINES_MAX)])) == FOLDED_LINES_MAX


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text() | st.text("\x1b[]0;1mHJ\x07\x9b\\P^_\r\b\n"))
def test_nothing_that_is_shown_moves_a_cursor(text: str) -> None:
    assert not CONTROLS.search(neutral(text))
    assert json.loads(json.dumps(neutral(text))) == neutral(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07on", "on"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x07b\x08", "a\\x07b\\x08"),
        ("50 %\r100 %", "50 %\\r100 %"),
        ("tab\tnew\nline", "tab\tnew\nline"),
        ("\u202eevil", "\\u202eevil"),
        ("\x1b", "\\x1b"),
        ("größer 数 🎉", "größer 数 🎉"),
    ],
)
def test_escapes_go_and_controls_are_spelt(text: str, shown: str) -> None:
    assert neutral(text) == shown
