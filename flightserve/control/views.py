"""What people and the routing table are shown of children and deployments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from flightserve.control.messages import ChildView, DeploymentView
from flightserve.core.lifecycle.phases import Phase
from flightserve.core.lifecycle.reconciling import NS_PER_S, REPLICA
from flightserve.core.lifecycle.updating import Layout
from flightserve.wire.table import Entry

if TYPE_CHECKING:
    from flightserve.control.roster import Record


def is_ready(record: Record) -> bool:
    """It says that it can do its part. One that says nothing may be unable to say so, and answers nobody."""
    return record.phase is Phase.SERVING and record.ready


def deployment_views(
    layout: Layout, records: Iterable[Record], notes: Mapping[str, tuple[str, str]]
) -> Iterator[DeploymentView]:
    """Each version of each deployment. `notes`: the bounds of those whose number follows the load, and why it is what
    it is, by name."""
    replicas = [record for record in records if record.slot.tier == REPLICA]
    states = {"served": layout.served, "coming": layout.coming, "going": layout.going}
    counts = {each.key: (state, each.replicas) for state, all_ in states.items() for each in all_}
    # More of what is served is wanted already, before it is served.
    counts |= {each.key: (counts[each.key][0], each.replicas) for each in layout.target or () if each.key in counts}
    for record in replicas:
        counts.setdefault((record.slot.deployment, record.version), ("going", 0))
    for (name, version), (state, desired) in sorted(counts.items()):
        ours = [record for record in replicas if (record.slot.deployment, record.version) == (name, version)]
        ready = sum(map(is_ready, ours))
        draining = sum(record.phase is Phase.DRAINING for record in ours)
        note = notes.get(name, ("", "")) if state == "served" else ("", "")
        yield DeploymentView(name, version, state, desired, ready, draining, *note)


def child_view(record: Record, restarts: int, now_ns: int) -> ChildView:
    """One child."""
    return ChildView(
        name=record.slot.name,
        tier=record.slot.tier,
        deployment=record.slot.deployment,
        phase=record.phase.value,
        ready=is_ready(record),
        pid=record.pid,
        peer_id=record.peer_id,
        restarts=restarts,
        age_s=(now_ns - record.since_ns) / NS_PER_S,
        version=record.version,
        addresses=record.addresses,
        statistics=record.statistics,
        node=record.node if record.pid else "",
        # Those of replicas are their authors'.
        families=() if record.slot.tier == REPLICA else record.families,
    )


def counts_of(served: Iterable[Entry]) -> dict[str, float]:
    """How many replicas deployments have, as statistics of the supervisor."""
    counts: dict[str, float] = {}
    for entry in served:
        counts[f"{entry.spec.name}.replicas_wanted"] = float(entry.wanted)
        counts[f"{entry.spec.name}.replicas_ready"] = float(entry.ready)
    return counts
