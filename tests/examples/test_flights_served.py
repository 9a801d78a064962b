"""The example as a stranger meets it: served by `flightserve run`, called through every protocol."""

from __future__ import annotations

import json
import subprocess

import pytest

from examples.flights import demo, run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_the_demo_agrees(flights_addresses: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """All methods, all protocols, all 336,776 rows."""
    status = demo.main(["--addresses", json.dumps(flights_addresses)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "All 33 answers agree" in printed


@pytest.mark.parametrize("protocol", ["http", "flight", "grpc", "zmq"])
def test_the_lines_to_paste_work(flights_addresses: dict[str, str], protocol: str) -> None:
    line = run.line_to_paste(protocol, flights_addresses[protocol])
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert "UA1545 EWR-IAH left 2 min late and arrived 11 min late." in done.stdout, done.stderr


def test_the_demo_finds_what_runs(flights_addresses: dict[str, str]) -> None:
    assert demo.answers_on(flights_addresses)
    assert not demo.answers_on({"http": flights_addresses["http"].rpartition(":")[0] + ":1"})
