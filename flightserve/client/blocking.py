"""The client for code that blocks: deployments are its attributes, methods theirs, rows go in and come out.

A call is checked, made into requests, sent, and made again where that is safe and may help (`retrying`). All of it is
thread-safe: one client serves a program's threads. A child that was forked begins anew, by a way of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pyarrow as pa

from flightserve import threads
from flightserve.client import rows as forms
from flightserve.client.calling import PIECE_BYTES_MAX, SMALL_ROWS, Asked, Defaults, Tries, is_stream, of_piece
from flightserve.client.catalogue import described
from flightserve.client.feeding import Fed
from flightserve.client.sql import Asking, Texts, parameters_of, run_merged, warehouse_of
from flightserve.client.way import WINDOW, Pipe, Way
from flightserve.clock import monotonic_ns
from flightserve.contracts.warehouse import QUERY
from flightserve.errors import FlightserveError, NotFound, Unavailable
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

T = TypeVar("T")

# What `sql` gives beside the kinds of rows.
READER: Final = "reader"
# The method that a call is of, and what is done with it; the call began at that time, in ns.
Find = Callable[[Way], tuple[DeploymentSpec, MethodSpec]]
Work = Callable[[Way, DeploymentSpec, MethodSpec, int], T]


class Ways:
    """The way that calls go now: found when it is first needed, and anew when it is lost or this is a forked child."""

    def __init__(self, find: Callable[[], Way]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._way: Way | None = None
        # Of a parent: gRPC's are not to be touched here, not even to be ended.
        self._parents: list[Way] = []
        self._pid = os.getpid()
        self.closed = threading.Event()

    def current(self) -> Way:
        """Raises Unreachable, and RuntimeError once closed."""
        way = self._way
        if way is not None and not way.lost and self._pid == os.getpid():
            return way
        if self._pid != os.getpid():
            self._lock = threading.Lock()
        with self._lock:
            return self._renew()

    def _renew(self) -> Way:
        way, pid = self._way, os.getpid()
        if self._pid != pid:
            self._parents += [way] if way is not None else []
            self._pid, self._way, self.closed = pid, None, _copied(self.closed)
        elif way is not None and way.lost and not self.closed.is_set():
            way.close()
            self._way = None
        if self.closed.is_set():
            raise RuntimeError("the client is closed")
        if self._way is None:
            self._way = self._find()
            if self.closed.is_set():
                # Meanwhile, by another thread.
                self._way.close()
                raise RuntimeError("the client is closed")
        return self._way

    def close(self) -> None:
        """Idempotent."""
        self.closed.set()
        if self._way is not None and self._pid == os.getpid():
            self._way.close()

    def close_soon(self) -> None:
        """The same for a finaliser, which waits for nothing. A process that ends closes all by itself."""
        if not self.closed.is_set() and not sys.is_finalizing():
            threads.start("flightserve-client-end", self.close, lambda: True)

    def __repr__(self) -> str:
        return repr(self._way) if self._way is not None else "no way yet"


def _copied(event: threading.Event) -> threading.Event:
    """Locks of a parent's threads may be held for ever in a child."""
    made = threading.Event()
    if event.is_set():
        made.set()
    return made


