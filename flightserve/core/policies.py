"""The ordering policies, by the name a deployment gives as `router`. A new policy is a `Queue` and a line here."""

from __future__ import annotations

from collections.abc import Callable

from flightserve.core.queue import DeadlineQueue, FifoQueue, Queue

POLICIES: dict[str, Callable[[], Queue]] = {"fifo": FifoQueue, "deadline": DeadlineQueue}
