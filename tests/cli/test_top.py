"""What `flightserve top` makes of views: rates, order, and lines that fit the terminal."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.cli.main import main
from flightserve.cli.top.figures import SORTS, AppFigures, Figures, sorted_deployments, sorted_processes
from flightserve.cli.top.picture import (
    COLUMNS_MIN,
    ROWS_MIN,
    TopChoice,
    age,
    count,
    duration,
    lines,
    most_skipped,
    rate,
    size,
)
from flightserve.control.messages import ChildView, DeploymentView, View
from flightserve.measures import QUEUE_WAIT, REQUEST_DURATION
from flightserve.types import MetricFamily


def child(name: str, tier: str, pid: int = 1, node: str = "n", **said: float) -> ChildView:
    deployment = name.split("-")[1] if tier == "replica" else ""
    addresses = {"carrier": f"host-{node}:1"} if tier == "carrier" else {}
    return ChildView(name, tier, deployment, "serving", True, pid, 1, 0, 2.0, "v", addresses, said, node)


def view(*children: ChildView, app: str = "app1", deployments: Any = (), **more: Any) -> View:
    return View(
        app, "ready", "", "", 10, 1, {"http": "http://x"}, children, tuple(deployments), supervisor_node="n", **more
    )


A = DeploymentView("A", "v", "served", 2, 2, 0)
DOTTED = DeploymentView("a.b", "v", "served", 1, 1, 0)


def router(uptime_s: float, pid: int = 1, **counts: float) -> ChildView:
    return child("router-0", "router", pid, uptime_s=uptime_s, **counts)


def looked(*views: View) -> AppFigures:
    figures, found = Figures(), []
    for number, each in enumerate(views):
        found = figures.look({each.app_id: each}, float(number))
    return found[0]


def test_rates_are_between_two_reports_by_the_process_s_own_clock() -> None:
    first = router(
        1.0, **{"A.completed": 10, "A.queue_waits": 10, "A.queue_wait_ns": 0, "A.dispatched_batches": 1, "A.busy_ns": 0}
    )
    second = router(
        3.0,
        **{
            "A.completed": 30, "A.queue_waits": 30, "A.queue_wait_ns": 40e6, "A.dispatched_batches": 5,
            "A.busy_ns": 8e6, "A.queued_requests": 7, "A.shed": 4, "A.would_miss": 2, "A.expired_queued": 2,
        },
    )  # fmt: skip
    (found,) = looked(*(view(each, deployments=[A]) for each in (first, second))).deployments
    assert (found.requests_s, found.queued, found.shed_s, found.failed_s) == (10.0, 7.0, 3.0, 1.0)
    assert found.run_ms == pytest.approx(2.0)


def test_a_look_before_the_next_report_keeps_the_rates() -> None:
    reports = [router(1.0, **{"A.completed": 0}), router(2.0, **{"A.completed": 5})]
    again = looked(*(view(each, deployments=[A]) for each in (*reports, reports[1], reports[1])))
    assert again.deployments[0].requests_s == 5.0


def test_a_process_that_began_again_counts_from_nothing() -> None:
    before, after = router(900.0, **{"A.completed": 1e6}), router(1.0, pid=2, **{"A.completed": 3})
    assert looked(view(before, deployments=[A]), view(after, deployments=[A])).deployments[0].requests_s == 0.0


def test_routers_are_added_up_and_names_may_have_dots() -> None:
    def two(uptime_s: float, done: float) -> View:
        more = child("router-1", "router", 2, uptime_s=uptime_s, **{"a.b.completed": done})
        return view(router(uptime_s, **{"a.b.completed": done}), more, deployments=[DOTTED])

    assert looked(two(1, 0), two(2, 5)).deployments[0].requests_s == 10.0


def spread(name: str, *counts: float, bounds: tuple[float, ...] = (0.001, 0.002)) -> MetricFamily:
    return MetricFamily("histogram", name, "about", ("deployment",), bounds, ((("a.b",), (*counts, 7.0)),))


def test_quantiles_are_of_what_all_frontends_and_routers_observed_since_their_last_reports() -> None:
    def all_four(uptime_s: float, took: tuple[float, ...], waited: tuple[float, ...]) -> View:
        children = [
            msgspec.structs.replace(child(name, tier, uptime_s=uptime_s), families=(spread(kind, *counts),))
            for name, tier, kind, counts in (
                ("frontend-0", "frontend", REQUEST_DURATION, took), ("frontend-1", "frontend", REQUEST_DURATION, took),
                ("router-0", "router", QUEUE_WAIT, waited), ("router-1", "router", QUEUE_WAIT, (0.0, 0.0, 0.0)),
            )
        ]  # fmt: skip
        return view(*children, deployments=[DOTTED, A])

    first = all_four(1.0, (1000.0, 0.0, 0.0), (0.0, 9.0, 0.0))
    found, other = looked(first, all_four(2.0, (1050.0, 49.0, 1.0), (10.0, 9.0, 0.0))).deployments
    assert found.took == (pytest.approx(1.0), pytest.approx(2.0))
    assert found.waited == (pytest.approx(0.5), pytest.approx(0.99))
    assert found.latency_ms == pytest.approx(2.0)
    assert (other.took, other.waited) == ((None, None), (None, None))
    quiet = looked(first, all_four(2.0, (1000.0, 0.0, 0.0), (0.0, 9.0, 0.0))).deployments[0]
    assert quiet.took == (None, None)


def test_histograms_of_two_kinds_are_not_mixed() -> None:
    """Of processes of two versions of flightserve."""

    def two(uptime_s: float, count: float) -> View:
        kinds = [spread(QUEUE_WAIT, count, 0.0, 0.0), spread(QUEUE_WAIT, count, 0.0, bounds=(5.0,))]
        routers = [
            msgspec.structs.replace(child(f"router-{n}", "router", uptime_s=uptime_s), families=(kind,))
            for n, kind in enumerate(kinds)
        ]
        return view(*routers, deployments=[DOTTED])

    assert looked(two(1.0, 0.0), two(2.0, 4.0)).deployments[0].waited.p50_ms == pytest.approx(0.5)


def test_the_load_of_a_replica_is_over_its_lanes() -> None:
    reports = [
        child("replica-A-0", "replica", busy_seconds=busy, lanes=2.0, uptime_s=at) for busy, at in ((0, 1), (3, 3))
    ]
    (found,) = looked(*map(view, reports)).processes
    assert found.load == 0.75


def test_the_processor_time_is_by_our_clock() -> None:
    used = iter([1.0, 1.5])
    figures = Figures(lambda view, child: next(used))
    figures.look({"app1": view(router(1.0))}, 10.0)
    ((found,),) = [each.processes for each in figures.look({"app1": view(router(1.0))}, 12.0)]
    assert found.cpu == 0.25


def test_an_app_that_does_not_answer_stands_as_it_was_and_one_that_is_gone_goes() -> None:
    figures = Figures()
    assert figures.look({"app1": "did not answer"}, 0.0) == []
    figures.look({"app1": view(router(1.0), deployments=[A])}, 1.0)
    (found,) = figures.look({"app1": "did not answer"}, 2.0)
    assert (found.problem, len(found.processes)) == ("did not answer", 1)
    assert "did not answer" in "\n".join(lines([found], TopChoice(), 80, 24, colour=False))
    assert figures.look({}, 3.0) == []
    (back,) = figures.look({"app1": view(router(5.0), deployments=[A])}, 4.0)
    assert back.problem == ""


def crowd(apps: int, replicas: int, nodes: int = 1) -> list[AppFigures]:
    """Apps with many replicas, on nodes."""
    views = {}
    for app in range(apps):
        children = [router(1.0)]
        children += [child(f"replica-A-{each}", "replica", each + 2, f"n{each % nodes}") for each in range(replicas)]
        children += [child(f"carrier-{each}", "carrier", 1, f"n{each}") for each in range(nodes) if nodes > 1]
        views[f"app{app}"] = view(*children, app=f"app{app}", deployments=[A])
    return Figures().look(views, 0.0)  # type: ignore[arg-type]


@given(
    st.integers(0, 3), st.integers(0, 40), st.integers(1, 3), st.integers(COLUMNS_MIN, 200), st.integers(ROWS_MIN, 60),
    st.sampled_from(SORTS), st.integers(0, 300),
)  # fmt: skip
def test_it_fits_the_terminal_whatever_there_is(
    apps: int, replicas: int, nodes: int, columns: int, rows: int, sort: str, skipped: int
) -> None:
    found = crowd(apps, replicas, nodes)
    drawn = lines(found, TopChoice(sort, "", skipped), columns, rows, colour=False)
    assert len(drawn) == rows
    assert all(len(line) <= columns for line in drawn)
    least = most_skipped(found, TopChoice(sort), columns, rows)
    last = lines(found, TopChoice(sort, "", least), columns, rows, colour=False)
    assert not least or f"{least} above, 0 below" in last[-1]


def test_eighty_columns_have_what_matters() -> None:
    drawn = "\n".join(lines(crowd(1, 2, 2), TopChoice(), 80, 24, colour=False))
    for word in ("app app0 ready", "replica 2/2", "router 1/1", "node host-n0", "DEPLOYMENT", "REQ/S", "QUEUE", "P50",
                 "P99", "WAIT99", "SHED/S", "LOAD", "CPU", "RESTARTS", "replica-A-1", "q ends"):  # fmt: skip
        assert word in drawn, word


def test_what_is_narrow_keeps_what_says_most() -> None:
    drawn = "\n".join(lines(crowd(1, 1), TopChoice(), 45, 24, colour=False))
    assert "REQ/S" in drawn and "SHED/S" in drawn and "LOAD" in drawn
    assert "ROWS/S" not in drawn and "PID" not in drawn
    assert lines([], TopChoice(), 20, 3, colour=False) == ["top needs 40 columns"]


def test_one_of_several_apps_may_be_chosen() -> None:
    drawn = "\n".join(lines(crowd(3, 1), TopChoice(app="app1"), 80, 40, colour=False))
    assert "app app1" in drawn and "app app0" not in drawn
    gone = "\n".join(lines(crowd(2, 1), TopChoice(app="app7"), 80, 40, colour=False))
    assert "app app7 is gone" in gone and "app app0" in gone
    assert "no flightserve app of yours runs" in "\n".join(lines([], TopChoice(), 80, 24, colour=False))


def test_what_users_call_things_moves_no_cursor() -> None:
    said = view(router(1.0), deployments=[A], change="\x1b[2J\x1b[Hgone\x07")
    drawn = "\n".join(lines(Figures().look({"app1": said}, 0.0), TopChoice(), 80, 24, colour=True))
    assert "\x1b[2J" not in drawn and "gone" in drawn


def test_the_greatest_come_first() -> None:
    deployments = [DeploymentView(name, "v", "served", 1, 1, 0) for name in ("a", "b", "c")]
    reports = [
        router(at, **{"b.completed": at * 9, "c.queued_requests": 4, "a.shed": at * 2, "a.completed": at})
        for at in (1, 2)
    ]
    found = looked(*(view(each, deployments=deployments) for each in reports))
    first = {sort: sorted_deployments(found, sort)[0].view.name for sort in SORTS}
    assert first == {"name": "a", "load": "b", "queue": "c", "latency": "a", "shed": "a"}
    assert [each.view.name for each in sorted_processes(found, "load")] == ["router-0"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (count(0), "0"), (count(999.4), "999"), (count(999.9), "1.0k"), (count(12345), "12.3k"), (count(1.5e9), "1.5G"),
        (rate(0.25), "0.2"), (rate(3.4), "3"), (duration(None), "-"), (duration(0.23), "230us"),
        (duration(4.12), "4.1ms"),
        (duration(99.96), "100ms"), (duration(2345), "2.3s"), (size(64 << 20), "64M"), (size(1.5 * (1 << 30)), "1.5G"),
        (age(12.3), "12s"), (age(300), "5m"), (age(7200), "2h"), (age(400_000), "5d"),
    ],
)  # fmt: skip
def test_numbers_are_short(text: str, said: str) -> None:
    assert text == said


def test_without_a_terminal_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 2
    assert "`flightserve status --watch` writes lines" in capsys.readouterr().err


def test_it_draws_on_a_terminal_that_knows_little_and_ends_at_q() -> None:
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "ascii", "COLUMNS": "", "LINES": ""}
    command = [sys.executable, "-m", "flightserve", "top", "--app", "none such"]
    started = pexpect.spawn(command[0], command[1:], env=environment, encoding="utf-8", timeout=60, dimensions=(24, 80))
    with started as top:
        top.expect_exact("no flightserve app of yours runs")
        top.send("ss")
        top.expect_exact("by queue")
        top.send("q")
        top.expect(pexpect.EOF)
        assert top.wait() == 0
