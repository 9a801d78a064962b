"""One inference as both protocols carry it: what was asked, its rows on the way in, its outputs on the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from flightserve.clock import NEVER_NS
from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument, MethodFailed, SchemaMismatch, Unimplemented
from flightserve.frontends import edge
from flightserve.frontends.json.columns import declared_schema
from flightserve.frontends.kserve.models import Model, datatype_said
from flightserve.frontends.kserve.tensors import InputTensor, OutputTensor, column_of, tensor_of
from flightserve.types import RequestMeta

_NS_PER_US: Final = 1000
# Triton's clients count from the most urgent, 1; 0 is the default. Ours count up to the most urgent, 9.
_URGENT_MOST: Final = 10
# More than any clamp.
_TIMEOUT_US_MAX: Final = 10**15
# Of what is looked at value by value: more leaves the event loop for a thread.
HEAVY_BYTES_MIN: Final = 64 << 10
_SEQUENCES: Final = ("sequence_id", "sequence_start", "sequence_end")
_SHARED_MEMORY: Final = "shared_memory_region"
_CLASSIFICATION: Final = "classification"
# Of a stream's request: a last response without outputs says that no other follows.
EMPTY_FINAL: Final = "triton_enable_empty_final_response"


class AskedOutput(NamedTuple):
    """An output that the client names; `binary` where its contents are to be bytes, None where it does not say."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class AskedInference:
    """A request's own words. Without `outputs` all are asked for."""

    model: str
    version: str = ""
    id: str = ""
    inputs: Sequence[InputTensor] = ()
    outputs: Sequence[AskedOutput] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def without_contents(self) -> AskedInference:
        """All but the rows: whoever waits for the answer is not to hold them."""
        inputs = [InputTensor(tensor.name, tensor.datatype, tensor.shape) for tensor in self.inputs]
        return replace(self, inputs=inputs)


def check_parameters(parameters: Mapping[str, Any], whose: str) -> None:
    """Raises Unimplemented for what would change the answer and is not there. Others are whoever's they are."""
    for name in _SEQUENCES:
        if parameters.get(name):
            raise Unimplemented(f"{whose}: {name}: there are no sequences; a request stands for itself")
    if _SHARED_MEMORY in parameters:
        raise Unimplemented(f"{whose}: there is no shared memory with clients; send the contents")
    if parameters.get(_CLASSIFICATION):
        raise Unimplemented(f"{whose}: there are no classifications; ask for the scores")


def meta_of(
    asked: AskedInference,
    get: Callable[[str], str | None],
    model: Model,
    limits: EdgeLimits,
    now_ns: int,
    native_deadline_ns: int = NEVER_NS,
    caller: str = "",
) -> RequestMeta:
    """Deadline, priority and id: of the parameters, and of the metadata. The nearer deadline holds. Raises
    InvalidArgument, DeadlineExceeded."""
    said: dict[str, str] = {}
    if asked.id and edge.echoable_request_id(asked.id) == asked.id:
        said["x-request-id"] = asked.id
    urgency = _whole(asked.parameters, "priority")
    if urgency:
        if urgency >= _URGENT_MOST:
            raise InvalidArgument(f"the parameter priority is {urgency}; it is 1, the most urgent, to 9, or 0")
        said["x-priority"] = str(_URGENT_MOST - urgency)
    timeout_us = min(_whole(asked.parameters, "timeout"), _TIMEOUT_US_MAX)
    if timeout_us:
        native_deadline_ns = min(native_deadline_ns, now_ns + timeout_us * _NS_PER_US)
    spec = model.deployment
    return edge.meta_of(lambda name: said.get(name) or get(name), spec, limits, now_ns, native_deadline_ns, caller)


def _whole(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"the parameter {name} is {str(value)[:64]!r}; it is a whole number, 0 or more")
    return value


# ---- in


