"""Bounds on what a client's process holds of other processes' memory.

An answer by memory lies where its replica wrote it, and stays there for as long as somebody looks at it. A program that
keeps its answers would take the memory from everybody else's. So only so much is held at a time; answers beyond that
are copied, and their memory given back at once.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from flightserve.config import FabricLimits
from flightserve.fabric.memory.batches import stream_of
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool
from flightserve.wire.frames import Region

# Of what one process of the app may have.
SHARE: Final = 16
LEASES_MAX: Final = 1024


class HeldMap(SegmentMap):
    """Segments that this process maps; counts what is leased in them."""

    def __init__(self, limits: FabricLimits, pool: SegmentPool | None = None) -> None:
        super().__init__(limits, pool)
        self.bytes_max = limits.memory_bytes_max // SHARE
        self.leases = 0
        self.bytes = 0
        self._counting = threading.Lock()
        # What finalisers gave back, which may run while this thread holds the lock.
        self._returned: collections.deque[int] = collections.deque()

    def lease(self, region: Region, released: Callable[[tuple[int, int, int]], None]) -> tuple[pa.Buffer, memoryview]:
        """As `SegmentMap.lease`."""
        length, returned = region.length, self._returned

        def give_back(key: tuple[int, int, int]) -> None:
            returned.append(length)
            released(key)

        made = super().lease(region, give_back)
        with self._counting:
            self.leases += 1
            self.bytes += length
        return made

    @property
    def is_full(self) -> bool:
        """So much is held that further answers are to be copied."""
        if self._returned:
            with self._counting:
                while self._returned:
                    self.leases -= 1
                    self.bytes -= self._returned.popleft()
        return self.bytes > self.bytes_max or self.leases > LEASES_MAX


def copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows in this process's memory."""
    return pa.ipc.open_stream(stream_of([batch])).read_next_batch()
