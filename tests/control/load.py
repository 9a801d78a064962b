"""A load that goes on while a test changes the app, and counts every outcome.

One DEALER socket over ZeroMQ, which fills a window of requests in flight every `BURST_S`: as fast as they are answered
would be all that the machine can do, for nothing more to be seen. Every other request is of `book`, which is not
idempotent and writes down each run, the rest of `price`. Each is one row with its own id, which comes back with the
version of the code that ran it.
"""

from __future__ import annotations

import collections
import io
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import zmq

WINDOW = 12
BURST_S = 0.03
SILENCE_S_MAX = 60.0


class Load:
    """Use as a context manager. `ledger` is the file that `book` writes to."""

    def __init__(self, address: str, deployment: str, ledger: Path) -> None:
        self._address = address
        self._deployment = deployment
        self._ledger = ledger
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.open: dict[int, str] = {}
        self.bad: list[dict[str, Any]] = []
        self.silent = False
        self.answered = 0
        # None are sent while it is set.
        self.pause = threading.Event()
        # Versions in the order of the replies, each once for a stretch. What was sent before the first reply of a
        # stretch may have begun to run before it, and does not count.
        self.versions: list[int] = []
        self._sent = self._sent_before = 0
        self._booked: list[int] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send nothing more, and wait for what is open."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """After the end: every request was answered well, and what may run once ran once."""
        assert not self._thread.is_alive()
        assert self.bad == []
        assert self.open == {}, f"no answer for {SILENCE_S_MAX} s"
        runs = collections.Counter(int(line) for line in self._ledger.read_text().split())
        assert {request: count for request, count in runs.items() if count != 1} == {}
        assert sorted(runs) == sorted(self._booked)

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._address)
        due_s = heard_s = time.monotonic()
        while self.open or not self._stop.is_set():
            now_s = time.monotonic()
            if now_s >= due_s and not (self._stop.is_set() or self.pause.is_set()):
                due_s = now_s + BURST_S
                while len(self.open) < WINDOW:
                    self._send(socket, self._sent)
                    self._sent += 1
            if socket.poll(int(BURST_S * 1000)):
                self._take(*socket.recv_multipart()[-2:])
                heard_s = now_s
            elif not self.open:
                heard_s = now_s
            elif now_s > heard_s + SILENCE_S_MAX:
                break
        context.destroy()

    def _send(self, socket: zmq.Socket[bytes], number: int) -> None:
        method = "book" if number % 2 else "price"
        self.open[number] = method
        header = {"deployment": self._deployment, "method": method, "x-request-id": str(number)}
        batch = pa.RecordBatch.from_pydict({"id": [number]})
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        socket.send_multipart([b"", json.dumps(header).encode(), sink.getvalue()])

    def _take(self, head: bytes, body: bytes) -> None:
        header = json.loads(head)
        number = int(header["request_id"])
        method = self.open.pop(number)
        if header["code"] != "OK":
            self.bad.append(header)
            return
        (row,) = pa.ipc.open_stream(body).read_all().to_pylist()
        if row["id"] != number:
            self.bad.append({**header, "row": row})
            return
        self.answered += 1
        if method == "book":
            self._booked.append(number)
        if self.versions[-1:] != [row["version"]] and number >= self._sent_before:
            self.versions.append(row["version"])
            self._sent_before = self._sent
