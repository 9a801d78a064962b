"""When calls that nobody waits for any more cost a replica its place.

A method that was given up (its callers went away, or its deadline passed) is told so, and goes on until it returns: no
thread can be ended from outside. That harms nobody while others can be served beside it, and what it does may matter,
so it has until its deadline and a grace. The replica is retired, and another takes its place, when

- a call goes on after that,
- calls that were given up longer ago than the grace hold all lanes, or all places on the event loop where the `async
  def` methods have a lane of their own, so that nothing else of their kind can run, or
- one of them keeps the event loop of the `async def` methods from turning, for as long.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flightserve.clock import NS_PER_S


class GivenUp(NamedTuple):
    """A micro-batch that runs on: since when nobody waits for it, and the latest deadline of its requests. One that
    runs beside others on the event loop holds no lane. Times are monotonic ns."""

    method: str
    since_ns: int
    deadline_ns: int
    holds_lane: bool = True
    is_async: bool = False

    def ends_ns(self, grace_ns: int) -> int:
        """Until when it may run."""
        return max(self.since_ns, self.deadline_ns) + grace_ns


def why_retire(
    given_up: Sequence[GivenUp], lanes: int, side_by_side: int, blocked_ns: int, now_ns: int, grace_ns: int
) -> str:
    """Why the replica has to be retired, for people; "" where it has not. `side_by_side`: how many run at a time that
    hold no lane. `blocked_ns`: for how long the event loop of its methods has not turned by now."""
    for call in given_up:
        if now_ns > call.ends_ns(grace_ns):
            return f"{call.method} was given up {_s(now_ns - call.since_ns)} ago, is past its deadline, and still runs"
    long = [call for call in given_up if now_ns - call.since_ns > grace_ns]
    holding = [call.method for call in long if call.holds_lane]
    coroutines = [call.method for call in long if not call.holds_lane]
    for methods, most in ((holding, lanes), (coroutines, side_by_side)):
        if methods and len(methods) >= most:
            what = ", ".join(sorted(set(methods)))
            return f"all it can run at once is held by calls of {what} that were given up {_s(grace_ns)} ago or longer"
    awaited = [call.method for call in long if call.is_async]
    if awaited and blocked_ns > grace_ns:
        return f"{awaited[0]} keeps the event loop of its methods from turning, for {_s(blocked_ns)} by now"
    return ""


def _s(ns: int) -> str:
    return f"{ns / NS_PER_S:.1f} s"
