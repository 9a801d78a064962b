"""The fault matrix, within one process: what user code may raise, return and do to its event loop, times where.

After each the caller has a typed answer, and the next good calls, to both kinds of methods, work. What ends a process
is in `tests/control/test_unruly.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from flightserve.errors import FlightserveError, MethodFailed, NotFound, SchemaMismatch
from tests.plane import Plane, meta, plane
from tests.unruly import LOOP, PLACES, RAISED, RETURNED, SILENT, OddType, Unruly

# Loops that were broken cannot be closed; they and what runs on them are collected at any time later.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
GOOD = pa.record_batch({"what": ["good"]})
# The error that each exception of ours, or made from one of ours, is to its caller.
OURS = {name: NotFound for name in RAISED if name.startswith("ours")}


@pytest.fixture(scope="module")
def system() -> Iterator[Plane]:
    pa.register_extension_type(OddType())
    with plane(Unruly.bind()) as running:
        yield running
    pa.unregister_extension_type("flightserve.tests.odd")
    # Here what it says is expected.
    del running
    gc.collect()


def named(what: str, where: str = "") -> pa.RecordBatch:
    names = pa.array([what])
    return pa.record_batch({"what": pa.ExtensionArray.from_storage(OddType(), names) if where == "argument" else names})


def outcome(system: Plane, where: str, what: str) -> FlightserveError | None:
    """The error that the caller gets."""
    try:
        system.call(where, named(what, where), meta(15.0))
    except FlightserveError as error:
        return error
    return None


def name_of(make: Callable[[], BaseException]) -> str:
    return str(type.__dict__["__name__"].__get__(type(make())))


def check_good(system: Plane) -> None:
    for method in ("good", "async_good"):
        assert system.call(method, GOOD, meta(15.0))[0].equals(GOOD), method
    assert not system.stuck


@pytest.mark.parametrize("where", PLACES)
def test_what_is_raised_is_its_callers_error_and_nobody_elses(
    system: Plane, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's fails by some of these.
    monkeypatch.setattr(sys, "unraisablehook", lambda what: None)
    lanes = list(system.replicas[0].connections.lanes.values())
    for what, make in RAISED.items():
        error = outcome(system, where, what)
        if where in SILENT:
            assert error is None, f"{what}: {error!r}"
        else:
            kinds = (OURS.get(what, MethodFailed), SchemaMismatch if where == "argument" else MethodFailed)
            assert type(error) in kinds, f"{what}: {error!r}"
            assert len(error.message.encode()) <= 4096
            # A group stands for the most telling of its errors.
            name = "ValueError" if what == "group" else name_of(make)
            told = "that does not make columns" in error.message or name in error.message
            assert told or what in OURS or type(error) is SchemaMismatch, what
        check_good(system)
    assert list(system.replicas[0].connections.lanes.values()) == lanes, "a lane ended"


@pytest.mark.parametrize("where", ["returns", "async_returns", "yields", "row_returns"])
def test_what_is_returned_is_an_error_at_worst(system: Plane, where: str) -> None:
    for what in RETURNED:
        error = outcome(system, where, what)
        assert error is None or type(error) is MethodFailed, f"{what}: {error!r}"
        assert (error is None) <= (where == "row_returns"), what
    check_good(system)


@pytest.mark.parametrize("what", LOOP)
def test_the_methods_loop_goes_on(system: Plane, what: str) -> None:
    async def neighbours() -> list[object]:
        calls = [system.client.call("Unruly", "waits", GOOD, meta(15.0)) for _ in range(3)]
        started = [asyncio.ensure_future(anext(call)) for call in calls]
        await asyncio.sleep(0)
        own = system.client.call("Unruly", "loop", named(what), meta(15.0))
        return await asyncio.gather(anext(own), *started, return_exceptions=True)

    answers = system.run(neighbours())
    harmed = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(type(error) is MethodFailed for error in harmed), answers
    assert not (harmed and LOOP[what][1]), answers
    del answers, harmed
    check_good(system)


def test_tasks_that_are_cancelled_before_they_begin_are_answered(system: Plane) -> None:
    async def calls() -> list[object]:
        own = asyncio.ensure_future(anext(system.client.call("Unruly", "newcomers", GOOD, meta(15.0))))
        answers: list[object] = []
        while not (own.done() and answers and not isinstance(answers[-1], BaseException)):
            call = system.client.call("Unruly", "async_good", GOOD, meta(15.0))
            answers += await asyncio.gather(anext(call), return_exceptions=True)
        return [*answers, *await asyncio.gather(own, return_exceptions=True)]

    errors = [answer for answer in system.run(calls()) if isinstance(answer, BaseException)]
    assert len(errors) > 1
    assert all(type(error) is MethodFailed and "CancelledError" in error.message for error in errors), errors


def test_an_exception_that_is_raised_in_a_lanes_thread_from_outside_costs_no_call(system: Plane) -> None:
    threads = [each for each in system.replicas[0]._threads if each.name.endswith(("-lane-0", "-main"))]
    assert len(threads) == 2
    for thread in threads:
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        check_good(system)
        assert thread.is_alive()
