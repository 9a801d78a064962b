"""Numbers of replicas that follow the load: what children report becomes `Load`s, decisions become another layout.

Looks whenever the router that owns a deployment has reported again. Counters of all routers count, because a deployment
that moved left some of its own behind; of a router that is new, what comes after its first report. A deployment that a
change is about stays as it is until that has ended, and goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.control.desired import Desired
from flightserve.control.roster import Record, Roster
from flightserve.control.views import is_ready
from flightserve.core.lifecycle.autoscaling import Autoscaler, Load
from flightserve.core.lifecycle.reconciling import ROUTER
from flightserve.types import Autoscale, DeploymentSpec

log = logging.getLogger("flightserve.told")

# What a deadline that more replicas would have kept is counted as, and what bounds of the queue are.
REFUSED: Final = ("would_miss", "would_miss_queued", "expired_queued", "shed", "shed_wait", "shed_limit", "over_target")


class _Watched:
    """One deployment: its machine, and what children had counted at the last look."""

    def __init__(self, spec: DeploymentSpec, bounds: Autoscale, now_ns: int) -> None:
        self.spec = spec
        self.autoscaler = Autoscaler(bounds, round(spec.options.linger_ms * NS_PER_MS), now_ns)
        self._before: dict[int, Mapping[str, float]] = {}
        # What more replicas would take, when that was asked for last.
        self.placement_problem = ""

    def look(self, routers: Mapping[int, Record], owner: Record) -> Mapping[str, float] | None:
        """How much each counter of the deployment, and of its owner, grew since the last look; None for the first
        one, or where the owner has not reported since."""
        name, grown = f"{self.spec.name}.", dict[str, float]()
        before, now = self._before.get(owner.peer_id), owner.statistics
        if before is not None and before.get("uptime_s") == now.get("uptime_s"):
            return None
        for peer_id, record in routers.items():
            earlier = self._before.get(peer_id)
            if earlier is None:
                continue
            for key, value in record.statistics.items():
                if key.startswith(name):
                    counter = key.removeprefix(name)
                    grown[counter] = grown.get(counter, 0.0) + max(0.0, value - earlier.get(key, 0.0))
        self._before = {peer_id: record.statistics for peer_id, record in routers.items()}
        return None if before is None else grown | {"span_s": now.get("uptime_s", 0.0) - before.get("uptime_s", 0.0)}


class Autoscaling:
    """Of all deployments of an app that ask for it. `changed` is called whenever there is another layout."""

    def __init__(self, desired: Desired, roster: Roster, changed: Callable[[], None]) -> None:
        self._desired = desired
        self._roster = roster
        self._changed = changed
        self._watched: dict[str, _Watched] = {}

    def __repr__(self) -> str:
        return f"<Autoscaling {', '.join(self._watched) or 'nothing'}>"

    def step(self, now_ns: int) -> None:
        """Look at what was reported, and have as many replicas as that asks for."""
        following = self._desired.following()
        self._watched = {name: watched for name, watched in self._watched.items() if name in following}
        self._roster.whys = {name: why for name, why in self._roster.whys.items() if name in following}
        if not following or not self._roster.was_ready:
            return
        for spec in self._desired.specs(self._desired.layout.served):
            if spec.name in following:
                self._follow(spec, following[spec.name], now_ns)

    def _follow(self, spec: DeploymentSpec, bounds: Autoscale, now_ns: int) -> None:
        watched = self._watched.get(spec.name)
        if watched is None or watched.autoscaler.bounds != bounds or watched.spec.version != spec.version:
            watched = self._watched[spec.name] = _Watched(spec, bounds, now_ns)
        owner = self._roster.owner_of(spec.name, spec.version)
        if owner is None:
            return
        routers = {peer_id: each for peer_id, each in self._roster.records.items() if each.slot.tier == ROUTER}
        grown = watched.look(routers, owner)
        if grown is None or grown["span_s"] <= 0:
            return
        wanted = spec.options.replicas
        load = self._load(spec, owner, grown, now_ns)
        if load.placed is not None:
            watched.placement_problem = self._roster.placement_problem
        replicas, why = watched.autoscaler.decide(wanted, load, now_ns)
        if watched.autoscaler.limited:
            why = f"{why}; {watched.placement_problem}"
        self._roster.whys[spec.name] = why
        if replicas != wanted and self._desired.resize(spec.name, replicas):
            log.info("%s from %d to %d replicas: %s", spec.name, wanted, replicas, why)
            self._changed()

    def _load(self, spec: DeploymentSpec, owner: Record, grown: Mapping[str, float], now_ns: int) -> Load:
        def count(*names: str) -> int:
            return round(sum(grown.get(name, 0.0) for name in names))

        def gauge(name: str) -> int:
            return round(owner.statistics.get(f"{spec.name}.{name}", 0.0))

        replicas = [
            record for record in self._roster.records.values()
            if (record.slot.deployment, record.version) == (spec.name, spec.version)
        ]  # fmt: skip
        lanes = spec.lanes
        return Load(
            span_ns=round(grown["span_s"] * NS_PER_S),
            arrived=count("arrived"),
            left=count("queue_waits"),
            waited_ns=count("queue_wait_ns"),
            # Errors are often quicker than answers, and tell nothing of what those take.
            ended=count("completed"),
            busy_ns=count("busy_ns"),
            refused=count(*REFUSED),
            queued=gauge("queued_requests"),
            live=gauge("live_requests"),
            in_flight=gauge("in_flight_batches"),
            ready=sum(map(is_ready, replicas)),
            lanes=lanes.serial + lanes.side_by_side,
            placed=self._placed(spec, replicas, now_ns),
        )

    def _placed(self, spec: DeploymentSpec, replicas: list[Record], now_ns: int) -> int | None:
        """How many have a process, where others wait for resources that there are not."""
        waiting = {record.peer_id for record in self._roster.unplaced(now_ns, 0)}
        ours = [record for record in replicas if record.peer_id in waiting]
        reserves = self._desired.want(ours[0].slot, spec.version).amounts if ours else {}
        short = self._roster.placement_problem or self._roster.nodes_awaited
        return len(replicas) - len(ours) if reserves and short else None
