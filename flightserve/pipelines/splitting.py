"""`fs.split` and `fs.shadow`: a deployment in the place of several others, which answers by their methods.

A split sends each request to one of them, by its weight: always to the same for one `x-request-key`, by the request's
id otherwise. A shadow has the one answer, and sends a copy of what it gets to the other, whose answer nobody sees. Rows
are passed on where they lie (`replica.linear`). Requests that came together and go different ways are told apart, and
their answers put in order again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

import pyarrow as pa

from flightserve import measures
from flightserve.contracts.context import Context, context, entered
from flightserve.declare import on_stop, side_by_side
from flightserve.errors import ConfigError, FlightserveError, MethodFailed
from flightserve.fabric.memory.batches import one_batch
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.loops import beside
from flightserve.pipelines.versions import shadow_spec, split_spec, ways_of
from flightserve.wire.status import Code

# Copies on their way to a candidate, by number and by bytes: what comes beyond is not copied.
COPIES_MAX: Final = 64
COPIES_BYTES_MAX: Final = 64 << 20


class SplitReplica:
    """Sends each request to one of the `targets`."""

    flightserve_named: ClassVar = "named"
    flightserve_callees: ClassVar = "names"

    def __init__(self, targets: Sequence[Any], weights: Sequence[float], *, named: str, names: Sequence[str]) -> None:
        self._salt = named
        self._targets = dict(zip(names, targets, strict=True))
        self._ways = ways_of(dict(zip(names, weights, strict=True)))
        about = "Requests that a split sent to each deployment, by how they ended"
        self._sent = measures.own_counter("flightserve_split_requests", about, ("to", "code"))

    flightserve_spec: Any = classmethod(split_spec)

    def reconfigure(self, config: Mapping[str, float]) -> None:
        """Other weights from now on, by the names of the deployments; one that is left out has none. Raises
        ConfigError."""
        if unknown := [name for name in config if name not in self._targets]:
            raise ConfigError(f"the split has no {unknown[0]!r}; it has {', '.join(self._targets)}")
        # In the order that they have here, whatever the configuration's: the same weights are the same ways.
        self._ways = ways_of({name: config.get(name, 0.0) for name in self._targets})

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._run, method)

    def _run(self, method: str, rows: Any) -> Any:
        """A coroutine of the answer; of a method that yields batches, an iterator of these."""
        linears = {name: getattr(target, method).chain([]) for name, target in self._targets.items()}
        current = context()
        chosen = self._chosen(current)
        names = list(dict.fromkeys(chosen))
        if next(iter(linears.values())).streaming:
            return self._iterate(linears[names[0]], names[0], rows)
        if len(names) == 1:
            return self._answer(linears[names[0]], names[0], rows, max(1, len(chosen)))
        return self._apart(linears, chosen, rows, current)

    def _chosen(self, current: Context) -> list[str]:
        """For each request where it goes."""
        ways, ids = self._ways, current.request_ids
        # What has neither, as in a unit test, goes anywhere.
        keys = [key or own or secrets.token_hex(8) for key, own in zip(current.request_keys, ids, strict=True)]
        return [ways.names[ways.choose(key, self._salt)] for key in keys or [secrets.token_hex(8)]]

    async def _answer(self, linear: Any, name: str, rows: Any, requests: int) -> Any:
        try:
            answer = await linear.aio(rows, "")
        except BaseException as error:
            self._sent.inc(requests, to=name, code=_code_of(error))
            raise
        self._sent.inc(requests, to=name, code="OK")
        return answer

    async def _iterate(self, linear: Any, name: str, rows: Any) -> AsyncIterator[Any]:
        code = "OK"
        try:
            async with contextlib.aclosing(linear.iterate(rows, "")) as batches:
                async for batch in batches:
                    yield batch
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            self._sent.inc(to=name, code=code)

    async def _apart(self, linears: Mapping[str, Any], chosen: Sequence[str], rows: Any, current: Context) -> Any:
        """Requests that go different ways, at the same time; the answers in their order."""
        batch, counts = one_batch(rows, "the split"), current.rows
        starts = [0, *itertools.accumulate(counts)]
        own = [batch.slice(start, count) for start, count in zip(starts, counts, strict=False)]
        groups = {name: [place for place, each in enumerate(chosen) if each == name] for name in dict.fromkeys(chosen)}

        async def send(name: str, places: Sequence[int]) -> pa.RecordBatch:
            with entered(current.within(places)):
                whole = pa.concat_batches([own[place] for place in places])
                answer = one_batch(await self._answer(linears[name], name, whole, len(places)), name)
            if answer.num_rows != whole.num_rows:
                raise MethodFailed(f"{linears[name].label} got {whole.num_rows} rows and answered {answer.num_rows}")
            return answer

        answers = await side_by_side([send(name, places) for name, places in groups.items()])
        pieces: list[Any] = [None] * len(counts)
        for places, answer in zip(groups.values(), answers, strict=True):
            start = 0
            for place in places:
                pieces[place] = answer.slice(start, counts[place])
                start += counts[place]
        if any(not piece.schema.equals(pieces[0].schema) for piece in pieces):
            # Each is asked for again by itself.
            raise MethodFailed("the split's deployments answered requests of one micro-batch by different columns")
        return pa.concat_batches(pieces)


class ShadowReplica:
    """Answers by the `primary`, and copies to the `candidate`."""

    flightserve_spec: Any = classmethod(shadow_spec)

    def __init__(self, primary: Any, candidate: Any) -> None:
        self._primary = primary
        self._candidate = candidate
        self._copies: set[asyncio.Task[None]] = set()
        self._bytes = 0
        about = "Requests that were copied to a candidate, by how they ended; DROPPED where too many were on their way"
        self._sent = measures.own_counter("flightserve_shadow_requests", about, ("code",))

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._run, method)

    def _run(self, method: str, rows: Any) -> Any:
        linear = getattr(self._primary, method).chain([])
        return self._iterate(linear, method, rows) if linear.streaming else self._answer(linear, method, rows)

    async def _answer(self, linear: Any, method: str, rows: Any) -> Any:
        # It begins when this coroutine first waits: behind the primary's call.
        self._copy(method, rows)
        return await linear.aio(rows, "")

    async def _iterate(self, linear: Any, method: str, rows: Any) -> AsyncIterator[Any]:
        self._copy(method, rows)
        async with contextlib.aclosing(linear.iterate(rows, "")) as batches:
            async for batch in batches:
                yield batch

    def _copy(self, method: str, rows: Any) -> None:
        """Send the rows to the candidate too, unless too much is on its way there."""
        current, nbytes = context(), nbytes_of(rows)
        requests = max(1, current.requests)
        if len(self._copies) >= COPIES_MAX or self._bytes + nbytes > COPIES_BYTES_MAX:
            self._sent.inc(requests, code="DROPPED")
            return
        self._bytes += nbytes
        with entered(current.detached()):
            sending = self._send(method, rows, requests, nbytes)
            task = beside(asyncio.get_running_loop(), sending, "sending a copy to a candidate")
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _send(self, method: str, rows: Any, requests: int, nbytes: int) -> None:
        code = "OK"
        try:
            linear = getattr(self._candidate, method).chain([])
            if linear.streaming:
                async for _ in linear.iterate(rows, ""):
                    pass
            else:
                await linear.aio(rows, "")
        except BaseException as error:
            code = _code_of(error)
            # Whatever becomes of it, nobody waits for it, unless all ends.
            if not isinstance(error, Exception):
                raise
        finally:
            self._bytes -= nbytes
            self._sent.inc(requests, code=code)

    @on_stop
    async def close(self) -> None:
        """Give up the copies that are on their way."""
        copies = list(self._copies)
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


def _code_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # Who asked went away, or left the stream.
        return Code.CANCELLED.name
    return Code(error.code).name if isinstance(error, FlightserveError) else Code.INTERNAL.name
