"""A small app with both kinds of methods, for tests that end threads of its processes."""

from __future__ import annotations

import pyarrow as pa

import flightserve as fs


@fs.deployment
class Watched:
    """Answers with what it gets."""

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """On a lane."""
        return batch

    async def awaits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """On the event loop."""
        return batch


app = fs.App(fs.bind(Watched))
