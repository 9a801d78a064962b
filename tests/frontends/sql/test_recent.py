"""What the frontends remember of statements for a moment."""

from __future__ import annotations

import pytest

import flightserve as fs
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.frontends.sql.gateway import REMEMBERED_BYTES_MAX, REMEMBERED_MAX, Gateway, Recent, Statement
from flightserve.testing import LocalService
from flightserve.types import RequestMeta
from tests.frontends.sql.support import warehouse


@pytest.mark.parametrize(("nbytes", "kept"), [(0, REMEMBERED_MAX), (REMEMBERED_BYTES_MAX // 4, 4)])
def test_the_oldest_goes_for_number_and_for_bytes(nbytes: int, kept: int) -> None:
    recent: Recent[int, int] = Recent(lambda: 0)
    for n in range(kept + 1):
        recent.put(n, n, nbytes)
    assert recent.get(0) is None and recent.get(1) == 1 and recent.get(kept) == kept
    assert repr(recent) == f"<Recent {kept} values, {kept * nbytes} bytes>"
    for _ in range(9):
        recent.put(kept, -1, nbytes)
    assert recent.get(1) == 1 and recent.get(kept) == -1
    recent.clear()
    assert repr(recent) == "<Recent 0 values, 0 bytes>"


def test_what_is_more_than_all_may_be_is_not_kept() -> None:
    recent: Recent[int, int] = Recent(lambda: 0)
    recent.put(1, 1, REMEMBERED_BYTES_MAX)
    assert recent.get(1) == 1
    recent.put(1, 2, REMEMBERED_BYTES_MAX + 1)
    assert repr(recent) == "<Recent 0 values, 0 bytes>"


def test_wide_results_count_by_their_schemas() -> None:
    """A short text may have a schema a thousand times as long."""
    sql = "SELECT " + "*, " * 200 + "* FROM types"
    with LocalService(fs.App(warehouse().bind())) as service:
        gateway = Gateway(service, EdgeLimits())
        found = gateway.describe(Statement("lake", sql), RequestMeta(monotonic_ns() + 60 * NS_PER_S))
    assert len(found.result) > 100 * len(sql)
    assert gateway._descriptions.nbytes >= len(found.result)
