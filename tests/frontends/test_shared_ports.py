"""Two frontends on the same ports of HTTP and gRPC, as `share_ports` has them: the kernel deals connections out, and
the end of one is no end for the other's."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import pytest

from flightserve.config import FrontendOptions
from flightserve.frontends.host import BindFailed, FrontendHost
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto.flightserve_pb2_grpc import FlightServeStub
from flightserve.testing import LocalService
from flightserve.tiers import frontend_options
from tests.control.pricing import app
from tests.control.test_cli import assignment
from tests.support import eventually

# That all of them meet one frontend is as likely as that all fall on one side of a coin.
CONNECTIONS = 64


@pytest.fixture
def options() -> FrontendOptions:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        http, rpc = one.getsockname()[1], other.getsockname()[1]
    return FrontendOptions(
        http_port=http, grpc_port=rpc, flight_port=None, zmq_port=None, frontends=2, share_ports=True
    )


def frontend_of(options: FrontendOptions, ordinal: int, before: dict[str, str] | None = None) -> FrontendOptions:
    return frontend_options(dataclasses.replace(assignment(ordinal, before), options=options))


@pytest.fixture
def hosts(options: FrontendOptions) -> Iterator[list[FrontendHost]]:
    with LocalService(app) as service:
        made = [
            FrontendHost(service, frontend_of(options, ordinal), Metrics(), shared=options.shared) for ordinal in (0, 1)
        ]
        yield made
        for each in made:
            each.stop()


def held(host: FrontendHost) -> int:
    return int(host._running["http"].statistics()["http_connections"])


def connected(port: int, stack: ExitStack) -> None:
    for _ in range(CONNECTIONS):
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))


def called(port: int) -> list[str]:
    # A channel of its own: those of one process share their connections otherwise.
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        told: Any = FlightServeStub(channel).ListDeployments(pb.ListDeploymentsRequest(), timeout=20)  # type: ignore[no-untyped-call]
        return [each.name for each in told.deployments]


def test_both_take_connections_and_one_goes_on_when_the_other_ends(
    hosts: list[FrontendHost], options: FrontendOptions
) -> None:
    first, second = hosts
    http, rpc = options.shared["http"], options.shared["grpc"]
    assert first.start() == {"http": f"http://127.0.0.1:{http}", "grpc": f"127.0.0.1:{rpc}"}
    own = second.start()
    assert own["grpc"] == f"127.0.0.1:{rpc}"
    assert own["http"] != f"http://127.0.0.1:{http}"
    assert httpx.get(f"{own['http']}/healthz").status_code == 200
    with ExitStack() as stack:
        connected(http, stack)
        eventually(lambda: held(first) + held(second) >= CONNECTIONS)
        assert held(first) > 0
        assert held(second) > 0
    assert first.drain(5.0)
    first.stop()
    for _ in range(8):
        assert httpx.get(f"http://127.0.0.1:{http}/healthz").status_code == 200
        assert called(rpc) == ["Pricing"]


def test_who_does_not_share_is_refused(hosts: list[FrontendHost], options: FrontendOptions) -> None:
    hosts[0].start()
    stranger = FrontendHost(hosts[0]._service, options, Metrics())
    with pytest.raises(BindFailed, match=f"http_port {options.http_port}: cannot listen on"):
        stranger.start()


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({}, {"http": 80, "grpc": 81}),
        ({"http_port": 0}, {"grpc": 81}),
        ({"grpc_port": None}, {"http": 80}),
        ({"http_port": "unix:/tmp/s"}, {"grpc": 81}),
        ({"share_ports": False}, {}),
        ({"frontends": 1}, {}),
        ({"frontends": "node"}, {}),
    ],
)
def test_ports_that_are_given_are_shared_by_several_of_one_node(
    changes: dict[str, Any], shared: dict[str, int]
) -> None:
    given: dict[str, Any] = {"http_port": 80, "grpc_port": 81, "flight_port": 82, "frontends": 2, "share_ports": True}
    assert FrontendOptions(**{**given, **changes}).shared == shared


def test_a_successor_shares_the_ports_of_the_one_before() -> None:
    options = FrontendOptions(http_port=80, grpc_port=81, flight_port=82, frontends=3, share_ports=True)
    made = frontend_of(options, 2)
    assert (made.http_port, made.grpc_port, made.flight_port) == (0, 81, 0)
    before = {"http": "http://127.0.0.1:9001", "grpc": "127.0.0.1:81", "flight": "grpc://127.0.0.1:9002"}
    made = frontend_of(options, 2, before)
    assert (made.http_port, made.grpc_port, made.flight_port) == (9001, 81, 9002)
