"""The README's figures are those of the page of measurements: the least, where a peer has several settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SAID = re.compile(r"(?m)^\| (\d+) connections \| ([\d,]+) req/s \| ([\d.]+) times \| ([\d.]+) times \|$")


def ratios(page: str, connections: str, peer: str) -> dict[str, float]:
    """What flightserve's requests a second came to against a peer's, by its setting."""
    row = rf"(?m)^\| HTTP JSON, 10 numbers, {connections} connections \(({peer}.*?)\) \| req/s \|.*\| ([\d.]+)x \|"
    return {setting: float(ratio) for setting, ratio in re.findall(row, page)}


def test_the_readme_says_what_was_measured() -> None:
    page = (ROOT / "docs" / "measurements" / "peers.md").read_text()
    said = _SAID.findall((ROOT / "README.md").read_text())
    assert [connections for connections, *_ in said] == ["32", "128"]
    for connections, rate, to_ray, to_mosec in said:
        assert f"| HTTP JSON, 10 numbers, {connections} connections | flightserve | {rate} (" in page
        for peer, ratio in (("Ray Serve", to_ray), ("mosec", to_mosec)):
            assert min(ratios(page, connections, peer).values()) == pytest.approx(float(ratio), abs=0.05)
