"""A grpc.aio server of KServe's `ModelInfer` that answers its inputs as outputs: what Triton's client and gRPC cost by
themselves."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import grpc

from flightserve.proto import kserve_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


async def infer(request: Any, context: Any) -> Any:
    """Answer what came."""
    response = pb.ModelInferResponse(model_name=request.model_name, raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response


async def main() -> None:
    """Serve on a free loopback port until SIGTERM."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(
        infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
