"""Calls that a method makes onwards, to another deployment of the same app.

A deployment that was bound with another as an argument finds a `Remote` in its place (to type checkers a `fs.Handle`,
`declare.handles`):

    def total(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch)                 # blocks this thread

    async def total(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.model.score.aio(batch)       # the event loop goes on

    def both(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        scores = self.model.score.later(batch)         # begins, and does not wait
        prices = self.pricing.charge(batch)
        return combined(scores.result(), prices)       # waits

Such a call is a request like any other: it goes to the router that owns the deployment, shares micro-batches there
with other requests, and its rows lie in shared memory. It takes a record batch, a table, a frame or a dict of columns,
and gives one record batch; of a method that is a generator, an iterator of them (`async for` after `aio`). On an event
loop an `async def` method is called as that of an object would be: without `aio` as well.

Each request of the caller's micro-batch keeps its own deadline, priority, trace context and id where the rows that go
onwards are the micro-batch's rows, as many and in order: then the call is as many requests, in one region, and their
answers are put together in order. Of rows that are others' nobody can tell whose they are; they go as one request
(`contracts.context`), and so do those for methods that take one request at a time.

A call ends when nobody wants it any more, and with the method that made it. What the callee raises is raised here: a
typed error keeps its class, anything else is MethodFailed, and the message says where it is from (`replica.stages`).
A method that does not catch it passes it on to its own caller. Where one of several requests fails, the call does, and
the method that does not catch that is run again for each of them alone, if it is idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import pyarrow as pa

from flightserve.caller.lane_connection import HASTE_S
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.context import context
from flightserve.contracts.service import AsyncCall, Passed, Reply, Result, Service
from flightserve.declare import Handle, Later
from flightserve.errors import Cancelled, FlightserveError, NotFound, Unavailable
from flightserve.fabric.memory.batches import one_batch
from flightserve.fabric.memory.decode import validate_batch
from flightserve.replica.answers import Answers
from flightserve.replica.linear import LinearCall
from flightserve.replica.origins import Origin, Origins
from flightserve.replica.prepared_calls import PreparedCall
from flightserve.replica.rights import check_onward
from flightserve.replica.stages import of_payload
from flightserve.types import DeploymentSpec, MethodSpec

P = ParamSpec("P")
T = TypeVar("T")

# How often a thread that waits for an onward call looks whether anybody still wants its own result.
CANCELLED_POLL_S: Final = 0.1
# A call of a coroutine that takes longer is told to the router, whose callers may want to know.
TELL_S: Final = 0.005
# What a callee's router takes. Checked here, where it is known whose mistake it is.
LIMITS: Final = EdgeLimits()
_GIVEN_UP: Final = Cancelled("the call was given up")


class Remote(Handle[Any]):
    """Another deployment, as a method that calls it sees it: the methods of that deployment are attributes."""

    __slots__ = ("_access", "_loop", "_name", "_origins", "_service")

    def __init__(
        self,
        name: str,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        origins: Origins | None = None,
        access: Access = OPEN,
    ) -> None:
        """`loop` is the one that `service` is used on; `origins` knows what can be passed on by it, `access` what those
        may do that a method runs for."""
        self._access = access
        self._origins = Origins() if origins is None else origins
        self._name = name
        self._service = service
        self._loop = loop

    def __getattr__(self, method: str) -> RemoteMethod:
        if method.startswith("_"):
            # Also our own, of an object that `copy` has not filled yet: it has no name to be told.
            raise AttributeError(f"a deployment serves no method {method!r}")
        return RemoteMethod(self._name, method, self._service, self._loop, self._origins, self._access)

    def __call__(self, /, *_rows: Any, **_named: Any) -> NoReturn:
        """A deployment has methods, and is none."""
        found = [spec for spec in self._service.deployments() if spec.name == self._name]
        methods = [method.name for spec in found for method in spec.methods]
        raise TypeError(
            f"{self._name} is a deployment; call one of its methods, {', '.join(methods)}, as in"
            f" {self._name}.{methods[0] if methods else 'method'}(batch)"
        )

    def __repr__(self) -> str:
        return f"<Remote {self._name}>"


class RemoteMethod:
    """One method of another deployment."""

    __slots__ = ("_access", "_deployment", "_loop", "_name", "_origins", "_service")

    def __init__(
        self,
        deployment: str,
        name: str,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        origins: Origins,
        access: Access = OPEN,
    ) -> None:
        self._access = access
        self._origins = origins
        self._deployment = deployment
        self._name = name
        self._service = service
        self._loop = loop

    def __call__(self, /, *rows: Any, **named: Any) -> Any:
        """Call it and wait: a record batch, or an iterator of them where it streams. For methods that run on a
        thread; in `async def` methods it raises RuntimeError, except of one that is an `async def` itself, which is
        called as by `aio`. Raises the FlightserveError that the callee answers."""
        if _running_loop() is not None:
            self._must_not_block()
            return self.aio(*rows, **named)
        later = BegunCall(self._service, self._prepare(rows, named))
        return later.batches() if later.streaming else later.result()

    def later(self, /, *rows: Any, **named: Any) -> BegunCall:
        """Begin to call it; the rows are there when `result()` is asked for. As many calls as are begun run side by
        side. For methods that run on a thread."""
        if _running_loop() is not None:
            raise self._blocking()
        return BegunCall(self._service, self._prepare(rows, named))

    def aio(self, /, *rows: Any, **named: Any) -> Any:
        """Call it from an `async def` method: a coroutine, or what to iterate over where it streams. Raises as a
        call does; giving it up (cancelling the task, leaving the loop) cancels the request."""
        call = self._prepare(rows, named)
        if call.spec.streaming:
            return self._iterate(call)
        return self._on_loop(self._collect_and_tell, call)

    def chain(self, following: Sequence[RemoteMethod]) -> LinearCall:
        """This method and others behind it, each of which gets what the one before answers."""
        return LinearCall(self, following)

    def after(self, source: str, rows: Any, following: Sequence[RemoteMethod] = ()) -> Any:
        """As `aio`, of rows that the stage `source` of a pipeline answered; "" for those of the request itself. What
        this method answers goes to the first of the `following`, and so on, without this process; it is the last of
        them that answers."""
        call = self._prepare((rows,), {}, source, following)
        if call.answering.streaming:
            return self._iterate(call)
        return self._on_loop(self._collect_and_tell, call)

    @property
    def label(self) -> str:
        """Deployment.method."""
        return self._where

    @property
    def streaming(self) -> bool:
        """It yields batches. Raises Unavailable before the replica is ready."""
        return self._specs()[1].streaming

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            # Also our own, of an object that `copy` has not filled yet.
            raise AttributeError(name)
        raise AttributeError(f"{self._where} has no {name!r}; it is called as {self._where}(batch), or .aio, .later")

    def __repr__(self) -> str:
        return f"<RemoteMethod {self._where}>"

    @property
    def _where(self) -> str:
        return f"{self._deployment}.{self._name}"

    def _must_not_block(self) -> None:
        if not self._specs()[1].is_async:
            raise self._blocking()

    def _blocking(self) -> RuntimeError:
        return RuntimeError(f"{self._where} would block the event loop; use: await {self._where}.aio(batch)")

    def _prepare(
        self,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        source: str | None = None,
        following: Sequence[RemoteMethod] = (),
    ) -> PreparedCall:
        # What the callee's method calls its argument is not known here: any name is its name.
        given = (*args, *named.values())
        if len(given) != 1:
            raise TypeError(f"{self._where} takes one argument, the rows, not {len(given)}")
        deployment, spec = self._specs()
        current, options = context(), deployment.options
        if self._access.closed:
            calls = [(deployment, spec), *[each._specs() for each in following]]
            check_onward(self._access, current, calls, self._service.method)
        batch = one_batch(given[0], self._where)
        limits = (options.max_timeout_ms, options.default_timeout_ms)
        specs = [spec, *[each._specs()[1] for each in following]]
        aligned = all(each.row_aligned for each in specs)
        parts = current.onward_parts(batch.num_rows, *limits) if aligned else None
        parts = parts or [(batch.num_rows, current.onward(*limits))]
        found = self._origins.find(batch)
        rows = batch if found is None else _pass_on(batch, *found)
        then = tuple((each._deployment, each._name) for each in following)
        call = PreparedCall(current, self._deployment, spec, rows, self._origins, parts, source, then, specs[-1])
        call.check()
        try:
            if found is None or not found[0].is_input:
                validate_batch(batch, LIMITS)
        except FlightserveError as error:
            raise of_payload(error, call.callee, source or call.caller) from None
        if current.spans is not None:
            span, below = current.spans.begin_call(self._deployment, self._name, parts)
            call = call._replace(span=span, parts=below)
        return call

    def _specs(self) -> tuple[DeploymentSpec, MethodSpec]:
        try:
            return self._service.method(self._deployment, self._name)
        except NotFound as error:
            # Nothing that the caller's caller asked for: it must not read as its own mistake.
            if any(spec.name == self._deployment for spec in self._service.deployments()):
                raise AttributeError(error.message) from None
            raise Unavailable(f"{self._deployment} cannot be called before this replica is ready") from None

    # ---- on event loops

    async def _collect_and_tell(self, prepared: PreparedCall) -> pa.RecordBatch:
        """The call, which is told of where it takes a while: in the loop's thread."""
        calls = prepared.context.calls
        work = self._collect if len(prepared.parts) == 1 else self._collect_parts
        if calls is None:
            return await work(prepared)
        telling = asyncio.get_running_loop().call_later(TELL_S, calls.tell, prepared.callee)
        try:
            return await work(prepared)
        finally:
            telling.cancel()

    async def _on_loop(self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        if _running_loop() is self._loop:
            return await work(*args, **kwargs)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(*args, **kwargs), self._loop))

    async def _collect(self, prepared: PreparedCall) -> pa.RecordBatch:
        answers = prepared.answers
        call = self._start(prepared)
        try:
            async for result in call:
                answers.add(0, result, False)
            prepared.ended()
            return answers.join()
        except FlightserveError as error:
            raise prepared.explain(error) from None
        except BaseException:
            call.cancel()
            prepared.ended(_GIVEN_UP)
            raise

    async def _collect_parts(self, prepared: PreparedCall) -> pa.RecordBatch:
        answers, ended = prepared.answers, asyncio.get_running_loop().create_future()

        def deliver(index: int, result: Result | None, error: FlightserveError | None, last: bool) -> None:
            if not ended.done():
                answers.add(index, result, last)
                answers.error = error
                if error is not None or not answers.open:
                    ended.set_result(None)

        parts = prepared.parts
        cancel = self._service.call_parts(self._deployment, self._name, prepared.rows, parts, deliver, prepared.then)
        try:
            await ended
            if answers.error is not None:
                raise answers.take_error()
            prepared.ended()
            return answers.join()
        except BaseException as error:
            answers.clear()
            for index in range(len(parts)):
                cancel(index)
            if isinstance(error, FlightserveError):
                raise prepared.explain(error) from None
            prepared.ended(_GIVEN_UP)
            raise

    def _start(self, call: PreparedCall) -> AsyncCall:
        return self._service.call(self._deployment, self._name, call.rows, call.parts[0][1], call.then)

    async def _iterate(self, prepared: PreparedCall) -> AsyncGenerator[pa.RecordBatch, None]:
        call: AsyncCall | None = None

        async def step() -> Result | None:
            nonlocal call
            if call is None:
                call = self._start(prepared)
            return await anext(call, None)

        try:
            while (result := await self._on_loop(step)) is not None:
                yield self._origins.take(result)
            prepared.ended()
        except FlightserveError as error:
            raise prepared.explain(error) from None
        finally:
            prepared.ended(_GIVEN_UP)
            if call is not None:
                self._loop.call_soon_threadsafe(call.cancel)


