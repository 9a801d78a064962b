"""What the supervisor must do so that what runs becomes what is wanted: pure functions over plain values.

A *slot* is a place for one child: ("replica", "Pricing", 0). `reconcile` compares the wanted slots with the
children observed and returns actions; the shell carries them out and feeds back what happened. Rules:

- One live child a slot. Of two (a supervisor that came back adopts one it had already replaced) the one that
  serves and was there first stays.
- A child of another version than wanted, or of a slot nobody wants, is drained, and killed when the drain
  takes too long.
- Silence: a child whose process is stopped (SIGSTOP) is killed when it lasts `stopped_ns`. Otherwise SERVING becomes
  suspect after `suspect_ns`, and is killed after `frozen_ns`. A replica that works all the while may be in one long
  call of C code that lets none of its threads run: it is retired then instead, and killed when it stops working, or
  after `engrossed_ns` more. A starting child may be busy importing and gets `start_ns` in all.
- A replica that is retired (silent, or by its own word) no longer holds its place: another starts there at once, while
  what it runs ends. It gets until `until_ns` for that, where a drain gets `drain_ns`.
- A slot whose children keep dying waits, `backoff_ns * 2**(failures - 2)` up to `backoff_max_ns`; the first
  replacement comes at once. Where the last one was in service, a request may have killed it, and others wait: then
  no longer than `served_backoff_max_ns`.
- A child whose node leaves holds its place only until another in it, on another node, is ready: that starts at once.
  By `leaves_ns` it drains whether or not there is one.
- A frontend's slot stays taken until the process is really gone, because its successor needs the same ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from flightserve.core.lifecycle.phases import LIVE, Phase

FRONTEND: Final = "frontend"
ROUTER: Final = "router"
REPLICA: Final = "replica"
# A process that waits to become a router or a frontend.
STANDBY: Final = "standby"

# What carries connections and rows between its node and others: one on each.
CARRIER: Final = "carrier"

NS_PER_S: Final = 1_000_000_000


class Slot(NamedTuple):
    """A place for one child. `deployment` is "" except for replicas."""

    tier: str
    deployment: str
    ordinal: int

    @property
    def name(self) -> str:
        """`router-0`, or `replica-Pricing-0`: what people see and what metrics are filed under."""
        return "-".join(part for part in (self.tier, self.deployment, str(self.ordinal)) if part)


@dataclass(frozen=True, slots=True)
class Child:
    """One process as observed. Times are monotonic ns. `stopped`: the kernel says it does not run (SIGSTOP); `busy`: it
    is silent, but uses the processor. `until_ns`: it is retired, and by then must have ended. `leaves_ns`: its node
    leaves, and by then it drains (0: it stays)."""

    peer_id: int
    slot: Slot
    version: str
    phase: Phase
    since_ns: int
    heard_ns: int
    stopped: bool = False
    busy: bool = False
    until_ns: int = 0
    ready: bool = False
    leaves_ns: int = 0


@dataclass(frozen=True, slots=True)
class Failures:
    """How often a slot's children died in a row, and when last (monotonic ns). `served`: the last was in service."""

    count: int
    last_ns: int
    served: bool = False


