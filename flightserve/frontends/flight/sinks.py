"""Where the replies of a Flight stream go: to the client of a DoExchange, or nowhere (DoPut)."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from flightserve.errors import Cancelled, MethodFailed
from flightserve.fabric.conversion.exact import Misfit, as_schema


class ReplySink(Protocol):
    """Where a stream's replies go."""

    def write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        """Send one reply with its request's metadata; blocks while the client does not read."""
        ...


class ExchangeSink:
    """Replies written to the client of a DoExchange. The first reply's schema is the stream's: where types follow from
    the rows, later replies are given its types if those hold their values."""

    def __init__(self, writer: Any, where: str) -> None:
        self._writer = writer
        self._where = where
        self.schema: pa.Schema | None = None

    def write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        """See `ReplySink`. Raises MethodFailed when the schema changed, Cancelled when the client is gone."""
        if self.schema is None:
            self.begin(batch.schema)
        elif not self.schema.equals(batch.schema):
            batch = self._alike(batch, self.schema)
        try:
            if metadata is None:
                self._writer.write_batch(batch)
            else:
                self._writer.write_with_metadata(batch, metadata)
        except pa.ArrowInvalid as error:
            raise Cancelled(f"the reply could not be sent: {error}") from error
        except (pa.ArrowException, OSError) as error:
            raise Cancelled("the client is gone") from error

    def _alike(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        try:
            return as_schema(batch, schema)
        except Misfit as error:
            reason = str(error)
        before = f"{self._where} answered with another schema than before ({reason})"
        raise MethodFailed(f"{before}: a Flight stream has one schema")

    def begin(self, schema: pa.Schema) -> None:
        """Send the stream's schema."""
        self.schema = schema
        try:
            self._writer.begin(schema)
        except (pa.ArrowException, OSError) as error:
            raise Cancelled("the client is gone") from error


class NoSink:
    """For DoPut: the batches are sent for their effect alone."""

    def write(self, batch: pa.RecordBatch, metadata: pa.Buffer | None) -> None:
        """Drop the reply."""
