"""Ports and hosts that cannot be had are said before anything starts, in one line that names the option."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flightserve.cli.main import main
from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.control import ports
from flightserve.control.holders import Holder, find_holder
from flightserve.errors import ConfigError, Unavailable

APP = "tests.control.pricing:app"
NONE = {f"{protocol}_port": None for protocol in PROTOCOLS}
# Listens with all four protocols on one host and says where, and what clients find there.
ALL_FOUR = """
import json, socket, sys, urllib.request
import grpc, pyarrow.flight, zmq
from flightserve.app import App
from flightserve.config import FrontendOptions
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.control.pricing import app

options = FrontendOptions(host=sys.argv[1], http_port=0, grpc_port=0, flight_port=0, zmq_port=0)
with LocalService(app) as service:
    host = FrontendHost(service, options, Metrics())
    addresses = host.start()
    urllib.request.urlopen(addresses["http"] + "/readyz").read()
    with grpc.insecure_channel(addresses["grpc"]) as channel:
        grpc.channel_ready_future(channel).result(30)
    with pyarrow.flight.connect(addresses["flight"]) as client:
        list(client.list_flights())
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.ipv6 = True
        asking.connect(addresses["zmq"])
        asking.send_multipart([b'{"deployment": "no", "method": "no"}', b""])
        assert asking.poll(30_000)
    for address in addresses.values():
        if options.host == "::":
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 10).close()
    host.stop()
