"""What goes out on a lane's connection: results, refusals, and word of regions that user code has let go.

Results are written into the memory of this process, and only where they lie is sent. Any thread may use an outbox: the
one that reads the lane's connection, the event loop of `async def` methods, and the main connection's (`flush`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import FlightserveError, ResourceExhausted, Unavailable, kind_of
from flightserve.fabric.memory.batches import SchemaCache, write_batch
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.fabric.memory.stored import Stored
from flightserve.fabric.transport.channels import BlockingChannel
from flightserve.replica.apart import Rows
from flightserve.replica.counts import Counts
from flightserve.replica.inputs import Inputs
from flightserve.replica.session import ReplicaSession
from flightserve.wire import frames

# How long a result waits for memory before its micro-batch fails, and how long between two looks.
MEMORY_WAIT_S: Final = 10.0
MEMORY_LOOK_S: Final = 0.1

# Reads the lane's connection for so many seconds, because regions come back there. False, at once, for a thread that
# is not the one to read it.
ReadMeanwhile = Callable[[float], bool]


class Outbox:
    """Of one lane. `schemas` are those that its connection has seen, in both directions."""

    def __init__(
        self,
        channel: BlockingChannel,
        session: ReplicaSession,
        pool: SegmentPool,
        counts: Counts,
        read_meanwhile: ReadMeanwhile,
    ) -> None:
        self.channel = channel
        self.session = session
        self.schemas = SchemaCache()
        self._pool = pool
        self._counts = counts
        self._read_meanwhile = read_meanwhile
        # Answered micro-batches of which user code still holds regions.
        self._keeping: list[Inputs] = []
        self._flushing = threading.Lock()

    def __repr__(self) -> str:
        return f"<Outbox to router {self.session.router.id:x}: {len(self._keeping)} micro-batches are kept>"

    # ---- memory

    def write(self, rows: Rows) -> frames.Region:
        """The rows in a region of this process, written unless they lie there already; one lease on it is the
        caller's. Raises ResourceExhausted where memory stays full."""
        if type(rows) is pa.RecordBatch:
            return write_batch(rows, self.schemas, self._allocate, self._pool.free)
        if isinstance(rows, Stored):
            return rows.taken()
        region = self.write(rows.batch)
        try:
            rows.written(region)
        except BaseException:
            self.free(region)
            raise
        return region

    def keep_own(self, region: frames.Region) -> None:
        """The region is to be sent as a result once more. Of others' regions their owners need not know."""
        if region.owner == self._pool.owner:
            self._pool.keep(region.segment, region.offset)

    def free(self, region: frames.Region) -> None:
        """Give a lease of `write` back: the region is not sent."""
        self._pool.free(region.segment, region.offset)

    def _allocate(self, nbytes: int) -> tuple[frames.Region, memoryview]:
        got = self._pool.allocate(nbytes)
        return self._wait_for_memory(nbytes) if got is None else got

    def _wait_for_memory(self, nbytes: int) -> tuple[frames.Region, memoryview]:
        until_ns = monotonic_ns() + int(MEMORY_WAIT_S * NS_PER_S)
        while monotonic_ns() < until_ns:
            if self._read_meanwhile(MEMORY_LOOK_S):
                got = self._pool.allocate(nbytes)
            else:
                got = self._pool.wait(nbytes, MEMORY_LOOK_S)
            if got is not None:
                return got
        raise ResourceExhausted(f"the replica's shared memory stayed full; a result of {nbytes} bytes found no room")

    # ---- frames

    def send(self, frame: frames.Frame, *regions: frames.Region) -> None:
        """Send a frame, and the releases that wait. Segments of its `regions` that the router has not seen are shown
        to it first. Raises Unavailable where the connection has ended; the regions' leases are given back then."""
        own, known = self._pool.owner, self.channel.known
        announcements: tuple[tuple[frames.Segment, int], ...] = ()
        for region in regions:
            if region.owner == own:
                self.session.note_sent(region.segment, region.offset)
                if (own, region.segment) not in known:
                    announcements += (self._pool.announcement(region.segment),)
        try:
            self.channel.send([frame, *self._late_releases()] if self._keeping else [frame], announcements)
        except Unavailable:
            self.session.release([(region.owner, region.segment, region.offset) for region in regions], lost=True)
            raise

    def send_part(self, batch_id: int, rows: Rows) -> None:
        """Send one batch of a streamed reply that is not its last."""
        region = self.write(rows)
        self.send(frames.Done(batch_id, region, rows.num_rows, False), region)

    def tell_tables(self, batch_id: int, tables: Sequence[str]) -> None:
        """Send word of the tables that a micro-batch's statement reads: at once, for it may take longer than anybody
        waits."""
        with contextlib.suppress(Unavailable):
            self.channel.send([frames.TablesRead([batch_id], list(tables))])

    def refuse(self, frame: frames.Execute, error: FlightserveError) -> None:
        """Turn a micro-batch away: it did not run."""
        self._counts.add("refused")
        self.channel.send([frames.Failed(frame.batch_id, kind_of(error), error.message, ran=False)])

    # ---- regions that user code keeps

    def keep(self, inputs: Inputs) -> None:
        """Send word of these regions when user code has let go of them. Only behind the frame that says that they are
        kept: another thread may flush at any moment, and the router would not know what a release before it is of."""
        with self._flushing:
            self._keeping.append(inputs)

    def flush(self) -> None:
        """Send the releases that wait."""
        if self._keeping and (late := self._late_releases()):
            with contextlib.suppress(Unavailable):
                self.channel.send(late)

    def _late_releases(self) -> list[frames.Frame]:
        with self._flushing:
            keys = [key for inputs in self._keeping for key in inputs.take_returned()]
            self._keeping = [inputs for inputs in self._keeping if inputs.holding]
        return [frames.Release(keys)] if keys else []
