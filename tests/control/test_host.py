"""The frontends' host, with frontends that only note what is asked of them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flightserve.config import FrontendOptions
from flightserve.frontends import host
from flightserve.frontends.host import BindFailed, FrontendHost

NOTES: list[tuple[str, str]] = []
THREADS: dict[str, str] = {}
PORT_IN_USE = 6666
PORT_SLOW = 7777


class OnLoop:
    """A frontend that lives on the event loop."""

    protocol = "http"

    def __init__(
        self,
        service: object,
        address: str,
        port: int,
        limits: object,
        metrics: object,
        *of_protocol: object,
        **of_all: object,
    ) -> None:
        self.port = port
        asyncio.get_running_loop()

    async def start(self) -> str:
        if self.port == PORT_IN_USE:
            raise OSError("address already in use")
        THREADS[self.protocol] = threading.current_thread().name
        NOTES.append((self.protocol, "start"))
        return f"{self.protocol}:{self.port}"

    async def drain(self, timeout_s: float) -> bool:
        NOTES.append((self.protocol, "drain"))
        return self.port != PORT_SLOW

    async def stop(self) -> None:
        NOTES.append((self.protocol, "stop"))


class Second(OnLoop):
    """Another one on the same loop."""

    protocol = "zmq"


class Blocking:
    """A frontend with threads of its own."""

    def __init__(
        self,
        service: object,
        address: str,
        port: int,
        limits: object,
        metrics: object,
        ticket_key: bytes,
        _: object,
        **of_all: object,
    ) -> None:
        assert len(ticket_key) == 32
        self.port = port

    def start(self) -> str:
        NOTES.append(("flight", "start"))
        return f"flight:{self.port}"

    def drain(self, timeout_s: float) -> bool:
        NOTES.append(("flight", "drain"))
        return True

    def stop(self) -> None:
        NOTES.append(("flight", "stop"))
        raise RuntimeError("one that does not stop cleanly must not keep the others from it")


@pytest.fixture(autouse=True)
def frontends(monkeypatch: pytest.MonkeyPatch) -> None:
    NOTES.clear()
    monkeypatch.setattr(
        host, "FRONTENDS",
        {
            "http": (__name__, "OnLoop", True),
            "flight": (__name__, "Blocking", False),
            "zmq": (__name__, "Second", True),
        },
    )  # fmt: skip


def _host(**ports: int | None) -> FrontendHost:
    service: Any = object()
    return FrontendHost(service, FrontendOptions(**{"http_port": 1, "flight_port": 2, "zmq_port": 3, **ports}), None)  # type: ignore[arg-type]


def test_all_start_drain_and_stop_and_the_loop_ends() -> None:
    hosted = _host()
    assert hosted.start() == {"http": "http:1", "flight": "flight:2", "zmq": "zmq:3"}
    assert THREADS["http"] == THREADS["zmq"] == "flightserve-loop"
    assert hosted.drain(1.0)
    hosted.stop()
    for protocol in ("http", "flight", "zmq"):
        assert [what for name, what in NOTES if name == protocol] == ["start", "drain", "stop"]
    assert "flightserve-loop" not in {thread.name for thread in threading.enumerate()}


def test_a_port_of_none_leaves_the_protocol_out() -> None:
    hosted = _host(http_port=None, zmq_port=None)
    assert hosted.start() == {"flight": "flight:2"}
    hosted.stop()


def test_an_address_in_use_names_the_protocol_and_stops_what_had_started() -> None:
    hosted = _host(zmq_port=PORT_IN_USE)
    with pytest.raises(BindFailed, match=r"zmq_port 6666: cannot listen on 127\.0\.0\.1:6666: address already in use"):
        hosted.start()
    assert ("http", "stop") in NOTES
    assert ("flight", "stop") in NOTES
    assert "flightserve-loop" not in {thread.name for thread in threading.enumerate()}


def test_one_that_does_not_finish_makes_the_drain_false() -> None:
    hosted = _host(zmq_port=PORT_SLOW)
    hosted.start()
    assert not hosted.drain(1.0)
    hosted.stop()


def test_what_lives_on_the_loop_is_started_before_the_frontends() -> None:
    service: Any = object()
    seen: list[asyncio.AbstractEventLoop] = []
    hosted = FrontendHost(service, FrontendOptions(http_port=1, flight_port=None, zmq_port=None), None, seen.append)
    hosted.start()
    assert len(seen) == 1
    assert seen[0].is_running()
    hosted.stop()
