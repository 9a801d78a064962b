"""What a replica's connections to one router share: the micro-batches it gave and the results it was given.

A deployment may move to another router while micro-batches of the first still run. Each router numbers its own and
speaks of its own, so the books of one are never those of another. When the main connection to a router ends, all
that it gave is abandoned: nobody can be told the results.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable

from flightserve.clock import monotonic_ns
from flightserve.contracts.context import Context
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.wire.frames import Execute
from flightserve.wire.table import Peer

# More than the micro-batches that a router can have given one replica.
GIVEN_UP_MAX = 4096

_numbers = itertools.count(1)

# Calls a function on the event loop of the replica's `async def` methods. Any thread.
Post = Callable[..., None]


class ReplicaSession:
    """From the first connection to a router to the end of the main one. `epoch` is the deployment's, as the routing
    table had it; `post` is there where the replica has `async def` methods. Any thread."""

    def __init__(self, router: Peer, epoch: int, pool: SegmentPool, post: Post | None) -> None:
        self.router = router
        self.epoch = epoch
        # Later ones of this process have greater numbers.
        self.number = next(_numbers)
        # The main connection is no more.
        self.ended = False
        # Micro-batches that run, by their ids; the tasks of those on the event loop; and how many parts each stream
        # there may still send before its reader has taken some.
        self.contexts: dict[int, Context] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.windows: dict[int, asyncio.Semaphore] = {}
        # Results that the router was sent, as (segment, offset), and how often.
        self.outstanding: dict[tuple[int, int], int] = {}
        # What keeps results that lie in regions of others, by (owner, segment, offset).
        self.lent: dict[tuple[int, int, int], list[object]] = {}
        self._counting = threading.Lock()
        self._pool = pool
        self._post = post
        # Micro-batches nobody waits for, and since when.
        self._abandoned: dict[int, int] = {}
        # Those given up before they began to run: the word may come by the main connection while the micro-batch
        # waits in a lane, or lies in its socket. Oldest first.
        self._given_up: dict[int, None] = {}

    def __repr__(self) -> str:
        return (
            f"<ReplicaSession with router {self.router.id:x}: {len(self.contexts)} micro-batches run, "
            f"{len(self.outstanding)} results are out>"
        )

    # ---- micro-batches

    def begin(self, deployment: str, frame: Execute) -> Context:
        """The context of a micro-batch, from now on known as running; `leave` ends that. It is cancelled from the
        start where nobody wants the result any more."""
        context = self.contexts[frame.batch_id] = Context(deployment, frame.method, frame.parts)
        if self._given_up and frame.batch_id in self._given_up:
            self._given_up.pop(frame.batch_id, None)
            context.cancel()
        elif self.ended:
            context.cancel()
        return context

    def leave(self, batch_id: int) -> None:
        """The micro-batch's method has returned, or it has been turned away."""
        context = self.contexts.pop(batch_id, None)
        if context is not None:
            context.end()

    def give_up(self, batch_id: int) -> None:
        """The router says that nobody wants the result."""
        # Noted before it is looked for, as `begin` does it the other way round: one of the two sees the other.
        self._given_up[batch_id] = None
        context = self.contexts.get(batch_id)
        if context is not None:
            self._given_up.pop(batch_id, None)
            self._abandon(batch_id, context)
        elif len(self._given_up) > GIVEN_UP_MAX:
            # It had ended before the word of it came.
            self._given_up.pop(next(iter(self._given_up)), None)

    def _abandon(self, batch_id: int, context: Context) -> None:
        """Nobody wants the micro-batch's result: say so to its method, cancel it where it is a coroutine."""
        context.cancel()
        self._abandoned.setdefault(batch_id, monotonic_ns())
        if self._post is not None:
            self._post(self._cancel_task, batch_id)

    def _cancel_task(self, batch_id: int) -> None:
        task = self.tasks.get(batch_id)
        if task is not None:
            task.cancel()

    def abandoned(self) -> list[tuple[int, str, int, int]]:
        """Micro-batches that run on although nobody waits for them: id, method, since when, latest deadline."""
        out = []
        for batch_id, since_ns in list(self._abandoned.items()):
            context = self.contexts.get(batch_id)
            if context is None:
                self._abandoned.pop(batch_id, None)
            else:
                out.append((batch_id, context.method, since_ns, context.deadline))
        return out

    # ---- results

    def note_sent(self, segment: int, offset: int) -> None:
        """The router is about to be sent this result."""
        key = (segment, offset)
        with self._counting:
            self.outstanding[key] = self.outstanding.get(key, 0) + 1

    def lend(self, key: tuple[int, int, int], lease: object) -> None:
        """The router is about to be sent a result that lies in a region of another process, given as (owner, segment,
        offset). The lease keeps it until the router says that it has one of its own (`release`)."""
        with self._counting:
            self.lent.setdefault(key, []).append(lease)

    def release(self, keys: list[tuple[int, int, int]], lost: bool = False) -> None:
        """The router says that nobody reads these results any more, or that it has its own lease on them. `lost`: that
        nobody reads them for whom it can speak; others still may, so their memory is not written again."""
        # Let go of when the lock is free: what ends with the last lease takes locks of its own.
        let_go: list[object] = []
        for key in keys:
            owner, segment, offset = key
            if owner == self._pool.owner:
                self._free(segment, offset, lost)
                continue
            with self._counting:
                leases = self.lent.pop(key, [])
                let_go += leases[-1:]
                if len(leases) > 1:
                    self.lent[key] = leases[:-1]

    def _free(self, segment: int, offset: int, lost: bool) -> None:
        """Of a result that was sent several times, this ends one of them."""
        key = (segment, offset)
        with self._counting:
            count = self.outstanding.pop(key, 0)
            if count > 1:
                self.outstanding[key] = count - 1
        if count:
            (self._pool.abandon if lost else self._pool.free)(segment, offset)

    def let_on(self, batch_id: int, parts: int) -> None:
        """The reader of a stream on the event loop took so many parts, or has gone: the stream goes on."""
        window = self.windows.get(batch_id)
        if window is not None and self._post is not None:
            for _ in range(parts):
                self._post(window.release)

    def is_unread(self, batch_id: int) -> bool:
        """A stream on the event loop that waits for its reader."""
        window = self.windows.get(batch_id)
        return window is not None and window.locked()

    # ---- the end

    def end(self) -> None:
        """The main connection ended. Callers may still read results they were sent by way of this router: their
        segments are not written again."""
        self.ended = True
        for batch_id, context in list(self.contexts.items()):
            self._abandon(batch_id, context)
        self._given_up.clear()
        with self._counting:
            lost, self.outstanding = self.outstanding, {}
            lent, self.lent = self.lent, {}
        lent.clear()
        for key, count in lost.items():
            for _ in range(count):
                self._pool.abandon(*key)
