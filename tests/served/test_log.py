"""The log of a real system, whatever users' code writes and however it dies: each line is one JSON object, and says who
wrote it, and for whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from flightserve.wire.log_lines import MESSAGE_CHARS_MAX
from tests.control.served import Served
from tests.served.resting import Resting
from tests.support import eventually

ID = "find-me-in-the-log"


def call(system: Served, method: str) -> int:
    url = f"{system.addresses['http']}/v1/Probe/{method}"
    return httpx.post(url, json={"rows": [{"a": 1}]}, headers={"x-request-id": ID}, trust_env=False).status_code


def records(system: Served) -> list[dict[str, Any]]:
    """All of standard error; the last line may be half written."""
    return [json.loads(line) for line in system.errors().split("\n")[:-1]]


def said(system: Served, text: str) -> dict[str, Any]:
    (found,) = [each for each in records(system) if text in each["message"] and each["logger"] != "ray"]
    return found


def test_all_that_is_written_is_a_record_with_who_and_for_whom(system: Served) -> None:
    assert call(system, "says") == 200
    eventually(lambda: any("raw without end" in each["message"] for each in records(system)), timeout_s=20)
    eventually(lambda: any("not a record" in each["message"] for each in records(system)), timeout_s=20)
    printed = said(system, "by one call")
    pid = int(printed["message"].rsplit(" ", 1)[1])
    assert printed["message"] == f"printed\nby one call {pid}"
    assert (printed["level"], printed["logger"]) == ("INFO", "stdout")
    expected = {"deployment": "Probe", "method": "says", "requests": 1, "request_ids": [ID]}
    for text in ("by one call", "no end", "logged 5", "(its arguments do not fit: TypeError)", "shown and over", "xxx"):
        found = said(system, text)
        assert {key: found.get(key) for key in expected} == expected, text
        assert found["process"] == printed["process"]
        assert len(found["message"]) <= MESSAGE_CHARS_MAX + 100
    assert said(system, "logged 5")["logger"] == "users.own"
    assert said(system, "shown and over")["message"].startswith("Traceback (most recent call last):\n")
    assert said(system, "RuntimeError: in a thread")["level"] == "ERROR"
    for text in ("raw \ufffd\ufffd bytes", "raw without end", "not a record"):
        assert (said(system, text)["process"], said(system, text)["deployment"]) == (printed["process"], "Probe")
    title = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")
    assert title == f"flightserve: {printed['process'].replace('-', ' ', 1)}"


def test_what_a_method_raises_is_found_by_the_requests_id(system: Served) -> None:
    def raised() -> list[dict[str, Any]]:
        return [each for each in records(system) if "Probe.boom raised" in each["message"]]

    assert call(system, "boom") == 500
    # Other files of this folder have called it before, by other ids.
    eventually(lambda: any(ID in each["request_ids"] for each in raised()), timeout_s=20)


def test_a_replica_that_dies_leaves_records_alone(system: Served, resting: Resting) -> None:
    def deaths() -> list[str]:
        return [each["message"] for each in records(system) if "ended itself with status 3" in each["message"]]

    before = len(deaths())
    assert call(system, "exits") == 503
    eventually(lambda: len(deaths()) > before, timeout_s=20)
    resting.replaced(deaths()[-1].partition(" ")[0])
    titles = {
        Path(f"/proc/{child.pid}/cmdline").read_text().rstrip("\0 ") for child in system.view().children if child.pid
    }
    assert {"flightserve: router 0", "flightserve: frontend 0", "flightserve: replica Probe-0"} <= titles
    assert [title for title in titles if not title.startswith("flightserve: ")] == []
    supervisor = Path(f"/proc/{system.view().supervisor_pid}/cmdline").read_text().rstrip("\0 ")
    assert supervisor == "flightserve: supervisor"
    assert all({"time", "level", "logger", "process", "message"} <= each.keys() for each in records(system))
