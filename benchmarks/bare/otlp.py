"""A collector that takes spans and forgets them."""

from __future__ import annotations

import asyncio
import json
import signal

import grpc

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


async def export(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """An answer without fields: all was taken."""
    return b""


async def main() -> None:
    """Serve on a free loopback port until SIGTERM."""
    server = grpc.aio.server()
    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", json.dumps({"otlp": f"http://127.0.0.1:{port}"}), flush=True)
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
