"""`flightserve check`: what it finds, what it shows, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flightserve.cli.main import main

APP = "tests.control.pricing:app"
FREE = [f"--{protocol}-port=0" for protocol in ("http", "grpc", "flight", "zmq")]


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs it; gives the exit status, standard output and standard error."""

    def run(*argv: str, **env: str) -> tuple[int, str, str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        status = main(["check", *argv])
        return status, *capfd.readouterr()

    return run


def test_what_can_be_served_is_shown_with_where_each_setting_comes_from(check: Any, tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(f'[run]\napp = "{APP}"\n[deployments.Pricing]\nmax_batch_rows = 7\n')
    status, out, err = check("--config", str(path), *FREE, FLIGHTSERVE_LIMITS_COLUMNS_MAX="9")
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f'app = "{APP}" # {path}' in lines
    assert "columns_max = 9 # FLIGHTSERVE_LIMITS_COLUMNS_MAX" in lines
    assert "http_port = 0 # --http-port" in lines
    assert "routers = 1 # default" in lines
    assert f"max_batch_rows = 7 # {path}" in lines
    assert lines[-1] == f"# {APP} serves Pricing"


def test_what_it_shows_gives_the_same_settings_again(check: Any, tmp_path: Path) -> None:
    odd = "deployments.Pricing.resources={'node:10.0.0.1' = 0.5, gpus = 1}"
    arguments = (APP, *FREE, "--replicas", "Pricing=1-2", "--set", "limits.body_bytes_max=64KiB", "--set", odd)
    _, out, _ = check(*arguments)
    path = tmp_path / "again.toml"
    path.write_text(out)
    assert tomllib.loads(out)["replicas"] == {"Pricing": "1-2"}
    status, again, err = check("--config", str(path), APP)
    assert (status, err) == (0, "")
    values = [line.partition("#")[0] for line in out.splitlines() if line[:1] != "#"]
    assert [line.partition("#")[0] for line in again.splitlines() if line[:1] != "#"] == values


def test_all_that_is_wrong_is_said_at_once(check: Any, tmp_path: Path) -> None:
    status, out, err = check(APP, "no_such:app", str(tmp_path / "none.parquet"), *FREE, "--http-port", "70000")
    assert status == 2
    assert "http_port = 70000" in out
    first, second, third = err.splitlines()
    assert "--http-port is 70000; a port is 0 to 65535" in first
    assert "there is no module 'no_such'" in second
    assert "table 'none': nothing lies at" in third


def test_a_port_that_is_taken_is_a_warning(check: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        status, _, err = check(APP, *FREE[1:], "--http-port", str(port))
    assert status == 0
    assert err.startswith(f"flightserve: warning: --http-port {port}: cannot listen")


def test_tables_are_opened(check: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "numbers.parquet")
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "conf.toml").write_text('[sql.tables]\nn = "numbers.parquet"\n')
    status, out, _ = check("--config", str(tmp_path / "conf.toml"), *FREE)
    assert status == 0 and "# sql serves warehouse" in out
    status, _, err = check(str(tmp_path / "broken.parquet"), *FREE)
    assert status == 2 and "table 'broken'" in err


def test_programs_get_it_as_json_also_where_the_settings_are_wrong(check: Any, tmp_path: Path) -> None:
    status, out, err = check(APP, *FREE, "--json")
    said = json.loads(out)
    assert (status, err, said["ok"], said["serves"]) == (0, "", True, {APP: ["Pricing"]})
    assert said["settings"]["http_port"] == {"value": 0, "source": "flag", "place": "--http-port"}
    path = tmp_path / "conf.toml"
    path.write_text("routrs = 2")
    status, out, err = check("--config", str(path), "--json")
    said = json.loads(out)
    assert (status, err, said["ok"]) == (2, "", False)
    assert said["problems"] == [f"{path}: there is no setting 'routrs'; did you mean 'routers'?"]


def test_bytes_that_are_no_text_are_shown_as_such(check: Any) -> None:
    status, out, _ = check(APP, *FREE, FLIGHTSERVE_ALLOW_HOST=os.fsdecode(b"caf\xe9"))
    assert 'allow_host = ["caf' in out and "udce9" in out
    assert status == 0


def test_nothing_to_serve_is_a_problem(check: Any) -> None:
    status, _, err = check(*FREE)
    assert status == 2 and "nothing is to be served: name module:app" in err


def test_no_password_in_an_address_is_shown(check: Any, tmp_path: Path) -> None:
    (tmp_path / "conf.toml").write_text('[sql.tables]\na = "https://me:hunter2@127.0.0.1:1/a.parquet?sig=hunter2"\n')
    for form in ([], ["--json"]):
        _, out, err = check("--config", str(tmp_path / "conf.toml"), *FREE, *form)
        assert "hunter2" not in out + err
        assert "https://127.0.0.1:1/a.parquet?..." in out
