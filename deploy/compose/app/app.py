"""The app that compose.yaml serves; put yours in its place."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

import flightserve as fs


@fs.deployment(replicas=2)
class Pricing:
    """Prices with tax."""

    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """In whole cents."""
        return pa.record_batch({"charge": pc.round(pc.multiply(batch["price"], 1.08), 2)})


app = fs.App(fs.bind(Pricing))