class BegunCall(Later[pa.RecordBatch]):
    """A call that has begun, of a method that runs on a thread. One that is dropped is given up."""

    def __init__(self, service: Service, call: PreparedCall) -> None:
        # What stays of the call is not to keep its rows.
        self._call = call._replace(rows=None)
        self._answers: Answers | None = call.answers
        self._batch: pa.RecordBatch | None = None
        self._lane = service.open_lane()
        try:
            self._lane.submit_parts(0, call.deployment, call.spec.name, call.rows, call.parts)
        except FlightserveError as error:
            self._lane.close()
            raise call.explain(error) from None
        except BaseException:
            self._lane.close()
            raise

    def __repr__(self) -> str:
        return f"<BegunCall {self._call.callee}>"

    def __del__(self) -> None:
        self.cancel()

    @property
    def streaming(self) -> bool:
        """The method yields batches: to be iterated over (`batches`)."""
        return self._call.spec.streaming

    def result(self) -> pa.RecordBatch:
        """Wait for the rows. Raises the FlightserveError that the callee answers, and TypeError where the method
        streams."""
        if not self.settle(HASTE_S):
            with self.aside():
                while not self.settle(CANCELLED_POLL_S):
                    pass
        if self._batch is None:
            raise Cancelled(f"{self._call.callee} was given up, or failed before")
        return self._batch

    def settle(self, timeout_s: float) -> bool:
        """Take what comes within the time; whether there is no more to come. Raises as `result`."""
        if self.streaming:
            raise TypeError(f"{self._call.callee} yields batches; iterate over batches()")
        answers = self._answers
        if answers is None:
            return True
        try:
            while answers.open:
                event = self._next(timeout_s)
                if event is None:
                    return False
                answers.add(*event)
                event = None
            self._call.ended()
            self._batch = answers.join()
        except BaseException:
            # What is raised holds this frame: not the rows as well.
            answers.clear()
            self.cancel()
            raise
        answers.clear()
        self.cancel()
        return True

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the thread waits for it."""
        return self._call.context.aside(self._call.callee)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """What a streaming method yields, as it comes. Raises as `result`."""
        last = False
        try:
            while not last:
                _, result, last = self._wait()
                if result is not None:
                    batch = self._call.origins.take(result)
                    del result
                    yield batch
                    del batch
            self._call.ended()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give it up. Idempotent."""
        self._call.ended(_GIVEN_UP)
        self._answers = None
        self._lane.close()

    def _wait(self) -> tuple[int, Result | None, bool]:
        event = self._next(HASTE_S)
        if event is None:
            with self.aside():
                while event is None:
                    event = self._next(CANCELLED_POLL_S)
        return event

    def _next(self, timeout_s: float) -> tuple[int, Result | None, bool] | None:
        """A part of an answer: whose, its rows, whether it is the last; None where none came within the time."""
        reply: Reply | None = self._lane.receive(timeout_s)
        if reply is None:
            self._call.check()
            return None
        key, result, error, last = reply.key, reply.result, reply.error, reply.last
        # An error that is raised holds this frame: the frame must not hold it, nor any rows.
        reply = None
        if error is not None:
            try:
                raise self._call.explain(error)
            finally:
                del error
        return key, result, last


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _pass_on(batch: pa.RecordBatch, origin: Origin, row: int) -> Passed:
    return Passed(batch, origin.region, row, origin.rows, origin.router_id, origin.lease)