print(json.dumps(addresses))
"""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_in_use_is_one_line_naming_the_option(protocol: str, capfd: pytest.CaptureFixture[str]) -> None:
    others = [f"--no-{other}" for other in PROTOCOLS if other != protocol]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["run", APP, f"--{protocol}-port", str(port), *others]) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    said = (
        f"flightserve: --{protocol}-port {port}: cannot listen on 127.0.0.1:{port}: it is in use by pid {os.getpid()} ("
    )
    assert line.startswith(said)
    assert line.endswith("; give another one, or 0 for a free one")


def test_all_ports_that_one_process_holds_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        http, grpc = (each.getsockname()[1] for each in (first, second))
        ports_ = ["--http-port", str(http), "--grpc-port", str(grpc), "--no-flight", "--no-zmq"]
        assert main(["run", APP, *ports_]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    where = f"--http-port {http}, --grpc-port {grpc}: cannot listen on 127.0.0.1:{http}, 127.0.0.1:{grpc}: "
    assert line.startswith(f"flightserve: {where}")


def test_a_port_is_looked_at_before_the_app_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["run", "nothing.like:this", "--http-port", port]) == 1
    assert "no module" not in capfd.readouterr().err


@pytest.mark.parametrize("host", ["no such host", "", "nobody.invalid", "203.0.113.7", "2001:db8::7", "a" * 300])
def test_a_host_that_is_not_this_machines_is_one_line(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", APP, "--http-port", "0", "--no-grpc", "--no-flight", "--no-zmq", "--host", host]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"flightserve: --host {host}: ")


def test_a_connection_that_ended_lately_keeps_nobody_from_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), before.accept()[0] as accepted:
            accepted.close()
    ports.check(FrontendOptions(**{**NONE, "http_port": port}))  # type: ignore[arg-type]


def test_two_protocols_cannot_share_a_port() -> None:
    with pytest.raises(ConfigError, match="http_port and grpc_port are both 8080; each protocol has a port of its own"):
        FrontendOptions(http_port=8080, grpc_port=8080, flight_port=None, zmq_port=None)


def test_what_is_open_to_others_is_said() -> None:
    told = {
        host: ports.open_to_others(FrontendOptions(host=host, zmq_port=None, flight_port=None))
        for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")
    }
    assert told["127.0.0.1"] == told["::1"] == told["localhost"] == ""
    assert "http, grpc listen on all addresses of IPv4, grpc of IPv6 as well" in told["0.0.0.0"]
    assert "http, grpc listen on all addresses" in told["::"]


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost", "0.0.0.0", "::"])
def test_clients_come_to_the_addresses_that_are_told(host: str) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    program = [sys.executable, "-c", ALL_FOUR, host]
    done = subprocess.run(program, check=False, capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    addresses = json.loads(done.stdout)
    shown = f"[{host}]" if ":" in host else host
    starts = {"http": "http://", "grpc": "", "flight": "grpc://", "zmq": "tcp://"}
    for protocol, start in starts.items():
        assert addresses[protocol].startswith(f"{start}{shown}:"), addresses


def _proc(folder: Path, sockets: str, processes: Mapping[int, tuple[int, str, str]]) -> Path:
    """A /proc with these lines of net/tcp, and processes with parent, command and environment; the first has the
    socket 77."""
    (folder / "net").mkdir()
    (folder / "net" / "tcp").write_text(f"  sl  local_address ...\n{sockets}")
    for pid, (parent, command, variables) in processes.items():
        (folder / str(pid) / "fd").mkdir(parents=True)
        (folder / str(pid) / "stat").write_bytes(b"%d (a) caf\xc3) S %d 1 1" % (pid, parent))
        (folder / str(pid) / "cmdline").write_text(command.replace(" ", "\0"))
        (folder / str(pid) / "environ").write_text(variables.replace(" ", "\0"))
    first = next(iter(processes), None)
    if first is not None:
        os.symlink("socket:[77]", folder / str(first) / "fd" / "9")
    return folder


def _line(state: str, uid: int, inode: int = 77) -> str:
    return f" 0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1 0 100\n"


MARKED = "A=1 _FLIGHTSERVE_APP_ID=0a1b B=2"


@pytest.mark.parametrize(
    ("sockets", "processes", "said"),
    [
        ("", {}, None),
        (_line("0A", os.getuid()), {41: (1, "/usr/sbin/nginx -g daemon", "")}, "pid 41 (nginx -g daemon)"),
        # Another user's descriptors are not to be seen.
        (_line("0A", 4_000_123), {}, "a process of user 4000123"),
        # A connection that took this port for its own end; what listens goes before it.
        (_line("01", os.getuid()), {41: (1, "curl", "")}, "pid 41 (curl)"),
        (_line("01", 4_000_123, 78) + _line("0A", os.getuid()), {41: (1, "nginx", "")}, "pid 41 (nginx)"),
        # One whose connection is over has no inode any more.
        (_line("06", 0, 0), {}, None),
        (
            _line("0A", os.getuid()),
            {44: (43, "ray::x", MARKED), 43: (42, "raylet", MARKED), 42: (1, "/bin/flightserve run a:app", "")},
            "your flightserve app 0a1b (pid 42: flightserve run a:app)",
        ),
        (
            _line("0A", os.getuid()),
            {44: (os.getpid(), "ray::x", MARKED), os.getpid(): (1, "python", "")},
            "flightserve app 0a1b, which this program serves already",
        ),
        (_line("0A", os.getuid()), {44: (1, "ray::x", MARKED)}, "your flightserve app 0a1b"),
    ],
)
def test_who_holds_a_port_is_said(
    sockets: str, processes: dict[int, tuple[int, str, str]], said: str | None, tmp_path: Path
) -> None:
    found = find_holder(8080, _proc(tmp_path, sockets, processes))
    assert (found if found is None else str(found)) == said


def test_what_to_do_about_an_app_of_ones_own() -> None:
    assert Holder(42, "me", "flightserve", "0a1b").remedy == "end it (kill 42); flightserve status shows it"
    assert "replace=True" in Holder(os.getpid(), "me", "python", "0a1b").remedy
    assert Holder(42, "me", "nginx").remedy == ""


def _has_ipv6() -> bool:
    try:
        ports.check(FrontendOptions(**{**NONE, "host": "::1", "http_port": 0}))  # type: ignore[arg-type]
    except Unavailable:
        return False
    return True
