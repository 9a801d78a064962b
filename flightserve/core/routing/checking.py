"""The routing machine's books, counted again: what must hold after every event. For tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flightserve.core.routing.machine import DeploymentMachine


def check(machine: DeploymentMachine, attempts_max: int) -> None:
    """AssertionError where the books disagree. O(requests)."""
    entries, replicas, groups = machine._entries, machine._in_flight.by_lane, machine._groups
    queued = [entry for entry in entries.values() if entry.queued]
    assert groups.requests == len(queued) == sum(len(group.queue) for group in groups)
    assert groups.nbytes == sum(entry.request.nbytes for entry in queued)
    assert len(machine._credits) == len(replicas)
    machine._fleet.check_invariants()
    machine._gathering.check_invariants(batch for batches in replicas.values() for batch in batches.values())
    machine._side_by_side.check_invariants([b for batches in replicas.values() for b in batches.values()])
    for is_async, side in enumerate(machine._sides):
        own = [entry for entry in queued if entry.request.is_async == bool(is_async)]
        assert groups.waiting[is_async] == len(own)
        if side.forecast is not None:
            assert side.forecast.backlog.total == sum(entry.work_ns for entry in own)
            side.forecast.check_invariants()
    assert len(machine._deadlines) <= 2 * len(entries) + 64
    running: dict[int, int] = {}
    for replica_id, batches in replicas.items():
        pool = machine._credits.of(replica_id)
        held = [batch for batch in batches.values() if not batch.suspended]
        assert pool.taken(replica_id) == len(held), (replica_id, batches)
        for batch in batches.values():
            assert len({entry.request.group for entry in batch.entries}) == 1
            assert all(entry.request.is_async == pool.side_by_side for entry in batch.entries)
            wanted = [entry for entry in batch.entries if not entry.done]
            assert batch.wanted == len(wanted), batch
            for entry in wanted:
                running[entry.request.id] = running.get(entry.request.id, 0) + 1
    for request_id, entry in entries.items():
        assert not entry.done
        assert request_id == entry.request.id
        in_flight = int(entry.batch is not None) + len(entry.batches or ())
        assert in_flight == running.get(request_id, 0), entry
        assert entry.queued or in_flight, f"{entry} is nowhere"
        assert entry.attempts < attempts_max
        if entry.cut is not None:
            assert len(entry.cut.in_flight) == in_flight
            assert entry.cut.more == entry.queued
        else:
            assert entry.queued != (in_flight == 1)
    counters = machine._counters
    assert counters.arrived == counters.outcomes + len(entries), counters
