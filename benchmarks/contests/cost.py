"""What the processes of a system take: processor seconds and memory, of all that came from those that were started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.processes import descendants
from benchmarks.usage import Used, pss_mb


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds so far, by process."""

    cpu_s: dict[int, float]

    @classmethod
    def of(cls, roots: Sequence[int]) -> Self:
        """Of these processes and all that came from them; those that end meanwhile are left out."""
        found: dict[int, float] = {}
        for root in roots:
            for pid in descendants(root):
                try:
                    found[pid] = sum(Used.of(pid))
                except OSError:
                    continue
        return cls(found)

    def since(self, before: Cost) -> float:
        """Processor seconds since then; all those of a process that was not there."""
        return sum(seconds - before.cpu_s.get(pid, 0.0) for pid, seconds in self.cpu_s.items())

    def pss_mb(self) -> float:
        """Memory of the same processes now: what several share counts in parts."""
        total = 0.0
        for pid in self.cpu_s:
            try:
                total += pss_mb(pid)
            except OSError:
                continue
        return total
