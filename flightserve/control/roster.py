"""What the supervisor knows: the children, their failures, and what follows from both (table, view).

No Ray, no socket, no clock: times come in as monotonic ns. The supervisor's shell feeds it and carries out
what `plan_actions` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from flightserve.control.desired import Desired
from flightserve.control.messages import Announce, Report, View, notes_of
from flightserve.control.nodes import entrance
from flightserve.control.plan import Plan
from flightserve.control.told import ailing, measured, peer_of
from flightserve.control.views import child_view, counts_of, deployment_views, is_ready
from flightserve.core.lifecycle.phases import LIVE, Event, Phase, step
from flightserve.core.lifecycle.reconciling import (
    FRONTEND,
    NS_PER_S,
    REPLICA,
    ROUTER,
    STANDBY,
    Action,
    Child,
    Failures,
    Slot,
    reconcile,
)
from flightserve.core.lifecycle.updating import Layout, Observed
from flightserve.fabric.transport.processes import Industry, ProcessLook
from flightserve.types import DeploymentSpec, MetricFamily
from flightserve.wire.table import Entry, RoutingTable, assign

# A child that served this long did not fail by itself: its slot's count of failures starts again.
STABLE_NS = 5 * NS_PER_S
# Deaths without a word (os._exit, out of memory) that a slot may have before the start is given up.
START_ATTEMPTS = 3
DRAIN_GRACE_S = 10.0
# A version that is not served any more has come to rest when for so long no router had a request of it: several
# heartbeats, and longer than a caller takes between its look at the routing table and its sending.
QUIET_NS = 2 * NS_PER_S
# A replica that is retired gets so much longer than what it runs, to exit.
RETIRED_GRACE_NS = 5 * NS_PER_S

# What killed a process that said nothing is for the kernel to know, where it does.
UNSAID = "it said nothing (killed, perhaps because memory was short, or ended by os._exit)"

IN_TABLE = frozenset({Phase.SERVING, Phase.SUSPECT, Phase.DRAINING})


@dataclass(slots=True)
class Record:
    """One child, from the call that starts it (`asked_ns`) to its exit."""

    peer_id: int
    slot: Slot
    version: str
    actor: str
    phase: Phase
    since_ns: int
    heard_ns: int
    asked_ns: int
    pid: int = 0
    node: str = ""
    endpoint: str = ""
    ready: bool = False
    stopped: bool = False
    # While it is silent, whether it works all the same.
    industry: Industry = field(default_factory=Industry)
    busy: bool = False
    # It is retired, and has until then.
    until_ns: int = 0
    last_words: str = UNSAID
    addresses: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    table_version: int = 0
    note: str = ""
    # What a replica has been told of its configuration; None where a supervisor before this one told it.
    config: bytes | None = None
    # Why it is not well by its own word, and whether it was told to make room for another.
    ailing: str = ""
    makes_room: bool = False
    families: tuple[MetricFamily, ...] = ()
    # How long it served, once it does not any more.
    served_ns: int = 0

    def observed(self, leaves_ns: int) -> Child:
        """As the pure function wants it. `leaves_ns`: by when it drains because its node leaves."""
        return Child(
            self.peer_id, self.slot, self.version, self.phase, self.since_ns, self.heard_ns,
            self.stopped, self.busy, self.until_ns, self.ready, leaves_ns,
        )  # fmt: skip

    def looked(self, look: ProcessLook | None, now_ns: int) -> None:
        """What the kernel says of the process, which is silent."""
        self.stopped = look is not None and look.stopped
        self.busy = look is not None and self.industry.busy(look.ticks, now_ns)


class Owner(NamedTuple):
    """The router that owns a deployment (0: none), since the table of which version."""

    router_id: int
    epoch: int


class Roster:
    """All children by peer id. Invariant: a record's phase changes only through `lifecycle.step`."""

    def __init__(self, plan: Plan, node: str, desired: Desired | None = None) -> None:
        self._plan = plan
        self.node = node
        self._desired = desired or Desired(plan)
        # Drains end by themselves; this is for those that do not.
        drain_ns = int((plan.options.drain_timeout_s + DRAIN_GRACE_S) * NS_PER_S)
        self._limits = replace(plan.limits.reconcile, drain_ns=max(drain_ns, plan.limits.reconcile.drain_ns))
        self._failures: dict[Slot, Failures] = {}
        self._restarts: dict[Slot, int] = {}
        # Why the last child of a place is not there any more, where it was not asked to leave.
        self._last_words: dict[Slot, str] = {}
        # A frontend's addresses outlive it, so that its successor takes the same ports.
        self._addresses: dict[str, dict[str, str]] = {}
        self._owners: dict[tuple[str, str], Owner] = {}
        self.records: dict[int, Record] = {}
        self.was_ready = False
        self.draining = False
        self.failure = ""
        self.detail = ""
        self.placement_problem = ""
        # What has no room, while another node is waited for.
        self.nodes_awaited = ""
        # What keeps the supervisor from starting anything.
        self.trouble = self.lost = ""
        self.raylet_pid = 0
        # What keeps the change that is under way from its end, and a traceback.
        self.change_failure: tuple[str, str] | None = None
        # Why deployments whose number follows the load have as many replicas as they have.
        self.whys: dict[str, str] = {}
        # The layout that tables are of, since which version.
        self._published: tuple[Layout | None, int] = (None, 0)
        self._busy_ns = 0

    def __repr__(self) -> str:
        serving = sum(record.phase is Phase.SERVING for record in self.records.values())
        return f"<Roster {serving} of {len(self._needed())} serving, {len(self.records)} known>"

    # ---- what happened

    def started(self, peer_id: int, slot: Slot, version: str, actor: str, now_ns: int) -> Record:
        """A child was asked of Ray."""
        record = Record(peer_id, slot, version, actor, Phase.STARTING, now_ns, now_ns, now_ns, node=self.node)
        self.records[peer_id] = record
        return record

    def announced(self, message: Announce, now_ns: int) -> Record:
        """A child connected: one we started, or one that a supervisor before us did (it is adopted)."""
        record = self.records.get(message.peer_id)
        if record is None:
            record = self.started(message.peer_id, message.slot, message.version, message.actor, now_ns)
        record.pid, record.node, record.endpoint = message.pid, message.node, message.endpoint
        self._desired.nodes.heard(message.slot, message.node)
        record.heard_ns = now_ns
        if message.addresses:
            record.addresses = dict(message.addresses)
            self._addresses[message.slot.name] = record.addresses
        # What a standby said before it heard that it is another child now does not count.
        if message.serving and record.phase is not Phase.SERVING and message.slot == record.slot:
            record.ready = False
            self._move(record, Event.SERVES, now_ns)
        return record

    def assigned(self, slot: Slot, version: str, connected: Container[int], now_ns: int) -> Record | None:
        """Give a place to a standby that waits for one and is connected: its record, which is that place's from now
        on; None where there is none."""
        for record in self.records.values():
            waits = record.slot.tier == STANDBY and record.phase is Phase.SERVING and record.ready
            if waits and record.peer_id in connected:
                record.slot, record.version, record.asked_ns = slot, version, now_ns
                record.ready, record.statistics = False, {}
                self._move(record, Event.ASSIGNED, now_ns)
                return record
        return None

    def replicas_of(self, deployment: str) -> tuple[dict[int, str], list[int]]:
        """The deployment's replicas, of whatever version: those that serve, by id with their names, and those that are
        starting."""
        slots = [
            record
            for record in self.records.values()
            if record.slot.tier == REPLICA and record.slot.deployment == deployment
        ]
        serving = {each.peer_id: each.slot.name for each in slots if each.phase in (Phase.SERVING, Phase.SUSPECT)}
        return serving, [each.peer_id for each in slots if each.phase is Phase.STARTING]

    def reported(self, record: Record, message: Report, now_ns: int) -> bool:
        """A heartbeat; True when it changes the routing table."""
        before = (record.ready, record.phase, record.note)
        record.heard_ns = now_ns
        record.ready = message.ready
        record.note = "; ".join(filter(None, (message.note, message.ailing)))
        record.ailing = message.ailing
        record.statistics = message.statistics
        record.families = message.families
        record.table_version = message.table_version
        record.stopped = record.busy = False
        record.industry.rest()
        if record.until_ns and message.unfit:
            record.until_ns = now_ns + message.left_ns + RETIRED_GRACE_NS
        if message.statistics.get("going_requests"):
            self._busy_ns = now_ns
        self._move(record, Event.HEARD, now_ns)
        return (record.ready, record.phase, record.note) != before

    def happened(self, record: Record, event: Event, now_ns: int) -> None:
        """SILENT, DRAIN, KILL or EXITED."""
        if record.phase is Phase.GONE:
            return
        unexpected = event is Event.EXITED and record.phase is not Phase.DRAINING
        self._move(record, event, now_ns)
        if event is Event.EXITED:
            del self.records[record.peer_id]
            if unexpected:
                self._restarts[record.slot] = self._restarts.get(record.slot, 0) + 1
                self._last_words[record.slot] = f"died: {record.last_words}"
                self._count_failure(record, now_ns)

    def retired(self, record: Record, reason: str, until_ns: int, now_ns: int) -> Record | None:
        """Another is to take the child's place, which has until then to finish what it runs. So that no deployment has
        more than twice its replicas, one that was retired before may have to end now: that one."""
        slot = record.slot
        record.until_ns = until_ns + RETIRED_GRACE_NS
        self._last_words[slot] = f"was replaced: {reason}"
        self._restarts[slot] = self._restarts.get(slot, 0) + 1
        served = record.phase in (Phase.SERVING, Phase.SUSPECT)
        record.served_ns = now_ns - record.since_ns if served else 0
        self._count_failure(record, now_ns)
        others = [
            other
            for other in self.records.values()
            if other.until_ns and other.phase is Phase.DRAINING and other.slot.deployment == slot.deployment
        ]
        places = sum(place.deployment == slot.deployment for place in self._desired.everything())
        return min(others, key=lambda other: other.since_ns) if len(others) >= max(1, places) else None

    def failed(self, record: Record, message: str, detail: str) -> None:
        """A child said why it cannot start. Before the app was ever ready, that ends the start, later the change that
        the child is a part of."""
        record.last_words = message
        if record.slot in self._desired.layout.fresh:
            self.change_failure = (message, detail)
        elif self.was_ready or not self.failure:
            self.failure, self.detail = message, detail

    def note_ready(self) -> None:
        """Every slot is ready: earlier trouble is over. One of a node that leaves may have a successor without room."""
        self.was_ready = True
        self.failure = self.detail = ""
        ready, wanted = self.places().ready, self._desired.everything()
        self._last_words = {slot: words for slot, words in self._last_words.items() if slot in wanted.keys() - ready}

    def attached(self, was_ready: bool, addresses: dict[str, dict[str, str]]) -> None:
        """The launcher tells what the supervisor before this one knew."""
        self.was_ready = self.was_ready or was_ready
        self._addresses = {**addresses, **self._addresses}

    def unheard(self, now_ns: int) -> None:
        """We did not run ourselves for a while: nobody's silence until now counts."""
        for record in self.records.values():
            record.heard_ns = now_ns

    def _move(self, record: Record, event: Event, now_ns: int) -> None:
        phase = step(record.phase, event)
        # SUSPECT and back is one stretch of serving.
        if phase is not record.phase and {phase, record.phase} != {Phase.SERVING, Phase.SUSPECT}:
            if record.phase in (Phase.SERVING, Phase.SUSPECT):
                record.served_ns = now_ns - record.since_ns
            record.since_ns = now_ns
        record.phase = phase

    def _count_failure(self, record: Record, now_ns: int) -> None:
        slot = record.slot
        before = self._failures.get(slot)
        count = 1 if before is None or record.served_ns > STABLE_NS else before.count + 1
        self._failures[slot] = Failures(count, now_ns, record.served_ns > 0)
        if count >= START_ATTEMPTS and slot in self._desired.layout.fresh:
            self.change_failure = (f"{slot.name} died {count} times while starting: {record.last_words}", "")
        if count >= START_ATTEMPTS and not self.was_ready and not self.failure:
            self.failure = f"{slot.name} died {count} times while starting: {record.last_words}"

    # ---- what follows

    def plan_actions(self, now_ns: int) -> list[Action]:
        """What to do now. While draining nothing is started or replaced (the shell empties tier after tier),
        nor after a failed start, which the launcher ends."""
        if self.draining or self._phase() == "failed":
            return []
        nodes, records = self._desired.nodes, self.records.values()
        observed = [each.observed(nodes.leaves_ns(each.slot, each.node)) for each in records]
        wanted = self._desired.wanted(self.places())
        # A standby starts when all else is there: it would only take the processor from what is waited for.
        if self.all_ready() or any(child.slot in self._desired.standby for child in observed):
            wanted |= self._desired.standby
        wanted |= nodes.carriers(begun=bool(entrance(records, self.node)), records=records)
        return reconcile(wanted, observed, self._failures, now_ns, self._limits)

    # ---- changes

    def change_began(self) -> None:
        """There is another layout to lead to: what died in its places before is nothing to it."""
        self.change_failure = None
        for slot in self._desired.layout.fresh:
            self._failures.pop(slot, None)

    def switched(self, now_ns: int) -> None:
        """Another layout is served: what was served until now is not quiet yet, whatever routers said before."""
        self._busy_ns = now_ns

    def seen(self, now_ns: int) -> Observed:
        """How far the change is."""
        told = self._told()
        if not told:
            self._busy_ns = now_ns
        return replace(self.places(), told=told, quiet=now_ns - self._busy_ns > QUIET_NS)

    def surplus(self) -> list[Record]:
        """Children of places, or versions, that are not wanted any more."""
        wanted = self._desired.everything()
        return [record for record in self.records.values() if wanted.get(record.slot) != record.version]

    def places(self) -> Observed:
        """Which places of the layout have a child, and which of these are ready."""
        wanted = self._desired.everything()
        ours = [record for record in self.records.values() if wanted.get(record.slot) == record.version]
        return Observed(
            ready=frozenset(record.slot for record in ours if is_ready(record)),
            held=frozenset(record.slot for record in ours if record.phase in LIVE),
        )

    def _told(self) -> bool:
        """Every process acts by a table of this layout."""
        layout, version = self._published
        return layout is self._desired.layout and all(
            record.table_version >= version
            for record in self.records.values()
            if record.phase in (Phase.SERVING, Phase.SUSPECT)
        )

    def addresses_of(self, slot: Slot) -> dict[str, str]:
        """Where the slot's frontend listened before; {} when it never did."""
        return self._addresses.get(slot.name, {})

    def table(self, version: int) -> RoutingTable:
        """The routing table as it is now. Suspect children stay in it: taking a router out breaks what is in
        flight there, and routers find out for themselves which replicas do not answer."""
        serving = [
            record for record in self.records.values() if record.phase in IN_TABLE and record.slot.tier != STANDBY
        ]
        layout = self._desired.layout
        if layout is not self._published[0]:
            self._published = (layout, version)
        owners = self._assigned(version)

        def entries(specs: list[DeploymentSpec]) -> tuple[Entry, ...]:
            return tuple(self._entry(spec, owners[spec.name, spec.version]) for spec in specs)

        served = entries(self._desired.specs(layout.served))

        return RoutingTable(
            version=version,
            peers=tuple(peer_of(record) for record in serving),
            deployments=served,
            draining=self.draining,
            metrics={record.slot.name: record.statistics for record in serving} | {"supervisor": counts_of(served)},
            others=entries(self._desired.specs((*layout.coming, *layout.going))),
            notes=notes_of(self.records.values()),
            measured=measured(serving),
        )

    def _entry(self, spec: DeploymentSpec, owner: Owner) -> Entry:
        ready = self._replicas(spec.name, spec.version, is_ready)
        return Entry(spec, owner.router_id, ready, spec.options.replicas, owner.epoch)

    def make_room(self) -> list[Record]:
        """Those whose turn it is to make room for others, because they are not well."""
        fit = [each for each in self.records.values() if is_ready(each) and not each.makes_room]
        return [] if self.draining else ailing(fit, self._desired.everything())

    def _assigned(self, version: int) -> dict[tuple[str, str], Owner]:
        """Who owns each version of a deployment in the table of this version. What is with another router than in the
        table before, or was not there, begins a new epoch."""
        places: dict[str, int] = {}
        # Of two in one place the one that serves counts; only where none does, one that is suspect.
        for record in sorted(self.records.values(), key=lambda record: record.phase is Phase.SERVING):
            if record.slot.tier == ROUTER and record.phase in (Phase.SERVING, Phase.SUSPECT):
                places[record.slot.name] = record.peer_id
        owners = {}
        layout = self._desired.layout
        keys = [each.key for each in (*layout.served, *layout.coming, *layout.going)]
        routers = assign({name for name, _ in keys}, places)
        for key in keys:
            before, router_id = self._owners.get(key), routers[key[0]]
            owners[key] = before if before and before.router_id == router_id else Owner(router_id, version)
        self._owners = owners
        return owners

    def owner_of(self, name: str, version: str) -> Record | None:
        """The router that owns this version of the deployment, if one does."""
        owner = self._owners.get((name, version))
        return self.records.get(owner.router_id) if owner is not None else None

    def _replicas(self, deployment: str, version: str, condition: Callable[[Record], bool]) -> int:
        return sum(
            record.slot.tier == REPLICA
            and (record.slot.deployment, record.version) == (deployment, version)
            and condition(record)
            for record in self.records.values()
        )

    def all_ready(self) -> bool:
        """True when every wanted slot has a child that serves and is ready."""
        ready = {record.slot for record in self.records.values() if is_ready(record)}
        return ready.issuperset(self._needed())

    def unplaced(self, now_ns: int, after_ns: int) -> list[Record]:
        """Children that were asked of Ray more than `after_ns` ago and have no process yet."""
        return [
            record
            for record in self.records.values()
            if record.phase is Phase.STARTING and not record.pid and now_ns - record.since_ns > after_ns
        ]

    def problem(self) -> str:
        """What keeps the app from being ready, or what dies from being replaced, for people; "" when nothing does."""
        problem = self.failure or self.placement_problem or self.nodes_awaited or self._waiting()
        return "; ".join(part for part in (problem, self.trouble, *notes_of(self.records.values())) if part)

    def _needed(self) -> dict[Slot, str]:
        """The places that must be ready for the app to be."""
        return self._desired.serving(self.was_ready, self._addresses)

    def _following(self) -> dict[str, tuple[str, str]]:
        """Of deployments whose number of replicas follows the load: its bounds, and why it is what it is, with what
        became of those that are not there."""
        told: dict[str, tuple[str, str]] = {}
        for name, bounds in self._desired.following().items():
            words = {slot.name: said for slot, said in self._last_words.items() if slot.deployment == name}
            missing = [said if place in said else f"{place} {said}" for place, said in words.items()]
            told[name] = str(bounds), "; ".join(filter(None, [self.whys.get(name, ""), *missing]))
        return told

    def _short(self) -> bool:
        """A wanted place has no living process."""
        alive = {record.slot for record in self.records.values() if record.phase in LIVE and record.pid}
        return not alive.issuperset(self._needed())

    def _waiting(self) -> str:
        ready = {record.slot for record in self.records.values() if is_ready(record)}
        waiting = sorted(slot for slot in self._needed() if slot not in ready)
        silent = {record.slot for record in self.records.values() if record.phase is Phase.SUSPECT}
        words = {**self._last_words, **dict.fromkeys(silent, "")}

        def told(slot: Slot) -> str:
            before = f" (the one before {words[slot]})" if words.get(slot) else ""
            return f"{slot.name}{', which is silent' if slot in silent else before}"

        return f"waiting for {', '.join(told(slot) for slot in waiting)}" if waiting else ""

    def view(self, table_version: int, supervisor_pid: int, now_ns: int, change: str = "") -> View:
        """Everything, for people."""
        return View(
            app_id=self._plan.app_id,
            phase=self._phase(),
            problem=self.problem(),
            detail=self.detail,
            supervisor_pid=supervisor_pid,
            table_version=table_version,
            addresses=dict(self._addresses.get(Slot(FRONTEND, "", 0).name, {})),
            children=tuple(
                child_view(record, self._restarts.get(record.slot, 0), now_ns)
                for record in sorted(self.records.values(), key=lambda record: record.slot)
            ),
            deployments=tuple(deployment_views(self._desired.layout, self.records.values(), self._following())),
            change=change,
            raylet_pid=self.raylet_pid,
            lost=self.lost if self._short() else "",
            supervisor_node=self.node,
            insecure=self._plan.insecure,
        )

    def _phase(self) -> str:
        if self.draining:
            return "draining" if self.records else "stopped"
        if self.all_ready() and not self.lost:
            return "degraded" if notes_of(self.records.values()) else "ready"
        if (self.failure or self.placement_problem) and not self.was_ready:
            return "failed"
        return "degraded" if self.was_ready else "starting"
