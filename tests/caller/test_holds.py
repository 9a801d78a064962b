"""Who holds whom among the caller's parts, read off live objects: the table at the head of `caller/client.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

import flightserve as fs
from flightserve.caller.uplink import CallerSession
from tests.plane import meta, plane, receive_all


@fs.deployment(name="Echo")
class Echo:
    """Gives back what it gets."""

    def call(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows."""
        return batch


def held(part: Any) -> Iterator[Any]:
    """The parts of the room in the attributes of this one, also those in collections. Not whom bound methods belong
    to, and not `SessionEvents`: these are the narrow ways up."""
    slots = [name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(part, "__dict__", {}), *slots]
    for value in [
        getattr(part, name, None) for name in names if not (type(part) is CallerSession and name == "events")
    ]:
        values = [*value.values(), *value.keys()] if isinstance(value, Mapping) else [value]
        if isinstance(value, list | tuple | set):
            values = list(value)
        yield from (each for each in values if type(each).__module__.startswith("flightserve.caller."))


def edges(part: Any, path: tuple[Any, ...] = ()) -> set[tuple[str, str]]:
    """Who holds whom, by classes, from this part on. Fails for one that holds itself by way of others."""
    assert not any(part is each for each in path), " > ".join(type(each).__name__ for each in (*path, part))
    found = set()
    for other in held(part):
        found |= {(type(part).__name__, type(other).__name__)} | edges(other, (*path, part))
    return found


def test_no_part_holds_itself_by_way_of_others() -> None:
    with plane(Echo.bind()) as running:
        lane = running.client.open_lane()
        lane.submit(0, "Echo", "call", pa.record_batch({"a": [1]}), meta())
        receive_all(lane, 1)
        found = edges(running.client) | edges(lane)
        lane.close()
    assert ("CallerSessions", "AsyncUplink") in found
    assert ("CallerSessions", "LaneConnection") in found
    assert ("AsyncUplink", "Uplink") in found
    assert ("Uplink", "CallerSession") in found
    assert ("BlockingLane", "LaneConnection") in found
    assert ("RouterSubmitter", "CallerSessions") in found
