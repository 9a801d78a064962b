"""The audit log: what a line says, that nothing waits for it, and what becomes of what is too much."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flightserve.errors import ConfigError, PermissionDenied, ResourceExhausted, Unauthenticated
from flightserve.frontends import seen
from flightserve.identity import audit
from flightserve.identity.access import FileAccess, open_access
from flightserve.identity.audit import AuditEntry, AuditFile, AuditLog, Waiting, check_writable
from flightserve.wire.status import Code
from tests.identity.books import ROLES, basic, bearer, principal, put
from tests.identity.times import Times


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def notes(tmp_path: Path, times: Times) -> AuditLog:
    return AuditLog(str(tmp_path / "audit.jsonl"), times.date)


@pytest.fixture
def access(tmp_path: Path, times: Times, notes: AuditLog) -> Iterator[FileAccess]:
    text = ROLES + principal("alice") + principal("bob", more="in_flight = 1\nmax_priority = 3\nrequests_per_s = 1")
    file = put(tmp_path / "auth.toml", text)
    opened = open_access(str(file), b"k" * 32, times.monotonic_ns, times.date, audit=notes)
    opened._following.stop()
    yield opened
    opened.stop()


def lines(notes: AuditLog, tmp_path: Path) -> list[dict[str, Any]]:
    notes.write()
    path = tmp_path / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_lines(access: FileAccess, notes: AuditLog, times: Times, tmp_path: Path) -> None:
    alice = access.recognise(bearer("alice"))
    call = access.over("http").begin(alice, "Flights.delays", "r1")
    query = access.over("flight").begin(alice, "sql", "r2", 9, 100, ["trips", "fares"])
    times.advance(0.0125)
    call.end(0, 17)
    call.end(13, 0)
    query.end(4)
    assert lines(notes, tmp_path) == [
        {
            "time": "1970-01-12T13:46:40.000Z", "principal": "alice", "protocol": "http", "what": "Flights.delays",
            "code": "OK", "ms": 12.5, "rows": 17, "request_id": "r1",
        },
        {
            "time": "1970-01-12T13:46:40.000Z", "principal": "alice", "protocol": "flight", "what": "sql",
            "code": "DEADLINE_EXCEEDED", "ms": 12.5, "rows": 0, "request_id": "r2", "tables": ["trips", "fares"],
        },
    ]  # fmt: skip
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_limits_refuse_has_a_line(access: FileAccess, notes: AuditLog, times: Times, tmp_path: Path) -> None:
    bob = access.recognise(bearer("bob"))
    with pytest.raises(PermissionDenied, match="priority 4 is more than you may ask for, 3"):
        access.begin(bob, "sql", "1", 4)
    first = access.begin(bob, "sql", "2", 3)
    with pytest.raises(ResourceExhausted, match="in flight"):
        access.begin(bob, "sql", "3")
    first.end(0)
    with pytest.raises(ResourceExhausted, match="1 times a second") as refused:
        access.begin(bob, "sql", "4")
    assert refused.value.retry_after_ms == 1000
    times.advance(1)
    access.begin(bob, "sql", "5").end(0)
    codes = {line["request_id"]: line["code"] for line in lines(notes, tmp_path)}
    exhausted = "RESOURCE_EXHAUSTED"
    assert codes == {"1": "PERMISSION_DENIED", "2": "OK", "3": exhausted, "4": exhausted, "5": "OK"}


def test_who_goes_on_after_he_was_revoked_has_a_line(access: FileAccess, notes: AuditLog, tmp_path: Path) -> None:
    alice = access.recognise(bearer("alice"))
    put(tmp_path / "auth.toml", ROLES + principal("bob"))
    access._following._look()
    with pytest.raises(Unauthenticated):
        access.over("flight").begin(alice, "Flights.delays", "r1")
    (line,) = lines(notes, tmp_path)
    said = [line[key] for key in ("principal", "protocol", "what", "code", "request_id")]
    assert said == ["alice", "flight", "Flights.delays", "UNAUTHENTICATED", "r1"]


def test_what_a_principal_has_no_right_to_has_a_line(access: FileAccess, notes: AuditLog, tmp_path: Path) -> None:
    alice = access.recognise(bearer("alice"))
    with pytest.raises(PermissionDenied):
        raise seen.may_not_call(alice, "Prices", "charge")
    with pytest.raises(PermissionDenied):
        seen.check_right(alice, "metrics")
    seen.check_queries(alice)
    said = [(line["principal"], line["what"], line["code"]) for line in lines(notes, tmp_path)]
    assert said == [("alice", "Prices.charge", "PERMISSION_DENIED"), ("alice", "metrics", "PERMISSION_DENIED")]


def test_those_who_are_not_recognised_have_a_bounded_number_of_lines(
    access: FileAccess, notes: AuditLog, times: Times, tmp_path: Path
) -> None:
    grpc = access.over("grpc")
    for _ in range(audit.FAILED_PER_S + 5):
        with pytest.raises(Unauthenticated):
            grpc.known(None)
    assert len(lines(notes, tmp_path)) == audit.FAILED_PER_S
    times.advance(1)
    with pytest.raises(Unauthenticated):
        grpc.recognise(basic("alice", "wrong-password"))
    last = lines(notes, tmp_path)[-1]
    assert (last["principal"], last["protocol"], last["what"]) == ("", "grpc", "authentication")
    assert last["why"] == "the credentials are wrong, or were revoked; and 5 others a while ago"
    assert "wrong-password" not in (tmp_path / "audit.jsonl").read_text()


def test_what_callers_choose_is_cut_and_stays_on_its_line(notes: AuditLog, tmp_path: Path) -> None:
    long = 'x\n{"principal": "root"}' + "y" * 1000
    notes.note(AuditEntry(1.0, "alice", "http", long, 99, request_id=long, tables=[long] * 100))
    (line,) = lines(notes, tmp_path)
    assert line["what"] == line["request_id"] == long[:256]
    assert len(line["tables"]) == 64
    assert line["code"] == "99"


@pytest.mark.parametrize("path", [None, "audit.jsonl"])
def test_bytes_that_are_no_text_end_no_thread(
    path: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = AuditLog(str(tmp_path / path) if path else None)
    notes.note_refusal("alice", "\udcff.m")
    notes.note(AuditEntry(1.0, "alice", "http", "\udcff.n", 0, request_id="\udcfe", tables=["\ud800"]))
    with caplog.at_level(logging.INFO, "flightserve.audit"):
        notes.write()
    said = lines(notes, tmp_path) if path else [vars(record) for record in caplog.records]
    assert [line["what"] for line in said] == ["?.m", "?.n"]
    assert (said[1]["request_id"], said[1]["tables"]) == ("?", ["?"])


def test_what_does_not_fit_the_queue_is_lost_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "QUEUE_MAX", 10)
    notes = AuditLog(str(tmp_path / "audit.jsonl"))
    for number in range(15):
        notes.note(AuditEntry(1.0, "alice", "http", str(number), 0))
    assert [line["what"] for line in lines(notes, tmp_path)] == [str(number) for number in range(10)]
    assert "5 lines of the audit log are lost" in caplog.text
    notes.note(AuditEntry(1.0, "alice", "http", "later", 0))
    assert lines(notes, tmp_path)[-1]["what"] == "later"


@pytest.mark.parametrize("path", [None, "audit.jsonl"])
def test_who_is_loud_does_not_hide_what_others_tell(
    path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "LOGGED_PER_S", 3)
    monkeypatch.setattr(audit, "QUEUE_MAX", 3)
    notes = AuditLog(str(tmp_path / path) if path else None)
    for number in range(5):
        notes.note(AuditEntry(1.0, "loud", "http", f"call {number}", number and Code.RESOURCE_EXHAUSTED))
    for number in range(5):
        notes.note_refusal("curious", f"denied {number}")
    notes.note_failure("grpc", "wrong")
    with caplog.at_level(logging.INFO, "flightserve.audit"):
        notes.write()
    records = [vars(record) for record in caplog.records if record.name == "flightserve.audit"]
    said = [line["what"] for line in (lines(notes, tmp_path) if path else records)]
    each = (f"{what} {number}" for what in ("call", "denied") for number in range(3))
    assert sorted(said) == sorted(["authentication", *each])
    assert "4 lines of the audit log are lost" in caplog.text


def test_what_may_not_be_written_in_this_second_waits_for_the_next() -> None:
    waiting = Waiting(100, 3)
    waiting.entries.extend(AuditEntry(1.0, "alice", "http", str(number), 0) for number in range(7))
    assert [[entry.what for entry in waiting.take(second)] for second in (5, 5, 6, 9, 9)] == [
        ["0", "1", "2"], [], ["3", "4", "5"], ["6"], [],
    ]  # fmt: skip


def test_nothing_is_lost_where_nobody_wants_any(caplog: pytest.LogCaptureFixture) -> None:
    notes = AuditLog(None)
    with caplog.at_level(logging.WARNING, "flightserve.audit"):
        for _ in range(audit.LOGGED_PER_S + 1):
            notes.note(AuditEntry(1.0, "alice", "http", "x", 0))
        notes.write()
    assert caplog.records == []


def test_a_file_that_is_moved_away_is_begun_anew(notes: AuditLog, tmp_path: Path) -> None:
    for number in range(3):
        notes.note(AuditEntry(1.0, "alice", "http", str(number), 0))
        notes.write()
        (tmp_path / "audit.jsonl").rename(tmp_path / f"audit.{number}")
    assert [json.loads((tmp_path / f"audit.{number}").read_text())["what"] for number in range(3)] == ["0", "1", "2"]


def test_a_file_that_cannot_be_written_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    notes = AuditLog(str(folder / "audit.jsonl"))
    for _ in range(3):
        notes.note(AuditEntry(1.0, "alice", "http", "x", 0))
        notes.write()
    assert caplog.text.count("cannot be written: No such file or directory") == 1
    folder.mkdir()
    notes.note(AuditEntry(1.0, "alice", "http", "x", 0))
    notes.stop()
    assert len((folder / "audit.jsonl").read_text().splitlines()) == 1
    with pytest.raises(ConfigError, match=r"^audit_log .*logs cannot be written: Is a directory"):
        check_writable(str(folder))


def write_many(path: str, who: str) -> None:
    file = AuditFile(path)
    for _ in range(20):
        assert file.write([AuditEntry(1.0, who, "http", "w" * 200, 0)] * 50) == 0
    file.close()


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "audit.jsonl")
    spawning = multiprocessing.get_context("fork")
    writing = [spawning.Process(target=write_many, args=(path, f"p{number}")) for number in range(3)]
    for process in writing:
        process.start()
    for process in writing:
        process.join(60)
        assert process.exitcode == 0
    said = [json.loads(line)["principal"] for line in Path(path).read_text().splitlines()]
    assert sorted(said) == ["p0"] * 1000 + ["p1"] * 1000 + ["p2"] * 1000


def test_without_a_file_lines_are_records_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "LOGGED_PER_S", 3)
    notes = AuditLog(None)
    with caplog.at_level(logging.INFO, "flightserve.audit"):
        for number in range(5):
            notes.note(AuditEntry(1.5, "alice", "http", f"Flights.m{number}", 0, rows=number))
        notes.write()
    records = [record for record in caplog.records if record.name == "flightserve.audit"]
    assert [record.getMessage() for record in records] == [f"alice Flights.m{number}" for number in range(3)]
    assert (vars(records[1])["rows"], vars(records[1])["began"]) == (1, "1970-01-01T00:00:01.500Z")
    assert "2 lines of the audit log are lost; --audit-log FILE takes all" in caplog.text
