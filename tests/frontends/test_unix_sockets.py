"""HTTP and gRPC at a path instead of a port: whose it is, what is replaced there and what is not, and that it goes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from flightserve.config import FrontendOptions
from flightserve.control import ports
from flightserve.errors import ConfigError, Unavailable
from flightserve.frontends.host import BindFailed, FrontendHost
from flightserve.frontends.unix_sockets import PATH_BYTES_MAX, UnixSocket
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto.flightserve_pb2_grpc import FlightServeStub
from flightserve.testing import LocalService
from flightserve.tiers import frontend_options
from tests.control.pricing import app
from tests.control.test_cli import assignment


@contextmanager
def listening(http: str, grpc_: str | None = None, host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    options = FrontendOptions(host=host, http_port=http, grpc_port=grpc_, flight_port=None, zmq_port=None)
    with LocalService(app) as service:
        hosted = FrontendHost(service, options, Metrics())
        try:
            yield hosted.start()
        finally:
            hosted.drain(5.0)
            hosted.stop()


def check(http: str, **more: int) -> None:
    none = {f"{protocol}_port": None for protocol in ("grpc", "flight", "zmq")}
    ports.check(FrontendOptions(http_port=http, **{**none, **more}))  # type: ignore[arg-type]


def test_clients_come_by_paths_that_are_this_users_alone_and_gone_at_the_end(tmp_path: Path) -> None:
    web, rpc = tmp_path / "web.sock", tmp_path / "rpc.sock"
    with listening(f"unix:{web}", f"unix:{rpc}", host="0.0.0.0") as addresses:
        assert addresses == {"http": f"unix:{web}", "grpc": f"unix:{rpc}"}
        assert [stat.S_IMODE(each.stat().st_mode) for each in (web, rpc)] == [0o600, 0o600]
        assert sorted(each.name for each in tmp_path.iterdir()) == ["rpc.sock", "web.sock"]
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(web)), base_url="http://localhost") as client:
            answer = client.post("/v1/Pricing/charge", json={"columns": {"price": [1.0]}})
            assert answer.status_code == 200, answer.text
            assert client.get("/readyz", headers={"host": "elsewhere.example"}).status_code == 421
        with grpc.insecure_channel(addresses["grpc"]) as channel:
            told = FlightServeStub(channel).ListDeployments(pb.ListDeploymentsRequest(), timeout=20)  # type: ignore[no-untyped-call]
            assert [each.name for each in told.deployments] == ["Pricing"]
    assert not list(tmp_path.iterdir())


def test_what_a_server_left_behind_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    check(f"unix:{path}")
    with listening(f"unix:{path}"):
        with pytest.raises(
            Unavailable, match=f"http_port unix:{path}: cannot listen on {path}: somebody listens there"
        ):
            check(f"unix:{path}")
        with pytest.raises(BindFailed, match=r"http_port unix:.*somebody listens there"), listening(f"unix:{path}"):
            pass
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/healthz").status_code == 200


def test_another_servers_socket_stays_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(f"unix:{path}"):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "something else than a socket lies there"),
        ("no/such/s", "there is no folder .*no/such; make it"),
        ("x" * 108, f"a socket's path has at most {PATH_BYTES_MAX} bytes, this one"),
    ],
)
def test_where_nothing_can_listen_is_said_before_anything_starts(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(Unavailable, match=f"http_port unix:.*: cannot listen on .*: {said}"):
        check(f"unix:{tmp_path}/{name}")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_one_may_not_write_in_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Unavailable, match="this user may not write in"):
        check(f"unix:{tmp_path}/s")
    tmp_path.chmod(0o700)


def test_the_longest_path_is_taken_and_frontends_after_the_first_have_numbers(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * max(1, PATH_BYTES_MAX - len(str(tmp_path)) - 20))
    folder.mkdir()
    longest = folder / ("s" * (PATH_BYTES_MAX - len(str(folder)) - 1))
    with listening(f"unix:{longest}"), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(longest))
    with pytest.raises(Unavailable, match=r"http_port unix:.*\.1: .*at most 107 bytes, this one 109"):
        check(f"unix:{longest}", frontends=2)
    first, second = (frontend_options(assignment(n, http_port="unix:/run/s")).http_port for n in (0, 1))
    assert (first, second) == ("unix:/run/s", "unix:/run/s.1")
    again = assignment(1, {"http": "unix:/run/s.1"}, http_port="unix:/run/s")
    assert frontend_options(again).http_port == "unix:/run/s.1"


@pytest.mark.parametrize("options", [{"http_port": "unix:"}, {"flight_port": "unix:/s"}, {"http_port": "unix:/s/"}])
def test_what_is_no_path_of_a_socket_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(options))} is 'unix:"):
        FrontendOptions(**options)  # type: ignore[arg-type]


def test_nothing_is_left_where_binding_fails(tmp_path: Path) -> None:
    place = UnixSocket(f"unix:{tmp_path}/s")
    with pytest.raises(RuntimeError), place.binding():
        raise RuntimeError("the library says no")
    assert not list(tmp_path.iterdir())
    place.remove()
