"""The load generator, a process of its own: `python -m tests.chaos.load '{"directory": ..., ...}'`.

Open-loop: arrivals are scheduled ahead (`schedule.py`) and sent when their time has come, whatever became of those
before; latencies count from the intended time. Closed-loop (`concurrency` > 0): as many clients, each sending its
next arrival when it has its answers; that is how capacity is measured.

It runs until `seconds` have passed or stdin ends, waits for what is outstanding, and prints one JSON line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from msgspec.structs import replace

from flightserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tests.chaos import rows
from tests.chaos.clients import CLIENTS, Answer, Client, Disconnected, Failed
from tests.chaos.history import BEHIND, DISCONNECTED, GAVE_UP, NO_ANSWER, Invoke, Journal, Outcome
from tests.chaos.schedule import BY_NAME, Arrival, Mix, arrivals

# How long after its deadline a client waits before it takes a request for lost.
PATIENCE_S: Final = 20.0


@dataclass(slots=True)
class Orders:
    """What the load generator is told. `addresses` by protocol, one mapping for each frontend, with its `name`.
    `methods` limits the load to these; `doomed`: this process will be killed."""

    directory: str
    name: str
    addresses: list[dict[str, str]]
    seed: int
    first_id: int
    rate: float = 50.0
    seconds: float = 1e9
    concurrency: int = 0
    mix: dict[str, Any] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    doomed: bool = False

    def series(self) -> Iterator[Arrival]:
        """The arrivals, in order."""
        methods = [BY_NAME[name] for name in self.methods or BY_NAME]
        return arrivals(self.seed, self.rate, len(self.addresses), self.first_id, Mix(**self.mix), methods)


class Noted:
    """An arrival being answered: writes its records. One outcome for each request, but for what the server says
    twice; what comes after the client gave up is nobody's."""

    def __init__(self, load: Load, arrival: Arrival, batches: Sequence[pa.RecordBatch]) -> None:
        self._load = load
        self._arrival = arrival
        self._lock = threading.Lock()
        self._gave_up = False
        self._has_outcome = [False] * len(batches)
        self.invokes = self._invokes(batches)
        load.journal.write(self.invokes)

    def _invokes(self, batches: Sequence[pa.RecordBatch]) -> list[Invoke]:
        arrival, load = self._arrival, self._load
        sent_ns = monotonic_ns()
        intended_ns = load.begin_ns + int(arrival.at_s * NS_PER_S) if load.open_loop else sent_ns
        return [
            Invoke(
                wanted.id, arrival.protocol, load.orders.addresses[arrival.frontend]["name"], arrival.deployment,
                arrival.method.name, arrival.method.kind, wanted.rows, rows.rows_hash(batch), intended_ns, sent_ns,
                arrival.timeout_ms, arrival.priority, arrival.tight, "INTERNAL" if wanted.poisoned else "OK",
                load.orders.doomed,
            )
            for wanted, batch in zip(arrival.wanted, batches, strict=True)
        ]  # fmt: skip

    def tell(self, index: int, answer: Answer) -> None:
        """The server's word for a request."""
        request_id = self._arrival.wanted[index].id
        outcome = Outcome(request_id, answer.code, monotonic_ns(), answer.message[:300], own=answer.own)
        if answer.table is not None:
            outcome = self._with_rows(outcome, answer.table)
        if answer.echo not in ("", str(request_id)):
            ids = (*outcome.ids, int(answer.echo) if answer.echo.isdigit() else 0)
            outcome = replace(outcome, message=f"echoed as {answer.echo}", ids=ids)
        with self._lock:
            if not self._gave_up:
                self._has_outcome[index] = True
                self._write(outcome)

    def _with_rows(self, outcome: Outcome, table: pa.Table) -> Outcome:
        try:
            (batch,) = table.combine_chunks().to_batches() or [rows.make(0, 0)]
            source = rows.source(batch, self._arrival.method.name)
        except ValueError as error:
            return replace(outcome, message=f"not our rows: {error}"[:300])
        return replace(outcome, rows=batch.num_rows, rows_hash=rows.rows_hash(source), ids=rows.ids_in(batch))

    def ended(self, code: str, message: str, own: bool = False) -> None:
        """The client's own word for all that have no outcome; `Failed` is about the first of them only."""
        with self._lock:
            self._gave_up = True
            at_ns, first = monotonic_ns(), 0
            for wanted, has_outcome in zip(self._arrival.wanted, self._has_outcome, strict=True):
                if has_outcome:
                    continue
                if first and code not in (DISCONNECTED, GAVE_UP, NO_ANSWER):
                    self._write(Outcome(wanted.id, BEHIND, at_ns, after=first))
                else:
                    self._write(Outcome(wanted.id, code, at_ns, message[:300], own=own))
                first = first or wanted.id

    def _write(self, outcome: Outcome) -> None:
        self._load.journal.write([outcome])
        self._load.codes[outcome.code] += 1


