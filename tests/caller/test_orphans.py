"""Which requests of a lost router may go to another, at each bound and past it."""

from __future__ import annotations

import pytest

from flightserve import errors
from flightserve.caller.client import RouterClient
from flightserve.caller.orphans import LOSSES_MAX, Orphans, why_not_again
from flightserve.caller.submitter import NOWHERE
from flightserve.caller.uplink import Going, Pending, Sent
from flightserve.config import FabricLimits
from flightserve.core.overload.retry_budget import DEATH_COST, RESERVE
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.types import MethodSpec, RequestMeta
from flightserve.wire.frames import Part, Region

NOW = 1_000_000


def pending(*, idempotent: bool = True, begun: bool = False, losses: int = 1, deadline_ns: int = NOW + 1) -> Pending:
    sent = Sent("Pricing", MethodSpec("charge", idempotent=idempotent), Region(1, 1, 0, 64), 3)
    return Pending(lambda *_: None, 0, Part(7, 0, 1, deadline_ns), sent, begun, losses)


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (pending(), None, ""),
        (pending(idempotent=False), errors.Unavailable, "not idempotent"),
        (pending(begun=True), errors.Unavailable, "part of the reply"),
        (pending(deadline_ns=NOW), errors.DeadlineExceeded, "deadline passed"),
        (pending(losses=LOSSES_MAX - 1), None, ""),
        (pending(losses=LOSSES_MAX), errors.Unavailable, f"{LOSSES_MAX} routers were lost"),
        # A caller of what may not run twice hears that it may have run, also when it is late.
        (pending(idempotent=False, deadline_ns=NOW), errors.Unavailable, "whether it ran is not known"),
    ],
)
def test_who_may_go_to_another_router(
    request_: Pending, kind: type[errors.FlightserveError] | None, words: str
) -> None:
    error = why_not_again(request_, NOW)
    assert (error is None) == (kind is None)
    if error is not None:
        assert type(error) is kind
        assert words in error.message


class Lost:
    """Requests of lost routers, and what those were told that do not go again."""

    def __init__(self) -> None:
        self.orphans = Orphans(SegmentPool(1, FabricLimits()), 10_000)
        self.told: list[errors.FlightserveError | None] = []
        self._ids = 0

    def lose(self, router_id: int, requests: int) -> None:
        lost = []
        for _ in range(requests):
            self._ids += 1
            each = pending(losses=0)
            each.deliver = lambda index, result, error, last: self.told.append(error)
            lost.append((self._ids, each))
        self.orphans.take_lost(router_id, lost, NOW)


def test_the_first_router_lost_costs_nobody_the_budget() -> None:
    lost = Lost()
    lost.lose(11, 500)
    # Its connections end one after another.
    lost.lose(11, 500)
    assert len(lost.orphans) == 1000
    assert lost.told == []


def test_routers_that_keep_dying_draw_from_what_was_sent_lately() -> None:
    reserve, sent = RESERVE // DEATH_COST, 20
    lost = Lost()
    lost.lose(11, 1)
    lost.orphans.note_sent(sent * DEATH_COST, NOW)
    lost.lose(12, reserve + sent)
    assert len(lost.orphans) == 1 + reserve + sent
    assert lost.told == []
    lost.lose(13, 2)
    assert len(lost.orphans) == 1 + reserve + sent
    assert [type(error) for error in lost.told] == [errors.Unavailable] * 2
    assert all(error is not None and "retry budget is empty" in error.message for error in lost.told)


def test_what_a_lost_router_told_in_part_is_forgotten() -> None:
    lost, each = Lost(), pending(losses=0)
    each.partway = []
    lost.orphans.take_lost(11, [(1, each)], NOW)
    assert 1 in lost.orphans
    assert each.partway is None


def test_routers_that_were_lost_are_counted_over_all_stages_of_a_pipeline() -> None:
    client, before = RouterClient(1, FabricLimits()), pending(losses=2)
    uplink = client.sessions.open_uplink(NOWHERE)
    uplink._register(before.sent, [(1, RequestMeta())], before.deliver, 0, Going(7, 2, before.losses))
    assert uplink.pending[7].losses == 2
