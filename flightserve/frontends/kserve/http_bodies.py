"""The bodies of an inference over HTTP: JSON, and with the binary extension raw contents behind it.

`Inference-Header-Content-Length` says how much of a body is JSON. What follows are the raw contents of those tensors
that have `binary_data_size`, in their order. Values in JSON are one after another, or nested as the shape is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from flightserve.errors import InvalidArgument, Unimplemented
from flightserve.frontends.kserve.requests import AskedInference, AskedOutput, check_parameters
from flightserve.frontends.kserve.tensors import InputTensor, OutputTensor

HEADER_LENGTH: Final = "inference-header-content-length"
# More digits than any body has bytes.
_DIGITS_MAX: Final = 18
_BINARY_SIZE: Final = "binary_data_size"
_UNSET: Final = msgspec.UNSET

_Parameters = dict[str, Any] | None


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _Parameters = None
    data: list[Any] | msgspec.UnsetType = _UNSET


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = None


class _InferBody(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] | None = None
    id: str = ""
    parameters: _Parameters = None


_DECODER: Final = msgspec.json.Decoder(_InferBody)


def header_length(said: str | None, size: int) -> int:
    """How many bytes of a body are JSON. Raises InvalidArgument for what is no length within it."""
    if said is None:
        return size
    if not (said.isascii() and said.isdigit() and len(said) <= _DIGITS_MAX):
        raise InvalidArgument(f"{HEADER_LENGTH} is {said[:64]!r}; it is a number of bytes")
    if int(said) > size:
        raise InvalidArgument(f"{HEADER_LENGTH} is {said}; the body has {size} bytes")
    return int(said)


def read_body(body: bytes | memoryview, json_bytes: int, model: str, version: str) -> AskedInference:
    """What a body asks, the first `json_bytes` of which are JSON; raw contents are views of it. Raises InvalidArgument,
    Unimplemented."""
    view = memoryview(body)
    try:
        parsed = _DECODER.decode(view[:json_bytes])
    except UnicodeDecodeError as error:
        raise InvalidArgument("the request is not UTF-8") from error
    except RecursionError as error:
        raise InvalidArgument("the request nests too deep") from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"not an inference request: {error}") from error
    parameters = parsed.parameters or {}
    inputs, rest = [], view[json_bytes:]
    for tensor in parsed.inputs:
        read, size = _read_input(tensor, rest)
        inputs.append(read)
        rest = rest[size:]
    if len(rest):
        raise InvalidArgument(f"{len(rest)} bytes follow the contents that the inputs have")
    outputs = _read_outputs(parsed.outputs or [], parameters)
    return AskedInference(model, version, parsed.id, inputs, outputs, parameters)


def _read_input(tensor: _Input, rest: memoryview) -> tuple[InputTensor, int]:
    """One input, and how much of the raw contents is its own."""
    parameters = tensor.parameters or {}
    whose = f"input {tensor.name[:64]!r}"
    check_parameters(parameters, whose)
    size = parameters.get(_BINARY_SIZE)
    if size is None:
        values = None if tensor.data is _UNSET else _flat(tensor)
        return InputTensor(tensor.name, tensor.datatype, tensor.shape, None, values), 0
    if tensor.data is not _UNSET:
        raise InvalidArgument(f"{whose} has both data and {_BINARY_SIZE}; send one of them")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidArgument(f"{whose}: {_BINARY_SIZE} is {str(size)[:64]}; {len(rest)} bytes are left of the body")
    return InputTensor(tensor.name, tensor.datatype, tensor.shape, rest[:size]), size


def _flat(tensor: _Input) -> list[Any]:
    """Values that may be nested as the shape is, one after another. Raises InvalidArgument."""
    values, shape = tensor.data, tensor.shape
    assert isinstance(values, list)
    depth = 1
    while values and all(type(value) is list for value in values):
        if depth >= len(shape) or len(values) != math.prod(shape[:depth]):
            break
        if any(len(value) != shape[depth] for value in values):
            break
        values = list(itertools.chain.from_iterable(values))
        depth += 1
    if depth not in (1, len(shape)) or any(type(value) is list for value in values):
        raise InvalidArgument(f"input {tensor.name[:64]!r}: the data is not nested as the shape {shape} is")
    return values


def _read_outputs(outputs: Sequence[_Output], parameters: Mapping[str, Any]) -> list[AskedOutput]:
    otherwise = _flag(parameters, "binary_data_output", "the request")
    read = []
    for output in outputs:
        own = output.parameters or {}
        whose = f"output {output.name[:64]!r}"
        check_parameters(own, whose)
        read.append(AskedOutput(output.name, _flag(own, "binary_data", whose, otherwise)))
    return read


def _flag(parameters: Mapping[str, Any], name: str, whose: str, otherwise: bool = False) -> bool:
    value = parameters.get(name, otherwise)
    if type(value) is not bool:
        raise InvalidArgument(f"{whose}: {name} is {str(value)[:64]!r}; it is true or false")
    return value


# ---- out


def write_body(
    asked: AskedInference, version: str, outputs: Sequence[OutputTensor]
) -> tuple[bytes | memoryview, int | None]:
    """The answer, and how much of it is JSON; None where all is. Raises Unimplemented for values that JSON has not."""
    wishes = {output.name: output.binary for output in asked.outputs}
    otherwise = bool(asked.parameters.get("binary_data_output"))
    said: list[dict[str, Any]] = []
    raws: list[bytes | memoryview] = []
    for output in outputs:
        one: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if wishes.get(output.name, otherwise):
            raw = output.raw()
            raws.append(raw)
            one["parameters"] = {_BINARY_SIZE: len(raw)}
        else:
            one["data"] = _values(output)
        said.append(one)
    head: dict[str, Any] = {"model_name": asked.model, "model_version": version}
    if asked.id:
        head["id"] = asked.id
    text = orjson.dumps({**head, "outputs": said})
    return (b"".join((text, *raws)), len(text)) if raws else (text, None)


def _values(output: OutputTensor) -> list[Any]:
    """NaN is null; infinities are refused, as nothing in JSON is one."""
    column = output.floats()
    if pa.types.is_floating(column.type) and np.isinf(np.asarray(column)).any():
        raise Unimplemented(f"output {output.name[:64]!r} has an infinity, which JSON has not; ask for binary_data")
    if output.datatype == "BYTES":
        try:
            return [value if type(value) is str else value.decode() for value in column.to_pylist()]
        except UnicodeDecodeError:
            raise Unimplemented(f"output {output.name[:64]!r} is no UTF-8; ask for binary_data") from None
    values: list[Any] = column.to_pylist()
    return values
