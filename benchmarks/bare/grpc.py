"""The bare gRPC echo: a grpc.aio server whose `Call` answers the request's stream in a `CallReply`."""

from __future__ import annotations

import asyncio
import json
import signal

import grpc

from benchmarks.load.grpc import METHOD, SERVICE
from flightserve.proto.flightserve_pb2 import CallReply, CallRequest


async def call(request: CallRequest, context: grpc.aio.ServicerContext[CallRequest, CallReply]) -> CallReply:
    """Answer what came."""
    return CallReply(arrow_stream=request.arrow_stream, request_id=request.request_id)


async def main() -> None:
    """Serve on a free loopback port until SIGTERM."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(call, CallRequest.FromString, CallReply.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
