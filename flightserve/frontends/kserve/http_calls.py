"""`POST /v2/models/{model}[/versions/{version}]/infer`: an inference over HTTP, from its head to its answer.

It is an `Exchange` like a call, with the same bounds, and has a task of its own. Errors are `{"error": "..."}`, as
KServe's clients read them, and what is wrong with the rows is 400.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from flightserve.clock import NEVER_NS, monotonic_ns
from flightserve.contracts.service import AsyncCall
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.sizes import column_nbytes
from flightserve.frontends.edge import as_error, echoable_request_id
from flightserve.frontends.http.bodies import JSON, packing
from flightserve.frontends.http.entering import begin, of
from flightserve.frontends.http.errors import kserve_error
from flightserve.frontends.http.exchange import UNKNOWN, CallRoute, Exchange
from flightserve.frontends.http.exchange_states import ABANDONED
from flightserve.frontends.http.streams import unpacked
from flightserve.frontends.kserve.http_bodies import HEADER_LENGTH, header_length, read_body, write_body
from flightserve.frontends.kserve.models import Model, find_model
from flightserve.frontends.kserve.requests import (
    HEAVY_BYTES_MIN,
    AskedInference,
    batch_of,
    check_names,
    is_heavy,
    meta_of,
    outputs_of,
)
from flightserve.frontends.kserve.tensors import OutputTensor
from flightserve.frontends.replies import collect_batch

if TYPE_CHECKING:
    from flightserve.frontends.http.calls import HttpCalls
    from flightserve.frontends.http.protocol import EdgeProtocol

BINARY: Final = b"application/octet-stream"


class InferRoute(NamedTuple):
    """An inference's target, as its URL says it."""

    model: str
    version: str


def infer_route(path: bytes) -> InferRoute | None:
    """The inference that a POST to this path makes; None where that is none's."""
    segments = path.split(b"/")
    if segments[:3] != [b"", b"v2", b"models"] or segments[-1] != b"infer" or not all(segments[3:]):
        return None
    if len(segments) == 5:
        return InferRoute(_name(segments[3]), "")
    if len(segments) == 7 and segments[4] == b"versions":
        return InferRoute(_name(segments[3]), _name(segments[5]))
    return None


def _name(segment: bytes) -> str:
    return unquote_to_bytes(segment).decode("utf-8", "surrogateescape")


class InferExchange(Exchange):
    """An inference. `model` is set once it is known that there is one."""

    __slots__ = ("asked", "model")

    def __init__(
        self,
        protocol: EdgeProtocol,
        target: InferRoute,
        headers: dict[bytes, bytes],
        on_done: Callable[[Exchange], None],
    ) -> None:
        super().__init__(protocol, UNKNOWN, headers, on_done)
        self.asked = AskedInference(target.model, target.version)
        self.model: Model | None = None
        self.form_in = self.form_out = BINARY

    def say_error(self, error: FlightserveError) -> tuple[int, bytes]:
        """Status and body of an error."""
        return kserve_error(error)


def open_inference(calls: HttpCalls, exchange: InferExchange) -> None:
    """What the head says. Raises what is wrong with it."""
    limits = calls.limits
    exchange.request_id = echoable_request_id(exchange.header("x-request-id"))
    binary = exchange.header(HEADER_LENGTH) is not None
    exchange.size_max = limits.body_bytes_max if binary else limits.json_bytes_max
    target = exchange.asked.model, exchange.asked.version
    model = exchange.model = find_model(calls.service, *target, of(exchange))
    exchange.route = exchange.known = CallRoute(model.deployment.name, model.method.name)
    exchange.spec = model.method
    exchange.packed = packing(exchange.headers.get(b"content-encoding"))


async def run(calls: HttpCalls, exchange: InferExchange) -> None:
    """Answer one. Cancelled when its client goes away; raises nothing else."""
    call: AsyncCall | None = None
    try:
        model = exchange.model
        assert model is not None
        batch = await _rows(calls, exchange, model)
        exchange.rows = batch.num_rows
        call = calls.service.call(*exchange.route, batch, exchange.meta)
        # Its copy is in shared memory, or on its way there.
        del batch
        reply = await collect_batch(call, model.method, calls.limits.body_bytes_max)
        call = None
        await _answer(exchange, outputs_of(reply, exchange.asked, model), model)
    except asyncio.CancelledError:
        if exchange.state is not ABANDONED:
            raise
    except FlightserveError as error:
        exchange.fail(error)
    except Exception as error:
        exchange.fail(as_error(error, exchange.request_id))
    finally:
        if call is not None:
            call.cancel()


async def _rows(calls: HttpCalls, exchange: InferExchange, model: Model) -> pa.RecordBatch:
    """The request's rows; `asked` and `meta` are its own from now on. Raises what is wrong with it."""
    pieces = await unpacked(exchange)
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    json_bytes = header_length(exchange.header(HEADER_LENGTH), len(body))
    loop = asyncio.get_running_loop()
    read = (body, json_bytes, exchange.asked.model, exchange.asked.version)
    if json_bytes < HEAVY_BYTES_MIN:
        asked = read_body(*read)
    else:
        asked = await loop.run_in_executor(None, read_body, *read)
    # Until the rows are read nothing is said of it but what the head said.
    check_names(asked, model, calls.limits)
    exchange.meta = meta_of(asked, exchange.header, model, calls.limits, exchange.arrived_ns, NEVER_NS, exchange.caller)
    exchange.request_id = exchange.meta.request_id
    if calls.closed:
        begin(calls, exchange, "{}.{}".format(*exchange.known), model.deployment, exchange.size)
    exchange.asked = asked.without_contents()
    if is_heavy(asked):
        return await loop.run_in_executor(None, batch_of, asked, model)
    return batch_of(asked, model)


async def _answer(exchange: InferExchange, outputs: list[OutputTensor], model: Model) -> None:
    write = (exchange.asked, model.version, outputs)
    if sum(column_nbytes(output.column) for output in outputs) < HEAVY_BYTES_MIN:
        body, json_bytes = write_body(*write)
    else:
        body, json_bytes = await asyncio.get_running_loop().run_in_executor(None, write_body, *write)
    if json_bytes is None:
        exchange.answer(JSON, body)
        return
    exchange.good_lines += b"%b: %d\r\n" % (HEADER_LENGTH.encode(), json_bytes)
    exchange.answer(BINARY, body)


def count(calls: HttpCalls, exchange: InferExchange) -> None:
    """It has ended."""
    if exchange.model is not None:
        ns = monotonic_ns() - exchange.arrived_ns
        calls.model_statistics.count(exchange.model, exchange.rows, exchange.status_code, ns)
