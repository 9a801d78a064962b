"""A channel whose frames never become bytes."""

from __future__ import annotations

import os
import socket
from typing import Any

from flightserve.wire import frames


class FakeChannel:
    """Frames that are sent lie in `sent`; none of them is ever a byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.closed = False
        self.known: set[tuple[int, int]] = set()
        self.queued: list[Any] = []
        self.queue = self.queued.append
        self.sent: list[Any] = []

    def announce(self, segment: frames.Segment, fd: int, keeper: object = None) -> None:
        os.fstat(fd)
        self.known.add((segment.owner, segment.segment))

    def flush(self) -> bool:
        self.sent += self.queued
        self.queued.clear()
        return True

    def close(self) -> None:
        self.closed = True
        self.socket.close()