@dataclass(frozen=True, slots=True)
class ReconcileLimits:
    """Durations in ns."""

    stopped_ns: int = NS_PER_S
    suspect_ns: int = 1_500_000_000
    frozen_ns: int = 30 * NS_PER_S
    engrossed_ns: int = 300 * NS_PER_S
    start_ns: int = 600 * NS_PER_S
    drain_ns: int = 25 * NS_PER_S
    backoff_ns: int = NS_PER_S
    backoff_max_ns: int = 30 * NS_PER_S
    served_backoff_max_ns: int = 2 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Start:
    """Start a child of this version in the slot."""

    slot: Slot
    version: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """The child has not reported for a while: watch it closely."""

    peer_id: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let the child finish what it has, then exit."""

    peer_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Let another take the child's place at once, and the child finish what it has until `until_ns`, then exit."""

    peer_id: int
    reason: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL, now."""

    peer_id: int
    reason: str


Action = Start | Suspect | Drain | Retire | Kill


def reconcile(
    wanted: Mapping[Slot, str],
    children: Iterable[Child],
    failures: Mapping[Slot, Failures],
    now_ns: int,
    limits: ReconcileLimits,
) -> list[Action]:
    """Actions that lead from `children` to `wanted` (slot -> version). Empty when nothing is to be done now."""
    actions: list[Action] = []
    taken: set[Slot] = set()
    for slot, group in _by_slot(children).items():
        keeper = _keeper([child for child in group if not child.leaves_ns], wanted.get(slot))
        leaver = _keeper([child for child in group if child.leaves_ns], wanted.get(slot))
        stays = leaver is not None and not _may_leave(leaver, keeper, now_ns)
        for child in group:
            kept = child is keeper or (stays and child is leaver)
            actions += _judge(child, kept, slot in wanted, now_ns, limits)
        if keeper is not None or any(_holds_slot(child) for child in group):
            taken.add(slot)
    for slot, version in wanted.items():
        if slot not in taken and now_ns >= not_before_ns(failures.get(slot), limits):
            actions.append(Start(slot, version))
    return actions


def not_before_ns(failed: Failures | None, limits: ReconcileLimits) -> int:
    """When a slot with these failures may be filled again; 0 for at once."""
    if failed is None or failed.count <= 1:
        return 0
    # The exponent is capped so that the shift cannot grow without end.
    delay = limits.backoff_ns << min(failed.count - 2, 30)
    most = limits.served_backoff_max_ns if failed.served else limits.backoff_max_ns
    return failed.last_ns + min(delay, most)


def _by_slot(children: Iterable[Child]) -> dict[Slot, list[Child]]:
    slots: dict[Slot, list[Child]] = {}
    for child in children:
        if child.phase is not Phase.GONE:
            slots.setdefault(child.slot, []).append(child)
    return slots


def _keeper(group: Sequence[Child], version: str | None) -> Child | None:
    candidates = [
        child
        for child in group
        if child.version == version and child.phase in LIVE and child.phase is not Phase.DRAINING
    ]
    if not candidates:
        return None
    rank = {Phase.SERVING: 0, Phase.STARTING: 1, Phase.SUSPECT: 2}
    return min(candidates, key=lambda child: (rank[child.phase], child.since_ns, child.peer_id))


def _may_leave(leaver: Child, successor: Child | None, now_ns: int) -> bool:
    """Whether it may drain, because its node leaves."""
    return now_ns >= leaver.leaves_ns or (
        successor is not None and successor.phase is Phase.SERVING and successor.ready
    )


def _holds_slot(child: Child) -> bool:
    """True when nothing may be started beside this child, although it is not the one to keep."""
    if child.slot.tier == FRONTEND:
        return child.phase is not Phase.GONE
    return False


def _judge(child: Child, keep: bool, slot_wanted: bool, now_ns: int, limits: ReconcileLimits) -> list[Action]:
    silence = now_ns - child.heard_ns
    age = now_ns - child.since_ns
    match child.phase:
        case Phase.DRAINING if child.until_ns and silence > limits.frozen_ns and not child.busy:
            return [Kill(child.peer_id, f"silent for {silence / NS_PER_S:.1f} s and idle")]
        case Phase.DRAINING if age > limits.drain_ns and now_ns > child.until_ns:
            return [Kill(child.peer_id, "did not finish draining")]
        case Phase.STARTING | Phase.SERVING | Phase.SUSPECT if not keep:
            return [Drain(child.peer_id, "replaced" if slot_wanted else "no longer wanted")]
        case Phase.STARTING if age > limits.start_ns:
            return [Kill(child.peer_id, "did not start in time")]
        case Phase.SERVING | Phase.SUSPECT if child.stopped and silence > limits.stopped_ns:
            return [Kill(child.peer_id, "its process is stopped")]
        case Phase.SERVING if silence > limits.suspect_ns:
            return [Suspect(child.peer_id)]
        case Phase.SUSPECT if silence > limits.frozen_ns and child.busy and child.slot.tier == REPLICA:
            why = f"silent for {silence / NS_PER_S:.1f} s and busy: a call may let none of its threads run"
            return [Retire(child.peer_id, why, now_ns + limits.engrossed_ns)]
        case Phase.SUSPECT if silence > limits.frozen_ns:
            return [Kill(child.peer_id, f"silent for {silence / NS_PER_S:.1f} s")]
    return []


class Shortfall(NamedTuple):
    """One resource that is short: how much is wanted, and how much there is (total or free)."""

    resource: str
    wanted: float
    there: float


def shortfalls(demands: Iterable[Mapping[str, float]], there: Mapping[str, float]) -> list[Shortfall]:
    """Resources of which all demands together want more than is there, by name."""
    totals: dict[str, float] = {}
    for demand in demands:
        for resource, amount in demand.items():
            totals[resource] = totals.get(resource, 0.0) + amount
    return [
        Shortfall(resource, amount, there.get(resource, 0.0))
        for resource, amount in sorted(totals.items())
        # Ray counts resources in units of 1/10000.
        if amount > there.get(resource, 0.0) + 5e-5
    ]
