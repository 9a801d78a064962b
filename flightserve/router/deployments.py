"""Which deployments a router serves: the routing table's view of it, and who comes with something else in mind.

The table may be behind or ahead of what callers and replicas know, and epochs say which of the two it is. Requests and
lanes that are ahead wait for the next table. Those that are behind are sent on: requests with `Moved`, lanes with
`Goodbye`. That holds for deployments that another router owns now, and for versions that were replaced.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence

from flightserve.clock import NEVER_NS, NS_PER_S
from flightserve.core.routing.statistics import WAIT_BOUNDS_NS
from flightserve.errors import KINDS, FlightserveError, NotFound, ProtocolError, Unavailable
from flightserve.measures import QUEUE_WAIT
from flightserve.router.chaining import may_go_on, next_request
from flightserve.router.dispatch import Dispatcher
from flightserve.router.links import PeerLink, RegionHold, Routed
from flightserve.router.queue_spans import QueueSpans
from flightserve.router.settling import refuse_all
from flightserve.types import MetricFamily
from flightserve.wire import frames
from flightserve.wire.table import RoutingTable

_UNAVAILABLE = KINDS.index(Unavailable)
_WAIT_BOUNDS_S = tuple([bound / NS_PER_S for bound in WAIT_BOUNDS_NS])
_NOT_FOUND = KINDS.index(NotFound)


class Deployments:
    """Iterates over the dispatchers; for the loop's thread. Connections in `dirty` have frames to be sent."""

    def __init__(self, router_id: int, requests_per_connection_max: int, spans: QueueSpans | None = None) -> None:
        self._router_id = router_id
        self._spans = spans
        self._requests_max = requests_per_connection_max
        # By the deployments' keys.
        self._dispatchers: dict[str, Dispatcher] = {}
        # Lanes whose deployment may come to this router with the next table.
        self._homeless: set[PeerLink] = set()
        # Requests from callers whose routing table is newer than ours.
        self._early: dict[PeerLink, list[tuple[frames.Submit, RegionHold]]] = {}
        # Counts of versions that are gone, by deployment: counters must not fall.
        self._past: dict[str, collections.Counter[str]] = {}
        self._table = RoutingTable(0)
        self._ids = itertools.count(1)
        self.dirty: set[PeerLink] = set()
        # Requests of pipelines, answered by one stage and to go on.
        self.through: list[Routed] = []
        # Some deployment here asks how long the calls ahead take.
        self._looks_ahead = False
        # The router takes nothing new.
        self.draining = False
        # Requests of pipelines that one stage answered: passed on to the next, and given back in the middle.
        self.passed_on = 0
        self.partway = 0
        # There may be something to `see_off`.
        self.departing = False

    def __iter__(self) -> Iterator[Dispatcher]:
        return iter(self._dispatchers.values())

    def outlook(self) -> tuple[int, int]:
        """When the first of the machines must hear of the time, and how many requests have no outcome yet."""
        wake_ns, live = NEVER_NS, 0
        for dispatcher in self._dispatchers.values():
            machine = dispatcher.machine
            # Not by `min`, which takes longer than all else here: this is done in every turn, for each.
            next_ns = machine.next_wake_ns
            wake_ns = next_ns if next_ns < wake_ns else wake_ns
            live += machine.live
        return wake_ns, live

    def __repr__(self) -> str:
        return f"<Deployments {', '.join(self._dispatchers)}; {len(self._homeless)} lanes wait for theirs>"

    def of(self, link: PeerLink) -> Dispatcher | None:
        """The dispatcher of a lane's deployment, if it is here."""
        return self._dispatchers.get(link.deployment)

    def answering(self, link: PeerLink) -> Dispatcher:
        """That of a lane which answers. Raises ProtocolError where there is none."""
        dispatcher = self._dispatchers.get(link.deployment)
        if dispatcher is None:
            raise ProtocolError(f"answer for {link.deployment!r}, which this router does not own")
        return dispatcher

    def statistics(self) -> dict[str, float]:
        """Those of all dispatchers, by `{name}.{statistic}`: versions of one deployment are one to who looks from
        outside. `going_requests` are those of versions that are not served any more, `early_requests` those that
        wait for a newer table. Any thread."""
        early = [len(frame.parts) for submits in list(self._early.values()) for frame, _ in submits]
        out: dict[str, float] = {"going_requests": 0.0, "early_requests": float(sum(early))}
        out |= {"passed_on": float(self.passed_on), "partway": float(self.partway)}
        for name, counts in list(self._past.items()):
            out |= {f"{name}.{statistic}": float(count) for statistic, count in counts.items()}
        for dispatcher in list(self._dispatchers.values()):
            statistics = dispatcher.statistics()
            for statistic, value in statistics.items():
                key = f"{dispatcher.spec.name}.{statistic}"
                out[key] = out.get(key, 0.0) + value
            if dispatcher.going:
                out["going_requests"] += statistics["live_requests"]
        return out

    def families(self) -> tuple[MetricFamily, ...]:
        """How long requests waited for their first run, by deployment. Any thread."""
        by_name: dict[str, list[float]] = {}
        for dispatcher in list(self._dispatchers.values()):
            found = dispatcher.machine.statistics()
            numbers = [*map(float, found.waits), found.counts["queue_wait_ns"] / NS_PER_S]
            # Of another version.
            before = by_name.get(dispatcher.spec.name, [0.0] * len(numbers))
            by_name[dispatcher.spec.name] = list(map(sum, zip(before, numbers, strict=True)))
        samples = tuple([((name,), tuple(numbers)) for name, numbers in by_name.items()])
        about = "From arrival to the first run"
        return (MetricFamily("histogram", QUEUE_WAIT, about, ("deployment",), _WAIT_BOUNDS_S, samples),)

    # ---- lanes

    def house(self, link: PeerLink, now_ns: int) -> None:
        """A replica's lane finds its deployment, waits for a table that says it is here, or is sent away."""
        dispatcher = self._dispatchers.get(link.deployment)
        if link.draining:
            return
        if dispatcher is not None and not dispatcher.leaving:
            self._homeless.discard(link)
            dispatcher.lane_up(link, now_ns)
        elif link.epoch > self._table.version or not self._is_elsewhere(link.deployment):
            self._homeless.add(link)
        else:
            self._send_away(link)

    def drain_lane(self, link: PeerLink, now_ns: int) -> None:
        """A replica's lane takes nothing new."""
        link.draining = True
        dispatcher = self._dispatchers.get(link.deployment)
        if dispatcher is not None and dispatcher.serves(link):
            dispatcher.drain(link, now_ns)
            self.departing = True
        else:
            self._send_away(link)

    def _send_away(self, link: PeerLink) -> None:
        self._homeless.discard(link)
        link.dismiss()
        self.dirty.add(link)

    def forget(self, link: PeerLink) -> None:
        """The connection ended."""
        self._homeless.discard(link)
        for frame, hold in self._early.pop(link, ()):
            _let_go(frame, hold)

    # ---- requests

    def submit(self, link: PeerLink, frame: frames.Submit, hold: RegionHold, now_ns: int) -> None:
        """Take in the requests of one frame, or say where they belong. Raises ProtocolError for too many."""
        if len(link.requests) + len(frame.parts) > self._requests_max:
            _let_go(frame, hold)
            raise ProtocolError(f"more than {self._requests_max} requests in flight on one connection")
        dispatcher = self._dispatchers.get(frame.deployment)
        if dispatcher is None or dispatcher.leaving:
            self._elsewhere(link, frame, hold)
        elif self.draining:
            refuse_all(link, frame, hold, _UNAVAILABLE, "the router is draining; try again")
        else:
            ahead_ns = self._ahead(frame.then, now_ns) if frame.then and dispatcher.in_time else None
            dispatcher.submit(link, frame, hold, now_ns, ahead_ns)
            return
        self.dirty.add(link)

    def go_on(self, now_ns: int) -> None:
        """Give the requests in `through` to their next stages; those that cannot go on, back to their callers."""
        through = self.through[:]
        self.through.clear()
        if len(through) == 1 and (only := self._next_of(through[0])) is not None:
            # As most come, and always where each runs apart.
            self._hand_on(only, through, now_ns)
            return
        onward: dict[tuple[str, str], list[Routed]] = {}
        behind: list[Routed] = []
        for request in through:
            if self._next_of(request) is None:
                behind.append(request)
            else:
                onward.setdefault((request.then[0].deployment, request.then[0].method), []).append(request)
        if behind:
            self.partway += len(behind)
            # One frame answered them all, so they were one deployment's.
            behind[0].dispatcher.answer_partway(behind)
        for (key, _), requests in onward.items():
            self._hand_on(self._dispatchers[key], requests, now_ns)

    def _next_of(self, request: Routed) -> Dispatcher | None:
        """Whose the request is next; None where it cannot go on here."""
        then = request.then
        dispatcher = self._dispatchers.get(then[0].deployment)
        if dispatcher is None or not dispatcher.takes(then[0].method, len(then) > 1):
            return None
        return dispatcher if may_go_on(request) else None

    def _hand_on(self, dispatcher: Dispatcher, requests: list[Routed], now_ns: int) -> None:
        """Give requests that one call answered to the deployment of the next, all for one method of it."""
        self.passed_on += len(requests)
        if self._looks_ahead:
            dispatcher.times.follow(requests[0].then[0].method)
        following = [next_request(each, next(self._ids), each.then[0], now_ns) for each in requests]
        if dispatcher.in_time:
            for each in following:
                each.ahead_ns = self._ahead(each.then, now_ns)(each.rows)
        dispatcher.take_on(following, now_ns)

    def _ahead(self, calls: Sequence[frames.NextCall], now_ns: int) -> Callable[[int], int]:
        """How long these calls take of a request with so many rows, as far as that is known here."""
        found = [(self._dispatchers.get(each.deployment), each.method) for each in calls]
        known = [(dispatcher.times, method) for dispatcher, method in found if dispatcher is not None]
        return lambda rows: sum([times.expected_ns(method, rows, now_ns) for times, method in known])

    def _elsewhere(self, link: PeerLink, frame: frames.Submit, hold: RegionHold) -> None:
        """The deployment is not ours: not yet, not any more, or nobody's. Whose table is newer knows."""
        if frame.epoch > self._table.version:
            early = self._early.setdefault(link, [])
            if sum(len(before.parts) for before, _ in early) > self._requests_max:
                _let_go(frame, hold)
                raise ProtocolError(f"too many requests for {frame.deployment!r}, which this router does not own")
            early.append((frame, hold))
        elif self._is_elsewhere(frame.deployment):
            link.channel.queue(frames.Moved([part.request_id for part in frame.parts]))
            _let_go(frame, hold)
        else:
            name = frame.deployment.rpartition("@")[0]
            refuse_all(link, frame, hold, _NOT_FOUND, f"no deployment {name!r} at this router")

    def _is_elsewhere(self, key: str) -> bool:
        """This version of the deployment is another router's, or another version of it is served now."""
        name = key.rpartition("@")[0]
        entries = self._table.deployments
        if any(entry.spec.name == name and entry.spec.key != key for entry in entries):
            return True
        return any(e.spec.key == key and e.router_id != self._router_id for e in (*entries, *self._table.others))

    # ---- the table

    def apply(self, table: RoutingTable, now_ns: int) -> list[tuple[PeerLink, FlightserveError]]:
        """Take over a newer table; returns connections that broke the protocol with what had waited for it."""
        if table.version <= self._table.version:
            return []
        self._table = table
        entries = (*table.deployments, *table.others)
        owned = {entry.spec.key: entry.spec for entry in entries if entry.router_id == self._router_id}
        served = {entry.spec.key for entry in table.deployments}
        for key, spec in owned.items():
            known = self._dispatchers.get(key)
            if known is None:
                made = self._dispatchers[key] = Dispatcher(spec, self._ids, self.dirty, self.through)
                made.spans = self._spans
            elif known.spec != spec:
                known.update(spec)
        for key, dispatcher in self._dispatchers.items():
            dispatcher.leaving = key not in owned
            dispatcher.going = key not in served
        self._looks_ahead = any(dispatcher.in_time for dispatcher in self)
        self.departing = True
        for link in list(self._homeless):
            self.house(link, now_ns)
        return self._submit_early(now_ns)

    def _submit_early(self, now_ns: int) -> list[tuple[PeerLink, FlightserveError]]:
        early, self._early = self._early, {}
        broken: list[tuple[PeerLink, FlightserveError]] = []
        for link, submits in early.items():
            waiting = iter(submits)
            try:
                for frame, hold in waiting:
                    self.submit(link, frame, hold, now_ns)
            except FlightserveError as error:
                broken.append((link, error))
                for frame, hold in waiting:
                    _let_go(frame, hold)
        return broken

    def see_off(self, now_ns: int) -> None:
        """End what is left of deployments that are not here any more, and let go of lanes that drain."""
        for key, dispatcher in list(self._dispatchers.items()):
            if dispatcher.see_off(now_ns):
                past = self._past.setdefault(dispatcher.spec.name, collections.Counter())
                past.update(dispatcher.machine.statistics().counts)
                del self._dispatchers[key]
        self.departing = any(dispatcher.departing for dispatcher in self)


def _let_go(frame: frames.Submit, hold: RegionHold) -> None:
    """None of the frame's requests needs the region."""
    for _ in frame.parts:
        hold.drop()