class Client:
    """What `fs.connect` gives. `client.Pricing.charge(rows)` calls a method, `client.sql(...)` asks a warehouse.

    Use it as a context manager, or `close` it. A deployment whose name is also one of these methods': `client["sql"]`.
    """

    def __init__(self, ways: Ways, address: str, timeout_s: float | None, retries: int) -> None:
        """Connects. Raises Unavailable."""
        self._ways = ways
        self._address = address
        self._ask = Defaults(timeout_s, retries).checked().ask
        self._texts = Texts()
        self._ways.current().deployments()

    # ---- what is there

    def deployments(self) -> list[str]:
        """The names of what is deployed now."""
        return sorted(spec.name for spec in self._ways.current().deployments(0))

    def __getattr__(self, name: str) -> DeploymentClient:
        if name.startswith("_"):
            raise AttributeError(f"a client has no attribute {name!r}")
        return self[name]

    def __getitem__(self, name: str) -> DeploymentClient:
        """A deployment. Raises NotFound that is an AttributeError as well. While the app cannot be asked, a call says
        whether there is one."""
        with contextlib.suppress(Unavailable):
            self._ways.current().known(name)
        return DeploymentClient(self, name)

    def __dir__(self) -> list[str]:
        with contextlib.suppress(Unavailable):
            return [*super().__dir__(), *self.deployments()]
        return list(super().__dir__())

    @property
    def way(self) -> str:
        """How calls go: "memory", on the same machine and user, or "flight"."""
        return self._ways.current().kind

    def __repr__(self) -> str:
        if self._ways.closed.is_set():
            return f"<Client of {self._address}, closed>"
        try:
            return f"<Client of {self._address} by {self.way}: {', '.join(self.deployments()) or 'nothing deployed'}>"
        except Unavailable as error:
            return f"<Client of {self._address}: {error.message}>"

    # ---- life

    def close(self) -> None:
        """End it: calls that run in other threads end with an error. Idempotent."""
        self._ways.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- calls

    def sql(
        self,
        query: str,
        parameters: Any = None,
        /,
        *,
        warehouse: str | None = None,
        as_: str = "table",
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        retries: int | None = None,
    ) -> Any:
        """Ask a warehouse; the rows as a `pa.Table`, or `as_` another kind, or `"reader"`: a `pa.RecordBatchReader`
        that gives them as they come.

        `parameters` are values by position (`["UA", 1]` for `$1` or `?`) or by name (`{"carrier": "UA"}` for
        `$carrier`); a list of such, or a table, is one execution for each row, whose results come one after another.
        `warehouse` is needed where there are several. Raises the FlightserveError that the app answers.
        """
        asked = self._ask(None if as_ == READER else as_, timeout_s, priority, request_id, retries)
        bound = parameters_of(parameters)

        def find(way: Way) -> tuple[DeploymentSpec, MethodSpec]:
            return way.find(warehouse_of(way.deployments(), warehouse).name, QUERY)

        def work(way: Way, spec: DeploymentSpec, method: MethodSpec, began_ns: int) -> Any:
            asking = Asking(spec.name, query, bound)
            meta = asked.meta(spec, began_ns)
            merged = run_merged(way, asking, self._texts, meta)
            if merged is not None:
                found = pa.Table.from_batches([merged])
                return found.to_reader() if as_ == READER else forms.give(found, as_, spec.name)
            given = forms.Given(asking.request, as_)
            parts = Parts(self, way, spec, method, given, meta, None)
            return parts.to_reader() if as_ == READER else parts.read_all()

        return self._run(work, asked, find)

    def _run(self, work: Work[T], asked: Asked, find: Find) -> T:
        """Do the work, and again where that is safe and may help; `find` says of which method it is."""
        tries = Tries(asked)
        while True:
            try:
                way = self._ways.current()
                tries.found = found = find(way)
                return work(way, *found, tries.began_ns)
            except FlightserveError as error:
                pause_s = tries.pause_s(error)
            self._ways.closed.wait(pause_s)


class DeploymentClient:
    """One deployment of a client's app. Its methods are its attributes, or its items: `client.Pricing["charge"]`."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def _methods(self) -> list[str]:
        with contextlib.suppress(Unavailable, NotFound):
            return [method.name for method in self._client._ways.current().known(self._name).methods]
        return []

    def __getattr__(self, name: str) -> MethodClient:
        if name.startswith("_"):
            raise AttributeError(f"{self._name} serves no method {name!r}")
        return self[name]

    def __getitem__(self, name: str) -> MethodClient:
        with contextlib.suppress(Unavailable):
            return MethodClient(self._client, self._name, self._client._ways.current().find(self._name, name)[1])
        return MethodClient(self._client, self._name, MethodSpec(name))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._methods()]

    def __call__(self, *_: Any, **__: Any) -> Any:
        """A deployment has methods, and is none. Raises TypeError."""
        names = self._methods()
        raise TypeError(
            f"{self._name} is a deployment; call one of its methods, {', '.join(names)}, as in "
            f"client.{self._name}.{names[0] if names else 'method'}(rows)"
        )

    def __repr__(self) -> str:
        return f"<{self._name}: {', '.join(self._methods())}>"


class MethodClient:
    """One method. Call it with rows; `map` it over many."""

    def __init__(self, client: Client, deployment: str, method: MethodSpec) -> None:
        self._client = client
        self._deployment = deployment
        self._method = method.name
        self._where = f"{deployment}.{method.name}"
        self.__doc__ = described(deployment, method)
        self.__name__ = method.name

    def __repr__(self) -> str:
        return f"<method {self._where}>"

    def __call__(
        self,
        rows: Any,
        /,
        *,
        as_: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        request_key: str = "",
        traceparent: str = "",
        tracestate: str = "",
        retries: int | None = None,
    ) -> Any:
        """Call it with rows of any kind (`client.rows`); the answer is of the kind that was given, or of `as_`.

        Of a method that streams it is a `Parts`, to be iterated over; of rows that are a generator or another iterator,
        an iterator of answers (`map`). Raises the FlightserveError that the app answers; `error.request_id` is what it
        calls the request.
        """
        client = self._client
        asked = client._ask(as_, timeout_s, priority, request_id, retries, request_key, traceparent, tracestate)
        if is_stream(rows):
            return self._map(rows, asked, WINDOW)

        def work(way: Way, spec: DeploymentSpec, method: MethodSpec, began_ns: int) -> Any:
            given = forms.take(rows, method, self._where)
            meta = asked.meta(spec, began_ns)
            if method.streaming:
                return Parts(client, way, spec, method, given, meta, asked.as_)
            answer = _answer(way, spec, method, given.rows, asked, began_ns)
            index = given.index if method.row_aligned else None
            return forms.give(answer, asked.as_ or given.kind, self._where, index)

        return client._run(work, asked, lambda way: way.find(self._deployment, self._method))

    def map(
        self,
        batches: Iterable[Any],
        /,
        *,
        as_: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        request_key: str = "",
        traceparent: str = "",
        tracestate: str = "",
        window: int = WINDOW,
    ) -> Iterator[Any]:
        """One request for each item of `batches`, sent while answers come; the answers, in order, each of its item's
        kind or of `as_`. So many as `window` says are on their way at most, none before the first answer is asked
        for. `timeout_s` is each request's. Nothing is made again by itself: what is answered is known, the rest is the
        caller's to send again."""
        asked = self._client._ask(as_, timeout_s, priority, request_id, 0, request_key, traceparent, tracestate)
        return self._map(iter(batches), asked, window)

    def _map(self, items: Iterator[Any], asked: Asked, window: int) -> Iterator[Any]:
        way = self._client._ways.current()
        spec, method = way.find(self._deployment, self._method)
        if method.streaming:
            raise TypeError(f"{self._where} streams; call it with the rows of one request at a time")
        return self._answers(way, spec, method, items, asked, window)

    def _answers(
        self, way: Way, spec: DeploymentSpec, method: MethodSpec, items: Iterator[Any], asked: Asked, window: int
    ) -> Iterator[Any]:
        given: list[forms.Given] = []

        def batches() -> Iterator[pa.RecordBatch]:
            for item in items:
                made = forms.take(item, method, self._where)
                batch = forms.one_batch(made.rows, self._where)
                given.append(made._replace(rows=None))
                yield batch

        pipe = way.open(spec, method, asked.meta(spec, monotonic_ns()), lone=False)
        fed = Fed(pipe, batches(), lambda: asked.meta(spec, monotonic_ns()), window)
        try:
            for answer in fed:
                item = given.pop(0)
                index = item.index if method.row_aligned else None
                yield forms.give(answer, asked.as_ or item.kind, self._where, index)
        finally:
            fed.close()


