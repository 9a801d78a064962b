"""Who may still read a region: counted where both sides are seen, undone when a reader's connection ends.

A `Hold` counts the reasons to keep one region: requests that are not settled, micro-batches that run over it,
leases of processes it was sent to. `Leases` are those of one connection, so that its end can give them back.
Regions are any hashable keys. All operations are O(1), but for `Leases.end`, which is linear in what is leased.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from flightserve.errors import ProtocolError

KeyT = TypeVar("KeyT", bound=Hashable)
HoldT = TypeVar("HoldT", bound="Hold")


class Hold:
    """A region somebody may still read. `freed` is called once, when the last reason has gone.

    `lost` is true once a reader was cut off while it may have been reading: the owner must then not write
    there again, though nobody waits for the region any more.
    """

    __slots__ = ("lost", "refs")

    def __init__(self, refs: int) -> None:
        self.refs = refs
        self.lost = False

    def freed(self) -> None:
        """Nobody needs the region any more. For subclasses."""

    def drop(self) -> None:
        """One reason to keep the region less."""
        self.refs -= 1
        if self.refs == 0:
            self.freed()

    def lose(self) -> None:
        """As `drop`, for a reader that was cut off and may still be reading."""
        self.lost = True
        self.drop()


class Leases(Generic[KeyT, HoldT]):
    """What one connection's process was granted and has not given back. A region may be granted several times."""

    __slots__ = ("_holds",)

    def __init__(self) -> None:
        self._holds: dict[KeyT, list[HoldT]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._holds.values()))

    def __repr__(self) -> str:
        return f"<Leases: {len(self)} on {len(self._holds)} regions>"

    def take_over(self, key: KeyT, hold: HoldT) -> None:
        """A reason that already counts becomes a lease: it will be given back by its key."""
        holds = self._holds.get(key)
        if holds is None:
            self._holds[key] = [hold]
        else:
            holds.append(hold)

    def grant(self, key: KeyT, hold: HoldT) -> None:
        """The region was sent to the process: one reason more to keep it."""
        hold.refs += 1
        # As `take_over`, in one call.
        holds = self._holds.get(key)
        if holds is None:
            self._holds[key] = [hold]
        else:
            holds.append(hold)

    def release(self, key: KeyT) -> None:
        """The process gives one lease back. Raises ProtocolError where it holds none."""
        holds = self._holds.get(key)
        if holds is None:
            raise ProtocolError("process released a region it holds no lease on")
        hold = holds.pop()
        if not holds:
            del self._holds[key]
        # As `drop`, in one call.
        hold.refs -= 1
        if hold.refs == 0:
            hold.freed()

    def find(self, key: KeyT) -> HoldT | None:
        """What it was granted of a region, if anything."""
        holds = self._holds.get(key)
        return holds[-1] if holds else None

    def end(self) -> None:
        """The connection ended: all its leases are lost."""
        ended, self._holds = self._holds, {}
        for holds in ended.values():
            for hold in holds:
                hold.lose()
