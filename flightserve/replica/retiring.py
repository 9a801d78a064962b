"""A replica that has to make room for another: whether it has, and until when it is still needed.

`core.lifecycle.retiring` decides. A replica that is retired takes nothing new: what had not begun to run goes back to
the router, what runs ends, and then the process does, without those calls that nobody waits for and that do not end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.lifecycle.retiring import GivenUp, why_retire
from flightserve.errors import FlightserveError
from flightserve.replica.binding import BoundMethod
from flightserve.replica.session import Post, ReplicaSession
from flightserve.types import DeploymentSpec

log = logging.getLogger(__name__)


class Retirement:
    """Of one replica. `post` is there where it has an event loop; `say_goodbye` asks its routers for nothing more.
    `retire` is for any thread, all else for one."""

    def __init__(
        self,
        spec: DeploymentSpec,
        methods: Mapping[str, BoundMethod],
        grace_s: float,
        post: Post | None,
        say_goodbye: Callable[[], None],
    ) -> None:
        # Why the replica is to be replaced; "" while it is not.
        self.reason = ""
        self._name = spec.name
        self._methods = methods
        self._lanes = spec.lanes
        self._grace_ns = int(grace_s * NS_PER_S)
        self._post = post
        self._say_goodbye = say_goodbye
        # When the loop was last asked to turn, until it has.
        self._asked_ns = 0

    def retire(self, why: str) -> None:
        """Take nothing new from here on. Only the first reason counts."""
        if not self.reason:
            log.error("%s is to be replaced: %s", self._name, why)
            # First, so that the router does not send once more what is refused for this reason.
            self._say_goodbye()
            self.reason = why

    def look(self, sessions: Iterable[ReplicaSession], waited_for: bool) -> None:
        """Retire the replica where it has to be now. `waited_for`: nothing begins before all that was given up has
        ended."""
        given_up = [self._given_up(*each) for session in sessions for each in session.abandoned()]
        if not given_up:
            return
        now_ns = monotonic_ns()
        blocked_ns = self._blocked_ns(now_ns) if any(call.is_async for call in given_up) else 0
        serial, side_by_side = (1, 1) if waited_for else self._lanes
        if why := why_retire(given_up, serial, side_by_side, blocked_ns, now_ns, self._grace_ns):
            self.retire(why)

    def is_over(self, session: ReplicaSession, batch_id: int) -> bool:
        """The micro-batch runs and is not waited for any more, by anybody."""
        calls = [self._given_up(*each) for each in session.abandoned() if each[0] == batch_id]
        return any(monotonic_ns() > call.ends_ns(self._grace_ns) for call in calls)

    def until_ns(self, sessions: Iterable[ReplicaSession]) -> int:
        """By when (monotonic ns) all that runs has ended, or is not waited for any more; 0 where nothing runs."""
        ends_ns = [0]
        for session in sessions:
            given_up = {each[0]: self._given_up(*each) for each in session.abandoned()}
            for batch_id, context in list(session.contexts.items()):
                call = given_up.get(batch_id)
                ends_ns.append(context.deadline if call is None else call.ends_ns(self._grace_ns))
        return max(ends_ns)

    def _given_up(self, batch_id: int, method: str, since_ns: int, deadline_ns: int) -> GivenUp:
        is_async = self._methods[method].spec.is_async
        holds_lane = not (is_async and self._lanes.side_by_side)
        return GivenUp(method, since_ns, deadline_ns, holds_lane, is_async)

    def _blocked_ns(self, now_ns: int) -> int:
        if not self._asked_ns:
            self._asked_ns = now_ns
            # Where there is none to ask, it does not turn.
            with contextlib.suppress(FlightserveError):
                if self._post is not None:
                    self._post(self._note_turn)
        return now_ns - self._asked_ns

    def _note_turn(self) -> None:
        self._asked_ns = 0
