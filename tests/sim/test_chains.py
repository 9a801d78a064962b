"""Pipelines in a router that is not spared anything: each request one outcome, and all regions given back."""

from __future__ import annotations

import pytest

from tests.sim.chains import ChainWorld


@pytest.mark.parametrize("router", ["fifo", "deadline"])
@pytest.mark.parametrize("seed", range(8))
def test_each_request_has_one_outcome_and_nothing_stays_held(
    seed: int, router: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ChainWorld(seed, router, monkeypatch)
    try:
        world.run(500)
    finally:
        world.close()
