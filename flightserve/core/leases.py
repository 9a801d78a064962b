"""Who may read which region: the owner's ledger of leases.

A region is granted to a holder (a peer, or the owner itself while it writes) as often as it is handed over, and is
freed when the last grant of the last holder comes back. A peer that dies gives back all it held. Regions and
holders are any hashable values; regions are usually (segment, offset). All operations O(1), but for `holder_died`,
which is linear in what the holder held.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from flightserve.errors import ProtocolError

RegionT = TypeVar("RegionT", bound=Hashable)
HolderT = TypeVar("HolderT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """Regions that are leased, leases over them (grants not yet returned), and holders of any."""

    regions: int
    leases: int
    holders: int


class Ledger(Generic[RegionT, HolderT]):
    """Counts of grants, by region and by holder."""

    __slots__ = ("_held", "_totals")

    def __init__(self) -> None:
        self._totals: dict[RegionT, int] = {}
        self._held: dict[HolderT, dict[RegionT, int]] = {}

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<Ledger {s.leases} leases over {s.regions} regions by {s.holders} holders>"

    def statistics(self) -> LedgerStatistics:
        """Counts at this moment. O(regions)."""
        return LedgerStatistics(len(self._totals), sum(self._totals.values()), len(self._held))

    def grant(self, region: RegionT, holder: HolderT, count: int = 1) -> None:
        """Hand the region over to the holder, `count` times."""
        if count < 1:
            raise ValueError(f"a region cannot be granted {count} times")
        totals = self._totals
        totals[region] = totals.get(region, 0) + count
        held = self._held.get(holder)
        if held is None:
            held = self._held[holder] = {}
        held[region] = held.get(region, 0) + count

    def release(self, region: RegionT, holder: HolderT, count: int = 1) -> bool:
        """The holder gives `count` grants back; True when the region is thereby free.

        Raises ProtocolError, and changes nothing, when it holds fewer.
        """
        held = self._held.get(holder)
        have = held.get(region, 0) if held is not None else 0
        if held is None or count < 1 or have < count:
            raise ProtocolError(f"{holder} gives back {count} leases of region {region} and holds {have}")
        if have > count:
            held[region] = have - count
        else:
            del held[region]
            if not held:
                del self._held[holder]
        return self._take(region, count)

    def holder_died(self, holder: HolderT) -> list[RegionT]:
        """The holder gives back all it held; the regions that are thereby free."""
        held = self._held.pop(holder, {})
        return [region for region, count in held.items() if self._take(region, count)]

    def leased(self, region: RegionT) -> bool:
        """True while anybody holds the region."""
        return region in self._totals

    def _take(self, region: RegionT, count: int) -> bool:
        left = self._totals[region] - count
        if left:
            self._totals[region] = left
            return False
        del self._totals[region]
        return True
