"""Pipelines whose next stage the router could not go on to: the caller goes on, from what came back.

A router gives a request back in the middle (`wire.frames.Partway`) where the next stage's deployment is another
router's, was replaced, or does not take the columns as they lie; where a stage was cut over several replicas; and where
the deployment that the request waited for moves away. What it has come to is then the next call's request: with the
same id, deadline and priority, to whoever serves that deployment now. Rows that the next router has, and that the
method takes as they are, are passed on; others are cast and written.

All this is done on the event loop, for the lanes of threads too. In between a request is nobody's (`between`), and may
be given up.
"""

from __future__ import annotations

import asyncio
import logging

import pyarrow as pa

from flightserve.caller.destinations import LEARNT_SCHEMAS_MAX
from flightserve.caller.memory import CallerMemory
from flightserve.caller.staging import MemoryFull
from flightserve.caller.submitter import RouterSubmitter
from flightserve.caller.uplink import Going, Pending
from flightserve.contracts.service import Passed
from flightserve.core.routing.chaining import told_of_stage
from flightserve.errors import FlightserveError, NotFound, Unavailable, from_kind, kind_of
from flightserve.fabric.conversion.casting import is_taken
from flightserve.fabric.conversion.plans import plan_of
from flightserve.fabric.memory.batches import alike
from flightserve.loops import beside
from flightserve.types import MethodSpec, RequestMeta

log = logging.getLogger(__name__)


class GoingOn:
    """Of one client. On its event loop."""

    def __init__(
        self,
        submitter: RouterSubmitter,
        between: dict[int, Pending],
        memory: CallerMemory,
    ) -> None:
        self._submitter = submitter
        self._between = between
        self._memory = memory
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<GoingOn: {len(self._between)} requests are between two stages>"

    def take(self, requests: list[tuple[int, int]]) -> None:
        """Send these on, each with so many calls ahead. Those that were given up meanwhile are not there any more."""
        for request_id, ahead in requests:
            pending = self._between.get(request_id)
            if pending is not None:
                try:
                    self._learn(pending, ahead)
                    self._go_on(request_id, pending, ahead)
                except Exception as error:
                    # Nobody looks after what is between two calls: its caller would wait for ever. It is logged as
                    # text, because a traceback holds rows.
                    log.error("unforeseen error while a pipeline's request was sent on: %s", repr(error))
                    self._fail(
                        request_id, pending, FlightserveError(f"it could not be sent on: {type(error).__name__}")
                    )

    def _learn(self, pending: Pending, ahead: int) -> None:
        """Routers may take on as they lie what the next method would have taken so."""
        chain, slices = pending.sent.chain, pending.partway
        assert chain is not None
        assert slices
        first = slices[0].shared
        call, spec = chain.calls[-ahead], chain.ahead[-ahead].method
        schema_id = first.region.schema_id
        if not 0 < len(call.schema_ids) <= LEARNT_SCHEMAS_MAX or schema_id in call.schema_ids:
            return
        schema = first.batch().schema
        # Where there is no plan, no values are looked at.
        if is_taken(spec, schema) and plan_of(spec, schema, "") is None:
            call.schema_ids.append(schema_id)

    def _go_on(self, request_id: int, pending: Pending, ahead: int) -> None:
        sent, part = pending.sent, pending.part
        assert sent.chain is not None
        stages = sent.chain.ahead
        going = Going(request_id, sent.stage + len(stages) + 1 - ahead, pending.losses)
        target = tuple(name for stage in stages[-ahead:] for name in stage.target)
        meta = RequestMeta(
            part.deadline_ns, part.priority, part.label, part.traceparent, part.key, part.caller,
            tracestate=part.tracestate,
        )  # fmt: skip
        try:
            payload = _payload(pending, sent.spec if ahead == len(stages) else stages[-ahead - 1].method)
            self._submitter.submit(
                target, payload, [(_rows(payload), meta)], pending.deliver, True, pending.index, going
            )
        except MemoryFull as full:
            waiting = self._wait(request_id, pending, ahead, full.nbytes)
            task = beside(asyncio.get_running_loop(), waiting, "sending a pipeline's request on")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        except FlightserveError as error:
            before = stages[-ahead - 1].where if ahead < len(stages) else f"{sent.deployment}.{sent.spec.name}"
            self._fail(request_id, pending, _told(error, going.stage, stages[-ahead].where, before))
        else:
            del self._between[request_id]

    async def _wait(self, request_id: int, pending: Pending, ahead: int, nbytes: int) -> None:
        try:
            await self._memory.wait_for_room(nbytes, pending.part.deadline_ns)
        except FlightserveError as error:
            if request_id in self._between:
                self._fail(request_id, pending, error)
        else:
            if request_id in self._between:
                self._go_on(request_id, pending, ahead)

    def _fail(self, request_id: int, pending: Pending, error: FlightserveError) -> None:
        del self._between[request_id]
        pending.deliver(pending.index, None, error, True)


def _told(error: FlightserveError, stage: int, where: str, before: str) -> FlightserveError:
    """What is said of the call that could not be made. That a stage is not there is nobody's mistake who calls."""
    kind = kind_of(Unavailable(error.message) if isinstance(error, NotFound) else error)
    message = error.message.removeprefix(where).removeprefix(": ")
    kind, message = told_of_stage(kind, message.removeprefix(" "), stage, where, before)
    return from_kind(kind, message, error.retry_after_ms)


def _payload(pending: Pending, made_by: MethodSpec) -> pa.RecordBatch | Passed:
    """What the request has come to: where it lies, or in one piece where it lies apart."""
    slices = pending.partway
    assert slices
    if len(slices) > 1:
        batches = alike([each.batch() for each in slices], made_by)
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    found = slices[0]
    shared = found.shared
    rows = shared.batch().num_rows
    return Passed(found.batch(), shared.region, found.offset, rows, shared.router_id, shared.buffer)


def _rows(payload: pa.RecordBatch | Passed) -> int:
    batch: pa.RecordBatch = payload.batch if isinstance(payload, Passed) else payload
    return int(batch.num_rows)
