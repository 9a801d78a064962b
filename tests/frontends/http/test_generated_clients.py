"""`/openapi.json` is taken by who makes clients of it: one that openapi-python-client wrote calls every endpoint."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openapi_spec_validator
import pyarrow as pa
import pytest

from flightserve.cli.main import main
from flightserve.frontends.http.openapi import openapi
from flightserve.frontends.json.columns import JsonColumns
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from tests.frontends.http.typical import EMPTY, FULL, ODD, typical_served

# The form that it knows no name for is sent as bytes; that it says so is no failure.
CONFIG = json.dumps(
    {
        "content_type_overrides": {"application/vnd.apache.arrow.stream": "application/octet-stream"},
        "package_name_override": "typical_client",
        "post_hooks": [],
    }
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with typical_served(tmp_path_factory.mktemp("tables")) as (address, _):
        yield address


@pytest.fixture(scope="module")
def made(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the client's package."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_bytes(httpx.get(f"{address}/openapi.json").content)
    (folder / "config.json").write_text(CONFIG)
    command = ["openapi_python_client", "generate", "--path=openapi.json", "--config=config.json"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--meta=none", "--output-path=typical_client", "--fail-on-warning"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "typical_client"]:
        del sys.modules[name]


def module(name: str) -> ModuleType:
    return importlib.import_module(f"typical_client.{name}")


class Caller:
    """Calls the generated functions, and keeps which of them were called."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = module("client").Client
        self.called: set[str] = set()

    def call(self, operation: str, **arguments: Any) -> Any:
        self.called.add(operation)
        client = self.client(base_url=self.address, raise_on_unexpected_status=True)
        with client:
            answer = module(f"api.{operation}").sync_detailed(client=client, **arguments)
        assert answer.parsed is not None, answer
        return answer.parsed.to_dict() if hasattr(answer.parsed, "to_dict") else answer.parsed

    def model(self, name: str, content: Any) -> Any:
        return getattr(module("models"), name).from_dict(content)


def test_every_endpoint_is_called_by_the_client(made: Path, address: str) -> None:
    caller = Caller(address)
    typical = "typical_app_v1"

    def posted(operation: str, model: str, rows: list[Any]) -> Any:
        return caller.call(operation, body=caller.model(model, {"rows": rows}))

    rows = [encoded(FULL), encoded(EMPTY)]
    answer = posted(f"{typical}.{typical}_odd", "TypicalAppV1OddInputRows", rows)
    assert answer == {"rows": rows}
    columns = {"columns": {name: [row[name] for row in rows] for name in FULL}}
    body = caller.model("TypicalAppV1OddInputColumns", columns)
    assert caller.call(f"{typical}.{typical}_odd", body=body) == columns
    numbers = [{"n": 2}, {"n": 1}]
    assert posted(f"{typical}.{typical}_count", "TypicalAppV1CountInputRows", numbers) == {
        "rows": [{"n": 0}, {"n": 1}, {"n": 0}]
    }
    assert posted(f"{typical}.{typical}_undeclared", "TypicalAppV1UndeclaredInputRows", [{"any": 1}]) == {
        "rows": [{"any": 1}]
    }
    error = posted(f"{typical}.{typical}_fail", "TypicalAppV1FailInputRows", numbers)["error"]
    assert error["code"] == "INTERNAL"
    assert "no such number" in error["message"]
    assert error["request_id"]
    answer = posted(f"{typical}.{typical}_describe_odd", "TypicalAppV1DescribeOddInputRows", numbers)
    assert answer == {"rows": numbers}
    assert posted("store.store_by_id", "StoreByIdInputRows", [{"id": 2}])["rows"] == [
        {"rid": 0, "id": 2, "größe-x": None}
    ]

    sql = caller.model("SqlBody", {"query": "SELECT id FROM things WHERE id = ?", "parameters": [1]})
    assert caller.call("server.sql", body=sql) == {"rows": [{"id": 1}]}
    shape = module("models").SqlByUrlShape("columns")
    assert caller.call("server.sql_by_url", query="SELECT 1 AS one WHERE 1 = ?", p=["1"], shape=shape) == {
        "columns": {"one": [1]}
    }
    assert caller.call("server.healthz") == {"status": "ok"}
    assert caller.call("server.readyz") == {"status": "ready"}
    assert "flightserve_requests_total" in caller.call("server.metrics")
    assert {each["name"] for each in caller.call("server.deployments")["deployments"]} == {"store", "typical-app.v1"}
    described = [path.stem for path in (made / "typical_client" / "api").glob("*/describe_*.py")]
    for name in described:
        assert caller.call(f"{'store' if 'store' in name else typical}.{name}")["path"].startswith("/v1/")
    there = {f"{path.parent.name}.{path.stem}" for path in (made / "typical_client" / "api").glob("*/[a-z]*.py")}
    assert caller.called == there


def encoded(row: dict[str, Any]) -> dict[str, Any]:
    """The row as JSON has it."""
    batch = pa.RecordBatch.from_pylist([row], schema=ODD)
    found: dict[str, Any] = json.loads(JsonColumns(batch).encode(0, 1, True))["rows"][0]
    # What the client makes of an instant, and writes of it.
    found["at"] = row["at"] and row["at"].isoformat()
    return found


def test_times_become_times_of_the_language(made: Path) -> None:
    row = module("models").TypicalAppV1OddInputRow.from_dict(encoded(FULL))
    assert row.at == FULL["at"]
    assert row.day == FULL["day"]
    assert row.to_dict() == encoded(FULL)
    assert isinstance(row.at, dt.datetime)


def test_the_document_is_valid(made: Path) -> None:
    openapi_spec_validator.validate(json.loads((made / "openapi.json").read_text()))


def test_the_command_prints_the_document_of_an_app(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi", "tests.control.pricing:app"]) == 0
    document = json.loads(capfd.readouterr().out)
    openapi_spec_validator.validate(document)
    assert "/v1/Pricing/charge" in document["paths"]


def test_operation_ids_are_one_each_however_they_are_written() -> None:
    names = {"a": ["b_c", "größe", "b.c"], "a_b": ["c"], "a-b": ["C"], "A.b": ["c"], "describe": ["a"]}
    specs = [DeploymentSpec(name, "1", DeploymentOptions(), tuple(map(MethodSpec, of))) for name, of in names.items()]
    document = openapi(specs)
    openapi_spec_validator.validate(document)
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len({each.replace("_", "").lower() for each in ids}) == len(ids)
    assert {"a_b_c", "a_b_c_2", "describe_a_b_c", "healthz", "metrics"} <= set(ids)
