"""A pipeline of two: `Scores` has another deployment as an argument and calls its method like one of its own.

Both are served, each with replicas of its own; what goes from one to the other stays in shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import flightserve as fs
from examples.shown import show

TEXT = pa.schema([("text", pa.string())])
SCORE = pa.schema([("words", pa.int64()), ("shouting", pa.bool_())])


@fs.deployment(replicas=1)
class Clean:
    """Text as it is to be compared."""

    @fs.method(input=TEXT, output=TEXT)
    def clean(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Without space at the ends, and with one space where there were several; null stays null."""
        trimmed = pc.utf8_trim_whitespace(batch.column("text"))
        return pa.record_batch([pc.replace_substring_regex(trimmed, r"\s+", " ")], schema=TEXT)


@fs.deployment(replicas=1)
class Scores:
    """What is to be said of a text, once it is clean."""

    def __init__(self, cleaner: Clean) -> None:
        self._cleaner = cleaner

    @fs.method(input=TEXT, output=SCORE)
    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """How many words there are, and whether all is in capitals."""
        text = self._cleaner.clean(batch).column("text")
        words = pc.add(pc.count_substring(text, " "), pc.cast(pc.greater(pc.utf8_length(text), 0), pa.int64()))
        return pa.record_batch([words, pc.utf8_is_upper(text)], schema=SCORE)


app = fs.App(fs.bind(Scores, fs.bind(Clean)))


def call(addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The scores of three texts: rows go in, rows come out."""
    with fs.connect(addresses["flight"]) as client:
        scores: list[dict[str, Any]] = client.Scores.score(
            [{"text": "  so  it   goes "}, {"text": "STOP"}, {"text": None}]
        )
    return scores


if __name__ == "__main__":
    show(app, call)
