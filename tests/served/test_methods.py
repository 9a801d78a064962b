"""Methods that misbehave, over the real system: each gets its code, its neighbours are unharmed; and what the console
shows of it meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.control.served import Served
from tests.frontends.rpc_support import GOOD, batch_of, stream_of
from tests.served.callers import Caller
from tests.served.resting import Resting
from tests.served.serve import FABRIC
from tests.support import eventually


def check(caller: Caller, answer: Any, code: str, says: str = "") -> None:
    assert answer.code == caller.sees(code), answer
    assert says in answer.message
    assert "Traceback" not in answer.message
    assert __file__.rpartition("/tests/")[0] + "/flightserve" not in answer.message


FAILING = {"boom": "ValueError: boom", "longer": "4", "mistyped": "mistyped", "nothing": "nothing"}


def test_methods_that_raise_or_return_what_they_may_not(caller: Caller) -> None:
    for method, says in FAILING.items():
        answer = caller.call(method, GOOD)
        check(caller, answer, "INTERNAL", says)
        assert answer.status in (0, 500)


def test_a_generator_that_yields_nothing_answers_no_rows(caller: Caller) -> None:
    answer = caller.call("pieces", stream_of(batch_of()))
    assert answer.code == "OK", answer
    assert answer.rows is not None
    assert answer.rows.num_rows == 0


def test_a_request_that_breaks_its_micro_batch_breaks_only_itself(callers: dict[str, Caller]) -> None:
    good, bad = stream_of(batch_of(1, 2)), stream_of(batch_of(-1))
    names = ["http", "grpc", "zmq", "flight"]
    with ThreadPoolExecutor(4) as pool:
        for wrong in names:
            asked = {name: pool.submit(callers[name].call, "picky", bad if name == wrong else good) for name in names}
            codes = {name: future.result().code for name, future in asked.items()}
            assert codes == {name: "INTERNAL" if name == wrong else "OK" for name in names}


def test_what_does_not_fit_into_the_shared_memory_that_was_given_is_said(caller: Caller) -> None:
    mib = FABRIC.memory_bytes_max >> 20
    answer = caller.call("whole", stream_of(batch_of(mib + 1)))
    check(caller, answer, "RESOURCE_EXHAUSTED", f"which is {FABRIC.memory_bytes_max} bytes in all")
    assert answer.status in (0, 413)


def test_a_method_that_never_returns_ends_with_its_deadline(caller: Caller, callers: dict[str, Caller]) -> None:
    with ThreadPoolExecutor(1) as pool:
        never = pool.submit(caller.call, "never", GOOD, x_timeout_ms="400")
        neighbour = next(other for name, other in callers.items() if name != caller.name)
        assert neighbour.call("identity", GOOD).code == "OK"
        check(caller, never.result(), "DEADLINE_EXCEEDED", "running")


def test_a_method_that_ends_its_process(caller: Caller, callers: dict[str, Caller], resting: Resting) -> None:
    pids = {resting.pid(name): name for name in ("replica-Probe-0", "replica-Probe-1")}
    answer = caller.call("exits", GOOD)
    check(caller, answer, "UNAVAILABLE")
    assert answer.status in (0, 503)
    # Its neighbour serves on at once.
    assert caller.call("identity", GOOD).code == "OK"
    (left,) = {callers["grpc"].call("where", GOOD).rows["a"][0].as_py() for _ in range(4)} & set(pids)  # type: ignore[index]
    (gone,) = [name for pid, name in pids.items() if pid != left]
    resting.replaced(gone)


def test_the_console_shows_what_flightserve_status_does(system: Served) -> None:
    base = system.addresses["http"]
    live: dict[str, Any] = httpx.get(f"{base}/console/live").json()
    view = system.view()
    assert {each["name"]: (each["tier"], each["phase"], each["pid"]) for each in live["processes"]} == {
        child.name: (child.tier, child.phase, child.pid) for child in view.children
    }
    assert live["frontend"] == "frontend-0" and live["tiers"] and not live["problem"]
    deployments = {each["name"]: each for each in live["deployments"]}
    assert deployments.keys() == {"Probe", "Narrow", "Chain", "Piped", "lake"}
    assert {each["router"] for each in deployments.values()} <= {child.name for child in view.children}
    assert deployments["Probe"]["desired"] == 2


def test_the_history_grows_while_nobody_looks(system: Served) -> None:
    base = system.addresses["http"]

    def samples() -> list[list[float]]:
        found: list[list[float]] = httpx.get(f"{base}/console/history").json()["samples"]
        return found

    eventually(samples, timeout_s=20, what="there are samples")
    assert samples()[0][0] == 1
