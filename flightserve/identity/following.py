"""Follows a file: what it says is taken up within a second, also where another file was put in its place.

The content is compared, not the date: editors, mounted secrets and clocks that were set leave dates as they like.
What cannot be taken up is told once; what was taken before stays in force.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from flightserve import threads
from flightserve.errors import FlightserveError

log = logging.getLogger("flightserve.identity")

LOOK_S: Final = 0.5


class FollowedFile:
    """`look` is for one thread."""

    def __init__(self, path: str, read: Callable[[str], bytes], take: Callable[[bytes], None]) -> None:
        """`read` gives the content, `take` takes it up; both raise a FlightserveError where that cannot be."""
        self._path = path
        self._read = read
        self._take = take
        self._last: bytes | None = None
        self._told = ""
        self._taken = False

    def __repr__(self) -> str:
        return f"<FollowedFile {self._path}>"

    def look(self) -> bool:
        """Whether the file had changed, and was taken up."""
        try:
            data = self._read(self._path)
        except FlightserveError as error:
            # Where the same comes back, it is taken again.
            self._last = None
            self._tell(error.message)
            return False
        if data == self._last:
            return False
        self._last = data
        try:
            self._take(data)
        except FlightserveError as error:
            self._tell(error.message)
            return False
        self._told, self._taken = "", True
        return True

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            meanwhile = "what it said before holds" if self._taken else "nobody is recognised until it is mended"
            log.error("%s; %s", why, meanwhile)


class FollowingThread:
    """Calls `look` twice a second, from `start` to `stop`."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._stopping = threading.Event()

    def start(self) -> None:
        """Look from now on."""
        threads.start("flightserve-identity", self._run, self._stopping.is_set, again=True)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self._look()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
