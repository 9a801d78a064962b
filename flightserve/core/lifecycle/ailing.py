"""Whose turn it is to make room for another, of the replicas whose own code says that they are not well.

One of a deployment at a time, and only while all its other places are ready: what is wrong with all of them at once (a
database that is down) shall not leave nobody who answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

# A deployment and its version.
Group = tuple[str, str]


class Patient(NamedTuple):
    """A replica that can do its part, and is not on its way out; whether it says that it is not well."""

    peer_id: int
    group: Group
    place: str
    ailing: bool


def turns(patients: Iterable[Patient], places: Mapping[Group, Set[str]]) -> list[int]:
    """The replicas that are to make room now, by peer id. `places`: those that each version is to have."""
    ready: dict[Group, set[str]] = {}
    first: dict[Group, int] = {}
    for patient in patients:
        ready.setdefault(patient.group, set()).add(patient.place)
        if patient.ailing:
            first.setdefault(patient.group, patient.peer_id)
    return [peer_id for group, peer_id in first.items() if group in places and ready[group] >= places[group]]
