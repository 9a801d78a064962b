"""Every route of HTTP and gRPC, asked by everybody: strangers of each kind, those without the right, those who have it.
A route without a row here fails a test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
import httpx
import pyarrow as pa
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import flightserve as fs
from flightserve.errors import Unavailable
from flightserve.frontends.grpc.server import GrpcFrontend
from flightserve.frontends.http.pages import Application
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import kserve_pb2 as kserve
from tests.frontends.access_support import STRANGERS, BookedAccess, booked_access, shown_by
from tests.frontends.rpc_support import GOOD, Narrow, Probe, served
from tests.support import eventually

# Rights: of strangers, of whoever says who he is, and those of roles.
ANYBODY, SIGNED_IN = "anybody", "signed in"
CALL, QUERY, OPERATE, METRICS = "call", "query", "operate", "metrics"
# Who has the right, and who has every other one.
HOLDERS = {CALL: "carl", QUERY: "quinn", OPERATE: "alice", METRICS: "alice"}
LACKING = {CALL: "quinn", QUERY: "carl", OPERATE: "vera", METRICS: "vera"}


class Served(NamedTuple):
    http: httpx.Client
    grpc: grpc.Channel
    shown: dict[str, str | None]
    access: BookedAccess
    host: Any
    version: str


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    sales = fs.sql.Warehouse({"orders": pa.table({"a": [1, 2]})}, name="sales")
    bound = fs.App(Probe.bind(), Narrow.bind(), sales)
    with (
        booked_access(tmp_path_factory.mktemp("auth")) as access,
        served(access=access, app=bound, http_port=0, grpc_port=0) as host,
        httpx.Client(base_url=host.addresses["http"], timeout=20) as client,
        grpc.insecure_channel(host.addresses["grpc"]) as channel,
    ):
        yield Served(client, channel, shown_by(access), access, host, host.service.method("Probe", "typed")[0].version)


# ---- HTTP


class Row(NamedTuple):
    """A route as the routing table has it, a request for it, and who may make it."""

    method: str
    route: str
    right: str
    path: str = ""
    body: Any = None
    # Of who may.
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})


ROWS = {"columns": {"a": [1, 2]}}
INPUTS = {"inputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": [1]}]}
EVENTS = {"accept": "text/event-stream"}
# Stands for that of Probe in a path.
VERSION = "VERSION"
MODELS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
REGIONS = ("/v2/systemsharedmemory", "/v2/systemsharedmemory/region/{region}")
CALLS = [
    Row("POST", "/v1/{deployment}/{method}", CALL, "/v1/Probe/identity", ROWS),
    Row("POST", "/v1/{deployment}/{method}", CALL, "/v1/Probe/pieces", ROWS, headers=EVENTS),
    Row("GET", "/v1/{deployment}/{method}", CALL, "/v1/Probe/pieces?body=%7B%22columns%22%3A%7B%22a%22%3A%5B1%5D%7D%7D",
        headers=EVENTS),
    Row("POST", "/v1/sql", QUERY, body={"query": "SELECT a FROM orders"}),
    Row("POST", "/v1/sql", QUERY, "/v1/sql?warehouse=sales", b"SELECT 1", headers={"content-type": "text/plain"}),
    Row("GET", "/v1/sql", QUERY, "/v1/sql?query=SELECT+a+FROM+orders"),
    Row("GET", "/v1/sql", QUERY, "/v1/sql?query=SELECT+a+FROM+orders&format=csv&filename=a.csv"),
    Row("GET", "/v1/sql", QUERY, "/v1/sql?query=EXPLAIN+SELECT+a+FROM+orders"),
    Row("HEAD", "/v1/sql", QUERY, "/v1/sql?query=SELECT+a+FROM+orders"),
    *(Row("POST", f"{model}/infer", CALL, f"{model}/infer".format(model="Probe.typed", version=VERSION), INPUTS)
      for model in MODELS),
]  # fmt: skip
PAGES = [
    Row("GET", "/healthz", ANYBODY),
    Row("HEAD", "/healthz", ANYBODY),
    Row("GET", "/readyz", ANYBODY),
    Row("GET", "/metrics", METRICS),
    Row("HEAD", "/metrics", METRICS),
    Row("GET", "/openapi.json", SIGNED_IN),
    Row("GET", "/docs", SIGNED_IN),
    Row("GET", "/docs/{file}", SIGNED_IN, "/docs/docs.js"),
    Row("GET", "/", SIGNED_IN),
    Row("GET", "/console", SIGNED_IN),
    Row("GET", "/console/{file}", SIGNED_IN, "/console/console.js"),
    Row("GET", "/console/me", SIGNED_IN),
    Row("GET", "/console/live", OPERATE),
    Row("GET", "/console/history", OPERATE),
    Row("GET", "/v1/deployments", SIGNED_IN),
    Row("POST", "/v1/deployments", SIGNED_IN, status=405),
    Row("GET", "/v1/{deployment}/{method}", CALL, "/v1/Probe/identity"),
    Row("HEAD", "/v1/{deployment}/{method}", CALL, "/v1/Probe/identity"),
    Row("PUT", "/v1/{deployment}/{method}", SIGNED_IN, "/v1/Probe/identity", status=405),
    Row("GET", "/v2", SIGNED_IN),
    Row("GET", "/v2/health/live", SIGNED_IN),
    Row("GET", "/v2/health/ready", SIGNED_IN),
    Row("GET", "/v2/models/stats", SIGNED_IN),
    Row("POST", "/v2/repository/index", SIGNED_IN, body={}),
    *(Row(method, f"{region}/{what}", SIGNED_IN, f"{region}/{what}".format(region="r"), body, status)
      for region in REGIONS
      for method, what, body, status in (
          ("GET", "status", None, 404 if "{" in region else 200),
          ("POST", "register", {}, 501),
          ("POST", "unregister", {}, 200))),
    *(Row("GET", f"{model}{what}", CALL, f"{model}{what}".format(model="Probe.typed", version=VERSION))
      for model in MODELS
      for what in ("", "/ready", "/config", "/stats")),
    # What there is not.
    Row("GET", "/favicon.ico", SIGNED_IN, status=404),
    Row("GET", "/nothing/here", SIGNED_IN, status=404),
    Row("POST", "/v1/deployments/more/of/it", SIGNED_IN, status=404),
    Row("GET", "/v1/sql/", SIGNED_IN, status=404),
    Row("GET", "/healthz/", SIGNED_IN, status=404),
    Row("OPTIONS", "/v1/Probe/identity", SIGNED_IN, status=405),
    Row("POST", "/v1/Ghost/anything", CALL, body=ROWS, status=404),
    Row("POST", "/v1/Probe/nothing_such", CALL, body=ROWS, status=404),
    Row("GET", "/v1/Probe/nothing_such", CALL, status=404),
    Row("GET", "/v2/models/Ghost", CALL, status=404),
    Row("POST", "/v2/models/Ghost/infer", CALL, body=INPUTS, status=404),
]  # fmt: skip


def ask(app: Served, row: Row, caller: str) -> httpx.Response:
    shown = app.shown[caller]
    headers = dict(row.headers)
    if shown is not None:
        headers["authorization"] = shown.encode()  # type: ignore[assignment]
    content = json.dumps(row.body) if isinstance(row.body, dict) else row.body
    if isinstance(row.body, dict):
        headers.setdefault("content-type", "application/json")
    path = (row.path or row.route).replace(VERSION, app.version)
    return app.http.request(row.method, path, content=content, headers=headers)


def name_of(row: Row) -> str:
    return f"{row.method} {row.path or row.route}"


def said(answer: httpx.Response) -> tuple[str, str]:
    """Code and message; KServe's errors have no code."""
    if not answer.content:
        return "", ""
    error = answer.json()["error"]
    return ("", error) if isinstance(error, str) else (error["code"], error["message"])