def check_names(asked: AskedInference, model: Model, limits: EdgeLimits) -> None:
    """Inputs and outputs against what the method declares, before anything is made of them. Raises InvalidArgument,
    SchemaMismatch, Unimplemented."""
    check_parameters(asked.parameters, "the request")
    for tensor_name, count in _counted([tensor.name for tensor in asked.inputs]).items():
        if count > 1 or not tensor_name:
            raise InvalidArgument(f"input {tensor_name[:64]!r} comes {count} times; each has a name of its own")
    if not asked.inputs:
        raise InvalidArgument("the request has no inputs")
    if len(asked.inputs) > limits.columns_max:
        raise InvalidArgument(f"{len(asked.inputs)} inputs; at most {limits.columns_max} are taken")
    if len(_counted([output.name for output in asked.outputs])) < len(asked.outputs):
        raise InvalidArgument("an output is asked for twice")
    declared_in, declared_out = model.method.input_schema, model.method.output_schema
    if declared_in is not None:
        _check_inputs([tensor.name for tensor in asked.inputs], declared_schema(declared_in).names, model)
    if declared_out is not None:
        _check_outputs(asked, declared_schema(declared_out).names, model)


def _counted(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _check_inputs(sent: Sequence[str], names: Sequence[str], model: Model) -> None:
    missing = [name for name in names if name not in sent]
    unknown = [name[:64] for name in sent if name not in names]
    parts = [f"missing inputs {missing[:8]}"] * bool(missing) + [f"unknown inputs {unknown[:8]}"] * bool(unknown)
    if parts:
        raise SchemaMismatch(f"{model.name}: {'; '.join(parts)}; it takes {list(names)[:16]}")


def _check_outputs(asked: AskedInference, names: Sequence[str], model: Model) -> None:
    unknown = [output.name[:64] for output in asked.outputs if output.name not in names]
    if unknown:
        raise InvalidArgument(f"{model.name}: unknown outputs {unknown[:8]}; it gives {list(names)[:16]}")


def is_heavy(asked: AskedInference) -> bool:
    """Whether making rows of it would hold up others: values are looked at one by one, where they do not lie as a
    column's do."""
    return sum(map(_looked_at, asked.inputs)) > HEAVY_BYTES_MIN


def _looked_at(tensor: InputTensor) -> int:
    if tensor.raw is not None:
        return len(tensor.raw) if tensor.datatype == "BYTES" else 0
    return 0 if tensor.values is None or isinstance(tensor.values, np.ndarray) else 8 * len(tensor.values)


def batch_of(asked: AskedInference, model: Model) -> pa.RecordBatch:
    """The inputs as rows. Raises InvalidArgument, SchemaMismatch."""
    declared = model.method.input_schema
    schema = None if declared is None else declared_schema(declared)
    columns: list[pa.Array] = []
    for tensor in asked.inputs:
        kind = None if schema is None else schema.field(tensor.name).type
        column = column_of(tensor, kind)
        if columns and len(column) != len(columns[0]):
            first = asked.inputs[0].name
            raise InvalidArgument(
                f"inputs have different numbers of rows: {first[:64]!r} has {len(columns[0])}, "
                f"{tensor.name[:64]!r} has {len(column)}; the first dimension is the rows"
            )
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, [tensor.name for tensor in asked.inputs])


# ---- out


def outputs_of(batch: pa.RecordBatch, asked: AskedInference, model: Model) -> list[OutputTensor]:
    """What was asked of the reply, as tensors in the order it was asked in. One value a row is `[n, 1]` where the
    request's inputs all were, as clients that count the batch for themselves have it. Raises InvalidArgument,
    MethodFailed, Unimplemented."""
    names: list[str] = batch.schema.names
    if len(set(names)) < len(names):
        raise MethodFailed(f"{model.name}: the reply has two columns of one name; ask by Arrow")
    _check_outputs(asked, names, model)
    wanted = [output.name for output in asked.outputs] or names
    said = _said(model)
    tensors = [tensor_of(name, batch.column(name), said.get(name)) for name in wanted]
    if all(list(tensor.shape[1:]) == [1] for tensor in asked.inputs):
        for tensor in tensors:
            if len(tensor.shape) == 1:
                tensor.shape.append(1)
    return tensors


def _said(model: Model) -> dict[str, str]:
    declared = model.method.output_schema
    if declared is None:
        return {}
    return {each.name: said for each in declared_schema(declared) if (said := datatype_said(each)) is not None}
