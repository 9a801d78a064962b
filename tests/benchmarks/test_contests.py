"""`make bench-peers` on made-up results: turns, what is left out, the tables, what load generators in C say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contests import bars, charts, tables
from benchmarks.contests.__main__ import PARTS, arguments_of, document_of, main
from benchmarks.contests.contest import OURS, Contest, Side, take_turns
from benchmarks.contests.cost import Cost
from benchmarks.figures import Sample
from benchmarks.harness import Settings
from benchmarks.load import programs
from benchmarks.load.open_loop import arrivals
from benchmarks.load.orders import WrongAnswer
from benchmarks.peers import ALL, ROOT, installing, work
from benchmarks.processes import ProcessFailed

MOSEC = bars.MOSEC_WAITS.name


def held(
    value: float, other: float, against: str = MOSEC, measure: str = bars.json(128), unit: str = "req/s"
) -> Contest:
    """A contest of two, of two rounds each."""

    def samples(each: float) -> tuple[Sample, ...]:
        return tuple(Sample(each, 10, 10, {"p99_us": each * 2, "p50_us": each, "pss_mb": 30.0}) for _ in range(2))

    return Contest(measure, unit, {OURS: samples(value), against: samples(other)})


def sides(order: list[str], fails: str = "") -> list[Side]:
    def measure(name: str) -> Sample:
        order.append(name)
        if name == fails:
            raise ProcessFailed(f"['-m', 'x'] ended\nTraceback ...\nImportError: no {name}")
        return Sample(len(order), 1, 1)

    return [Side(name, lambda name=name: measure(name)) for name in ("a", "b", "c")]  # type: ignore[misc]


def test_every_side_has_its_turn_in_each_round_and_another_one_begins() -> None:
    order: list[str] = []
    contest = take_turns("m", "us", sides(order), 2)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert [sample.value for sample in contest.sides["a"]] == [6, 8], "the first round is left out"
    assert list(contest.sides) == ["a", "b", "c"]


def test_who_fails_is_out_with_the_reason_and_the_others_go_on() -> None:
    order: list[str] = []
    contest = take_turns("m", "us", sides(order, fails="b"), 3)
    assert order.count("b") == 1
    assert contest.skipped == {"b": "ImportError: no b"}
    assert {name: len(samples) for name, samples in contest.sides.items()} == {"a": 3, "c": 3}


def test_who_is_left_out_is_not_asked() -> None:
    order: list[str] = []
    asked = [*sides(order)[:2], Side("c", lambda: pytest.fail("it is left out"), left_out="not there")]
    assert take_turns("m", "us", asked, 1).skipped == {"c": "not there"}


def test_a_side_costs_what_its_processes_take() -> None:
    # It burns some ticks of processor time.
    script = "import time\nwhile time.process_time() < 0.1: pass\nprint('done', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        before = Cost({child.pid: 0.0})
        assert child.stdout is not None and child.stdout.readline() == b"done\n"
        after = Cost.of([os.getpid()])
        assert after.since(before) >= after.cpu_s[child.pid] >= 0.05
        assert Cost.of([child.pid]).pss_mb() > 1
        child.communicate(b"\n")
    assert Cost.of([child.pid]).cpu_s == {}


def test_rows_are_of_contests_that_were_held_and_compare_within_them() -> None:
    figures = bars.figures([held(200, 100), held(100, 100, bars.RAY_ACTOR, bars.DATA_PLANE, "us")], slowed=True)
    told = {figure.name: (figure.result(), str(figure.bar), figure.verdict()) for figure in figures}
    assert told == {
        f"{bars.DATA_PLANE} ({bars.RAY_ACTOR})": (1.0, ">= 6", "MISS"),
        f"{bars.json(128)} ({MOSEC})": (2.0, ">= 1", "pass"),
        f"{bars.json(128)}: p99 ({MOSEC})": (2.0, "<= 1", "MISS"),
        **{
            f"{bars.json(128)} ({name})": (None, "None", "-")
            for name in (bars.MOSEC.name, bars.BENTOML.name, bars.BARE_ASGI)
        },
    }


def test_the_table_of_issue_15_is_whole() -> None:
    """Each line of its table has a row with that bar."""
    asked = {(row.measure, row.against): str(row.bar) for row in bars.ROWS if row.bar is not None and not row.key}
    best = bars.RAY_SERVE.name
    assert [asked[bars.json(count), MOSEC] for count in bars.CONNECTIONS] == [">= 2", ">= 1.5", ">= 1"]
    assert [asked[bars.json(count, best), best] for count in (32, 128)] == [">= 5", ">= 5"]
    assert (asked[bars.ARROW, best], asked[bars.ARROW, bars.BARE_STARLETTE]) == ("<= 0.5", "<= 0.6")
    assert asked[bars.SMALL_QUERY, bars.HAND_WRITTEN] == "<= 1.15"
    assert len(asked) == len([row for row in bars.ROWS if row.bar is not None]) - 1


def test_a_run_is_told_again_from_its_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contest = held(1234, 617)
    contest.skipped[bars.BENTOML.name] = "no such thing"
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document_of([contest], Settings(), None, {})))
    monkeypatch.setattr("sys.argv", ["contests", "--show", str(path)])
    assert main() == 0
    said = capsys.readouterr().out
    assert "1,234 (1,234-1,234)" in said
    assert f"- {bars.BENTOML.name}: no such thing" in said
    assert Contest.of_dict(contest.as_dict()) == contest
    (row,) = (
        line for line in said.splitlines() if line.startswith(f"| {bars.json(128)} ") and OURS in line.split("|")[2]
    )
    assert [cell.strip() for cell in row.split("|")[4:8]] == ["1.23", "2.47", "", "30"]
    widths = {len(line) for line in tables.bars(bars.figures([held(1, 2)], False)).splitlines()}
    assert len(widths) == 1


def test_pictures_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    contests = [held(4, 2, MOSEC, bars.json(count)) for count in bars.CONNECTIONS]
    contests.append(held(9, 2, bars.RAY_SERVE.name, bars.json(32, bars.RAY_SERVE.name)))
    systems = charts.by_system(contests)
    assert list(systems) == [OURS, MOSEC, bars.RAY_SERVE.name]
    assert systems[OURS][32][0].value == 4, "that of the run with most systems"
    figures = bars.figures(contests, slowed=False)
    assert charts.distance(figures[0]) == 1.0
    assert charts.distance(next(each for each in figures if "p99" in each.name)) == 0.5
    drawn = charts.draw(contests, figures, tmp_path / "new")
    assert [path.read_bytes()[1:4] for path in drawn] == [b"PNG", b"PNG"]
    assert charts.draw([], [], tmp_path) == []


def test_parts_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments_of(["--only", "json", "--only", "sql"]).only == ["json", "sql"]
    with pytest.raises(SystemExit):
        arguments_of(["--only", "nope"])
    assert set(PARTS) >= {"whole", "ray_serve", "open_loop"}


def test_more_frontends_of_ours_are_told() -> None:
    chosen = arguments_of(["--frontends", "2"])
    assert "2 frontends" in tables.about(document_of([], Settings(frontends=chosen.frontends), None, {}))
    assert "frontends" not in tables.about(document_of([], Settings(), None, {}))


WRK = '  1 threads\n\n{"requests": 9, "us": 3000000, "p50_us": 5, "p99_us": 7, "broken": %d, "refused": %d}\n'


def test_what_wrk_says() -> None:
    assert programs.read_wrk(WRK % (0, 0)) == {"calls_per_s": 3.0, "p50_us": 5, "p99_us": 7, "answered": 9}
    for broken in ((1, 0), (0, 1)):
        with pytest.raises(WrongAnswer, match="wrk"):
            programs.read_wrk(WRK % broken)


H2LOAD = """finished in 2.00s, 9481.50 req/s, 1.87MB/s
requests: 3 total, 3 started, 3 done, 3 succeeded, %d failed, 0 errored, 0 timeout
"""


def test_what_h2load_says() -> None:
    log = "1000\t200\t5\n2000\t200\t7\n3000\t200\t9\n"
    assert programs.read_h2load(H2LOAD % 0, log)["p50_us"] == 7
    assert programs.read_h2load(H2LOAD % 0, log)["calls_per_s"] == 9481.5
    with pytest.raises(WrongAnswer, match="h2load"):
        programs.read_h2load(H2LOAD % 1, log)


def test_requests_of_an_open_loop_are_due_in_order_at_about_the_rate() -> None:
    due_ns = arrivals(1000, 2, seed=3)
    assert due_ns == sorted(due_ns) and due_ns[-1] < 2e9
    assert 1700 < len(due_ns) < 2300


def test_an_environment_is_made_anew_when_what_it_is_made_of_changes(tmp_path: Path, monkeypatch: Any) -> None:
    made: list[str] = []
    monkeypatch.setattr("benchmarks.peers.ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(installing, "install", lambda each: made.append(each.name) or "")
    for environment in ALL:
        environment.folder.mkdir()
        assert installing.ensure(environment) == installing.ensure(environment) == ""
    assert made == [each.name for each in ALL]
    monkeypatch.setattr(installing, "install", lambda each: "no such version")
    ALL[0].stamp.write_text("of something else")
    assert installing.ensure(ALL[0]) == "no such version"
    assert not ALL[0].stamp.exists() and ALL[0].reason.read_text() == "no such version\n"


def test_constraints_of_environments_are_there_and_errors_are_a_line() -> None:
    assert all((ROOT / name).exists() for each in ALL for name in each.constraints)
    assert installing.reason_of("WARNING: x\nERROR: No match\nERROR: see elsewhere\nnotice") == "ERROR: No match"
    assert installing.reason_of("") == "it said nothing"


def test_the_identity_work_answers_what_came() -> None:
    columns = work.probe(work.IDENTITY)
    assert work.load(work.IDENTITY)([columns, {"x": [1]}]) == [{"columns": columns}, {"columns": {"x": [1]}}]
