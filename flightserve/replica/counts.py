"""What a replica counts since its start. The names are those of `/metrics`."""

from __future__ import annotations

import collections
import threading

from flightserve.clock import NS_PER_S
from flightserve.wire.frames import Execute


class Counts:
    """Counters by name. Any thread."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Counts: {self._counts['micro_batches']} micro-batches>"

    def add(self, name: str, by: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += by

    def add_run(self, frame: Execute, busy_ns: int) -> None:
        """A micro-batch was answered; its method and the writing of its result took `busy_ns`."""
        parts = frame.parts
        rows = parts[0].rows if len(parts) == 1 else sum([part.rows for part in parts])
        with self._lock:
            counts = self._counts
            counts["micro_batches"] += 1
            counts["micro_batch_requests"] += len(parts)
            counts["micro_batch_rows"] += rows
            counts["busy_seconds"] += busy_ns / NS_PER_S  # type: ignore[assignment]

    def values(self) -> dict[str, float]:
        """All counters, as they are now."""
        with self._lock:
            return {name: float(value) for name, value in self._counts.items()}
