"""What the tests of the gRPC and ZeroMQ frontends share: a deployment that behaves well and badly on request, a
process of frontends that serves it, and Arrow streams good and bad."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

import flightserve as fs
from flightserve.config import EdgeLimits, FrontendOptions
from flightserve.contracts.access import OPEN, Access
from flightserve.errors import PermissionDenied, Unavailable
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService

ONE_INT = pa.schema([pa.field("a", pa.int64())])


class Watched:
    """How many calls of `never` run now, how many ran at once at the most, and how many were told to stop."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.stopped = 0


WATCHED = Watched()
# What `stepwise` waits for before each part.
STEP = threading.Semaphore(0)


@fs.deployment(name="Probe", concurrency=8)
class Probe:
    """Answers, raises, streams, or never answers."""

    def identity(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows."""
        return batch

    @fs.method(input=ONE_INT, output=ONE_INT)
    def typed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One column of int64, checked."""
        return batch

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises."""
        raise ValueError(f"boom in {__file__} " + "é" * 5000)

    def longer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One row too many."""
        return pa.RecordBatch.from_pydict({"a": list(range(batch.num_rows + 1))})

    def nothing(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """No batch at all."""
        return None

    @fs.method(output=ONE_INT)
    def mistyped(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Another schema than it says."""
        return pa.RecordBatch.from_pydict({"b": ["x"] * batch.num_rows})

    def gone(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What a dead replica answers."""
        raise Unavailable("the replica died")

    def secret(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Not for everybody."""
        raise PermissionDenied("not yours")

    async def never(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Never returns, until nobody wants it any more."""
        WATCHED.running += 1
        WATCHED.most = max(WATCHED.most, WATCHED.running)
        try:
            await asyncio.Event().wait()
        finally:
            WATCHED.running -= 1
            WATCHED.stopped += 1
        return batch

    @fs.method(row_aligned=False)
    async def slowly(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, after as many milliseconds as the first one says."""
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(batch.column(0)[0].as_py() / 1000, passed.set)
        await passed.wait()
        return batch

    @fs.method(row_aligned=False)
    async def pieces(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Each row as a batch of its own."""
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    @fs.method(row_aligned=False)
    async def stepwise(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """As `pieces`, each when the test says so."""
        for row in range(batch.num_rows):
            await asyncio.to_thread(STEP.acquire)
            yield batch.slice(row, 1)

    @fs.method(row_aligned=False)
    async def breaks(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """One part, and an error."""
        yield batch.slice(0, 1)
        raise ValueError("broken")

    @fs.method(row_aligned=False)
    async def endless(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Parts, until nobody wants them."""
        try:
            while True:
                yield batch
                passed = asyncio.Event()
                asyncio.get_running_loop().call_later(0.005, passed.set)
                await passed.wait()
        finally:
            WATCHED.stopped += 1

    @fs.method(row_aligned=False)
    async def large(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Batches of 256 KiB, as many as the first row says."""
        for _ in range(batch.column(0)[0].as_py()):
            yield pa.RecordBatch.from_pydict({"a": pa.array(range(32768), pa.int64())})


@fs.deployment(name="Narrow", concurrency=1, max_queued_requests=1)
class Narrow(Probe):
    """One request runs, one waits, a third is <b>one too many</b>."""


@contextmanager
def served(
    limits: EdgeLimits | None = None, access: Access = OPEN, app: fs.App | None = None, **ports: Any
) -> Iterator[Any]:
    """Probe, or another app, on the protocols whose ports are given: a FrontendHost with `addresses` and `service`."""
    none: dict[str, Any] = {"http_port": None, "grpc_port": None, "flight_port": None, "zmq_port": None}
    limits = limits or EdgeLimits()
    options = FrontendOptions(**{**none, **ports}, limits=limits)
    with LocalService(app or fs.App(Probe.bind(), Narrow.bind()), limits=limits) as service:
        host = FrontendHost(service, options, Metrics(), access=access)
        host.service = service
        host.addresses = host.start()
        try:
            yield host
        finally:
            host.stop()


def batch_of(*values: int) -> pa.RecordBatch:
    """One int64 column `a`."""
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=ONE_INT)


def stream_of(*batches: pa.RecordBatch) -> bytes:
    """An IPC stream of these batches."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read(stream: bytes) -> pa.Table:
    """All rows of an IPC stream, validated."""
    table = pa.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    return table


GOOD = stream_of(batch_of(1, 2, 3))


def bad_streams() -> dict[str, bytes]:
    """Streams that must be refused as INVALID_ARGUMENT (or, for absurd sizes, RESOURCE_EXHAUSTED)."""
    text = stream_of(pa.RecordBatch.from_pydict({"a": ["one", "two", "three"]}))
    body = text.index(b"onetwothree")
    schema_message = pa.schema([("a", pa.int64())]).serialize().to_pybytes()
    batch_message = batch_of(1, 2).serialize().to_pybytes()
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 99], pa.int8()), pa.array(["x", "y"]), safe=False)
    deep = pa.int8()
    for _ in range(70):
        deep = pa.list_(deep)
    offsets = bytearray(text)
    at = text.index((0).to_bytes(4, "little") + (3).to_bytes(4, "little") + (6).to_bytes(4, "little"))
    offsets[at + 4 : at + 8] = (1 << 30).to_bytes(4, "little")
    return {
        "empty": b"",
        "one byte": b"\xff",
        "truncated": GOOD[: len(GOOD) // 2],
        "truncated in the schema": GOOD[:20],
        "wrong magic": b"ARROW1\0\0" + GOOD,
        "random": bytes(range(256)) * 8,
        "offsets out of range": bytes(offsets),
        "invalid UTF-8": text[:body] + b"\xff\xfe" + text[body + 2 :],
        "batch before schema": batch_message + schema_message,
        "two schemas": schema_message + batch_message + pa.schema([("b", pa.utf8())]).serialize().to_pybytes(),
        "dictionary index out of range": stream_of(pa.RecordBatch.from_arrays([coded], names=["a"])),
        "nested too deep": pa.schema([("a", deep)]).serialize().to_pybytes() + b"\xff\xff\xff\xff\0\0\0\0",
        "too many columns": stream_of(
            pa.RecordBatch.from_arrays([pa.array([1], pa.int8())] * 20_000, names=[f"c{i}" for i in range(20_000)])
        ),
        "huge length": b"\xff\xff\xff\xff\xf0\xff\xff\x7f" + GOOD[8:],
    }


BAD_STREAMS = bad_streams()
