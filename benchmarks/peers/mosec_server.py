"""The model in mosec: a server in Rust in front of Python workers, here one.

Settings: `max_wait_time` is how long a batch waits to fill, and 1 ms the least that mosec takes (less is its default of
10 ms). JSON by orjson, as its guide has it for other encodings: `deserialize` and `serialize` are there to be replaced.
Logs of warnings only.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import joblib
import mosec
import orjson

from benchmarks import estimator
from benchmarks.peers.announcing import announce
from benchmarks.processes import free_port

MODEL = "ESTIMATOR"
WAIT_MS_MAX = 1


class Predict(mosec.Worker):
    """The worker."""

    def __init__(self) -> None:
        super().__init__()
        self._model = joblib.load(os.environ[MODEL])

    def deserialize(self, data: bytes) -> Any:
        """A request's body."""
        return orjson.loads(data)["columns"]

    def serialize(self, data: float) -> bytes:
        """An answer's."""
        return orjson.dumps(estimator.answer(data))

    def forward(self, data: list[Any]) -> list[float]:
        """One micro-batch."""
        return estimator.predict(self._model, data)


def main() -> None:
    """Serve until SIGTERM."""
    port = free_port()
    # It takes its options from the environment; of a worker's process nothing else comes along.
    os.environ.update(
        {MODEL: sys.argv[1], "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": str(port), "MOSEC_LOG_LEVEL": "error"}
    )
    announce(f"http://127.0.0.1:{port}/inference")
    server = mosec.Server()
    server.append_worker(Predict, num=1, max_batch_size=estimator.BATCH_MAX, max_wait_time=WAIT_MS_MAX)
    server.run()


if __name__ == "__main__":
    main()
