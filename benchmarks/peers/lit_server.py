"""The work in LitServe: uvicorn and FastAPI in front of one worker's process.

Settings: `fast_queue` (ZeroMQ between the two, in place of a queue of `multiprocessing.Manager`: as fast at 32
connections, and faster at 128), and no `timeout`, for which it would look at each request's age. How long a batch waits
makes no difference here, 2 or 10 ms.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve

from benchmarks.peers import work
from benchmarks.peers.announcing import announce
from benchmarks.processes import free_port

WHAT = "WORK"
WAIT_S_MAX = 0.002


class Predict(litserve.LitAPI):
    """The worker's calls, in the order in which they come."""

    def setup(self, device: str) -> None:
        """Read the model, where there is one."""
        self._work = work.load(os.environ[WHAT])

    # It takes the annotations of these two for what FastAPI is to check and to convert.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """A request's body, parsed."""
        return request["columns"]

    def predict(self, x: list[Any]) -> list[work.Answer]:
        """One micro-batch."""
        return self._work(x)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """An answer's body, to be written as JSON."""
        return output


def main() -> None:
    """Serve until SIGTERM, which ends this process alone: whoever sends it ends the others."""
    port = free_port()
    os.environ[WHAT] = sys.argv[1]
    announce(f"http://127.0.0.1:{port}/predict", sys.argv[1])
    api = Predict(max_batch_size=work.BATCH_MAX, batch_timeout=WAIT_S_MAX)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
