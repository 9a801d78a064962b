"""The shared memory of a caller: what it writes requests into, what it was shown, and who waits for room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.errors import Cancelled, ResourceExhausted
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool

STAYED_FULL: Final = "shared memory stayed full until the deadline; retry later"
# How long a thread waits for memory before it looks whether it still shall.
PATIENCE_S: Final = 0.1
# How long a request of the loop's waits before it looks again unasked. A region that another thread freed between its
# last look and its wait woke nobody. It is not less, because a look may be as dear as checking the request's rows.
LOOK_AGAIN_S: Final = 1.0


class CallerMemory:
    """One for each client."""

    def __init__(self, peer_id: int, limits: FabricLimits, mapping: type[SegmentMap] = SegmentMap) -> None:
        self.limits = limits
        self.pool = SegmentPool(peer_id, limits)
        self.mapped = mapping(limits, self.pool)
        # In the order in which they came.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.pool.on_freed.append(self._wake_waiting)

    async def wait_for_room(self, nbytes: int, deadline_ns: int) -> None:
        """Wait until some region came free, or it is time to look again. Raises ResourceExhausted when the deadline
        passes first, or at once when that many bytes can never be free. On the client's loop."""
        if nbytes > self.limits.memory_bytes_max:
            raise ResourceExhausted(f"{nbytes} bytes do not fit into {self.limits.memory_bytes_max} of shared memory")
        self._loop = asyncio.get_running_loop()
        freed = self._loop.create_future()
        self._waiting[freed] = None
        left_s = (deadline_ns - monotonic_ns()) / NS_PER_S
        try:
            await asyncio.wait_for(freed, max(0.0, min(left_s, LOOK_AGAIN_S)))
        except TimeoutError as error:
            if left_s <= LOOK_AGAIN_S:
                raise ResourceExhausted(STAYED_FULL) from error
        finally:
            self._waiting.pop(freed, None)

    def block_for_room(self, nbytes: int, deadline_ns: int, unwanted: Callable[[], bool]) -> None:
        """The same for a thread, until so many bytes are free. Raises Cancelled soon after `unwanted()` is true."""
        while not unwanted():
            left_s = (deadline_ns - monotonic_ns()) / NS_PER_S
            got = self.pool.wait(nbytes, max(0.0, min(left_s, PATIENCE_S)))
            if got is not None:
                region, _ = got
                self.pool.free(region.segment, region.offset)
                return
            if left_s <= 0:
                raise ResourceExhausted(STAYED_FULL)
        raise Cancelled("the caller gave up")

    def _wake_waiting(self) -> None:
        if self._waiting and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_on_loop)

    def _wake_on_loop(self) -> None:
        woken, self._waiting = self._waiting, {}
        for waiting in woken:
            if not waiting.done():
                waiting.set_result(None)

    def close(self) -> None:
        """Let go of all of it."""
        self.pool.close()
        self.mapped.close()
