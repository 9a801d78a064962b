"""`--address` with what is no address, and where no Ray answers: one line, exit status 1, and nothing was started."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import ray
from ray._private import services

from flightserve.cli.main import main
from flightserve.control import addresses

RUN = ["run", "tests.control.pricing:app", "--http-port", "0", "--no-grpc", "--no-flight", "--no-zmq", "--address"]
NO_ADDRESSES = [
    "nonsense", "", " ", "localhost", "127.0.0.1", ":6379", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:6379",
    "127.0.0.1:6379:1", "http://127.0.0.1:1", "127.0.0.1:6379/x", "a b:1", "user@host:1", "127.0.0.1:١", "Auto",
    "127.0.0.1:1,127.0.0.1:2", "[nonsense]:1", "redis://127.0.0.1:1", "x" * 5000,
]  # fmt: skip


def told(address: str, capfd: pytest.CaptureFixture[str]) -> str:
    """The line that `flightserve run --address` ends with."""
    assert main([*RUN, address]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("flightserve: ")
    assert not ray.is_initialized()
    return line


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "is neither host:port, e.g. 127.0.0.1:6379 or [::1]:6379, nor auto" in told(address, capfd)


def test_rays_client_protocol(capfd: pytest.CaptureFixture[str]) -> None:
    assert "Ray's client protocol is not enough" in told("ray://127.0.0.1:10001", capfd)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "nobody.invalid"])
def test_where_nobody_listens(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert f"no Ray answers at {host}:1: " in told(f"{host}:1", capfd)


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def http_server() -> Iterator[str]:
    """Speaks HTTP/1."""
    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_where_nothing_answers(silent: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(addresses, "ANSWER_TIMEOUT_S", 0.5)
    assert f"no Ray answers at {silent}: what listens there says nothing within 0.5 s" in told(silent, capfd)


def test_where_something_else_answers(http_server: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert f"no Ray answers at {http_server}: what listens there is no Ray" in told(http_server, capfd)


def test_where_another_grpc_server_answers(capfd: pytest.CaptureFixture[str]) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert f"no Ray answers at 127.0.0.1:{port}: what listens there is no Ray" in told(f"127.0.0.1:{port}", capfd)
    finally:
        server.stop(None).wait()


class WantsToken(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers as a Ray does that was given no token."""

    def intercept_service(self, continuation: object, details: object) -> object:
        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: it is missing or incorrect")
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


def test_where_a_ray_wants_a_token(capfd: pytest.CaptureFixture[str]) -> None:
    server = grpc.server(ThreadPoolExecutor(1), interceptors=[WantsToken()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        line = told(f"127.0.0.1:{port}", capfd)
    finally:
        server.stop(None).wait()
    assert "it wants a token that it was not given, or another one; set RAY_AUTH_MODE=token" in line


def test_what_ray_says_is_one_sentence_with_a_word_of_the_token(
    http_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `ray.init` ends after most of a minute where it gets no answer."""

    def init(**options: object) -> None:
        raise ConnectionError(f"Failed to connect to Ray cluster at {options['address']}.\n  More of it.")

    monkeypatch.setattr(addresses, "check_answers", lambda address: None)
    monkeypatch.setattr(ray, "init", init)
    line = told(http_server, capfd)
    assert f"the Ray at {http_server} cannot be used: Failed to connect to Ray cluster at {http_server}. More" in line
    assert "RAY_AUTH_MODE=token" in line


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ConnectionError("Could not find any running Ray instance."), "no Ray runs on this machine; start one"),
        (None, "RAY_ADDRESS says that there is no Ray to join"),
        ("127.0.0.1:1", "no Ray answers at 127.0.0.1:1: "),
        (ValueError("Invalid address format: x"), "--address auto: Invalid address format: x"),
    ],
)
def test_auto(found: object, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def canonicalized(address: str) -> object:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", canonicalized)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert said in told("auto", capfd)
