"""A stream: a method that gives its rows as it makes them, and a client that takes them as they come.

The method is a generator. Nothing waits for its end: each record batch goes out when it is yielded, and a client that
goes away stops it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

import flightserve as fs
from examples.shown import show

PATHS = pa.schema([("start", pa.int64()), ("steps", pa.int64())])
STEP = pa.schema([("step", pa.int64()), ("value", pa.int64())])


@fs.deployment(replicas=1)
class Collatz:
    """3n + 1, step by step."""

    @fs.method(input=PATHS, output=STEP, row_aligned=False)
    def walk(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """The way of each `start` down to 1, of at most `steps` steps, a record batch a step."""
        for row in table.to_pylist():
            value = row["start"]
            for step in range(row["steps"]):
                yield pa.record_batch([[step], [value]], schema=STEP)
                if value == 1:
                    break
                value = 3 * value + 1 if value % 2 else value // 2


app = fs.App(fs.bind(Collatz))


def call(addresses: Mapping[str, str]) -> list[int]:
    """The way from 6: one row goes in, a part for each step comes out."""
    with fs.connect(addresses["flight"]) as client:
        return [step["value"] for step in client.Collatz.walk({"start": 6, "steps": 1000})]


if __name__ == "__main__":
    show(app, call)
