"""The command line and the plan it makes, without starting anything."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import flightserve
from flightserve import config, running
from flightserve.cli.loading import NotLoaded, load_app
from flightserve.cli.main import main, make_parser
from flightserve.cli.status import render
from flightserve.config import FabricLimits, FrontendOptions
from flightserve.control import reaper
from flightserve.control.desired import Desired
from flightserve.control.messages import ChildView, DeploymentView, View
from flightserve.control.names import running_apps
from flightserve.control.pickling import loads
from flightserve.control.plan import Assignment
from flightserve.core.lifecycle.reconciling import Slot
from flightserve.errors import ConfigError, Unavailable
from flightserve.running import Running, make_plan
from flightserve.tiers import FACTORIES, frontend_options
from tests.control import pricing

APP = "tests.control.pricing:app"
# The usual ports may be another program's.
FREE = [f"--{protocol}-port=0" for protocol in config.PROTOCOLS]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([APP, "--http-port", "65536"], "--http-port is 65536; a port is 0 to 65535, where 0 takes a free one"),
        ([APP, "--grpc-port", "unix:"], "--grpc-port is 'unix:'; write unix: and the path of a socket"),
        ([APP, "--flight-port", "unix:/tmp/s"], "--flight-port is 'unix:/tmp/s'; unix sockets are for HTTP and gRPC"),
        ([APP, "--replicas", "Pricing=0"], "replicas of Pricing: 0; it must be 1 to"),
        ([APP, "--replicas", "Prices=2"], "replicas are given for Prices; the app's deployments are: Pricing"),
        ([APP, "--routers", "0"], "routers: 0"),
        ([APP, "--frontends", "65"], "frontends: 65"),
        (["nothing"], "'nothing' is not module:app"),
        (["tests.control.pricing:Pricing"], "is the class Pricing; it must be a flightserve.App"),
        (["tests.control.pricing:missing"], "module tests.control.pricing has no 'missing'"),
        (["no_such_module:app"], "there is no module 'no_such_module'"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *FREE, *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.parquet"], "table 'nowhere': nothing lies at"),
        (["nothing"], "table 'nothing': nothing lies at"),
        (["one.parquet", "more/one.parquet"], "two tables would be called 'one'; write NAME=PATH for one of them"),
        (["one.parquet", "ONE=one.parquet"], "names of tables do not differ by case"),
        (["notes.txt"], "known by their ending"),
        (
            ["broken.parquet"],
            "table 'broken': broken.parquet is no Parquet file: ",
        ),
        (
            ["all=*.parquet", "--strict"],
            "table 'all': broken.parquet is no Parquet file: ",
        ),
        (["broken.arrow"], "table 'broken': broken.arrow is no Arrow IPC file"),
        (["one.parquet", "--memory-limit", "much"], "--memory-limit is 'much'; it is a size, such as '4GB' or '512MB'"),
        (["one.parquet", "--spill-limit", "4"], "--spill-limit is '4'; it is a size"),
        (["one.parquet", "--memory-limit", "1KB"], "the engine does not start: Out of Memory Error"),
        (["one.parquet", "--threads", "100000"], "threads is 100000; it is 0 (one for each core) to 1024"),
        (["one.parquet", "--cache-mb", "-1"], "--cache-mb is -1; it is 0 (off) to"),
        (["one.parquet", "--name", "a b"], "'a b' cannot name a deployment"),
    ],
)
def test_tables_that_cannot_be_served_are_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "nothing").mkdir()
    for name in ("one.parquet", "more/one.parquet"):
        pq.write_table(pa.table({"n": [1]}), tmp_path / name)
    for name in ("notes.txt", "broken.parquet", "broken.arrow"):
        (tmp_path / name).write_text("not what it says")
    monkeypatch.chdir(tmp_path)
    assert main(["sql", *FREE, *arguments]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("flightserve: ") and said in line


@pytest.mark.parametrize("text", ["", "x=", "2020.parquet", "*.parquet"])
def test_tables_need_names_and_paths(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["sql", text])
    assert exit_.value.code == 2
    assert "write NAME=PATH" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["Pricing", "Pricing=", "=2", "Pricing=two", "Pricing=-1"])
def test_replicas_are_name_and_count(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["run", APP, "--replicas", text])
    assert exit_.value.code == 2
    assert "is not NAME=N" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), ("30s", 30.0), ("1.5s", 1.5), ("250ms", 0.25), ("5m", 300.0), ("2h", 7200.0)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert make_parser().parse_args(["sql", "a.parquet", "--refresh", text]).refresh == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "5 m", "1d", "nan", "1e3"])
def test_other_times_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["sql", "a.parquet", f"--refresh={text}"])
    assert exit_.value.code == 2
    assert "is no time" in capsys.readouterr().err


def test_an_import_error_inside_the_users_module_is_not_mistaken_for_a_wrong_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotLoaded, match=r"needs_more\.py, line 1: there is no module 'a_module_that_is_missing'"):
        load_app("needs_more:app")


def test_an_attribute_error_inside_the_users_module_is_not_mistaken_for_a_missing_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "misspelt.py").write_text("import os\n\napp = os.no_such_function()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotLoaded, match=r"misspelt\.py, line 3: AttributeError: .*no_such_function"):
        load_app("misspelt:app")


ENDINGS = {
    "SystemExit: 0; the module is imported": "raise SystemExit(0)",
    "SystemExit: bye": "import sys; sys.exit('bye')",
    "GeneratorExit$": "raise GeneratorExit",
    "CancelledError$": "import asyncio; raise asyncio.CancelledError",
    "Own: mine$": "raise type('Own', (BaseException,), {})('mine')",
    "Mute$": "raise type('Mute', (Exception,), {'__str__': lambda error: 1 / 0})",
    "ValueError: h+ ... 9...... characters": "raise ValueError('h' * 10_000_000)",
}


@pytest.mark.parametrize("said", ENDINGS)
def test_whatever_a_module_raises_is_one_line(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ending_{list(ENDINGS).index(said)}"
    (tmp_path / f"{name}.py").write_text(f"# A program\n{ENDINGS[said]}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotLoaded, match=rf"^\S*{name}\.py, line 2: {said}") as caught:
        load_app(f"{name}:app")
    assert len(caught.value.message) < 5000


def test_an_interrupt_while_a_module_is_imported_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        load_app("interrupted:app")


def test_an_argument_that_cannot_be_pickled_is_said_with_the_deployments_name() -> None:
    app = flightserve.App(pricing.Pricing.bind(tax=threading.Lock()))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Pricing cannot be sent to its replicas: .*lock.*; make it in __init__"):
        make_plan(app, FrontendOptions(), {}, 1)


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (pricing.Pricing, "not the class Pricing"),
        (pricing.Pricing.bind(tax=0.5), "not an object of Bound"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_app_is_not_served(served: object, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"an App is served, .*{said}"):
        flightserve.serve(served)  # type: ignore[arg-type]


def test_a_port_that_is_no_number_is_said() -> None:
    with pytest.raises(ConfigError, match="http_port is '8080'; a port is 0 to 65535"):
        FrontendOptions(http_port="8080")  # type: ignore[arg-type]


@pytest.fixture
def app() -> Running:
    return Running(make_plan(pricing.app, FrontendOptions(http_port=0), {}, 1), None)


def test_who_is_told_to_stop_at_once_starts_no_ray(app: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(timeout: float) -> bool:
        raise KeyboardInterrupt

    try:
        assert app.start(cancelled=lambda: True).addresses == {}
        assert not ray.is_initialized()
        monkeypatch.setattr(app._launcher.stopped, "wait", interrupted)
        app.wait()
        monkeypatch.undo()
    finally:
        app.stop(0.0)
    app.wait()
    with pytest.raises(Unavailable, match="the app was stopped"):
        app.status()


def test_a_start_that_is_interrupted_leaves_nothing_to_stop(app: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app._launcher, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        app.start()
    assert app not in running._served


def test_an_app_that_does_not_stop_keeps_no_other_from_it(app: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    other, stopped = Running(app._plan, None), []
    monkeypatch.setattr(running, "_served", [other, app])
    monkeypatch.setattr(other, "stop", lambda: stopped.append(other))
    monkeypatch.setattr(app, "stop", lambda: 1 / 0)
    running._stop_all()
    assert (stopped, running._served) == ([other], [])


def test_an_app_that_nobody_could_call_is_not_served(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", APP, "--no-http", "--no-grpc", "--no-flight", "--no-zmq"]) == 2
    assert "every protocol is left out; nobody could call the app" in capfd.readouterr().err


def test_a_ray_that_nobody_has_started_is_said_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    assert main(["run", APP, *FREE, "--address", f"127.0.0.1:{port}"]) == 1
    assert f"no Ray answers at 127.0.0.1:{port}: [Errno 111]" in capfd.readouterr().err


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"flightserve {flightserve.__version__}\n"


def test_the_plan_carries_options_counts_and_code() -> None:
    plan = make_plan(pricing.app, FrontendOptions(frontends=2), {"Pricing": 3}, 2)
    wanted = Desired(plan).serving()
    assert len(wanted) == 2 + 2 + 3
    (planned,) = plan.deployments
    assert planned.spec.options.replicas == 3
    assert wanted[Slot("replica", "Pricing", 2)] == planned.spec.version
    bound = loads(planned.code)
    assert bound.cls is pricing.Pricing
    assert bound.kwargs == {"tax": 0.5}
    assert {tier: loads(factory) for tier, factory in plan.factories.items()} == FACTORIES


USUAL_PORTS: dict[str, Any] = {f"{protocol}_port": port for protocol, port in config.USUAL_PORTS.items()}


def assignment(ordinal: int, addresses: dict[str, str] | None = None, **ports: int | str) -> Assignment:
    options = FrontendOptions(**{**USUAL_PORTS, "zmq_port": None, **ports})  # type: ignore[arg-type]
    slot = Slot("frontend", "", ordinal)
    return Assignment("id", 1, slot, "1", "node", options, FabricLimits(), addresses=addresses or {})


def test_the_first_frontend_takes_the_ports_given_the_others_free_ones_and_successors_the_same() -> None:
    first, second = frontend_options(assignment(0)), frontend_options(assignment(1))
    assert (first.http_port, first.grpc_port, first.flight_port, first.zmq_port) == (8080, 50051, 8815, None)
    assert (second.http_port, second.grpc_port, second.flight_port, second.zmq_port) == (0, 0, 0, None)
    before = {"http": "http://127.0.0.1:41", "grpc": "127.0.0.1:42", "flight": "grpc://127.0.0.1:43"}
    again = frontend_options(assignment(1, before))
    assert (again.http_port, again.grpc_port, again.flight_port, again.zmq_port) == (41, 42, 43, None)


def test_status_is_a_table_for_people() -> None:
    children = (
        ChildView("replica-Pricing-2", "replica", "Pricing", "serving", True, 13, 2, 0, 2.0, "b2"),
        ChildView("router-0", "router", "", "serving", True, 12, 1, 3, 61.5, "1"),
    )
    deployments = (
        DeploymentView("Pricing", "a1", "going", 2, 1, 1),
        DeploymentView("Pricing", "b2", "served", 1, 1, 0),
    )
    problem = "waiting for replica-Pricing-0"
    addresses = {"http": "http://x"}
    view = View("id", "degraded", problem, "", 11, 9, addresses, children, deployments, "Pricing: 1 of 1")
    lines = [line.split() for line in render(view).splitlines()]
    assert " ".join(lines[0]) == "app id: degraded (waiting for replica-Pricing-0)"
    assert " ".join(lines[1]) == "changing: Pricing: 1 of 1"
    assert lines[2] == ["http", "http://x"]
    assert lines[4:7] == [
        ["DEPLOYMENT", "VERSION", "STATE", "DESIRED", "READY", "DRAINING"],
        ["Pricing", "a1", "going", "2", "1", "1"],
        ["Pricing", "b2", "served", "1", "1", "0"],
    ]
    assert lines[-2:] == [
        ["replica-Pricing-2", "serving", "yes", "b2", "13", "0", "2", "s"],
        ["router-0", "serving", "yes", "12", "3", "62", "s"],
    ]


@pytest.mark.parametrize("command", [["scale", "Pricing=2"], ["deploy", APP]])
def test_a_change_needs_an_app_that_runs(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--app", "no such app"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "flightserve: no app no such app runs on this machine\n")


@pytest.mark.parametrize("wish", ["Pricing", "Pricing=-1", "=2"])
def test_scale_takes_names_and_counts(wish: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["scale", wish])
    assert exit_.value.code == 2
    assert "is not NAME=N" in capsys.readouterr().err


def test_status_says_when_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--app", "no such app"]) == 1
    assert capsys.readouterr().err == "no app no such app runs on this machine\n"


def test_apps_are_found_by_their_supervisors_sockets_in_private_folders_of_ours(tmp_path: Path) -> None:
    mine, open_to_all, link = tmp_path / "fs-a b", tmp_path / "fs-open", tmp_path / "fs-link"
    mine.mkdir(mode=0o700)
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    link.symlink_to(mine)
    listing = tmp_path / "unix"
    listing.write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        f"0000: 00000002 00000000 00010000 0001 01 11 {mine}/@flightserve-0a1b-supervisor\n"
        f"0000: 00000003 00000000 00000000 0001 03 12 {mine}/@flightserve-0a1b-supervisor\n"
        f"0000: 00000002 00000000 00010000 0001 01 13 {mine}/@flightserve-0a1b-router-0-7f\n"
        f"0000: 00000002 00000000 00010000 0001 01 13 {open_to_all}/@flightserve-0a1c-supervisor\n"
        f"0000: 00000002 00000000 00010000 0001 01 13 {link}/@flightserve-0a1d-supervisor\n"
        f"0000: 00000002 00000000 00010000 0001 01 13 {tmp_path}/gone/@flightserve-0a1e-supervisor\n"
        "0000: 00000002 00000000 00010000 0001 01 13 @flightserve-0a1f-supervisor\n"
        f"0000: 00000002 00000000 00010000 0001 01 16 {mine}/@flightserve-0a1b-carrier\n"
        f"0000: 00000002 00000000 00010000 0001 01 16 {mine}/@flightserve-0a2b-carrier\n"
        "0000: 00000002 00000000 00010000 0001 01 14 /run/other\n"
        "0000: 00000003 00000000 00000000 0001 03 15\n"
    )
    # One whose supervisor is on another node is reached by way of the carrier.
    elsewhere = {"0a2b": f"{mine}/@flightserve-0a2b-carrier#0"}
    assert running_apps(listing) == {"0a1b": f"{mine}/@flightserve-0a1b-supervisor"} | elsewhere


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder away")
def test_apps_of_others_are_not_found(tmp_path: Path) -> None:
    theirs = tmp_path / "fs-theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65_534, 65_534)
    listing = tmp_path / "unix"
    listing.write_text(f"0000: 00000002 00000000 00010000 0001 01 11 {theirs}/@flightserve-0a1b-supervisor\n")
    assert running_apps(listing) == {}


def test_import_is_light_and_the_public_names_are_few() -> None:
    code = "import sys, flightserve; print([n for n in ('ray', 'pyarrow', 'numpy', 'asyncio') if n in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert heavy.stdout.strip() == "[]"
    assert len(flightserve.__all__) <= 50
    for name in flightserve.__all__:
        assert getattr(flightserve, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        flightserve.nothing_like_it  # noqa: B018


def test_the_reaper_waits_for_the_processes_and_removes_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "session"
    (directory / "logs").mkdir(parents=True)
    marked = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, "_FLIGHTSERVE_APP_ID": "reaped"}
    )
    waiting = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, str(directory), "reaped", str(os.getpid())], stdin=subprocess.PIPE
    )
    (directory / "logs" / "read").touch()
    # Reads, as somebody who looks at a log does, and writes, as a process does that lost the mark.
    with (directory / "logs" / "read").open() as reading, (directory / "logs" / "written").open("a") as writing:
        child = [sys.executable, "-c", "input()"]
        reader = subprocess.Popen(child, stdin=subprocess.PIPE, pass_fds=[reading.fileno()])
        writer = subprocess.Popen(child, stdin=subprocess.PIPE, pass_fds=[writing.fileno()])
    assert set(reaper.marked(b"_FLIGHTSERVE_APP_ID=reaped", str(directory), os.getpid())) == {marked.pid, writer.pid}
    assert set(reaper.marked(b"_FLIGHTSERVE_APP_ID=reaped", str(directory), writer.pid)) == {marked.pid}
    assert waiting.stdin is not None
    waiting.stdin.close()
    assert directory.exists()
    marked.communicate(b"\n")
    writer.communicate(b"\n")
    assert waiting.wait(60) == 0
    assert not directory.exists()
    reader.communicate(b"\n")


def test_errors_of_the_declaration_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="frontends"):
        make_plan(pricing.app, FrontendOptions(frontends=0), {}, 1)
