"""A segment of another node, as far as its rows have come: memory that readers here map as they do any other.

Its pages are given by the kernel as they are written, so that a mirror takes no more than what was pulled into it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from flightserve.fabric.memory.segments import SEALS
from flightserve.wire.frames import Region, check_region


class Mirror:
    """A memfd of `nbytes`, sealed as its original, mapped writable as long as this object lives. Raises OSError where
    there is no memory or file descriptor for it."""

    __slots__ = ("_mapped", "fd", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.fd = os.memfd_create("flightserve-mirror", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, nbytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
            self._mapped = memoryview(mmap.mmap(self.fd, nbytes))
        except BaseException:
            os.close(self.fd)
            raise

    def __repr__(self) -> str:
        return f"<Mirror of {self.nbytes} bytes>"

    def __del__(self) -> None:
        if hasattr(self, "_mapped"):
            os.close(self.fd)

    def room(self, region: Region) -> memoryview:
        """Where the region's rows go. Raises ProtocolError for one outside the segment."""
        check_region(region, self.nbytes)
        return self._mapped[region.offset : region.offset + region.length]
