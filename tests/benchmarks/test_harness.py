"""The harness: alternation, and processes that are bounded in time and ended by pid."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks import report, suite
from benchmarks.__main__ import main
from benchmarks.figures import Figure, Sample
from benchmarks.harness import Bench, Benchmark, Settings, alternate
from benchmarks.memory import tree_pss_mb
from benchmarks.peers import Environment, Peer
from benchmarks.processes import Child, Load, ProcessFailed, Server
from tests.support import eventually


def test_sides_alternate_in_every_round() -> None:
    order: list[str] = []

    def side(name: str) -> Sample:
        order.append(name)
        return Sample(len(order))

    ours, theirs = alternate(3, lambda: side("a"), lambda: side("b"))
    assert order == ["a", "b"] * 3
    assert [s.value for s in ours] == [1, 3, 5]
    assert [s.value for s in theirs] == [2, 4, 6]


def test_without_a_subject_only_the_baseline_is_measured() -> None:
    ours, theirs = alternate(2, None, lambda: Sample(1))
    assert (len(ours), len(theirs)) == (0, 2)


def test_the_suite_finds_benchmarks_by_name_and_refuses_others() -> None:
    assert [b.name for b in suite.chosen(["startup", "flight"])] == ["flight", "startup"]
    assert suite.chosen([]) == suite.SUITE
    with pytest.raises(KeyError, match="no benchmark 'nope'"):
        suite.chosen(["nope"])


def test_a_server_that_ends_before_ready_is_reported_with_its_stderr() -> None:
    with pytest.raises(ProcessFailed, match="the reason"):
        Server(["-c", "import sys; sys.exit('the reason')"])


def test_a_server_that_says_nothing_is_ended_when_its_time_is_over() -> None:
    with pytest.raises(ProcessFailed, match="said nothing"):
        Server(["-c", "import signal; signal.pause()"], timeout_s=0.2)


def test_what_a_server_prints_before_ready_is_skipped() -> None:
    script = """print('hello'); print('ready {"http": "here"}', flush=True); import signal; signal.pause()"""
    with Server(["-c", script]) as server:
        assert server.addresses == {"http": "here"}
        assert server.process.pid in {pid for pid, _ in tree_pss_mb(os.getpid())}
    assert server.process.returncode is not None


def test_a_load_that_fails_raises_the_generators_error() -> None:
    with Load("benchmarks.load.http") as load:
        with pytest.raises(ProcessFailed, match="ConnectionRefusedError"):
            load.run("json", url="http://127.0.0.1:1/", connections=1, seconds=0.1)
        with pytest.raises(ProcessFailed, match="KeyError"):
            load.run("no such order")
    assert load.process.returncode == 0


def test_a_load_that_answers_too_late_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import signal; signal.pause()")
    with Load("slow", cwd=tmp_path) as load:
        with pytest.raises(ProcessFailed, match="said nothing"):
            load.run("anything", timeout_s=0.2)
        assert load.process.poll() is not None
    with Bench(Settings()) as bench:
        ended = bench.load("load.zmq")
        assert bench.load("load.zmq") is ended
        ended.stop()
        assert bench.load("load.zmq").process.poll() is None


def test_stop_ends_a_process_that_is_still_running() -> None:
    child = Child(["-c", "import signal; print('up', flush=True); signal.pause()"])
    assert child.read_line(10) == "up"
    assert child.stop() != 0
    assert child.stop() == child.process.returncode


def test_stop_ends_the_processes_that_the_child_leaves_behind() -> None:
    script = (
        "import signal, subprocess, sys; quiet = subprocess.DEVNULL; "
        "other = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], stdout=quiet); "
        "print(other.pid, flush=True); signal.pause()"
    )
    child = Child(["-c", script])
    other = int(child.read_line(10))
    child.stop()
    eventually(lambda: not Path(f"/proc/{other}").exists() or "\nState:\tZ" in _status(other))


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_a_peer_that_is_not_installed_is_named_with_the_command_that_installs_it() -> None:
    def measure() -> Sample:
        raise AssertionError("it is not there")

    peer = Peer("Nobody", "nobody", Environment("nobody", ()))
    with Bench(Settings()) as bench:
        figure = bench.beside(peer, partial(Figure, "ours (Nobody)", "req/s"), measure, measure)
    assert figure.notes == ("Nobody is not installed and left out: make peers",)
    assert figure.verdict() == "-"
    assert "make peers" in report.table([figure])


def test_the_command_measures_the_rest_when_one_benchmark_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(bench: Bench) -> list[Figure]:
        raise ProcessFailed("the server is gone")

    def works(bench: Bench) -> list[Figure]:
        return [Figure("a figure", "us", (Sample(2.0),), (Sample(1.0),))]

    monkeypatch.setattr(suite, "SUITE", (Benchmark("bad", "", fails), Benchmark("good", "", works)))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--small", "--json", str(tmp_path / "out.json")])
    assert main() == 1
    said = capsys.readouterr()
    assert "a figure" in said.out
    assert "bad failed: the server is gone" in said.err
    document = json.loads((tmp_path / "out.json").read_text())
    assert list(document["failures"]) == ["bad"]
    assert [f["name"] for f in document["figures"]] == ["a figure"]


def test_the_command_refuses_an_unknown_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", "nope"])
    with pytest.raises(SystemExit):
        main()
    assert "no benchmark 'nope'" in capsys.readouterr().err


def test_of_several_rounds_one_comes_before_that_does_not_count() -> None:
    with Bench(Settings(rounds=2)) as bench:
        times, bare = iter(range(9)), iter(range(9))
        figure = bench.alternate(
            partial(Figure, "a figure", "s"), lambda: Sample(next(times)), lambda: Sample(next(bare))
        )
    assert [sample.value for sample in figure.subject] == [1, 2]
    assert [sample.value for sample in figure.baseline] == [1, 2]


def test_figures_that_nobody_asked_for_are_not_measured() -> None:
    measured: list[str] = []

    def side(name: str) -> Callable[[], Sample]:
        return lambda: measured.append(name) or Sample(1)

    with Bench(Settings(rounds=1, figures=("LOOK", "scan"))) as bench:
        figures = [
            bench.alternate(partial(Figure, name, "s"), side(name), side(f"{name}, bare"))
            for name in ("point lookup", "small query", "full scan")
        ]
    assert measured == ["point lookup", "point lookup, bare", "full scan", "full scan, bare"]
    assert [len(figure.subject) for figure in figures] == [1, 0, 1]
    assert bench.wants("point lookup")
    assert not bench.wants("small query")
    assert Bench(Settings()).wants("small query")
