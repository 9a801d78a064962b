"""Settings out of a file, the environment and flags: which goes before which, what is refused, and in what words."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.cli.main import main, make_parser
from flightserve.cli.planning import PlanWish, plan
from flightserve.cli.serving import frontend_options, plan_of
from flightserve.cli.settings.fields import deployment_options
from flightserve.cli.settings.files import FILE_BYTES_MAX, read_file
from flightserve.cli.settings.known import parsers_of
from flightserve.cli.settings.variables import read_variables
from flightserve.config import FabricLimits
from flightserve.errors import ConfigError
from flightserve.types import Autoscale
from tests.cli.settled import APP, KNOWN, settled
from tests.control import pricing


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Writes a file of settings; gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "conf.toml"
        path.write_text(text)
        return str(path)

    return write


# ---- which goes before which


@pytest.mark.parametrize("command", ["deploy", "openapi"])
@pytest.mark.parametrize("text", ["http_port=1", "limits.body_bytes_max=1MB", "run.app=a:b", "sql.load=view"])
def test_what_a_command_does_not_go_by_is_not_set_for_it(command: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {text.partition('=')[0]}: flightserve {command} does not go by it"):
        settled(command, APP, "--set", text)


def test_of_other_commands_a_file_may_say_what_it_likes(tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text('http_port = 1\n[sql]\nload = "view"\n[limits]\nbody_bytes_max = 7\n')
    settled("deploy", APP, "--config", str(tmp_path / "all.toml"), "--set", "deploy.timeout=5s")
    settled("check", APP, "--set", "sql.load=view")
    settled("run", APP, "--set", "fabric.heartbeat_s=1s")
    with pytest.raises(ConfigError, match=r"--set sql\.load: flightserve run does not go by it"):
        settled("run", APP, "--set", "sql.load=view")


def test_flags_go_before_variables_and_these_before_the_file(file: Any) -> None:
    path = file("http_port = 1\ngrpc_port = 1\nflight_port = 1\nzmq_port = 1")
    env = {"FLIGHTSERVE_HTTP_PORT": "2", "FLIGHTSERVE_GRPC_PORT": "2", "FLIGHTSERVE_FLIGHT_PORT": "2"}
    found = settled(
        "run", APP, "--config", path, "--set", "grpc_port=3", "--set", "http_port=3", "--http-port", "4", env=env
    )
    assert (found.http_port, found.grpc_port, found.flight_port, found.zmq_port) == (4, 3, 2, 1)
    places = [found.settings.values[name,].place for name in ("http_port", "grpc_port", "flight_port", "zmq_port")]
    assert places == ["--http-port", "--set grpc_port", "FLIGHTSERVE_FLIGHT_PORT", path]
    assert found.settings.values["host",].source == "default"


def test_the_file_may_be_named_by_a_variable_and_the_flag_goes_before_it(file: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("routers = 3")
    env = {"FLIGHTSERVE_CONFIG": file("routers = 2")}
    assert settled("run", APP, env=env).routers == 2
    assert settled("run", APP, "--config", str(other), env=env).routers == 3


def test_a_list_that_is_given_again_replaces_what_was_said_before(file: Any) -> None:
    path = file('cors_origin = ["https://a.example"]')
    assert settled("run", APP, "--config", path).cors_origin == ["https://a.example"]
    assert settled("run", APP, "--config", path, "--cors-origin", "*").cors_origin == ["*"]


def test_without_any_all_is_as_the_parser_has_it() -> None:
    for command, given_ in (("run", [APP]), ("sql", ["a.parquet"]), ("status", [])):
        by_parser, found = vars(make_parser().parse_args([command, *given_])), vars(settled(command, *given_))
        assert {name: found[name] for name in by_parser} == by_parser


def test_help_has_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for command in parsers_of(make_parser()):
        with pytest.raises(SystemExit) as told:
            settled(command, "--help")
        assert told.value.code == 0
    said = capsys.readouterr().out
    assert "(default: 127.0.0.1)" in said and "(default: 90 % of what is free)" in " ".join(said.split())


# ---- what files say

ALL = """\
host = "0.0.0.0"
http_port = "unix:run/http.sock"
frontends = "node"
drain_timeout = "1.5s"
allow_get = false
no_zmq = true
allow_host = ["a.example", "b.example"]
replicas = {Pricing = 2, Other = "1-4"}

