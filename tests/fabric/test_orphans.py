"""Which requests of a lost router may go to another, at each bound and past it."""

from __future__ import annotations

import pytest

from flightserve import errors
from flightserve.fabric.orphans import LOSSES_MAX, why_not_again
from flightserve.fabric.uplink import Pending, Sent
from flightserve.types import MethodSpec
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
