"""The work in Ray Serve, in the mode that the second argument names (`ray_settings`).

Settings beside that mode's: user code is `async def`, for which Serve needs no thread; micro-batches by
`@serve.batch`, which waits for nobody, as what comes while one runs makes the next (waiting 1 or 2 ms, it answers a few
per cent fewer at 32 connections, and as many at 128); `max_ongoing_requests` is above the connections that there are,
so that batches fill and nothing waits elsewhere; no access log; JSON by orjson. One replica, which reserves no
processor, as flightserve's. An Arrow body is decoded and encoded again, without a batch.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from benchmarks.peers import ray_settings

ray_settings.set_environment(sys.argv[2])

import orjson  # noqa: E402 - Ray reads its environment when it is imported
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

from benchmarks.peers import work  # noqa: E402
from benchmarks.peers.announcing import wait_and_say  # noqa: E402
from benchmarks.processes import free_port  # noqa: E402

WAIT_S_MAX = 0.0
ONGOING_MAX = 4 * work.BATCH_MAX
ARROW_TYPE = "application/vnd.apache.arrow.stream"


def echoed(stream: bytes) -> memoryview:
    """An Arrow stream, decoded and encoded again."""
    import pyarrow as pa

    reader = pa.ipc.open_stream(pa.py_buffer(stream))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


class Predict:
    """The deployment."""

    def __init__(self, what: str) -> None:
        self._work = work.load(what)

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=work.BATCH_MAX, batch_wait_timeout_s=WAIT_S_MAX
    )
    async def predict(self, requests: list[Any]) -> list[work.Answer]:
        """One micro-batch."""
        return self._work(requests)

    async def __call__(self, request: Request) -> Response:
        """One request."""
        body = await request.body()
        if request.headers["content-type"] == ARROW_TYPE:
            return Response(echoed(body), media_type=ARROW_TYPE)
        answer = await self.predict(orjson.loads(body)["columns"])
        return Response(orjson.dumps(answer), media_type="application/json")


def main() -> None:
    """Serve until SIGTERM."""
    ended, port = threading.Event(), free_port()
    with ray_settings.serving(port):
        # Ray's own handler would exit in the middle of what follows.
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        predict: Any = serve.deployment(max_ongoing_requests=ONGOING_MAX, ray_actor_options={"num_cpus": 0})(Predict)
        serve.run(predict.bind(sys.argv[1]))
        wait_and_say(f"http://127.0.0.1:{port}/", sys.argv[1])
        ended.wait()


if __name__ == "__main__":
    main()
