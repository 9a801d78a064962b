"""An app whose code talks, for a terminal to show."""

from __future__ import annotations

import os
import threading

import pyarrow as pa

import flightserve as fs

# As long as nobody waits for without a word.
MADE_AFTER_S = 6.0


@fs.deployment
class Talker:
    """Takes its time to be made."""

    def __init__(self) -> None:
        threading.Event().wait(MADE_AFTER_S)
        print("made")

    @fs.method(input=pa.schema({"x": pa.int64()}))
    def say(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Clears the screen, if it can."""
        print("\x1b[2J\x1b[1;1Hwritten\x07 here")
        return batch

    @fs.method(idempotent=False)
    def leave(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Ends its process."""
        os._exit(3)


tables = fs.sql.Warehouse({"numbers": pa.table({"n": list(range(1234))})})
app = fs.App(Talker.bind(), tables.bind())
