"""What is told of children: to others by the routing table, and to those that are not well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from flightserve.control.views import is_ready
from flightserve.core.lifecycle.ailing import Group, Patient, turns
from flightserve.core.lifecycle.reconciling import CARRIER, REPLICA, Slot
from flightserve.wire.table import Measured, Peer

if TYPE_CHECKING:
    from flightserve.control.roster import Record


def peer_of(record: Record) -> Peer:
    """The process, as the others know it."""
    return Peer(
        id=record.peer_id,
        tier=record.slot.tier,
        name=record.slot.name,
        endpoint=record.endpoint,
        node=record.node,
        deployment=record.slot.deployment,
        pid=record.pid,
        address=record.addresses.get(CARRIER) or (record.addresses.get("flight", "") if is_ready(record) else ""),
    )


def measured(records: Iterable[Record]) -> tuple[Measured, ...]:
    """What replicas measure. Of two in one place, one of which is going, the one that came last."""
    last = {(record.slot.name, record.version): record for record in _measuring(records)}
    return tuple(
        [Measured(name, each.slot.deployment, version, each.families) for (name, version), each in last.items()]
    )


def _measuring(records: Iterable[Record]) -> Iterable[Record]:
    return (record for record in records if record.families and record.slot.tier == REPLICA)


def ailing(fit: Iterable[Record], wanted: Mapping[Slot, str]) -> list[Record]:
    """Of the children that can do their part, the replicas that are to make room now because they are not well."""
    places: dict[Group, set[str]] = {}
    for slot, version in wanted.items():
        places.setdefault((slot.deployment, version), set()).add(slot.name)
    records = {record.peer_id: record for record in fit if record.slot.deployment}
    patients = [
        Patient(peer_id, (each.slot.deployment, each.version), each.slot.name, bool(each.ailing))
        for peer_id, each in records.items()
    ]
    return [records[peer_id] for peer_id in turns(patients, places)]