class Load:
    """Sends the series of its orders."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.open_loop = not orders.concurrency
        self.journal = Journal(Path(orders.directory) / f"client-{orders.name}.jsonl")
        self.codes: Counter[str] = Counter()
        self.begin_ns = monotonic_ns()
        self.lag_ns_max = 0
        self._stop = asyncio.Event()
        self._clients: dict[tuple[int, str], Client] = {}
        self._running: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Send no more. On the loop's thread."""
        self._stop.set()

    async def run(self) -> dict[str, Any]:
        """Until stopped, or the time is over, and every request has an outcome."""
        self._clients = {
            (index, protocol): make(addresses[protocol])
            for index, addresses in enumerate(self.orders.addresses)
            for protocol, make in CLIENTS.items()
        }
        self.begin_ns = monotonic_ns()
        asyncio.get_running_loop().call_later(self.orders.seconds, self.stop)
        try:
            if self.open_loop:
                await self._run_open()
            else:
                await self._run_closed()
            end_ns = monotonic_ns()
        finally:
            for client in self._clients.values():
                await client.close()
            self.journal.close()
        seconds = (end_ns - self.begin_ns) / NS_PER_S
        return {"seconds": seconds, "codes": dict(self.codes), "lag_ms_max": self.lag_ns_max / NS_PER_MS}

    async def _run_open(self) -> None:
        for arrival in self.orders.series():
            due_ns = self.begin_ns + int(arrival.at_s * NS_PER_S)
            await self._until(due_ns)
            if self._stop.is_set():
                break
            self.lag_ns_max = max(self.lag_ns_max, monotonic_ns() - due_ns)
            task = asyncio.ensure_future(self._fire(arrival))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._running:
            await asyncio.wait(self._running)

    async def _run_closed(self) -> None:
        series = self.orders.series()

        async def one_after_another() -> None:
            while not self._stop.is_set():
                await self._fire(next(series))

        await asyncio.gather(*(one_after_another() for _ in range(self.orders.concurrency)))

    async def _until(self, due_ns: int) -> None:
        left_s = (due_ns - monotonic_ns()) / NS_PER_S
        if left_s > 0:
            try:
                await asyncio.wait_for(self._stop.wait(), left_s)
            except TimeoutError:
                return

    async def _fire(self, arrival: Arrival) -> None:
        batches = [rows.make(wanted.id, wanted.rows, wanted.poisoned) for wanted in arrival.wanted]
        client = self._clients[arrival.frontend, arrival.protocol]
        noted = Noted(self, arrival, batches)
        patience_s = arrival.timeout_ms / 1000 + PATIENCE_S
        limit_s = patience_s if arrival.give_up_ms is None else arrival.give_up_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                await client.exchange(arrival, batches, noted.tell)
        except TimeoutError:
            code = NO_ANSWER if arrival.give_up_ms is None else GAVE_UP
            noted.ended(code, f"after {limit_s:.2f} s")
        except Disconnected as error:
            noted.ended(DISCONNECTED, str(error))
        except Failed as error:
            noted.ended(error.code, error.message, error.own)
        except Exception as error:
            noted.ended(f"CLIENT_{type(error).__name__}", str(error))


async def obey(orders: Orders) -> dict[str, Any]:
    """Run the load; the end of stdin stops it."""
    load = Load(orders)
    loop = asyncio.get_running_loop()

    def listen() -> None:
        while os.read(0, 1 << 12):
            pass
        loop.call_soon_threadsafe(load.stop)

    threading.Thread(target=listen, daemon=True).start()
    return await load.run()


if __name__ == "__main__":
    # A collection of everything stops the generator for tens of milliseconds, which would count as latency.
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)
    print(json.dumps(asyncio.run(obey(Orders(**json.loads(sys.argv[1]))))), flush=True)
