"""What processes are called, where that can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from flightserve.control import titles
from flightserve.control.titles import take_title, title_of
from flightserve.core.lifecycle.reconciling import Slot


def test_a_name_that_cannot_be_taken_ends_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(titles, "_set", taken.append)
    monkeypatch.setattr(titles, "_COMMAND", tmp_path / "comm")
    take_title(title_of(Slot("replica", "Pricing", 0)))
    assert (tmp_path / "comm").read_bytes() == b"flightserve: re"
    monkeypatch.setattr(titles, "_COMMAND", tmp_path / "nothing" / "comm")
    take_title(title_of(Slot("router", "", 1)))
    assert taken == ["flightserve: replica Pricing-0", "flightserve: router 1"]
