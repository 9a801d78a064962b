"""An app is open to other machines only where somebody said so, and beside TLS nothing is readable."""

from __future__ import annotations

import json
import logging
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

import flightserve as fs
from flightserve.cli.main import main, make_parser
from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.control import opening, ports
from flightserve.errors import ConfigError
from flightserve.frontends.zmq.curve import make_keys
from flightserve.running import make_plan
from tests.control import pricing
from tests.tls_support import issued, written

FREE = [f"--{protocol}-port=0" for protocol in PROTOCOLS]
REFUSED = r"^host 0.0.0.0: it would be open to other machines: .* Say who may with --auth FILE \(auth=...\), listen on"


@pytest.mark.parametrize("more", [{}, {"frontends": 3, "share_ports": True}, {"frontends": "node"}])
def test_another_host_than_loopback_has_to_be_meant(more: dict[str, Any]) -> None:
    options = {"host": "0.0.0.0", **more}
    with pytest.raises(ConfigError, match=REFUSED):
        opening.check(FrontendOptions(**options))
    with pytest.raises(ConfigError, match=REFUSED):
        make_plan(pricing.app, FrontendOptions(**options), {}, 1)
    with pytest.raises(ConfigError, match=REFUSED):
        fs.serve(pricing.app, **options)
    opening.check(FrontendOptions(insecure=True, **options))


def test_loopback_and_unix_sockets_are_nobody_elses(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.8.9.10", "::1", "localhost"):
        opening.check(FrontendOptions(host=host))
    place = f"unix:{tmp_path}/s"
    opening.check(FrontendOptions(host="0.0.0.0", http_port=place, grpc_port=None, flight_port=None, zmq_port=None))
    with pytest.raises(ConfigError, match=r"other machines: grpc listen"):
        opening.check(FrontendOptions(host="0.0.0.0", http_port=place, flight_port=None, zmq_port=None))


def test_the_command_refuses_it_as_other_options_that_are_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nothing.like:this", "--host", "0.0.0.0", *FREE]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("flightserve: --host 0.0.0.0: it would be open to other machines: http, grpc, flight, zmq")
    assert line.endswith("or say that it is meant so with --insecure (insecure=True)")
    # The next thing that is wrong.
    assert main(["run", "nothing.like:this", "--host", "0.0.0.0", "--insecure", *FREE]) == 2
    assert "no module 'nothing'" in capfd.readouterr().err


def test_the_container_of_a_new_project_starts() -> None:
    text = files("flightserve.cli.project").joinpath("Containerfile.in").read_text()
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in text.splitlines() if line.startswith("CMD ")]
    arguments = make_parser().parse_args(command[1:])
    opening.check(FrontendOptions(host=arguments.host, auth=arguments.auth, insecure=arguments.insecure))


def test_what_is_insecure_is_said() -> None:
    assert ports.insecure(FrontendOptions(insecure=True)) == ""
    told = ports.insecure(FrontendOptions(host="0.0.0.0", insecure=True, zmq_port=None, flight_port=None))
    assert told.startswith("open to other machines: http, grpc listen on all addresses")
    assert told.endswith("; whoever reaches them may call everything (--insecure)")
    told = ports.insecure(FrontendOptions(host="0.0.0.0", auth="auth.toml"))
    assert told.endswith("; without TLS, tokens and rows can be read on their way")
    assert ports.insecure(FrontendOptions(host="0.0.0.0", auth="auth.toml", tls_cert="c", tls_key="k")) == ""


def test_zeromq_is_left_out_beside_tls_unless_it_has_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pems = written(tmp_path, issued())
    options = FrontendOptions(tls_cert=pems.cert, tls_key=pems.key)
    assert opening.settle(options).zmq_port is None
    assert "ZeroMQ is left out" in caplog.text
    caplog.clear()
    settled = opening.settle(FrontendOptions(tls_cert=pems.cert, tls_key=pems.key, zmq_port=None))
    assert (settled.zmq_port, caplog.text) == (None, "")
    make_keys(str(tmp_path / "keys"), [])
    options = FrontendOptions(tls_cert=pems.cert, tls_key=pems.key, zmq_keys=str(tmp_path / "keys"))
    assert (opening.settle(options), caplog.text) == (options, "")


