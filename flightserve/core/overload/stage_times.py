"""How long the calls take that are ahead of a pipeline's request: what its deadline leaves for the one that it waits
for.

A stage of a pipeline has to be through by the request's deadline less the time of the stages behind it. That time is
what their methods took lately (`service_times`), each as a micro-batch of the request alone; waiting is not in it, nor
is anything that is not known. So a request is never refused on account of what is only guessed.
"""

from __future__ import annotations

from typing import Final

from flightserve.core.overload.service_times import ServiceTime

METHODS_MAX: Final = 1024


class StageTimes:
    """Of one deployment's methods that are stages behind others."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self.methods: dict[str, ServiceTime] = {}

    def __repr__(self) -> str:
        return f"<StageTimes of {len(self.methods)} methods>"

    def follow(self, method: str) -> None:
        """From now on its times are wanted."""
        if method not in self.methods and len(self.methods) < METHODS_MAX:
            self.methods[method] = ServiceTime(self._rows_max)

    def ran(self, method: str, rows: int, busy_ns: int, now_ns: int) -> None:
        """A micro-batch of it took so long."""
        times = self.methods.get(method)
        if times is not None and busy_ns:
            times.ended_ns = now_ns
            times.add(rows, busy_ns)

    def expected_ns(self, method: str, rows: int, now_ns: int) -> int:
        """How long so many rows should take; 0 where that is not known."""
        times = self.methods.get(method)
        return int(times.expected_ns(rows)) if times is not None and times.known(now_ns) else 0