@pytest.mark.parametrize("row", CALLS + PAGES, ids=name_of)
def test_http(app: Served, row: Row) -> None:
    for stranger in STRANGERS:
        answer = ask(app, row, stranger)
        if row.right == ANYBODY:
            assert answer.status_code == 200, stranger
            continue
        assert answer.status_code == 401, stranger
        assert answer.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="flightserve"']
        code, message = said(answer)
        assert code in ("UNAUTHENTICATED", "")
        # The same whatever was asked for.
        nowhere = ask(app, Row("GET", "/nowhere", SIGNED_IN), stranger)
        assert message in (said(nowhere)[1], "")
    if row.right in LACKING:
        for lacking in (LACKING[row.right], "nora"):
            answer = ask(app, row, lacking)
            assert answer.status_code == 403, lacking
            code, message = said(answer)
            assert code in ("PERMISSION_DENIED", "")
            assert message.startswith(lacking) or not message
    for holder in {HOLDERS.get(row.right, "nora"), "alice", "password"}:
        assert ask(app, row, holder).status_code == row.status, holder


def test_each_http_route_has_a_row(app: Served) -> None:
    application: Application = app.host._running["http"]._application
    rows = {(row.method, row.route) for row in CALLS + PAGES}
    for route in application.routes:
        assert route.methods is not None
        methods = route.methods - {"HEAD"} if "GET" in route.methods else route.methods
        assert {(method, route.path) for method in methods} <= rows, route


