"""What other threads want done on the router's loop: a queue and a pipe that wakes it."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Callable


class Mailbox:
    """`put` from any thread, the rest from the loop's. `fd` is readable while something waits."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()
        self.fd, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Guards the write end against being closed, and its number used again, under a writer.
        self._waking = threading.Lock()
        self._closed = False

    def put(self, action: Callable[[], None]) -> None:
        """Have `action` run on the loop; never, once closed."""
        self._waiting.append(action)
        with self._waking, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake, b"\0")

    def run(self) -> None:
        """Run what waits."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        while self._waiting:
            self._waiting.popleft()()

    def close(self) -> None:
        """Close the pipe. Idempotent."""
        with self._waking:
            if not self._closed:
                self._closed = True
                os.close(self.fd)
                os.close(self._wake)
