"""The work in BentoML: uvicorn and Starlette in front, which puts requests together and calls the service in the same
process.

Settings: one worker; `async def`, which takes no thread; `max_latency_ms` of 1 s, as with 100 ms requests at 128
connections were refused on a busy machine, and no more were answered; no access log, no metrics, no traces.
What is put together is a list, so a request has a list with one thing in it, and an answer too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.announcing import announce
from benchmarks.processes import free_port

WHAT = "WORK"
LATENCY_MS_MAX = 1000
OFF = {"enabled": False}

# It imports the module by name in the worker's process.
if WHAT in os.environ:
    import bentoml

    @bentoml.service(workers=1, logging={"access": OFF}, metrics=OFF, tracing={"sample_rate": 0.0})
    class Predict:
        """The service."""

        def __init__(self) -> None:
            self._work = work.load(os.environ[WHAT])

        @bentoml.api(  # type: ignore[untyped-decorator]
            batchable=True, max_batch_size=work.BATCH_MAX, max_latency_ms=LATENCY_MS_MAX
        )
        async def predict(self, columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
            """One micro-batch."""
            return self._work(columns)


def main() -> None:
    """Serve until SIGTERM, by BentoML's own command."""
    port = free_port()
    # A home of its own: its command keeps files there.
    with tempfile.TemporaryDirectory() as home:
        os.environ.update({WHAT: sys.argv[1], "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": home})
        command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.bento_server:Predict"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        announce(f"http://127.0.0.1:{port}/predict", sys.argv[1], listed=True)
        with subprocess.Popen(command, stdout=sys.stderr) as server:
            signal.signal(signal.SIGTERM, lambda *_: server.terminate())


if __name__ == "__main__":
    main()