# ---- gRPC


class Rpc(NamedTuple):
    service: str
    method: str
    right: str
    request: bytes
    code: grpc.StatusCode = grpc.StatusCode.OK


def call_of(method: str) -> bytes:
    return pb.CallRequest(deployment="Probe", method=method, arrow_stream=GOOD).SerializeToString()


OURS, HEALTH = "flightserve.v1.FlightServe", "grpc.health.v1.Health"
KSERVE, REFLECTION = "inference.GRPCInferenceService", "grpc.reflection.v1alpha.ServerReflection"
INFER = kserve.ModelInferRequest(
    model_name="Probe.typed",
    inputs=[{"name": "a", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [1]}}],
).SerializeToString()
TYPED = kserve.ModelMetadataRequest(name="Probe.typed").SerializeToString()
OK = grpc.StatusCode.OK
RPCS = [
    Rpc(OURS, "Call", CALL, call_of("identity")),
    Rpc(OURS, "Stream", CALL, call_of("identity")),
    Rpc(OURS, "Query", QUERY, pb.QueryRequest(query="SELECT a FROM orders").SerializeToString()),
    Rpc(OURS, "ListDeployments", SIGNED_IN, b""),
    Rpc(OURS, "DescribeMethod", CALL,
        pb.DescribeMethodRequest(deployment="Probe", method="identity").SerializeToString()),
    Rpc(HEALTH, "Check", ANYBODY, b""),
    Rpc(HEALTH, "Watch", ANYBODY, b""),
    Rpc(REFLECTION, "ServerReflectionInfo", SIGNED_IN,
        reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()),
    Rpc(KSERVE, "ServerLive", SIGNED_IN, b""),
    Rpc(KSERVE, "ServerReady", SIGNED_IN, b""),
    Rpc(KSERVE, "ServerMetadata", SIGNED_IN, b""),
    Rpc(KSERVE, "ModelReady", CALL, TYPED),
    Rpc(KSERVE, "ModelMetadata", CALL, TYPED),
    Rpc(KSERVE, "ModelConfig", CALL, TYPED),
    Rpc(KSERVE, "ModelStatistics", CALL, TYPED),
    Rpc(KSERVE, "ModelInfer", CALL, INFER),
    Rpc(KSERVE, "ModelStreamInfer", CALL, INFER),
    Rpc(KSERVE, "RepositoryIndex", SIGNED_IN, b""),
    Rpc(KSERVE, "SystemSharedMemoryStatus", SIGNED_IN, b""),
    Rpc(KSERVE, "SystemSharedMemoryRegister", SIGNED_IN, b"", grpc.StatusCode.UNIMPLEMENTED),
    Rpc(KSERVE, "SystemSharedMemoryUnregister", SIGNED_IN, b""),
    # What there is not.
    Rpc(OURS, "Nothing", SIGNED_IN, b"", grpc.StatusCode.UNIMPLEMENTED),
    Rpc(KSERVE, "CudaSharedMemoryStatus", SIGNED_IN, b"", grpc.StatusCode.UNIMPLEMENTED),
    Rpc("no.such.Service", "Nothing", SIGNED_IN, b"", grpc.StatusCode.UNIMPLEMENTED),
]  # fmt: skip


def rpc(app: Served, row: Rpc, caller: str) -> tuple[grpc.StatusCode, str]:
    """Code and details; those of a stream are of its first error, within a reply or as its status."""
    shown = app.shown[caller]
    # gRPC's clients send no more than this of what is malformed.
    metadata = [] if shown is None else [("authorization", shown.encode("ascii", "replace").decode())]
    call = app.grpc.stream_stream(f"/{row.service}/{row.method}")(iter([row.request]), metadata=metadata, timeout=20)
    try:
        for reply in call:
            if row.method == "Watch":
                call.cancel()
                return OK, ""
            if row.method == "Stream" and (status := pb.CallReply.FromString(reply)).HasField("status"):
                return {code.value[0]: code for code in grpc.StatusCode}[status.status.code], status.status.message
            if row.method == "ModelStreamInfer":
                message = kserve.ModelStreamInferResponse.FromString(reply).error_message
                return (grpc.StatusCode.PERMISSION_DENIED if message else OK), message
        return call.code(), call.details()
    except grpc.RpcError as error:
        return error.code(), error.details()


