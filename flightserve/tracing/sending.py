"""The thread that sends a process's spans, until it is told to end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from flightserve import threads
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.log_throttle import LogThrottle
from flightserve.tracing.otlp import Sender, sender
from flightserve.tracing.spans import Tracer, Value

log = logging.getLogger(__name__)

# How long spans wait for others.
PAUSE_S: Final = 1.0
# What waits when the process ends is sent within this.
LAST_S: Final = 1.5
# How often it may be told that a collector is gone, and is there again.
TELL_NS: Final = 600 * NS_PER_S
WHY_CHARACTERS_MAX: Final = 300


class Traces:
    """The traces of one process: `tracer` is for the tiers. To be made in the process that it is of, because no thread
    comes through a fork; `stop` at the end."""

    def __init__(self, endpoint: str, ratio: float, about: Mapping[str, Value]) -> None:
        self.tracer = Tracer(ratio)
        self._endpoint = endpoint
        self._sender: Sender = sender(endpoint, about)
        self._stopping = False
        self._telling = LogThrottle(TELL_NS)
        # Spans lost since it last took some, and whether that was told.
        self._lost_for, self._told = 0, False
        self._thread = threads.start("flightserve-traces", self._run, lambda: self._stopping, _go_on, again=True)

    def __repr__(self) -> str:
        return f"<Traces to {self._endpoint}, {self.tracer}>"

    def stop(self) -> None:
        """Send what waits, as far as that takes no longer than `LAST_S`."""
        self._stopping = True
        self.tracer.hurry()
        self._thread.join(LAST_S)
        # What is being sent ends with that.
        self._sender.close()

    def _run(self) -> None:
        last = False
        while not last:
            self.tracer.wait(PAUSE_S)
            # What has ended before it was told to stop is sent yet.
            last = self._stopping
            self._send()

    def _send(self) -> None:
        while spans := self.tracer.take():
            why = self._sender.send(spans)
            self.tracer.note(len(spans), not why)
            self._tell(len(spans), why)
            if why and self._stopping:
                return

    def _tell(self, count: int, why: str) -> None:
        """One line when a collector does not take what it is sent, and one when it does again."""
        if why:
            self._lost_for += count
            if not self._told and self._telling.count(monotonic_ns()):
                self._told = True
                said = why.partition("\n")[0][:WHY_CHARACTERS_MAX]
                log.warning("traces are dropped: the collector at %s does not take them: %s", self._endpoint, said)
            return
        if self._told:
            log.info("the collector of traces at %s takes them again; %d were lost", self._endpoint, self._lost_for)
        self._told, self._lost_for = False, 0


def _go_on(why: str) -> None:
    """The thread ended again and again: nobody's request fails for that."""
    log.error("there are no traces of this process any more: %s", why)