[run]
app = "pricing:app"

[sql]
refresh = "5m"
csv = {delim = ";", null = ["NA", "-"], header = false}
init = "views.sql"

[sql.tables]
flights = "data/*.parquet"
remote = "s3://bucket/a.parquet"

[limits]
body_bytes_max = "64MB"
json_bytes_max = "64MiB"
header_timeout_s = "500ms"
keep_alive_s = 5
timeout_ms_max = "2s"

[fabric]
memory_bytes_max = "1GiB"

[deployments.Pricing]
replicas = {low = 1, high = 4, down_after_s = 5}
max_batch_rows = 10
linger_ms = "2ms"
max_batch_bytes = "1MB"
router = "deadline"
resources = {tpu = 0.5}
strict = true
"""


def test_values_have_the_types_that_flags_make(file: Any, tmp_path: Path) -> None:
    path = file(ALL)
    run, sql = settled("run", "--config", path), settled("sql", "--config", path)
    assert run.app == "pricing:app"
    assert (run.host, run.frontends, run.drain_timeout, run.allow_get, run.no_zmq) == (
        "0.0.0.0",
        "node",
        1.5,
        False,
        True,
    )
    assert run.http_port == f"unix:{tmp_path}/run/http.sock"
    assert run.allow_host == ["a.example", "b.example"]
    assert run.replicas == [("Pricing", 2), ("Other", (1, 4))]
    assert sql.refresh == 300.0
    assert sql.csv == [("delim", ";"), ("null", "NA"), ("null", "-"), ("header", "false")]
    assert sql.init == f"{tmp_path}/views.sql"
    assert sql.tables == [("flights", f"{tmp_path}/data/*.parquet"), ("remote", "s3://bucket/a.parquet")]
    edge = run.settings.edge()
    assert (edge.body_bytes_max, edge.json_bytes_max) == (64_000_000, 64 << 20)
    assert (edge.header_timeout_s, edge.keep_alive_s, edge.timeout_ms_max) == (0.5, 5.0, 2000)
    assert run.settings.fabric() == FabricLimits(memory_bytes_max=1 << 30)


def test_options_of_a_deployment_are_those_of_its_plan(file: Any) -> None:
    path = file(ALL.replace("replicas = {Pricing = 2, Other", "replicas = {Other").replace('Other = "1-4"', ""))
    found = settled("run", APP, "--config", path, "--set", "host=127.0.0.1", "--frontends", "1", "--http-port", "0")
    (planned,) = plan_of(found, lambda: pricing.app, frontend_options(found)).deployments
    options = planned.spec.options
    assert options.autoscale == Autoscale(1, 4, down_after_s=5.0)
    assert (options.max_batch_rows, options.linger_ms, options.max_batch_bytes) == (10, 2.0, 1_000_000)
    assert (options.router, options.resources, options.strict) == ("deadline", {"tpu": 0.5}, True)
    assert plan_of(found, lambda: pricing.app, frontend_options(found)).options.limits.body_bytes_max == 64_000_000
    (before,) = pricing.app.specs
    assert before.options.max_batch_rows == 65_536, "the app itself is as it was"


def test_a_reload_plans_with_the_same_options(file: Any) -> None:
    found = settled(
        "run", APP, "--set", "deployments.Pricing.max_batch_rows=7", "--set", "deployments.Pricing.replicas=1-2"
    )
    wish = msgspec.json.decode(msgspec.json.encode(PlanWish([], found.settings.options)), type=PlanWish)
    planned = plan(APP, wish)
    (deployment,) = pickle.loads(planned.deployments)
    assert deployment.spec.options.max_batch_rows == 7
    assert deployment.spec.options.autoscale == Autoscale(1, 2)


# ---- variables


def test_variables_say_lists_tables_bounds_and_options_of_deployments() -> None:
    found = settled(
        "sql",
        env={
            "FLIGHTSERVE_ALLOW_HOST": "a.example, b.example",
            "FLIGHTSERVE_REPLICAS": "warehouse=2",
            "FLIGHTSERVE_SQL_TABLES": '{flights = "f.parquet"}',
            "FLIGHTSERVE_SQL_CSV": '["delim=,"]',
            "FLIGHTSERVE_SHARE_PORTS": "true",
            "FLIGHTSERVE_LIMITS_BODY_BYTES_MAX": "1MB",
            "FLIGHTSERVE_LIMITS_KEEP_ALIVE_S": "2s",
            "FLIGHTSERVE_DEPLOYMENTS_WAREHOUSE_MAX_QUEUE_WAIT_MS": "1s",
            "FLIGHTSERVE_DEPLOYMENTS_WAREHOUSE_LABELS": "zone=a",
        },
    )
    assert found.allow_host == ["a.example", "b.example"]
    assert (found.replicas, found.tables, found.csv) == (
        [("warehouse", 2)],
        [("flights", "f.parquet")],
        [("delim", ",")],
    )
    assert found.share_ports is True
    assert (found.settings.edge().body_bytes_max, found.settings.edge().keep_alive_s) == (1_000_000, 2.0)
    said = {(each.deployment, each.option): each.found.value for each in found.settings.options}
    assert said == {("WAREHOUSE", "max_queue_wait_ms"): 1000.0, ("WAREHOUSE", "labels"): {"zone": "a"}}


def test_a_deployment_in_capitals_is_the_one_of_that_name() -> None:
    found = settled("run", APP, env={"FLIGHTSERVE_DEPLOYMENTS_PRICING_MAX_BATCH_ROWS": "9"})
    (spec,) = found.settings.with_options(pricing.app).specs
    assert spec.options.max_batch_rows == 9


KUBERNETES = {
    # A service called flightserve, and one called flightserve-http.
    "FLIGHTSERVE_SERVICE_HOST": "10.0.0.1",
    "FLIGHTSERVE_SERVICE_PORT": "8080",
    "FLIGHTSERVE_SERVICE_PORT_HTTP": "8080",
    "FLIGHTSERVE_PORT": "tcp://10.0.0.1:8080",
    "FLIGHTSERVE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "FLIGHTSERVE_PORT_8080_TCP_PROTO": "tcp",
    "FLIGHTSERVE_PORT_8080_TCP_PORT": "8080",
    "FLIGHTSERVE_PORT_8080_TCP_ADDR": "10.0.0.1",
    "FLIGHTSERVE_HTTP_PORT": "tcp://10.0.0.2:8080",
    "FLIGHTSERVE_HTTP_SERVICE_HOST": "10.0.0.2",
    # What `make demo` goes by.
    "FLIGHTSERVE_ADDRESSES": "{}",
}


def test_what_kubernetes_says_of_a_service_called_flightserve_is_no_setting() -> None:
    assert read_variables(KUBERNETES, KNOWN).values == {}
    assert settled("run", APP, env=KUBERNETES).http_port == 8080


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http_prt = 1", "conf.toml: there is no setting 'http_prt'; did you mean 'http_port'?"),
        ("http-port = 1", "no setting 'http-port'; did you mean 'http_port'?"),
        ('load = "view"', "there is no setting 'load'; it stands under [sql]"),
        ('[deployments."\\u001b[2JP"]\nnone = 1', "conf.toml: deployments.P: a deployment has no option 'none'"),
        ("[limits]\nhttp_port = 1", "[limits] has no setting 'http_port'; it stands at the top, before all sections"),
        ("[limits]\nbody_byte_max = 1", "[limits] has no setting 'body_byte_max'; did you mean 'body_bytes_max'?"),
        ("[limit]\nbody_bytes_max = 1", "there is no setting 'limit'; did you mean 'limits'?"),
        ("[serve]\nport = 1", "there is no setting 'serve'; sections are: check, deploy, deployments, "),
        ("[deployments.P]\nmax_rows = 1", "deployments.P: a deployment has no option 'max_rows'"),
        ("limits = 3", "limits is 3; it is a section, [limits]"),
        ('http_port = "8080"', 'http_port is "8080"; a number is written without quotes'),
        ("http_port = 80.5", "http_port is 80.5; it is a number, or a text"),
        ('no_http = "true"', 'no_http is "true"; it is true or false'),
        ("no_http = 1", "no_http is 1; it is true or false"),
        ("routers = true", "routers is true; it is a whole number"),
        ("routers = 1.0", "routers is 1.0; it is a whole number"),
        ("host = 1", "host is 1; it is a text"),
        ('drain_timeout = "soon"', "drain_timeout is \"soon\"; 'soon' is no time; write it as 30s"),
        ('log_level = "loud"', "log_level is \"loud\"; it is one of 'debug', 'info', 'warning', 'error'"),
        ('allow_host = "a"', 'allow_host is "a"; it is a list of texts'),
        ("allow_host = [1]", "allow_host is [1]; it is a list of texts"),
        ('replicas = {A = "2"}', 'replicas is {A = "2"}; a number is written without quotes'),
        ("replicas = {A = [[1]]}", "it is a table of names and values, or a list of NAME=N"),
        ('[limits]\nbody_bytes_max = "1XB"', "limits.body_bytes_max is \"1XB\"; '1XB' is no size"),
        ('[limits]\nbody_bytes_max = "1"', "a number is written without quotes"),
        ("[limits]\nbody_bytes_max = 1.5", "limits.body_bytes_max is 1.5; it is a number of bytes"),
        (
            "[deployments.P]\nreplicas = {low = 1}",
            'deployments.P.replicas is {low = 1}; it is a whole number, "LOW-HIGH"',
        ),
        ("[deployments.P]\nrouter = 'lifo'", "it is one of 'fifo', 'deadline'"),
        ("day = 2026-01-01", "there is no setting 'day'"),
        ("host = 2026-01-01", "host is 2026-01-01; it is a text"),
        ("a = [1,", "conf.toml, line 1, column 8: "),
        ("a = 1\nb = \n", "conf.toml, line 2, column 5: "),
        ("a = 1\na = 2", "conf.toml, line 2, column 6: "),
        ("host = " + "[" * 5000, "conf.toml"),
        ("routers = " + "9" * 5000, "conf.toml"),
    ],
)
def test_a_file_that_is_wrong_is_said_with_its_name_the_key_and_what_would_be_right(
    text: str, said: str, file: Any
) -> None:
    with pytest.raises(ConfigError) as raised:
        settled("run", APP, "--config", file(text))
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"a = 1\nb = '\xff'\n", "conf.toml, line 2: it is no UTF-8"),
        (b"#" * (FILE_BYTES_MAX + 1), "has more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(data: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        settled("run", APP, "--config", str(path))
    assert said in raised.value.message


def test_a_file_without_a_name_is_no_file() -> None:
    with pytest.raises(ConfigError, match="--config is empty"):
        settled("run", APP, "--config", "")
    assert settled("run", APP, env={"FLIGHTSERVE_CONFIG": ""}).settings.file == ""


def test_a_file_as_windows_writes_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_bytes(b"\xef\xbb\xbfrouters = 2\r\n[limits]\r\ncolumns_max = 3\r\n")
    found = settled("run", APP, "--config", str(path))
    assert (found.routers, found.settings.edge().columns_max) == (2, 3)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "FLIGHTSERVE_HTTP_PRT",
            "1",
            "FLIGHTSERVE_HTTP_PRT, which is no setting; did you mean 'FLIGHTSERVE_HTTP_PORT'?",
        ),
        ("FLIGHTSERVE_HTTP_PORT", "x", "FLIGHTSERVE_HTTP_PORT is \"x\"; 'x' is no port"),
        ("FLIGHTSERVE_NO_HTTP", "yes", 'FLIGHTSERVE_NO_HTTP is "yes"; it is true or false'),
        ("FLIGHTSERVE_ROUTERS", "many", 'FLIGHTSERVE_ROUTERS is "many"; it is a whole number'),
        ("FLIGHTSERVE_ROUTERS", "", 'FLIGHTSERVE_ROUTERS is ""; it is a whole number'),
        ("FLIGHTSERVE_SQL_CSV", "[", 'FLIGHTSERVE_SQL_CSV is "["; it is a table'),
        ("FLIGHTSERVE_DEPLOYMENTS_PRICING", "1", "ends in no option of a deployment"),
        ("FLIGHTSERVE_DEPLOYMENTS_PRICING_ROUTER", "lifo", "it is one of 'fifo', 'deadline'"),
    ],
)
def test_a_variable_that_is_wrong_is_said(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settled("run", APP, env={name: value})
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits.body_bytes_max", "--set takes KEY=VALUE"),
        (
            "limits.body_byte_max=1",
            "--set: there is no setting 'limits.body_byte_max'; did you mean 'limits.body_bytes_max'?",
        ),
        ("limits.body_bytes_max=x", "--set limits.body_bytes_max is \"x\"; 'x' is no size"),
        ("deployments.Pricing.routr=fifo", "did you mean 'deployments.Pricing.router'?"),
    ],
)
def test_what_set_cannot_set_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settled("run", APP, "--set", text)
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http_port = 70000", "conf.toml: http_port is 70000; a port is 0 to 65535"),
        ("[limits]\ncolumns_max = 0", "EdgeLimits: columns_max is 0; it is a whole number, 1 or more ("),
        ("[fabric]\nmemory_bytes_max = 1", "memory_bytes_max is 1, under segment_bytes"),
        ("routers = 0", "routers: 0; it must be 1 to 64 ("),
        (
            "[deployments.Pricin]\nreplicas = 2",
            "conf.toml: the app has no deployment 'Pricin'; did you mean 'Pricing'?",
        ),
        ("[deployments.Pricing]\nmax_batch_rows = 0", "Pricing: max_batch_rows is 0; it must be greater than 0 ("),
        ("[deployments.Pricing]\nreplicas = '4-2'", "autoscale: low is 4, more than high, 2 ("),
    ],
)
def test_what_is_found_wrong_later_is_said_with_the_file(text: str, said: str, file: Any, capsys: Any) -> None:
    free = [f"--{protocol}-port=0" for protocol in ("grpc", "flight", "zmq")]
    path = file(text if "http_port" in text else f"http_port = 0\n{text}")
    assert main(["run", APP, *free, "--config", path]) == 2
    said_all = capsys.readouterr().err
    assert said in said_all and "conf.toml" in said_all and said_all.count("\n") == 1


def test_passwords_in_addresses_are_in_no_message(file: Any) -> None:
    text = (
        '[sql.tables]\na = ["https://me:hunter2@example.com/a?sig=hunter2"]\nb = [["https://me:hunter2@x/?k=hunter2"]]'
    )
    with pytest.raises(ConfigError) as raised:
        settled("sql", "--config", file(text))
    assert "hunter2" not in raised.value.message


def test_a_command_without_settings_goes_on_beside_wrong_ones(capsys: pytest.CaptureFixture[str]) -> None:
    env = {"FLIGHTSERVE_NONSENSE": "1"}
    assert not hasattr(settled("proto", env=env), "settings")
    with pytest.raises(ConfigError, match="FLIGHTSERVE_NONSENSE"):
        settled("status", env=env)


def test_what_is_served_may_come_from_anywhere_and_has_to_from_somewhere(file: Any, capsys: Any) -> None:
    assert settled("run", env={"FLIGHTSERVE_RUN_APP": APP}).app == APP
    assert settled("run", "b:app", "--config", file('[run]\napp = "a:app"')).app == "b:app"
    assert main(["run"]) == 2 and main(["sql"]) == 2
    said = capsys.readouterr().err
    assert "name module:app, or write app under [run] in a file" in said
    assert "give [NAME=]PATH, or write them under [sql.tables] in a file" in said


TOML = st.recursive(
    st.sampled_from(["1", "1.5", "true", '"30s"', '"x"', "nan", "inf", "2026-01-01", "1e400", '"unix:a"', '""']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.dictionaries(st.sampled_from(["A", "low", '"a b"']), inner, max_size=2).map(
            lambda each: "{" + ", ".join(f"{name} = {value}" for name, value in each.items()) + "}"
        )
    ),
    max_leaves=4,
)
KEYS = st.sampled_from([s.name for s in KNOWN.by_key.values()] + [f"deployments.P.{o}" for o in deployment_options()])


@given(st.dictionaries(KEYS, TOML, max_size=3))
def test_whatever_stands_there_is_read_or_refused(document: dict[str, str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as written:
        written.write("\n".join(f"{name} = {value}" for name, value in document.items()))
        written.flush()
        try:
            read_file(written.name, KNOWN)
        except ConfigError as error:
            said = error.message
        else:
            said = written.name
        assert written.name in said