def test_paths_are_whole_because_processes_are_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, issued())
    make_keys(str(tmp_path / "keys"), ["ana"])
    monkeypatch.chdir(tmp_path)
    settled = opening.settle(FrontendOptions(tls_cert=Path("cert.pem"), tls_key="key.pem", zmq_keys="keys"))
    assert settled.tls_cert == str(tmp_path / "cert.pem")
    assert settled.tls_key == str(tmp_path / "key.pem")
    assert settled.zmq_keys == str(tmp_path / "keys")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tls_cert": "c"}, "tls_cert is given without tls_key"),
        ({"tls_key": "c"}, "tls_key is given without tls_cert"),
        ({"tls_client_ca": "c"}, "tls_client_ca is given without tls_cert and tls_key"),
        ({"tls_cert": "", "tls_key": "k"}, "tls_cert is ''; it is the path of a file"),
        ({"tls_cert": 3, "tls_key": "k"}, "tls_cert is 3; it is the path of a file"),
        ({"insecure": 1}, "insecure is 1; it is True or False"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        FrontendOptions(**options)


# ---- keys of ZeroMQ


def test_the_command_makes_keys_that_nobody_else_can_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "new" / "keys"
    assert main(["keys", str(keys)]) == 0
    assert capfd.readouterr().out.splitlines() == [f"{keys}/server.key", f"{keys}/server.key_secret"]
    before = (keys / "server.key_secret").read_bytes()
    assert main(["keys", str(keys), "--client", "ana", "--client", "bo.1"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 4
    assert (keys / "server.key_secret").read_bytes() == before
    for path in [keys, *keys.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert main(["keys", str(keys), "--client", "ana"]) == 2
    assert "client ana: " in capfd.readouterr().err
    assert main(["keys", str(keys), "--client", "../ana"]) == 2
    assert main(["keys", str(keys / "server.key")]) == 2


def test_what_is_wrong_with_a_folder_of_keys_is_said(tmp_path: Path) -> None:
    keys = tmp_path / "keys"

    def said() -> str:
        with pytest.raises(ConfigError) as found:
            opening.check(FrontendOptions(zmq_keys=str(keys)))
        return found.value.message

    assert said() == f"zmq_keys {keys} is not there; flightserve keys {keys} makes one"
    keys.touch()
    assert said() == f"zmq_keys {keys} is no folder; flightserve keys {keys} makes one"
    keys.unlink()
    keys.mkdir()
    assert said().startswith(f"zmq_keys: {keys}/server.key_secret: No such file or directory; flightserve keys")
    make_keys(str(keys), ["ana"])
    secret = keys / "server.key_secret"
    good = secret.read_bytes()
    opening.check(FrontendOptions(zmq_keys=str(keys)))
    (keys / "clients" / "ana.key").write_text("nothing")
    assert said() == f"zmq_keys: {keys}/clients/ana.key is no file of keys"
    (keys / "clients" / "ana.key").unlink()
    secret.write_bytes((keys / "server.key").read_bytes())
    assert said() == f"zmq_keys: {secret} holds no secret key"
    secret.write_bytes(good.replace(b'public-key = "', b'public-key = "x'))
    assert said() == f"zmq_keys: {secret} has a key of 41 characters; one has 40"
    secret.write_bytes(good)
    public, another = zmq.auth.load_certificate(secret)[0], zmq.curve_keypair()[0]
    secret.write_bytes(good.replace(public, another))
    assert said() == f"zmq_keys: the two keys in {secret} are no pair"
    secret.write_bytes(good)
    os.chmod(secret, 0o644)
    assert opening.check(FrontendOptions(zmq_keys=str(keys))) == [
        f"zmq_keys: {secret} can be read by every user of this machine; chmod 600 it"
    ]


def test_without_clients_that_are_known_everybody_with_the_servers_key_may_connect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from flightserve.frontends.zmq.curve import CurveKeys

    caplog.set_level(logging.INFO)
    make_keys(str(tmp_path / "k"), [])
    keys = CurveKeys(str(tmp_path / "k"))
    keys.read()
    assert keys.clients is None
    assert not keys.look()
    make_keys(str(tmp_path / "k"), ["ana"])
    assert keys.look()
    assert keys.clients is not None
    assert list(keys.clients.values()) == ["ana"]
