"""How many replicas a deployment is to have, from what routers and replicas count. Pure; one machine a deployment.

Three quantities say how it goes, over the time since the last look (`Load`):

- The *wait* of requests for their first run: the mean of those that left the queue, or what those in it have to expect
  (Little's law: the length of the queue over the rate at which it is served), or how long nothing has left it.
- The *work*: how many replicas the requests that come keep busy. That is their rate times what one of them takes, by
  the cheapest that it was: where replicas have room, micro-batches are small and dear, and to count those would hold
  on to replicas that nobody needs. It is known of requests that come, so that a queue does not hide it.
- Requests *refused* or expired for want of a replica, while those there are have enough to do.

Up: when requests wait longer than the target, or are refused, for `LATE_NS`. At once to as many as the work asks for,
at `FULL` of their time, with what is queued done within `CATCH_UP_NS`; or, where all that are wanted serve and have had
`SETTLE_NS`, to half as many more, whatever the work was thought to be. From none at once.

Down: when fewer would have done for `down_after_s`: when the work, at `CALM` of their time, asked for fewer all the
while. Then by a quarter, at least by one, at most to what was asked for; and again after as long.

It does not go to and fro under a load that stays: between `CALM` and `FULL` nothing is done, and how much work was too
much for a number of replicas is remembered; they are not tried again before there is less, by `SHORT_MARGIN`. To none
it goes when nothing came at all and nothing is left.
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

from flightserve.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from flightserve.types import Autoscale

LATE_NS: Final = NS_PER_S
SETTLE_NS: Final = 3 * NS_PER_S
CATCH_UP_NS: Final = 10 * NS_PER_S
FULL: Final = 0.8
CALM: Final = 0.6
SHORT_MARGIN: Final = 0.8
# Refusals ask for more replicas only where those there are work for so much of their time: a deadline that is shorter
# than the method takes is nothing that replicas help against.
OCCUPIED: Final = 0.5
# Rates and costs are means over about so long, or over two runs of the method where that is more.
MEMORY_NS: Final = 2 * NS_PER_S
# What a request takes at the cheapest rises by as much of itself in that time: what held in the morning holds in the
# evening, and is forgotten within days. Code that is deployed is learnt anew.
COST_FORGET_NS: Final = 6 * 3600 * NS_PER_S
# Where more cannot be placed, it is tried again after that long.
PLACE_AGAIN_NS: Final = 30 * NS_PER_S


class Load(NamedTuple):
    """What came to pass in the last `span_ns`, and what is now. Counts are of requests, times in ns; `waited_ns` is of
    the requests that `left` the queue, together, `busy_ns` of all replicas. `lanes`: micro-batches that one replica
    runs at once. `placed`: where some replicas cannot be placed, how many are; else None."""

    span_ns: int
    arrived: int = 0
    left: int = 0
    waited_ns: int = 0
    ended: int = 0
    busy_ns: int = 0
    refused: int = 0
    queued: int = 0
    live: int = 0
    in_flight: int = 0
    ready: int = 0
    lanes: int = 1
    placed: int | None = None


class Decision(NamedTuple):
    """How many replicas there are to be, and why, for people."""

    replicas: int
    why: str


class Autoscaler:
    """Of one deployment. `linger_ns` is waited on purpose, which more replicas change nothing about."""

    def __init__(self, bounds: Autoscale, linger_ns: int, now_ns: int) -> None:
        self.bounds = bounds
        self._linger_ns = linger_ns
        self._target_ns = bounds.target_queue_ms * NS_PER_MS
        self._down_after_ns = round(bounds.down_after_s * NS_PER_S)
        # Requests that come in a ns, and what one takes: of late, and at the cheapest (0: not known).
        self._rate = 0.0
        self._busy = self._ended = 0.0
        self._cost_ns = 0.0
        self._stuck_ns = 0
        self._late_since_ns: int | None = None
        self._whole_since_ns: int | None = None
        # Since when fewer would do, and how many, at most.
        self._calm_since_ns = now_ns
        self._calm_most = 0
        # By number of replicas, the least work that was too much for them.
        self._short: dict[int, float] = {}
        self._placed: int | None = None
        self._place_again_ns = 0
        self._before = -1

    def __repr__(self) -> str:
        return f"<Autoscaler {self.bounds}: {self._rate * NS_PER_S:.3g} requests a second of {self._cost_ns:.3g} ns>"

    @property
    def limited(self) -> bool:
        """More replicas could not be placed, and are not tried for now."""
        return self._placed is not None

    def decide(self, wanted: int, load: Load, now_ns: int) -> Decision:
        """How many there are to be after this look, where `wanted` are to be now."""
        if wanted != self._before:
            # Ours, or a number that was given by hand: it is tried for a while.
            self._before = wanted
            self._be_calm(now_ns)
        self._learn(load)
        wait_ns = self._wait_ns(load)
        self._look(wanted, load, wait_ns, now_ns)
        work = self._work(load)
        replicas, why = self._up(wanted, load, work, wait_ns, now_ns) or self._down(wanted, load, work, now_ns)
        return Decision(*self._bounded(replicas, why, load, now_ns))

    # ---- what is known

    def _learn(self, load: Load) -> None:
        span_ns = load.span_ns
        memory_ns = max(MEMORY_NS, 2 * self._cost_ns)
        self._rate += (load.arrived / span_ns - self._rate) * span_ns / (memory_ns + span_ns)
        keep = memory_ns / (memory_ns + span_ns)
        self._busy = self._busy * keep + load.busy_ns
        self._ended = self._ended * keep + load.ended
        if load.ended and self._busy:
            before_ns = self._cost_ns * (1 + span_ns / COST_FORGET_NS)
            self._cost_ns = min(self._busy / self._ended, before_ns or NEVER_NS)

    def _wait_ns(self, load: Load) -> float:
        self._stuck_ns = self._stuck_ns + load.span_ns if load.queued and not load.left else 0
        if not load.left:
            return float(self._stuck_ns)
        mean_ns = load.waited_ns / load.left - self._linger_ns
        return max(mean_ns, load.queued * load.span_ns / load.left)

    def _work(self, load: Load) -> float:
        """How many replicas the requests that come keep busy."""
        return self._rate * self._cost_ns / load.lanes

    def _running(self, load: Load) -> int:
        """How many replicas what runs takes, where that is longer than a look: its time is counted when it ends."""
        return 0 if load.ended else min(ceil(load.in_flight / load.lanes), load.ready)

    def _look(self, wanted: int, load: Load, wait_ns: float, now_ns: int) -> None:
        """Note since when requests are late, and since when all replicas that are wanted serve."""
        occupied = load.busy_ns >= OCCUPIED * load.span_ns * load.ready * load.lanes
        if wait_ns > self._target_ns or (load.refused and load.ready and occupied):
            self._late_since_ns = now_ns - load.span_ns if self._late_since_ns is None else self._late_since_ns
        else:
            self._late_since_ns = None
        if load.ready < wanted:
            self._whole_since_ns = None
        elif self._whole_since_ns is None:
            self._whole_since_ns = now_ns

    def _be_calm(self, now_ns: int) -> None:
        self._calm_since_ns, self._calm_most = now_ns, 0

    # ---- what follows

    def _up(self, wanted: int, load: Load, work: float, wait_ns: float, now_ns: int) -> tuple[int, str] | None:
        """More, or as many while requests are late; None where they are not."""
        if not wanted:
            return (1, "requests came") if load.live or load.arrived else None
        if self._late_since_ns is None:
            return None
        self._be_calm(now_ns)
        waits = f"requests wait {wait_ns / NS_PER_MS:.3g} ms, and are to wait {self.bounds.target_queue_ms:g}"
        why = waits if wait_ns > self._target_ns else f"{load.refused} requests were refused or expired"
        if now_ns - self._late_since_ns < LATE_NS:
            return wanted, why
        asked = ceil((work + load.queued * self._cost_ns / load.lanes / CATCH_UP_NS) / FULL)
        if self._whole_since_ns is not None and now_ns - self._whole_since_ns >= SETTLE_NS:
            self._short[wanted] = min(work, self._short.get(wanted, work))
            asked = max(asked, wanted + max(1, wanted // 2))
        return max(wanted, asked), why

    def _down(self, wanted: int, load: Load, work: float, now_ns: int) -> tuple[int, str]:
        """Fewer, where fewer would have done for long enough."""
        asked = self._enough(load, work)
        if asked >= wanted:
            self._be_calm(now_ns)
            return wanted, "as many as the work asks for" if wanted else "no requests"
        self._calm_most = max(self._calm_most, asked)
        left_ns = self._calm_since_ns + self._down_after_ns - now_ns
        fewer = max(self._calm_most, wanted - max(1, wanted // 4))
        if left_ns > 0:
            return wanted, f"{fewer} would do; if that stays so, in {left_ns / NS_PER_S:.0f} s"
        return fewer, f"{fewer} would have done for {self.bounds.down_after_s:g} s"

    def _enough(self, load: Load, work: float) -> int:
        """How many would do for this work."""
        if not (load.live or load.arrived or load.queued):
            # The rate falls towards nothing and never gets there.
            return 0 if self._rate * self._down_after_ns < 1 else 1
        asked = max(1, ceil(work / CALM), self._running(load))
        short = [count for count, least in self._short.items() if work > least * SHORT_MARGIN]
        return max([asked, *(count + 1 for count in short)])

    def _bounded(self, replicas: int, why: str, load: Load, now_ns: int) -> tuple[int, str]:
        low, high = self.bounds.low, self.bounds.high
        if load.placed is not None:
            self._placed, self._place_again_ns = load.placed, now_ns + PLACE_AGAIN_NS
        elif now_ns >= self._place_again_ns:
            self._placed = None
        if self._placed is not None and replicas > max(self._placed, low):
            left_s = (self._place_again_ns - now_ns) / NS_PER_S
            return max(self._placed, low), f"{why}; more cannot be placed, which is tried again in {left_s:.0f} s"
        if replicas > high:
            return high, f"{why}; there are to be at most {high}"
        return (replicas, why) if replicas >= low else (low, f"there are to be at least {low}")
