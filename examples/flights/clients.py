"""A small client for each protocol, with nothing of flightserve but its generated gRPC stubs.

Every client answers `call(deployment, method, requests)` with one table for each record batch in `requests`,
in order; all requests are sent before the first reply is waited for, so that several replicas work on them at
once. Errors are raised as the library at hand raises them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc
import httpx
import pyarrow as pa
import zmq
from pyarrow import flight

from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc

TIMEOUT_S = 60.0
TIMEOUT_MS = str(int(TIMEOUT_S * 1000))
ARROW = "application/vnd.apache.arrow.stream"


class Client(Protocol):
    """What the demo asks of a protocol."""

    def call(self, deployment: str, method: str, requests: Sequence[pa.RecordBatch]) -> list[pa.Table]:
        """One table for each request, in order."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...


def to_stream(batch: pa.RecordBatch) -> pa.Buffer:
    """The batch as one complete Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def from_stream(stream: Any) -> pa.Table:
    """All batches of one Arrow IPC stream."""
    return pa.ipc.open_stream(stream).read_all()


class FlightClient:
    """DoExchange: each batch written is one request; its number travels as `app_metadata` and comes back."""

    def __init__(self, address: str) -> None:
        self._client = flight.connect(address)

    def call(self, deployment: str, method: str, requests: Sequence[pa.RecordBatch]) -> list[pa.Table]:
        """A thread writes while this one reads: an exchange whose two sides only write is a deadlock."""
        descriptor = flight.FlightDescriptor.for_path(deployment, method)
        # Flight's own timeout ends the call here; pyarrow's server sees only the header.
        options = flight.FlightCallOptions(timeout=TIMEOUT_S, headers=[(b"x-timeout-ms", TIMEOUT_MS.encode())])
        writer, reader = self._client.do_exchange(descriptor, options)
        sender = threading.Thread(target=self._send, args=(writer, requests), daemon=True)
        with writer:
            sender.start()
            replies: list[list[pa.RecordBatch]] = [[] for _ in requests]
            for reply in reader:
                replies[int(reply.app_metadata.to_pybytes())].append(reply.data)
            sender.join()
        return [pa.Table.from_batches(batches, reader.schema) for batches in replies]

    @staticmethod
    def _send(writer: Any, requests: Sequence[pa.RecordBatch]) -> None:
        writer.begin(requests[0].schema)
        for number, batch in enumerate(requests):
            writer.write_with_metadata(batch, str(number).encode())
        writer.done_writing()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class GrpcClient:
    """`FlightServe.Stream`: requests up, replies down, told apart by `request_id`."""

    def __init__(self, address: str) -> None:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=unlimited)
        self._stub: Any = pb_grpc.FlightServeStub(self._channel)

    def call(self, deployment: str, method: str, requests: Sequence[pa.RecordBatch]) -> list[pa.Table]:
        """Raises RuntimeError with the status of a call that failed inside the stream."""
        replies: list[list[pa.Table]] = [[] for _ in requests]
        for reply in self._stub.Stream(self._messages(deployment, method, requests), timeout=TIMEOUT_S):
            if reply.status.code:
                raise RuntimeError(f"call {reply.request_id}: {reply.status.code}: {reply.status.message}")
            # A streaming method's parts have `more`, and the reply behind them has no rows.
            if reply.arrow_stream:
                replies[int(reply.request_id)].append(from_stream(reply.arrow_stream))
        return [pa.concat_tables(tables) for tables in replies]

    @staticmethod
    def _messages(deployment: str, method: str, requests: Sequence[pa.RecordBatch]) -> Iterable[Any]:
        for number, batch in enumerate(requests):
            yield pb.CallRequest(
                deployment=deployment,
                method=method,
                arrow_stream=to_stream(batch).to_pybytes(),
                request_id=str(number),
            )

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class HttpClient:
    """`POST /v1/{deployment}/{method}`, an Arrow stream each way; a connection for each request in flight."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=TIMEOUT_S, trust_env=False)

    def call(self, deployment: str, method: str, requests: Sequence[pa.RecordBatch]) -> list[pa.Table]:
        """Raises RuntimeError with the body of an answer that is not 200."""
        with ThreadPoolExecutor(max_workers=4) as threads:
            return list(threads.map(lambda batch: self._post(deployment, method, batch), requests))

    def _post(self, deployment: str, method: str, batch: pa.RecordBatch) -> pa.Table:
        headers = {"content-type": ARROW, "accept": ARROW, "x-timeout-ms": TIMEOUT_MS}
        body = memoryview(to_stream(batch)).tobytes()
        return from_stream(
            self._checked(self._client.post(f"/v1/{deployment}/{method}", content=body, headers=headers))
        )

    def call_json(self, deployment: str, method: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same route with `{"rows": [...]}` each way."""
        answer = json.loads(self._checked(self._client.post(f"/v1/{deployment}/{method}", json={"rows": rows})))
        found: list[dict[str, Any]] = answer["rows"]
        return found

    @staticmethod
    def _checked(response: httpx.Response) -> bytes:
        if response.status_code != 200:
            raise RuntimeError(f"HTTP {response.status_code}: {response.text}")
        return response.content

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class ZmqClient:
    """A DEALER socket: `[header JSON, Arrow IPC stream]` each way, told apart by `request_id`."""

    def __init__(self, address: str) -> None:
        self._socket: Any = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, int(TIMEOUT_S * 1000))
        self._socket.connect(address)

    def call(self, deployment: str, method: str, requests: Sequence[pa.RecordBatch]) -> list[pa.Table]:
        """Raises RuntimeError with the header of a reply whose code is not OK."""
        for number, batch in enumerate(requests):
            header = {"deployment": deployment, "method": method, "x-request-id": str(number)}
            header["x-timeout-ms"] = TIMEOUT_MS
            self._socket.send_multipart([json.dumps(header).encode(), memoryview(to_stream(batch))], copy=False)
        replies: dict[int, pa.Table] = {}
        while len(replies) < len(requests):
            header_bytes, body = self._socket.recv_multipart()
            answer = json.loads(header_bytes)
            if answer["code"] != "OK":
                raise RuntimeError(f"{answer['code']}: {answer.get('message')}")
            replies[int(answer["request_id"])] = from_stream(body)
        return [replies[number] for number in range(len(requests))]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


# In the order of the `ready` line's keys.
CLIENTS: dict[str, type[FlightClient] | type[GrpcClient] | type[HttpClient] | type[ZmqClient]] = {
    "flight": FlightClient,
    "grpc": GrpcClient,
    "http": HttpClient,
    "zmq": ZmqClient,
}
