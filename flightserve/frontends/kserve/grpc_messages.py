"""`ModelInferRequest` and `ModelInferResponse`, without copies of what is large.

The generated classes copy raw contents into a message and again out of it. Here those of a large request are views of
the bytes that gRPC received, cut out before the generated parser sees the rest; and an answer's are joined once, from
where they lie. Whatever is not laid out as the wire format has it is left to the generated parser, which refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from flightserve.errors import InvalidArgument
from flightserve.frontends.grpc.messages import size_of
from flightserve.frontends.kserve.requests import AskedInference, AskedOutput, check_parameters
from flightserve.frontends.kserve.tensors import DIMENSIONS_MAX, InputTensor, OutputTensor
from flightserve.proto import kserve_pb2 as pb

Raw = bytes | memoryview

# From here on a copy costs more than to cut by hand.
_LARGE_BYTES: Final = 64 << 10
_VARINT_BYTES_MAX: Final = 10
# Fields of a message: inputs, outputs, parameters and raw contents. Each is looked at on the event loop, and may be two
# bytes of a message that has many millions.
FIELDS_MAX: Final = 100_000
# Wire types: (number << 3) | type.
_RAW_INPUT: Final = 7 << 3 | 2
_LENGTH_DELIMITED: Final = 2
_RAW_OUTPUT: Final = b"\x32"
_INFER_RESPONSE: Final = b"\x12"
# Where typed contents of a datatype are, and what they are read as.
_CONTENTS: Final[Mapping[str, tuple[str, Any]]] = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int8),
    "INT16": ("int_contents", np.int16),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint8),
    "UINT16": ("uint_contents", np.uint16),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", None),
}

# They lie in wider contents.
_NARROW: Final = (np.int8, np.int16, np.uint8, np.uint16)


# ---- in


def read_infer_request(message: bytes) -> tuple[Any, Sequence[Raw]]:
    """The message, and its raw contents, which may be views of the bytes. Raises InvalidArgument."""
    rest, raw = (message, None) if len(message) < _LARGE_BYTES else _cut(message)
    try:
        request = pb.ModelInferRequest.FromString(rest)
    except DecodeError as error:
        raise InvalidArgument(f"the message is not an inference.ModelInferRequest: {error}") from error
    raw = request.raw_input_contents if raw is None else raw
    if len(request.inputs) + len(request.outputs) + len(request.parameters) + len(raw) > FIELDS_MAX:
        raise _too_many()
    return request, raw


def _too_many() -> InvalidArgument:
    return InvalidArgument(f"the message has more than {FIELDS_MAX} inputs, outputs, parameters and raw contents")


def _cut(message: bytes) -> tuple[bytes, list[Raw] | None]:
    """The message without its raw contents, and those; as it is, and None, where it is not well-formed. Raises
    InvalidArgument."""
    view = memoryview(message)
    rest: list[Raw] = []
    raw: list[Raw] = []
    place, size = 0, len(message)
    try:
        while place < size:
            tag, start = _varint(message, place)
            if tag & 7 != _LENGTH_DELIMITED:
                return message, None
            length, start = _varint(message, start)
            end = start + length
            if end > size:
                return message, None
            if len(raw) + len(rest) >= FIELDS_MAX:
                raise _too_many()
            if tag == _RAW_INPUT:
                raw.append(view[start:end])
            else:
                rest.append(view[place:end])
            place = end
    except IndexError:
        return message, None
    return b"".join(rest), raw


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A base-128 number and the place behind it. Raises IndexError."""
    value = shift = 0
    for at in range(place, place + _VARINT_BYTES_MAX):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise IndexError("a number of more than ten bytes")


def read_asked(request: Any, raw: Sequence[Raw]) -> AskedInference:
    """What the message asks. Raises InvalidArgument, Unimplemented."""
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument(
            f"{len(raw)} raw contents for {len(request.inputs)} inputs; each has its own, or none has"
        )
    outputs = []
    for output in request.outputs:
        check_parameters(read_parameters(output.parameters), f"output {output.name[:64]!r}")
        outputs.append(AskedOutput(output.name))
    inputs = [_read_input(tensor, raw[place] if raw else None) for place, tensor in enumerate(request.inputs)]
    parameters = read_parameters(request.parameters)
    return AskedInference(request.model_name, request.model_version, request.id, inputs, outputs, parameters)


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """By name. One that says nothing is left out."""
    if not parameters:
        return {}
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, choice) for name, value, choice in chosen if choice is not None}


def _read_input(tensor: Any, raw: Raw | None) -> InputTensor:
    check_parameters(read_parameters(tensor.parameters), f"input {tensor.name[:64]!r}")
    # A message has room for millions, of two bytes each.
    if len(tensor.shape) > DIMENSIONS_MAX:
        many = f"the shape has {len(tensor.shape)} dimensions; at most {DIMENSIONS_MAX} are taken"
        raise InvalidArgument(f"input {tensor.name[:64]!r}: {many}")
    shape = list(tensor.shape)
    filled = [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else []
    if raw is not None:
        if filled:
            raise InvalidArgument(f"input {tensor.name[:64]!r} has both contents and raw contents; send one of them")
        return InputTensor(tensor.name, tensor.datatype, shape, raw)
    place, kind = _CONTENTS.get(tensor.datatype, ("", None))
    if filled not in ([], [place]):
        wanted = f"in {place}" if place else "raw alone"
        raise InvalidArgument(
            f"input {tensor.name[:64]!r} has {', '.join(filled)}; contents of {tensor.datatype[:32]!r} are {wanted}"
        )
    if not place:
        return InputTensor(tensor.name, tensor.datatype, shape)
    values = getattr(tensor.contents, place)
    return InputTensor(
        tensor.name, tensor.datatype, shape, None, values if kind is None else _numbers(tensor, values, kind)
    )


def _numbers(tensor: Any, values: Any, kind: Any) -> np.ndarray:
    # In one step numpy would keep the lower bits of what does not fit.
    wide = np.array(values)
    numbers = wide.astype(kind) if len(wide) else np.array([], kind)
    if kind in _NARROW and not np.array_equal(numbers, wide):
        raise InvalidArgument(f"input {tensor.name[:64]!r}: a value does not fit {tensor.datatype}")
    return numbers


# ---- out


def write_infer_response(
    asked: AskedInference, version: str, outputs: Sequence[OutputTensor], parameters: Mapping[str, bool] | None = None
) -> list[Raw]:
    """A `ModelInferResponse`, in pieces."""
    response = pb.ModelInferResponse(model_name=asked.model, model_version=version, id=asked.id)
    for name, value in (parameters or {}).items():
        response.parameters[name].bool_param = value
    for output in outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
    pieces: list[Raw] = [response.SerializeToString()]
    for output in outputs:
        raw = output.raw()
        pieces += (_RAW_OUTPUT, size_of(len(raw)), raw)
    return pieces


def as_stream_response(pieces: Sequence[Raw]) -> list[Raw]:
    """A `ModelStreamInferResponse` with this `ModelInferResponse`."""
    return [_INFER_RESPONSE, size_of(sum(map(len, pieces))), *pieces]


def write_stream_error(message: str, asked_id: str) -> bytes:
    """A `ModelStreamInferResponse` of a request that failed; the id tells whose it is."""
    response = pb.ModelStreamInferResponse(error_message=message)
    response.infer_response.id = asked_id
    written: bytes = response.SerializeToString()
    return written
