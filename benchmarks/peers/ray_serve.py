"""The model in Ray Serve, behind HAProxy, in its throughput mode.

Settings beside those of `ray_settings`: user code is `async def`, for which Serve needs no thread; micro-batches by
`@serve.batch`, which waits for nobody, as what comes while one runs makes the next (waiting 1 or 2 ms, it answers a few
per cent fewer at 32 connections, and as many at 128); `max_ongoing_requests` is above the connections that there are,
so that batches fill and nothing waits elsewhere; no access log; JSON by orjson. One replica, which reserves no
processor, as flightserve's.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from benchmarks.peers import ray_settings

ray_settings.set_environment(haproxy=True)

import joblib  # noqa: E402 - Ray reads its environment when it is imported
import orjson  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

from benchmarks import estimator  # noqa: E402
from benchmarks.peers.announcing import wait_and_say  # noqa: E402
from benchmarks.processes import free_port  # noqa: E402

WAIT_S_MAX = 0.0
ONGOING_MAX = 4 * estimator.BATCH_MAX


class Predict:
    """The deployment."""

    def __init__(self, path: str) -> None:
        self._model = joblib.load(path)

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=estimator.BATCH_MAX, batch_wait_timeout_s=WAIT_S_MAX
    )
    async def predict(self, rows: list[Any]) -> list[float]:
        """One micro-batch."""
        return estimator.predict(self._model, rows)

    async def __call__(self, request: Request) -> Response:
        """One request."""
        value = await self.predict(orjson.loads(await request.body())["columns"])
        return Response(orjson.dumps(estimator.answer(value)), media_type="application/json")


def main() -> None:
    """Serve until SIGTERM."""
    ended, port = threading.Event(), free_port()
    with ray_settings.serving(port):
        # Ray's own handler would exit in the middle of what follows.
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        predict: Any = serve.deployment(max_ongoing_requests=ONGOING_MAX, ray_actor_options={"num_cpus": 0})(Predict)
        serve.run(predict.bind(sys.argv[1]))
        wait_and_say(f"http://127.0.0.1:{port}/")
        ended.wait()


if __name__ == "__main__":
    main()
