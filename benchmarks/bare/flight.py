"""The bare Flight echo: pyarrow's server, each exchange's own thread reads a batch and writes it back."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import pyarrow.flight as fl

from benchmarks import payloads


class Echo(fl.FlightServerBase):
    """DoExchange on any descriptor: every batch comes back, with its metadata. DoGet: parts of a size, as many as the
    ticket says."""

    def do_get(self, context: fl.ServerCallContext, ticket: fl.Ticket) -> fl.FlightDataStream:
        """`{"size_bytes": ..., "parts": ...}`."""
        asked = json.loads(ticket.ticket)
        part = payloads.sized(asked["size_bytes"])
        return fl.GeneratorStream(part.schema, (part for _ in range(asked["parts"])))

    def do_exchange(
        self,
        context: fl.ServerCallContext,
        descriptor: fl.FlightDescriptor,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.MetadataRecordBatchWriter,
    ) -> None:
        """Echo until the client is done writing."""
        writer.begin(reader.schema)
        for piece in reader:
            if piece.app_metadata is None:
                writer.write_batch(piece.data)
            else:
                writer.write_with_metadata(piece.data, piece.app_metadata)


if __name__ == "__main__":
    # A certificate and its key, for TLS.
    pems = [Path(each).read_bytes() for each in sys.argv[1:]]
    scheme = "grpc+tls" if pems else "grpc"
    server = Echo(f"{scheme}://127.0.0.1:0", tls_certificates=[tuple(pems)] if pems else None)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("ready", json.dumps({"flight": f"{scheme}://127.0.0.1:{server.port}"}), flush=True)
    ended.wait()
    server.shutdown()