def _answer(
    way: Way, spec: DeploymentSpec, method: MethodSpec, rows: pa.RecordBatch | pa.Table, asked: Asked, began_ns: int
) -> pa.RecordBatch | pa.Table:
    """The answer to rows that may be large."""
    where = f"{spec.name}.{method.name}"
    meta = asked.meta(spec, began_ns)
    if rows.num_rows > SMALL_ROWS and method.row_aligned:
        parts = forms.pieces(rows, PIECE_BYTES_MAX)
        if len(parts) > 1:
            batches = (forms.one_batch(part, where) for part in parts)
            fed = Fed(way.open(spec, method, meta), batches, lambda: meta, WINDOW)
            try:
                return forms.joined(list(fed), method)
            except FlightserveError as error:
                raise of_piece(error, method) from error
    return way.call(spec, method, forms.one_batch(rows, where), meta)


class Parts:
    """What a method streams: iterate over the parts as they come, each of the kind that was given. `read_all` gives the
    rest as one. A context manager; who stops early tells the app by `close`."""

    def __init__(
        self,
        client: Client,
        way: Way,
        spec: DeploymentSpec,
        method: MethodSpec,
        given: forms.Given,
        meta: RequestMeta,
        as_: str | None,
    ) -> None:
        # A client that nobody holds is closed.
        self._client = client
        self._where = f"{spec.name}.{method.name}"
        self._kind = as_ or given.kind
        self._method = method
        self._pipe: Pipe = way.open(spec, method, meta)
        try:
            self._pipe.send(forms.one_batch(given.rows, self._where), meta)
            self._pipe.finish()
            # The first part, with which errors come that may be tried again.
            self._first = self._pipe.receive()
        except BaseException:
            self._pipe.close()
            raise
        self._ended = self._first is None

    def _next(self) -> pa.RecordBatch | None:
        part, self._first = self._first, None
        if part is not None or self._ended:
            return part
        try:
            part = self._pipe.receive()
        except BaseException:
            self.close()
            raise
        self._ended = part is None
        return part

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        part = self._next()
        if part is None:
            raise StopIteration
        return forms.give(part, self._kind, self._where)

    def read_all(self) -> Any:
        """All parts that are still to come, as one. Raises as the iteration does."""
        parts: list[pa.RecordBatch] = []
        while (part := self._next()) is not None:
            parts.append(part)
        return forms.give(forms.joined(parts, self._method), self._kind, self._where)

    def to_reader(self) -> pa.RecordBatchReader:
        """The parts as batches of one reader, for whatever reads Arrow's streams, as they come."""
        first = self._next()
        schema = forms.joined([] if first is None else [first], self._method).schema

        def batches() -> Iterator[pa.RecordBatch]:
            part = first
            while part is not None:
                yield part
                part = self._next()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def close(self) -> None:
        """Give up what is still to come. Idempotent."""
        self._ended, self._first = True, None
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()

    def __repr__(self) -> str:
        return f"<Parts of {self._where}{', ended' if self._ended else ''}>"