@pytest.mark.parametrize("row", RPCS, ids=lambda row: f"{row.service}/{row.method}")
def test_grpc(app: Served, row: Rpc) -> None:
    for stranger in STRANGERS:
        code, details = rpc(app, row, stranger)
        if row.right == ANYBODY:
            assert code == OK, stranger
            continue
        nowhere = rpc(app, Rpc("no.such.Service", "Nothing", SIGNED_IN, b""), stranger)
        assert (code, details) == nowhere == (grpc.StatusCode.UNAUTHENTICATED, details), stranger
    for lacking in (LACKING[row.right], "nora") if row.right in LACKING else ():
        code, details = rpc(app, row, lacking)
        assert code == grpc.StatusCode.PERMISSION_DENIED, details
        assert details.startswith(lacking)
    for holder in {HOLDERS.get(row.right, "nora"), "alice", "password"}:
        assert rpc(app, row, holder)[0] == row.code, rpc(app, row, holder)


def test_each_rpc_has_a_row(app: Served) -> None:
    frontend: GrpcFrontend = app.host._running["grpc"]
    served = {(service, method) for service, handlers in frontend.services().items() for method in handlers}
    assert served == {(row.service, row.method) for row in RPCS} & served
    assert {service for service, _ in served} == {OURS, HEALTH, KSERVE, REFLECTION}


def test_strangers_do_not_hear_of_deployments_by_their_health(app: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, caller: str) -> grpc.StatusCode:
        request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        return rpc(app, Rpc(HEALTH, "Check", ANYBODY, request), caller)[0]

    assert check("Probe", "alice") == check(OURS, "absent") == OK
    for caller in (*STRANGERS, "nora"):
        assert check("Probe", caller) == check("Nowhere", caller) == grpc.StatusCode.NOT_FOUND

    async def nobody_knows(context: Any) -> Any:
        raise Unavailable("too many ask")

    monkeypatch.setattr(app.host._running["grpc"]._guard, "recognised", nobody_knows)
    assert check("Probe", "alice") == grpc.StatusCode.UNAVAILABLE


# ---- what each sees


def test_each_is_shown_what_he_may_use(app: Served) -> None:
    def names(caller: str) -> list[str]:
        answer = ask(app, Row("GET", "/v1/deployments", SIGNED_IN), caller)
        assert answer.headers["cache-control"] == "no-store"
        return sorted(each["name"] for each in answer.json()["deployments"])

    def paths(caller: str) -> str:
        return str(sorted(ask(app, Row("GET", "/openapi.json", SIGNED_IN), caller).json()["paths"]))

    def models(caller: str) -> list[str]:
        found = ask(app, Row("POST", "/v2/repository/index", SIGNED_IN, body={}), caller).json()
        return sorted({each["name"].partition(".")[0] for each in found})

    def listed(caller: str) -> list[str]:
        metadata = [("authorization", str(app.shown[caller]))]
        reply = app.grpc.unary_unary(f"/{OURS}/ListDeployments")(b"", metadata=metadata, timeout=20)
        return [each.name for each in pb.ListDeploymentsReply.FromString(reply).deployments]

    assert names("alice") == listed("alice") == ["Narrow", "Probe", "sales"]
    assert names("carl") == listed("carl") == models("carl") == models("alice") == ["Narrow", "Probe"]
    assert names("quinn") == listed("quinn") == ["sales"]
    assert names("nora") == listed("nora") == models("nora") == models("quinn") == []
    assert "/v1/Probe/identity" in paths("carl")
    assert "Probe" not in paths("quinn") + paths("nora")


def test_openapi_says_how_to_sign_in(app: Served) -> None:
    document = ask(app, Row("GET", "/openapi.json", SIGNED_IN), "alice").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "basic"}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "401" in document["paths"]["/v1/Probe/identity"]["post"]["responses"]
    assert "401" not in document["paths"]["/healthz"]["get"]["responses"]


def test_every_visit_has_one_end(app: Served) -> None:
    assert {visit.what for visit in app.access.book} >= {"Probe.identity", "Probe.pieces", "Probe.typed", "sql"}
    eventually(lambda: not app.access.unended())
