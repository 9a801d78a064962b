"""The ends and bounds of `ModelStreamInfer`: idle ones, clients that do not read, drains."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from flightserve.config import EdgeLimits
from flightserve.proto import kserve_pb2 as pb
from tests.frontends.kserve.models_app import models_served
from tests.support import eventually

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WINDOW = 4
LIMITS = EdgeLimits(stream_idle_timeout_s=0.4, stream_window=WINDOW)


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    with models_served(LIMITS) as host:
        yield host


def request(model: str, request_id: str, rows: int = 1, timeout_us: int = 0) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[np.arange(rows).tobytes()])
    made.inputs.add(name="x", datatype="INT64", shape=[rows])
    if timeout_us:
        made.parameters["timeout"].int64_param = timeout_us
    return made


class Asking:
    """A stream, whose requests are sent one by one."""

    def __init__(self, host: Any) -> None:
        self.sent: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        self.channel = grpc.insecure_channel(host.addresses["grpc"], [("grpc.max_receive_message_length", -1)])
        call = self.channel.stream_stream(
            STREAM, pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
        )
        self.replies = call(iter(self.sent.get, None))

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self.sent.put(None)
        self.channel.close()

    def end(self) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            next(self.replies)
        return caught.value


def test_a_stream_on_which_nothing_is_sent_is_ended(host: Any) -> None:
    with Asking(host) as asking:
        ended = asking.end()
        assert ended.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "idle" in ended.details()


def test_requests_that_run_are_no_idleness_and_what_follows_them_is(host: Any) -> None:
    with Asking(host) as asking:
        # Two of its idle times, and one answer in between.
        asking.sent.put(request("Model.never", "slow", timeout_us=900_000))
        asking.sent.put(request("Model.echo", "fast"))
        assert next(asking.replies).infer_response.id == "fast"
        late = next(asking.replies)
        assert late.infer_response.id == "slow" and "deadline" in late.error_message
        assert "idle" in asking.end().details()


def test_a_client_that_never_reads_is_bounded_in_work_and_time(host: Any) -> None:
    grpc_server = host._running["grpc"]
    before = host.service.statistics()["Only"].get("requests", 0)
    with Asking(host) as asking:
        for number in range(100):
            asking.sent.put(request("Only", str(number), rows=1 << 17))
        eventually(lambda: grpc_server.statistics()["streams_open"] == 1)
        eventually(lambda: grpc_server.statistics()["streams_open"] == 0, 20.0, "a stream nobody reads stays open")
        assert host.service.statistics()["Only"].get("requests", 0) - before < 40
    with Asking(host) as asking:
        asking.sent.put(request("Only", "next"))
        assert next(asking.replies).infer_response.id == "next"


def test_drain_answers_what_was_taken_and_ends_with_unavailable() -> None:
    with models_served() as host, Asking(host) as asking:
        asking.sent.put(request("Model.never", "slow", timeout_us=900_000))
        asking.sent.put(request("Model.echo", "fast"))
        assert next(asking.replies).infer_response.id == "fast"
        drained = threading.Thread(target=host.drain, args=(10,))
        drained.start()
        assert next(asking.replies).infer_response.id == "slow"
        ended = asking.end()
        drained.join()
        assert ended.code() == grpc.StatusCode.UNAVAILABLE and "draining" in ended.details()
