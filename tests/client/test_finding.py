"""Which app of this machine is meant."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import flightserve as fs
from flightserve.client import finding
from flightserve.client.connecting import _beside
from flightserve.client.finding import FoundApp, app_at, is_here, only_app, port_of

ONE = FoundApp("one", "/one", ("grpc://127.0.0.1:8815", "grpc://127.0.0.1:40001"), ("unix:/a", "http://127.0.0.1:80"))
TWO = FoundApp("two", "/two", ("grpc+tls://0.0.0.0:9000",), ("https://0.0.0.0:443",))


# Of the same port as the first's; and one that is not reached by the loopback.
THREE = FoundApp("three", "/three", ("grpc://127.0.0.2:8815",))
FOUR = FoundApp("four", "/four", ("grpc://192.0.2.1:7000",))


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[FoundApp]:
    found = [ONE, TWO, THREE, FOUR]
    monkeypatch.setattr(finding, "apps", lambda: found)
    return found


@pytest.mark.parametrize(
    ("address", "app"),
    [
        ("grpc://127.0.0.1:8815", ONE),
        ("grpc+tcp://localhost:40001", ONE),
        ("grpc://[::1]:9000", TWO),
        ("grpc://127.0.0.2:8815", THREE),
        ("http://localhost:80", ONE),
        ("https://localhost:443", TWO),
        ("http://example.com:80", None),
        ("grpc://127.0.0.3:8815", None),
        ("grpc://0.0.0.0:8815", ONE),
        ("grpc://127.0.0.1:7000", None),
        ("grpc://localhost:7000", None),
        (f"grpc://{socket.gethostname()}:7000", FOUR),
        ("grpc://127.0.0.1:1", None),
        ("grpc://example.com:8815", None),
        ("grpc://10.1.2.3:8815", None),
        ("grpc://127.0.0.1", None),
        ("grpc://127.0.0.1:port", None),
        ("grpc://127.0.0.1:99999", None),
    ],
)
@pytest.mark.usefixtures("apps")
def test_an_address_is_an_app_of_this_machine_or_none(address: str, app: FoundApp | None) -> None:
    assert app_at(address) == app


def test_without_an_address_it_is_the_only_one(apps: list[FoundApp]) -> None:
    with pytest.raises(fs.InvalidArgument, match=r"several apps .* grpc://127.0.0.1:8815, grpc\+tls://0.0.0.0:9000"):
        only_app()
    del apps[1:]
    assert only_app() == ONE
    apps.remove(ONE)
    with pytest.raises(fs.NotFound, match="no flightserve app of this user runs"):
        fs.connect()


def test_what_is_here() -> None:
    assert is_here("127.8.8.8")
    assert not is_here("")
    assert not is_here("192.0.2.1")
    assert port_of("grpc://host") is None


def test_flight_is_beside_http_at_the_host_that_was_asked_for() -> None:
    assert _beside("https://localhost:443", TWO) == "grpc+tls://localhost:9000"
    assert _beside("http://[::1]:80", ONE) == "grpc://[::1]:8815"
    with pytest.raises(
        fs.InvalidArgument, match=r"^https://example.com:443 is HTTP's address; give Flight's: grpc\+tls"
    ):
        fs.connect("https://example.com:443").deployments()


def test_files_of_tls_that_are_not_there_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(fs.InvalidArgument, match=r"ca.pem: No such file or directory; it is a PEM file"):
        fs.connect("grpc+tls://localhost:9000", tls_roots=str(tmp_path / "ca.pem"))
