"""Bare HTTP echoes on uvicorn (uvloop, httptools).

`asgi`: a bare ASGI callable that reads the body and sends it back as JSON. `starlette`: decodes an Arrow IPC
stream and sends the batches back encoded again.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import uvicorn
import uvloop

JSON_HEADERS = [(b"content-type", b"application/json")]


async def echo_json(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole body, answer it."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [*JSON_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def arrow_app() -> Any:
    """A Starlette application whose POST / decodes an Arrow stream and answers it encoded again."""
    import pyarrow as pa
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def echo(request: Request) -> Response:
        reader = pa.ipc.open_stream(pa.py_buffer(await request.body()))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        return Response(memoryview(sink.getvalue()), media_type="application/vnd.apache.arrow.stream")

    return Starlette(routes=[Route("/", echo, methods=["POST"])])


async def serve(app: Any) -> None:
    """Serve on a free loopback port until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="httptools", loop="uvloop", access_log=False, log_level="error", lifespan="off")
    print("ready", json.dumps({"http": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    application = {"asgi": lambda: echo_json, "starlette": arrow_app}[sys.argv[1]]()
    uvloop.run(serve(application))
