"""Flight load over DoExchange: ping-pong streams, each in its own thread, or one pipelined stream.

Every stream sends its own batch; every answer's row count is checked. Of small answers every 64th is compared
whole, of large ones the first.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from benchmarks import payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey

WARM_CALLS = 20
COMPARE_EVERY = 64
# Of small batches gRPC would take tens of thousands ahead of their answers, all of which are awaited in the end.
AHEAD_MAX = 1024
AHEAD_S = 0.0005


@contextlib.contextmanager
def exchange(client: fl.FlightClient, path: list[str], schema: pa.Schema, token: str = "") -> Iterator[tuple[Any, Any]]:
    """An open DoExchange as (writer, reader)."""
    said = [(b"authorization", f"Bearer {token}".encode())] if token else []
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_path(*path), fl.FlightCallOptions(headers=said))
    writer.begin(schema)
    with writer:
        yield writer, reader


def check(answer: pa.RecordBatch, sent: pa.RecordBatch, whole: bool) -> None:
    """Raise WrongAnswer unless the answer has the rows that were sent."""
    if answer.num_rows != sent.num_rows or (whole and not answer.equals(sent)):
        raise WrongAnswer(f"sent {sent.num_rows} rows, got {answer.num_rows}, or other values")


def get_load(url: str, size_bytes: int, parts: int) -> dict[str, Any]:
    """Order `get`: one DoGet of so many parts."""
    wanted = payloads.sized(size_bytes)
    ticket = fl.Ticket(json.dumps({"size_bytes": size_bytes, "parts": parts}))
    with fl.connect(url) as client:
        begun_ns = time.perf_counter_ns()
        reader = client.do_get(ticket)
        check(reader.read_chunk().data, wanted, True)
        for _ in range(parts - 1):
            check(reader.read_chunk().data, wanted, False)
        took_ns = time.perf_counter_ns() - begun_ns
    return {"answered": parts, "verified": parts, "gb_per_s": parts * wanted.nbytes / took_ns}


class Gate:
    """Starts all streams together, and is the clock they run by."""

    def __init__(self, streams: int, seconds: float) -> None:
        self._seconds = seconds
        self._barrier = threading.Barrier(streams, action=self._start)
        self.begun = 0.0
        self.until = 0.0

    def _start(self) -> None:
        self.begun = time.monotonic()
        self.until = self.begun + self._seconds

    def wait(self) -> None:
        """Wait for the other streams; raises BrokenBarrierError when one of them failed."""
        self._barrier.wait(60.0)

    def abort(self) -> None:
        """A stream failed: let nobody wait for it."""
        self._barrier.abort()


def ping_pong(url: str, path: list[str], batch: pa.RecordBatch, gate: Gate, token: str) -> list[int]:
    """One stream on its own connection: the times of its calls in ns, one batch sent and answered each."""
    times: list[int] = []
    try:
        with (
            # pyarrow shares one connection between clients of one address; a channel argument keeps them apart.
            fl.connect(url, generic_options=[("grpc.use_local_subchannel_pool", 1)]) as client,
            exchange(client, path, batch.schema, token) as (writer, reader),
        ):
            for _ in range(WARM_CALLS):
                writer.write_batch(batch)
                check(reader.read_chunk().data, batch, True)
            gate.wait()
            until_ns = time.perf_counter_ns() + int((gate.until - time.monotonic()) * 1e9)
            while (begun := time.perf_counter_ns()) < until_ns:
                writer.write_batch(batch)
                answer = reader.read_chunk().data
                times.append(time.perf_counter_ns() - begun)
                check(answer, batch, len(times) % COMPARE_EVERY == 0)
            writer.done_writing()
    except BaseException:
        gate.abort()
        raise
    return times


def ping_pong_load(
    url: str, path: list[str], streams: int, seconds: float, size_bytes: int = 0, token: str = ""
) -> dict[str, Any]:
    """Order `ping_pong`: `streams` streams at once for `seconds`: `calls_per_s` of all, p50, p99. `token` says who one
    is, "" where nobody has to.

    `size_bytes` 0 sends batches of 16 rows, else one column of that size.
    """
    gate = Gate(streams, seconds)
    seeds = range(streams)
    batches = [pa.record_batch({"x": payloads.column(size_bytes or 8 * payloads.SMALL_ROWS, seed)}) for seed in seeds]
    with ThreadPoolExecutor(streams) as pool:
        runs = [pool.submit(ping_pong, url, path, batch, gate, token) for batch in batches]
        errors = [e for e in (run.exception() for run in runs) if e is not None]
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        times = [t for run in runs for t in run.result()]
    return {"calls_per_s": len(times) / seconds, "answered": len(times), "verified": len(times), **latencies(times)}


class Pipelined:
    """One exchange with a thread that writes the same batch until told to stop, while the caller's reads."""

    def __init__(self, batch: pa.RecordBatch, seconds: float, warm: int) -> None:
        self._batch, self._seconds, self._warm = batch, seconds, warm
        self._stop = threading.Event()
        self.sent = self.read = self.counted = 0
        self.measured_s = 0.0

    def run(self, writer: Any, reader: Any) -> None:
        """Write and read until the time is over and every answer is there."""
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write, writer)
            try:
                self._read(reader)
            finally:
                self._stop.set()
            writing.result()
        if self.read != self.sent or not self.measured_s:
            raise WrongAnswer(f"sent {self.sent} batches, got {self.read}")

    def _write(self, writer: Any) -> None:
        try:
            while not self._stop.is_set():
                if self.sent - self.read >= AHEAD_MAX:
                    time.sleep(AHEAD_S)
                    continue
                writer.write_batch(self._batch)
                self.sent += 1
        finally:
            writer.done_writing()

    def _read(self, reader: Any) -> None:
        """Read until the stream ends; what comes in `seconds` after the first `warm` answers counts."""
        begun = 0.0
        for piece in reader:
            self.read += 1
            check(piece.data, self._batch, self.read == 1)
            now = time.monotonic()
            if self.read == self._warm:
                begun = now
            elif begun and not self._stop.is_set():
                self.counted += 1
                self.measured_s = now - begun
                if self.measured_s >= self._seconds:
                    self._stop.set()


def pipelined_load(url: str, path: list[str], size_bytes: int, seconds: float, ca: str = "") -> dict[str, Any]:
    """Order `pipelined`: one stream, a thread writing and one reading: `gb_per_s` each way, `calls_per_s`.

    `size_bytes` 0 sends batches of 16 rows; `ca` is a file of what is trusted, in TLS. As many answers must come back
    as batches were sent; the first is compared whole before the clock starts, of the others the rows are counted.
    """
    batch = payloads.sized(size_bytes) if size_bytes else payloads.small()
    stream = Pipelined(batch, seconds, warm=3 if size_bytes else WARM_CALLS)
    trusted = {"tls_root_certs": Path(ca).read_bytes()} if ca else {}
    with fl.connect(url, **trusted) as client, exchange(client, path, batch.schema) as (writer, reader):
        stream.run(writer, reader)
    per_s = stream.counted / stream.measured_s
    return {
        "gb_per_s": per_s * batch.nbytes / 1e9,
        "calls_per_s": per_s,
        "answered": stream.counted,
        "verified": stream.counted,
    }


if __name__ == "__main__":
    obey({"get": get_load, "ping_pong": ping_pong_load, "pipelined": pipelined_load})
