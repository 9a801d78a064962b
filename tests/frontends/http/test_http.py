"""The HTTP contract: calls in every form, metadata, pages, draining."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pyarrow as pa
import pytest

from flightserve.config import EdgeLimits
from flightserve.frontends.http.pages import WEB
from flightserve.types import MetricFamily
from flightserve.wire.table import Measured
from tests.frontends.http.support import ARROW, JSON, NDJSON, Raw, frontend_of, http_served, ipc, post, table_of
from tests.frontends.rpc_support import WATCHED
from tests.support import eventually

ROWS = pa.record_batch({"a": pa.array([1, 2, None], pa.int64()), "s": ["x", "ü", None]})
IDENTITY = "/v1/Probe/identity"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, httpx.Client]]:
    with http_served() as served:
        yield served


@pytest.fixture
def client(server: tuple[Any, httpx.Client]) -> httpx.Client:
    return server[1]


@pytest.fixture(autouse=True)
def at_rest(server: tuple[Any, httpx.Client]) -> Iterator[None]:
    yield
    frontend = frontend_of(server[0])
    eventually(
        lambda: frontend.statistics()["http_in_flight"] == 0 and frontend.statistics()["http_held_bytes"] == 0,
        what=f"calls and bytes held are back to 0: {frontend!r}",
    )


# ---- forms


@pytest.mark.parametrize("body", [{"columns": {"a": [1, 2], "s": ["x", None]}}, {"rows": [{"a": 1}, {"a": 2}]}])
def test_json_is_answered_in_the_same_shape(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post(IDENTITY, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert answer.json() == body


def test_arrow_in_and_out(client: httpx.Client) -> None:
    answer = client.post(IDENTITY, content=ipc(ROWS), headers={"content-type": ARROW})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == ARROW
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert table_of(answer.content).to_batches() == [ROWS]


@pytest.mark.parametrize("sent", [JSON, ARROW])
@pytest.mark.parametrize("wanted", [JSON, ARROW, NDJSON])
def test_accept_picks_the_form(client: httpx.Client, sent: str, wanted: str) -> None:
    content = ipc(ROWS) if sent == ARROW else json.dumps({"columns": ROWS.to_pydict()}).encode()
    answer = client.post(IDENTITY, content=content, headers={"content-type": sent, "accept": wanted})
    assert answer.headers["content-type"] == wanted
    if wanted == ARROW:
        assert table_of(answer.content).to_pydict() == ROWS.to_pydict()
    elif wanted == JSON:
        assert answer.json() == {"columns": ROWS.to_pydict()}
    else:
        assert [json.loads(line) for line in answer.content.splitlines()] == ROWS.to_pylist()


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", JSON),
        ("application/*", JSON),
        (f"text/html, {ARROW};q=0.9, {JSON};q=0.1", ARROW),
        (f"{JSON};q=0, */*", ARROW),
        ("", JSON),
    ],
)
def test_accept_is_negotiated(client: httpx.Client, accept: str, form: str) -> None:
    answer = client.post(IDENTITY, json={"columns": {"a": [1]}}, headers={"accept": accept})
    assert answer.headers["content-type"] == form


@pytest.mark.parametrize("rows", [0, 1, 1000, 100_000])
def test_sizes_of_arrow(client: httpx.Client, rows: int) -> None:
    batch = pa.record_batch({"a": pa.array(range(rows), pa.int64())})
    answer = client.post(IDENTITY, content=ipc(batch), headers={"content-type": ARROW})
    assert table_of(answer.content).combine_chunks().to_pydict() == batch.to_pydict()


def test_large_json_is_a_call_of_its_own(client: httpx.Client) -> None:
    values = list(range(100_000))
    assert client.post(IDENTITY, json={"columns": {"a": values}}).json() == {"columns": {"a": values}}


def test_packed_bodies(client: httpx.Client) -> None:
    headers = {"content-type": ARROW}
    zstd = pa.compress(ipc(ROWS), "zstd", asbytes=True)
    for encoding, packed in (("gzip", gzip.compress(ipc(ROWS))), ("zstd", zstd), ("identity", ipc(ROWS))):
        answer = client.post(IDENTITY, content=packed, headers={**headers, "content-encoding": encoding})
        assert answer.status_code == 200, (encoding, answer.text)
        assert table_of(answer.content).to_pydict() == ROWS.to_pydict()
    body = gzip.compress(json.dumps({"columns": {"a": list(range(50_000))}}).encode())
    answer = client.post(IDENTITY, content=body, headers={"content-type": JSON, "content-encoding": "gzip"})
    assert len(answer.json()["columns"]["a"]) == 50_000


def test_a_body_in_pieces(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        data = ipc(ROWS)
        for at in range(0, len(data), 7):
            yield data[at : at + 7]

    answer = client.post(IDENTITY, content=pieces(), headers={"content-type": ARROW})
    assert table_of(answer.content).to_pydict() == ROWS.to_pydict()


# ---- streams


def test_a_stream_leaves_as_arrow_lines_or_one_json(client: httpx.Client) -> None:
    path = "/v1/Probe/pieces"
    answer = client.post(path, content=ipc(ROWS), headers={"content-type": ARROW})
    assert answer.headers["transfer-encoding"] == "chunked"
    assert [batch.num_rows for batch in table_of(answer.content).to_batches()] == [1, 1, 1]
    lines = client.post(path, content=ipc(ROWS), headers={"content-type": ARROW, "accept": NDJSON})
    assert [json.loads(line) for line in lines.text.splitlines()] == ROWS.to_pylist()
    one = client.post(path, json={"columns": {"a": [1, 2]}})
    assert one.json() == {"columns": {"a": [1, 2]}}


def test_an_empty_stream_has_no_rows(client: httpx.Client) -> None:
    empty = ipc(ROWS.slice(0, 0))
    answer = client.post("/v1/Probe/pieces", content=empty, headers={"content-type": ARROW})
    assert table_of(answer.content).num_rows == 0


# ---- together


def test_requests_that_arrive_together_keep_their_own_answers(client: httpx.Client) -> None:
    url = str(client.base_url)
    sockets = [Raw(url) for _ in range(40)]
    for number, raw in enumerate(sockets):
        value = f'"{number}"' if number % 3 == 0 else str(number + (0.5 if number % 3 == 1 else 0))
        raw.send(post(IDENTITY, b'{"rows":[{"a":%s}]}' % value.encode()))
    for number, raw in enumerate(sockets):
        value = str(number) if number % 3 == 0 else number + (0.5 if number % 3 == 1 else 0)
        answer = json.loads(raw.read_answer().body)
        assert answer == {"rows": [{"a": value}]}
        assert type(answer["rows"][0]["a"]) is type(value)
        raw.close()


def test_one_bad_request_does_not_harm_its_neighbours(client: httpx.Client) -> None:
    raw = Raw(str(client.base_url))
    good, bad = b'{"columns":{"a":[1]}}', b'{"columns":{"a":[1.5]}}'
    typed = "/v1/Probe/typed"
    raw.send(post(typed, good) + post(typed, bad) + post(typed, good) + post("/v1/Probe/gone", good))
    statuses = []
    for _ in range(4):
        while b"\r\n\r\n" not in raw.received or len(raw.body) < raw.length:
            raw.received += raw.socket.recv(1 << 16)
        statuses.append(raw.status)
        raw.received = raw.body[raw.length :]
    raw.close()
    assert statuses == [200, 422, 200, 503]


def test_pipelined_calls_and_pages_are_answered_in_order(client: httpx.Client) -> None:
    raw = Raw(str(client.base_url))
    get = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    raw.send(post(IDENTITY, b'{"rows":[{"a":1}]}') + get + post(IDENTITY, b'{"rows":[{"a":2}]}', "connection: close"))
    raw.until_closed()
    bodies = re.findall(rb'\{"(?:rows|status)[^\r]*', raw.received)
    assert [b[:20] for b in bodies] == [b'{"rows":[{"a":1}]}HT', b'{"status":"ok"}HTTP/', b'{"rows":[{"a":2}]}']


@pytest.mark.parametrize("begun", [1, 5, 12, 40])
def test_a_call_whose_last_piece_has_the_next_ones_beginning(client: httpx.Client, begun: int) -> None:
    raw, body = Raw(str(client.base_url)), b'{"rows":[{"a":1}]}'
    following = post(IDENTITY, body, "connection: close")
    raw.send(post(IDENTITY, body) + following[:begun]).read_answer()
    assert (raw.status, raw.body) == (200, body)
    raw.received = b""
    raw.send(following[begun:]).until_closed()
    assert (raw.status, raw.body) == (200, body)


def test_http_1_0_and_absolute_urls_and_expect(client: httpx.Client) -> None:
    url, body = str(client.base_url), b'{"rows":[{"a":1}]}'
    old = Raw(url).send(post(IDENTITY, body).replace(b"HTTP/1.1", b"HTTP/1.0")).until_closed()
    assert (old.status, old.body) == (200, body)
    absolute = Raw(url).send(post("http://localhost" + IDENTITY, body, "connection: close")).until_closed()
    assert (absolute.status, absolute.body) == (200, body)
    expecting = Raw(url)
    head, _, rest = post(IDENTITY, body, "expect: 100-continue").partition(b"\r\n\r\n")
    expecting.send(head + b"\r\n\r\n")
    assert expecting.socket.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert expecting.send(rest).read_answer().body == body
    expecting.close()
    streamed = post("/v1/Probe/pieces", body, f"accept: {NDJSON}").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert Raw(url).send(streamed).until_closed().body == b'{"a":1}\n'


# ---- metadata


def test_the_request_id_is_echoed_or_made_up(client: httpx.Client) -> None:
    body = {"columns": {"a": [1]}}
    assert client.post(IDENTITY, json=body, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    made = {client.post(IDENTITY, json=body).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    refused = client.post("/v1/Probe/boom", json=body, headers={"x-request-id": "mine"})
    assert refused.json()["error"]["request_id"] == refused.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/docs", "/openapi.json", "/v1/deployments", IDENTITY])
def test_the_request_id_is_echoed_by_pages(client: httpx.Client, path: str) -> None:
    assert client.get(path, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert client.get(path).headers["x-request-id"]


def test_a_deadline_ends_a_call(client: httpx.Client) -> None:
    for headers in ({"x-timeout-ms": "50"}, {"x-timeout-ms": "50", "content-type": ARROW}):
        content = ipc(ROWS) if "content-type" in headers else b'{"columns":{"a":[1]}}'
        answer = client.post("/v1/Probe/never", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "DEADLINE_EXCEEDED")
    eventually(lambda: WATCHED.running == 0)


def test_a_client_that_goes_away_cancels_its_call(client: httpx.Client) -> None:
    stopped = WATCHED.stopped
    data = ipc(ROWS)
    raw = Raw(str(client.base_url)).send(post("/v1/Probe/never", data).replace(JSON.encode(), ARROW.encode()))
    eventually(lambda: WATCHED.running == 1)
    raw.close()
    eventually(lambda: WATCHED.stopped == stopped + 1 and WATCHED.running == 0)


def test_a_reader_that_goes_away_ends_its_stream(client: httpx.Client, server: tuple[Any, httpx.Client]) -> None:
    body = post("/v1/Probe/large", b'{"columns":{"a":[1000000]}}', f"accept: {ARROW}")
    raw = Raw(str(client.base_url)).send(body)
    assert raw.socket.recv(1 << 16)
    raw.close()
    eventually(lambda: frontend_of(server[0]).statistics()["http_in_flight"] == 0)


# ---- pages


def test_health_and_readiness(client: httpx.Client, server: tuple[Any, httpx.Client]) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    server[0].service.notes = ("warehouse: left out: table 'a'",)
    answer = client.get("/readyz")
    del server[0].service.notes
    # It serves all the same.
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "problems": ["warehouse: left out: table 'a'"]}


def test_metrics_count_calls_and_show_the_tiers(client: httpx.Client, server: tuple[Any, httpx.Client]) -> None:
    client.post(IDENTITY, json={"columns": {"a": [1]}})
    client.post("/v1/Probe/no_such_method", json={"columns": {"a": [1]}})
    server[0].service.metrics = {"router-0": {"Probe.queued_requests": 3.0, "Probe.shed": 2.0, "frames": 7.0}}
    family = MetricFamily("counter", "seen", "Seen", samples=(((), (5.0,)),))
    server[0].service.measured = (Measured("replica-Probe-0", "Probe", "v1", (family,)),)
    answer = client.get("/metrics")
    assert 'seen_total{deployment="Probe",process="replica-Probe-0",version="v1"} 5.0' in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = 'deployment="Probe",frontend="http",method="identity"'
    assert f'flightserve_requests_total{{code="OK",{labels}}}' in answer.text
    assert f"flightserve_request_duration_seconds_count{{{labels}}}" in answer.text
    assert 'flightserve_requests_total{code="NOT_FOUND",deployment="-",frontend="http",method="-"}' in answer.text
    assert "no_such_method" not in answer.text
    of_router = 'deployment="Probe",process="router-0"'
    assert f"flightserve_queue_depth{{{of_router}}} 3.0" in answer.text
    assert f'flightserve_shed_total{{{of_router},reason="queue_full"}} 2.0' in answer.text
    assert 'flightserve_tier_frames_total{process="router-0"} 7.0' in answer.text


def test_deployments_and_methods_are_described(client: httpx.Client) -> None:
    deployments = {d["name"]: d for d in client.get("/v1/deployments").json()["deployments"]}
    assert set(deployments) == {"Narrow", "Probe"}
    typed = client.get("/v1/Probe/typed").json()
    assert typed["input_schema"] == [{"name": "a", "type": "int64", "nullable": True}]
    assert typed in deployments["Probe"]["methods"] and typed["strict"] is False
    assert client.get("/v1/Probe/pieces").json()["streaming"] is True


def test_openapi_has_every_method(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    call = document["paths"]["/v1/Probe/typed"]["post"]
    assert call["requestBody"]["content"][JSON]["schema"]["oneOf"][0]["$ref"].endswith("/Probe_typed_input_columns")
    json_in = document["components"]["schemas"]["Probe_typed_input_columns"]
    values = json_in["properties"]["columns"]["properties"]["a"]["items"]["oneOf"][0]
    assert values == {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
    assert {ARROW, JSON, NDJSON, "text/event-stream"} == set(call["responses"]["200"]["content"])
    refused = {
        str(client.post("/v1/Probe/typed", content=b"{}", headers=headers).status_code)
        for headers in ({"accept": "image/png"}, {"content-type": "image/png"}, {"content-type": JSON})
    }
    assert refused == {"400", "406", "415"}
    assert refused <= set(call["responses"])


def test_docs_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
    for name in WEB:
        page = client.get(f"/docs/{name}")
        assert page.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r"(?:src|href|url|import|from)\s*[=(]?\s*[\"']?(?:https?:)?/", page.text), name
    assert client.get("/docs").content == client.get("/").content == client.get("/docs/docs.html").content
    for name in ("pages.py", "..%2Fpages.py", "%2e%2e/pages.py", "docs", "web/docs.js"):
        assert client.get(f"/docs/{name}").status_code in (400, 404)


def test_sql_needs_a_warehouse(client: httpx.Client) -> None:
    answer = client.post("/v1/sql", json={"query": "SELECT 1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "UNIMPLEMENTED")


# ---- the end


def test_draining_finishes_what_is_in_flight_and_takes_nothing_new() -> None:
    with http_served() as (host, client), ThreadPoolExecutor(2) as pool:
        frontend = frontend_of(host)
        address = host.addresses["http"]
        raw = Raw(address).send(post(IDENTITY, b'{"rows":[{"a":1}]}')).read_answer()
        running = pool.submit(client.post, "/v1/Probe/slowly", json={"columns": {"a": [1000]}})
        eventually(lambda: frontend.statistics()["http_in_flight"] == 1)
        drained = pool.submit(host.drain, 10.0)
        eventually(lambda: frontend._calls.draining)
        # A connection that is there is still answered, and told that it ends.
        raw.send(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        raw.read_answer()
        assert raw.status == 503
        assert b"connection: close" in raw.head.lower()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz")
        assert running.result().json() == {"columns": {"a": [1000]}}
        assert drained.result() is True
        raw.close()


def test_what_outlives_the_drain_is_unavailable() -> None:
    with ThreadPoolExecutor(1) as pool:
        with http_served() as (host, client):
            running = pool.submit(client.post, "/v1/Probe/never", json={"columns": {"a": [1]}}, timeout=20)
            eventually(lambda: frontend_of(host).statistics()["http_in_flight"] == 1)
            assert host.drain(0.1) is False
            host.stop()
            answer = running.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")


def test_a_taken_port_is_reported() -> None:
    from flightserve.config import FrontendOptions
    from flightserve.frontends.host import BindFailed, FrontendHost
    from flightserve.metrics import Metrics

    none: dict[str, Any] = {"grpc_port": None, "flight_port": None, "zmq_port": None}
    with http_served(EdgeLimits()) as (host, _):
        port = int(host.addresses["http"].rpartition(":")[2])
        second = FrontendHost(host.service, FrontendOptions(http_port=port, **none), Metrics())
        with pytest.raises(BindFailed, match="http"):
            second.start()
