"""Strangers' messages by gRPC: flightserve.v1, KServe v2, and Arrow Flight, all written by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
import pyarrow as pa

from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import kserve_pb2
from tests.columns import columns, encoded
from tests.frontends.flight.raw_messages import SERVICE, _field, descriptor, flight_data, messages
from tests.frontends.rpc_support import GOOD, batch_of, stream_of
from tests.fuzz import commands
from tests.fuzz.findings import check_code
from tests.fuzz.mutation import TEXTS, any_bytes, mutated

TIMEOUT_S: Final = 15.0
METHODS: Final = ("identity", "typed", "pieces", "where", "told", "nope", "")
# Answers that are Arrow's and gRPC's own, made before pyarrow asks anything of ours: of an upload whose first message
# is no schema, and of what is no protobuf.
_OF_ARROW: Final = (
    "Expected IPC message of type schema", "Invalid flatbuffers message", "Stream finished before first message sent",
    "Unexpected null field", "Descriptor missing on first message",
)  # fmt: skip


def _is_of_arrow(code: str, details: str) -> bool:
    return (code == "UNKNOWN" and details.startswith(_OF_ARROW)) or (code == "INTERNAL" and not details)


def streams() -> list[bytes]:
    """Arrow streams: each type alone, all of them, none, several batches, packed."""
    found = [GOOD, stream_of(batch_of()), stream_of(batch_of(1), batch_of(2, 3))]
    found += [encoded(pa.record_batch({name: column})) for name, column in columns().items()]
    everything = pa.record_batch(columns())
    return [
        *found,
        encoded(everything),
        encoded(everything, compression="zstd"),
        encoded(everything, compression="lz4"),
    ]


STREAMS: Final = streams()


class Rpc:
    """A channel whose calls send and receive bytes. Each shows `authorization`. Use as a context manager."""

    def __init__(self, address: str, ca: bytes = b"", authorization: str = "") -> None:
        self.is_flight = address.startswith("grpc")
        self._shown = (("authorization", authorization),) if authorization else ()
        where, options = address.rpartition("/")[2], [("grpc.max_receive_message_length", -1)]
        if ca:
            self._channel = grpc.secure_channel(where, grpc.ssl_channel_credentials(ca), options)
        else:
            self._channel = grpc.insecure_channel(where, options)

    def call(self, method: str, sent: Iterable[bytes], metadata: tuple[tuple[str, Any], ...] = ()) -> str:
        """The code of a call, whatever kind it is: of all four kinds gRPC sends the same. Raises Finding."""
        replies = self._channel.stream_stream(method)(iter(sent), timeout=TIMEOUT_S, metadata=(*self._shown, *metadata))
        try:
            for _ in replies:
                continue
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            if self.is_flight and _is_of_arrow(code, details):
                return "of Arrow"
            return check_code(code, details)
        return "OK"

    def __enter__(self) -> Rpc:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()


def _metadata(dice: random.Random) -> tuple[tuple[str, Any], ...]:
    if dice.random() < 0.7:
        return ()
    names = (
        "x-timeout-ms",
        "x-priority",
        "x-request-id",
        "x-request-key",
        "traceparent",
        "x-warehouse",
        "authorization",
        "cookie",
    )
    text = dice.choice(TEXTS).encode("ascii", "ignore").decode().translate(dict.fromkeys(range(32)))
    return ((dice.choice(names), text.strip()), ("x-odd-bin", dice.randbytes(8)))


# ---- flightserve.v1 and KServe


def any_grpc(rpc: Rpc, dice: random.Random) -> Counter[str]:
    """One call."""
    method, sent = dice.choice((_call, _stream, _query, _catalogue, _infer, _reflected))(dice)
    return Counter((rpc.call(method, sent, _metadata(dice)),))


def _request(dice: random.Random) -> bytes:
    stream = any_bytes(dice, STREAMS)
    request = pb.CallRequest(
        deployment=dice.choice(("Probe", "Probe", "Probe", "Chain", "lake", "x")), method=dice.choice(METHODS)
    )
    request.arrow_stream, request.request_id = stream, dice.choice(("", "r", "x" * 129))
    data = bytes(request.SerializeToString())
    return mutated(data, dice) if dice.random() < 0.15 else data


def _call(dice: random.Random) -> tuple[str, list[bytes]]:
    return "/flightserve.v1.FlightServe/Call", [_request(dice)]


def _stream(dice: random.Random) -> tuple[str, list[bytes]]:
    return "/flightserve.v1.FlightServe/Stream", [_request(dice) for _ in range(dice.randrange(5))]


def _query(dice: random.Random) -> tuple[str, list[bytes]]:
    request = pb.QueryRequest(
        query=dice.choice(("SELECT 1", "SELECT * FROM people WHERE id = ?", "SELECT $a", "x", ""))
    )
    request.parameters = any_bytes(dice, STREAMS) if dice.random() < 0.6 else b""
    data = bytes(request.SerializeToString())
    return "/flightserve.v1.FlightServe/Query", [mutated(data, dice) if dice.random() < 0.15 else data]


_CATALOGUES: Final = (
    "flightserve.v1.FlightServe/ListDeployments", "flightserve.v1.FlightServe/DescribeMethod",
    "grpc.health.v1.Health/Check", "inference.GRPCInferenceService/ModelReady",
    "inference.GRPCInferenceService/ModelMetadata", "inference.GRPCInferenceService/RepositoryIndex",
    "inference.GRPCInferenceService/ServerMetadata", "inference.GRPCInferenceService/ModelConfig",
)  # fmt: skip


def _catalogue(dice: random.Random) -> tuple[str, list[bytes]]:
    name = dice.choice(_CATALOGUES)
    named = bytes(pb.DescribeMethodRequest(deployment="Probe", method="typed").SerializeToString())
    return f"/{name}", [any_bytes(dice, (b"", named, b"\x0a\x05Probe"))]


def _infer(dice: random.Random) -> tuple[str, list[bytes]]:
    request = kserve_pb2.ModelInferRequest(model_name=dice.choice(("Probe:typed", "Probe", "lake", "x")))
    kind = dice.choice(("INT64", "BYTES", "FP32", "BOOL", "FP16", "x", ""))
    shape = [dice.choice((-1, 0, 1, 2, 3, 1 << 40, -(1 << 63))) for _ in range(dice.choice((0, 1, 1, 2, 9)))]
    request.inputs.add(name="a", datatype=kind, shape=shape)
    request.raw_input_contents.extend(
        dice.randbytes(dice.choice((0, 8, 16, 24, 100))) for _ in range(dice.choice((0, 1, 1, 2)))
    )
    data = bytes(request.SerializeToString())
    method = dice.choice(("ModelInfer", "ModelStreamInfer"))
    return f"/inference.GRPCInferenceService/{method}", [mutated(data, dice) if dice.random() < 0.3 else data]


def _reflected(dice: random.Random) -> tuple[str, list[bytes]]:
    sent = any_bytes(dice, (b"\x3a\x01*", b"\x22\x1eflightserve.v1.FlightServe", b"\x1a\x06x.prot"))
    return "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [sent]


# ---- Arrow Flight


def any_flight(rpc: Rpc, dice: random.Random) -> Counter[str]:
    """One call."""
    kind = dice.choice(_FLIGHT_KINDS)
    method, sent = kind(dice)
    return Counter((rpc.call(SERVICE + method, sent, _metadata(dice)),))


def _any_descriptor(dice: random.Random) -> bytes:
    how = dice.randrange(4)
    if how == 0:
        names = [dice.choice(TEXTS).encode() for _ in range(dice.randrange(4))]
        return descriptor(*names)
    if how == 1:
        return descriptor(b"Probe", dice.choice(METHODS).encode())
    made = b"\x08\x02" + _field(2, commands.any_command(dice))
    return mutated(made, dice) if how == 3 else made


def _info(dice: random.Random) -> tuple[str, list[bytes]]:
    return dice.choice(("GetFlightInfo", "GetSchema", "PollFlightInfo", "ListFlights")), [_any_descriptor(dice)]


def _get(dice: random.Random) -> tuple[str, list[bytes]]:
    ticket = any_bytes(dice, (commands.any_command(dice), b"SELECT 1", b"\x01" + bytes(16) + b"\x95", b"x" * 300))
    return "DoGet", [_field(1, ticket)]


# Refresh reloads files and is the operator's; a session's end ends only its own.
_ACTIONS: Final = (
    "CreatePreparedStatement", "ClosePreparedStatement", "BeginTransaction", "EndTransaction", "BeginSavepoint",
    "EndSavepoint", "CancelQuery", "CancelFlightInfo", "RenewFlightEndpoint", "SetSessionOptions",
    "GetSessionOptions", "CloseSession", "CreatePreparedSubstraitPlan", "nope", "",
)  # fmt: skip


def _action(dice: random.Random) -> tuple[str, list[bytes]]:
    body = dice.choice((commands.any_command(dice), b"", dice.randbytes(20), _field(1, dice.randbytes(8))))
    made = _field(1, dice.choice(_ACTIONS).encode()) + _field(2, body)
    return dice.choice(("DoAction", "DoAction", "DoAction", "ListActions")), [
        mutated(made, dice) if dice.random() < 0.1 else made
    ]


def _data(dice: random.Random) -> list[bytes]:
    """The messages of an upload, some of them changed, left out, or said twice."""
    stream = pa.ipc.open_stream(dice.choice(STREAMS)).read_all().combine_chunks()
    batch = stream.to_batches()[0] if stream.num_rows else pa.RecordBatch.from_pylist([], schema=stream.schema)
    parts = messages(batch)
    for _ in range(dice.choice((0, 1, 1, 2))):
        at = dice.randrange(len(parts))
        header, body = parts[at]
        how = dice.randrange(4)
        if how == 0:
            parts[at] = mutated(header, dice), body
        elif how == 1:
            parts[at] = header, mutated(body, dice) if body else dice.randbytes(16)
        elif how == 2:
            parts.insert(dice.randrange(len(parts) + 1), parts[at])
        elif len(parts) > 1:
            parts.pop(at)
    begin = _any_descriptor(dice) if dice.random() < 0.4 else descriptor(b"Probe", b"identity")
    first, *others = parts
    opening = _field(1, begin) + flight_data(*first, metadata=dice.randbytes(dice.choice((0, 0, 9))))
    return [opening, *(flight_data(*each) for each in others)]


def _exchange(dice: random.Random) -> tuple[str, list[bytes]]:
    sent = _data(dice)
    if dice.random() < 0.1:
        sent[dice.randrange(len(sent))] = dice.randbytes(30)
    return dice.choice(("DoExchange", "DoPut")), sent


def _handshake(dice: random.Random) -> tuple[str, list[bytes]]:
    return "Handshake", [any_bytes(dice, (b"", b"\x08\x01\x12\x04ab:c", b"\x12\x00"))]


_FLIGHT_KINDS: Final[tuple[Callable[[random.Random], tuple[str, list[bytes]]], ...]] = (
    _info, _get, _action, _exchange, _exchange, _handshake,
)  # fmt: skip
