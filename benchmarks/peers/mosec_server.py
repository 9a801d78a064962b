"""The work in mosec: a server in Rust in front of Python workers, here one.

Settings: `max_wait_time` is how long a batch waits to fill, the second argument; 1 ms is the least that mosec takes
(less is its default of 10 ms). JSON by orjson, as its guide has it for other encodings: `deserialize` and `serialize`
are there to be replaced. Logs of warnings only.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import mosec
import orjson

from benchmarks.peers import work
from benchmarks.peers.announcing import announce
from benchmarks.processes import free_port

WHAT = "WORK"


class Predict(mosec.Worker):
    """The worker."""

    def __init__(self) -> None:
        super().__init__()
        self._work = work.load(os.environ[WHAT])

    def deserialize(self, data: bytes) -> Any:
        """A request's body."""
        return orjson.loads(data)["columns"]

    def serialize(self, data: work.Answer) -> bytes:
        """An answer's."""
        return orjson.dumps(data)

    def forward(self, data: list[Any]) -> list[work.Answer]:
        """One micro-batch."""
        return self._work(data)


def main() -> None:
    """Serve until SIGTERM."""
    what, wait_ms = sys.argv[1:]
    port = free_port()
    # It takes its options from the environment; of a worker's process nothing else comes along.
    os.environ.update({WHAT: what, "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": str(port), "MOSEC_LOG_LEVEL": "error"})
    announce(f"http://127.0.0.1:{port}/inference", what)
    server = mosec.Server()
    server.append_worker(Predict, num=1, max_batch_size=work.BATCH_MAX, max_wait_time=int(wait_ms))
    server.run()


if __name__ == "__main__":
    main()
