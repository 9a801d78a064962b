"""Callers who have to say who they are, at HTTP and gRPC: when it is found out, for how long it holds, and that every
call that was let in is ended once, however it ends."""

from __future__ import annotations

import contextlib
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import grpc
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc
import tritonclient.http
from cryptography import x509

import flightserve as fs
from flightserve.errors import PermissionDenied
from flightserve.frontends.http import calls as http_calls
from flightserve.frontends.http.entering import REFUSED_BODY_BYTES_MAX
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto.flightserve_pb2_grpc import FlightServeStub
from tests.frontends.access_support import BookedAccess, booked_access
from tests.frontends.h2_support import status_of
from tests.frontends.http.support import JSON, Raw, frontend_of, post
from tests.frontends.rpc_support import GOOD, WATCHED, Narrow, Probe, read, served
from tests.identity.books import PASSWORD, basic, bearer
from tests.support import eventually
from tests.tls_support import ca_pem, issued, trusting, written

INPUTS = {"inputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": [1]}]}
ROWS = json.dumps({"columns": {"a": [1, 2]}}).encode()
IDENTITY = "/v1/Probe/identity"
CARL, VERA, QUINN, ALICE = (f"authorization: {bearer(name)}" for name in ("carl", "vera", "quinn", "alice"))
WRONG = f"authorization: {bearer('carl')[:-1]}x"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


class Served(NamedTuple):
    host: Any
    http: str
    grpc: str
    access: BookedAccess


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("callers")
    pq.write_table(pa.table({"a": list(range(1000))}), folder / "orders.parquet")
    sales = fs.sql.Warehouse({"orders": str(folder / "orders.parquet")}, name="sales")
    bound = fs.App(Probe.bind(), Narrow.bind(), sales)
    with (
        booked_access(folder) as access,
        served(access=access, app=bound, http_port=0, grpc_port=0) as host,
    ):
        yield Served(host, host.addresses["http"], host.addresses["grpc"], access)


@pytest.fixture(autouse=True)
def at_rest(app: Served) -> Iterator[None]:
    """After each test nothing is in flight, and whatever was begun has ended, once."""
    app.access.book.clear()
    yield
    app.access.let_go.set()
    frontend = frontend_of(app.host)

    def rests() -> bool:
        counts = frontend.statistics()
        return not (app.access.unended() or app.access.waiting or counts["http_in_flight"] or counts["http_held_bytes"])

    eventually(rests, what=f"{app.access.unended()} {frontend!r}")


def client_of(app: Served, name: str) -> httpx.Client:
    return httpx.Client(base_url=app.http, timeout=20, headers={"authorization": bearer(name)})


def ask_as(app: Served, shown: str) -> int:
    headers = {"content-type": JSON, "authorization": shown}
    return httpx.post(f"{app.http}{IDENTITY}", content=ROWS, headers=headers).status_code


# ---- when it is found out


def test_a_head_that_is_known_by_its_bytes_says_each_time_whose_it_is(app: Served) -> None:
    raw = Raw(app.http)
    for _ in range(3):
        assert raw.send(post(IDENTITY, ROWS, CARL)).read_answer().status == 200
    assert len(frontend_of(app.host)._calls.heads) > 0
    app.access.revoke("carl")
    try:
        raw.send(post(IDENTITY, ROWS, CARL)).read_answer()
        assert (raw.status, raw.code) == (401, "UNAUTHENTICATED")
    finally:
        app.access.restore("carl")
    app.access.forget()
    assert raw.send(post(IDENTITY, ROWS, CARL)).read_answer().status == 200
    raw.close()


def test_what_the_sender_of_a_known_head_may_call_is_asked_again(app: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, request = Raw(app.http), post(IDENTITY, ROWS, CARL, "x: asked-again")
    for _ in range(3):
        assert raw.send(request).read_answer().status == 200
    known = frontend_of(app.host)._calls.heads._known
    [sender] = [each.sender for head, each in known.items() if b"asked-again" in head]
    monkeypatch.setattr(http_calls, "method_for", Mock(side_effect=PermissionDenied("it calls what he may not")))
    sender.until_ns = 0
    assert raw.send(request).read_answer().status == 403
    raw.close()


def test_one_connection_may_have_many_callers(app: Served) -> None:
    raw = Raw(app.http)
    for line, status in ((CARL, 200), (WRONG, 401), (QUINN, 403), (VERA, 200), ("x: y", 401), (CARL, 200)):
        assert raw.send(post(IDENTITY, ROWS, line)).read_answer().status == status
    raw.close()
    assert [visit.principal for visit in app.access.book] == ["carl", "vera", "carl"]


def test_requests_wait_in_their_order_until_it_is_known_who_sends_them(app: Served) -> None:
    raw = Raw(app.http)
    app.access.forget()
    app.access.let_go.clear()
    # Sent at once; the third is not for him, and the last says nothing.
    lines = [CARL, VERA, QUINN, CARL, "x: y"]
    raw.send(
        b"".join(post(IDENTITY, ROWS, line, f"x-request-id: number-{number}") for number, line in enumerate(lines))
    )
    eventually(lambda: app.access.waiting > 0, what="nobody is looked up")
    assert app.access.book == []
    app.access.let_go.set()
    seen = b""
    while seen.count(b"HTTP/1.1 ") < len(lines) or not seen.endswith(b"}"):
        seen += raw.socket.recv(1 << 16)
    assert [int(part[:3]) for part in seen.split(b"HTTP/1.1 ")[1:]] == [200, 200, 403, 200, 401]
    assert [seen.index(b"number-%d" % number) for number in range(5)] == sorted(
        seen.index(b"number-%d" % number) for number in range(5)
    )
    raw.close()


def test_who_goes_away_before_he_is_known_leaves_nothing(app: Served) -> None:
    app.access.forget()
    app.access.let_go.clear()
    # Heads that nobody has sent: of those he would be known for a second.
    paths = (IDENTITY, "/v2/models/Probe.identity/infer")
    raws = [Raw(app.http).send(post(path, ROWS, CARL, "x: going")) for path in paths]
    eventually(lambda: app.access.waiting == 2)
    for raw in raws:
        raw.close()
    app.access.let_go.set()
    eventually(lambda: app.access.waiting == 0)


def test_a_body_that_comes_before_its_sender_is_known(app: Served) -> None:
    app.access.forget()
    app.access.let_go.clear()
    body = json.dumps({"columns": {"a": list(range(20_000))}}).encode()
    raw = Raw(app.http).send(post(IDENTITY, body, CARL, f"x: {'y' * 100}")[:3000])
    eventually(lambda: app.access.waiting == 1)
    app.access.let_go.set()
    raw.send(post(IDENTITY, body, CARL, f"x: {'y' * 100}")[3000:]).read_answer()
    assert raw.status == 200
    assert len(json.loads(raw.body)["columns"]["a"]) == 20_000
    raw.close()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("line", "status"), [(WRONG, 401), (QUINN, 403), ("x: y", 401)])
def test_a_body_of_who_is_refused_is_not_waited_for(app: Served, line: str, status: int, known: bool) -> None:
    if not known:
        app.access.forget()
    head = f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n{line}\r\n"
    raw = Raw(app.http).send(f"{head}content-length: {REFUSED_BODY_BYTES_MAX + 1}\r\n\r\n".encode()).until_closed()
    assert raw.status == status
    raw = Raw(app.http).send(f"{head}content-length: 10\r\nexpect: 100-continue\r\n\r\n".encode()).until_closed()
    assert raw.status == status
    # A small one is read, and the connection goes on.
    raw = Raw(app.http).send(f"{head}content-length: 10\r\n\r\n".encode() + b"0123456789").read_answer()
    assert raw.status == status
    assert raw.send(post(IDENTITY, ROWS, CARL)).read_answer().status == 200
    raw.close()


@pytest.mark.parametrize("known", [True, False])
def test_who_is_let_in_is_told_to_go_on(app: Served, known: bool) -> None:
    if not known:
        app.access.forget()
    raw = Raw(app.http).send(post(IDENTITY, b"", CARL, "expect: 100-continue").replace(b"length: 0", b"length: 26"))
    assert raw.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert raw.send(b'{"columns": {"a": [1, 2]}}').read_answer().status == 200
    raw.close()


def test_chunks_of_who_is_refused_are_read_to_a_bound(app: Served) -> None:
    head = f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n{WRONG}\r\n"
    chunked = f"{head}transfer-encoding: chunked\r\n\r\n".encode()
    raw = Raw(app.http).send(chunked + b"5\r\n12345\r\n0\r\n\r\n").read_answer()
    assert raw.status == 401
    raw.close()
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    raw = Raw(app.http).send(chunked + 5 * chunk).until_closed()
    assert raw.status == 401


@pytest.mark.parametrize(
    "lines",
    [
        [CARL, CARL],
        [CARL, WRONG],
        ["authorization: "],
        ["authorization: Bearer"],
        ["authorization: Negotiate abc"],
        [f"authorization: Bearer {'x' * 20_000}"],
        ["authorization: Basic ####"],
        ["authorization: Basic Y2FybA=="],
        ["authorization: Bearer \xff\xfe"],
    ],
)
@pytest.mark.parametrize("path", [IDENTITY, "/v1/sql", "/docs"])
def test_credentials_that_are_none(app: Served, path: str, lines: list[str]) -> None:
    request = "\r\n".join(
        [f"POST {path} HTTP/1.1", "host: localhost", f"content-type: {JSON}", "content-length: 2", *lines]
    )
    raw = Raw(app.http).send(request.encode("latin-1") + b"\r\n\r\n{}").read_answer()
    assert raw.status == 401
    assert b"\r\nwww-authenticate: Bearer\r\n" in raw.head + b"\r\n"
    for line in lines:
        secret = "".join(line.split(" ", 2)[2:])
        assert not secret or secret.encode("latin-1") not in raw.received
    raw.close()


# ---- for how long it holds, and whose it is


def test_answers_are_kept_for_who_got_them(app: Served) -> None:
    url = "/v1/sql?query=SELECT+a+FROM+orders&format=csv"
    with client_of(app, "quinn") as quinn, client_of(app, "alice") as alice:
        his, hers = quinn.get(url), alice.get(url)
        assert his.headers["etag"] != hers.headers["etag"]
        assert his.headers["cache-control"] == "private, no-cache"
        assert "authorization" in his.headers["vary"]
        assert quinn.get(url, headers={"if-none-match": his.headers["etag"]}).status_code == 304
        assert alice.get(url, headers={"if-none-match": his.headers["etag"]}).status_code == 200
        part = quinn.get(url, headers={"range": "bytes=0-9"})
        assert (part.status_code, part.content) == (206, his.content[:10])
        # Hers is none of his kept ones, and she gets a whole one where none is.
        assert alice.get(url, headers={"range": "bytes=20-29"}).status_code == 200
        assert quinn.get(url, headers={"range": "bytes=20-29"}).content == his.content[20:30]
    with client_of(app, "carl") as carl:
        for headers in ({}, {"if-none-match": "*"}, {"range": "bytes=0-9"}):
            assert carl.get(url, headers=headers).status_code == 403
    app.access.revoke("quinn")
    try:
        with client_of(app, "quinn") as quinn:
            assert quinn.get(url, headers={"if-none-match": his.headers["etag"]}).status_code == 401
    finally:
        app.access.restore("quinn")


def test_a_preflight_needs_no_credentials_and_a_call_does(app: Served) -> None:
    asked = {"origin": app.http, "access-control-request-method": "POST"}
    assert httpx.options(f"{app.http}{IDENTITY}", headers=asked).status_code == 204
    assert httpx.options(f"{app.http}{IDENTITY}").status_code == 401


def test_pages_of_other_origins_hear_it_where_they_may_call(tmp_path: Path) -> None:
    with (
        booked_access(tmp_path) as access,
        served(access=access, http_port=0, cors_origins=("https://x.example",)) as host,
    ):
        answer = httpx.get(f"{host.addresses['http']}/v1/deployments", headers={"origin": "https://x.example"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://x.example"


def test_limits_of_a_principal(app: Served) -> None:
    stream = Raw(app.http).send(post("/v1/Probe/never", ROWS, VERA))
    eventually(lambda: len(app.access.unended()) == 1)
    with client_of(app, "vera") as vera:
        refused = vera.post(IDENTITY, content=ROWS, headers={"content-type": JSON})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        stream.close()
        eventually(lambda: not app.access.unended())
        assert vera.post(IDENTITY, content=ROWS, headers={"content-type": JSON}).status_code == 200
        urgent = vera.post(IDENTITY, content=ROWS, headers={"content-type": JSON, "x-priority": "4"})
        assert (urgent.status_code, urgent.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
        # Her longest query.
        long = "SELECT count(*) FROM orders a, orders b, orders c, orders d WHERE a.a + b.a + c.a + d.a = 1"
        assert vera.post("/v1/sql", json={"query": long}).status_code == 504


def test_bytes_that_no_head_tells_of_are_counted(app: Served) -> None:
    bodies = {IDENTITY: ROWS, "/v2/models/Probe.typed/infer": json.dumps(INPUTS).encode()}
    with client_of(app, "alice") as alice:
        for path, body in bodies.items():
            assert alice.post(path, content=iter([body]), headers={"content-type": JSON}).status_code == 200
    assert [visit.nbytes for visit in app.access.book] == list(map(len, bodies.values()))


# ---- every visit has one end


def test_every_way_out_of_http(app: Served) -> None:
    with client_of(app, "alice") as alice:
        events = {"accept": "text/event-stream"}
        for path, status in (
            (IDENTITY, 200), ("/v1/Probe/boom", 500), ("/v1/Probe/pieces", 200), ("/v1/Probe/nothing", 500),
            ("/v1/Probe/typed", 200), ("/v1/Probe/breaks", 500), ("/v1/Probe/secret", 403),
        ):  # fmt: skip
            assert alice.post(path, content=ROWS, headers={"content-type": JSON}).status_code == status, path
        for path in ("/v1/Probe/pieces", "/v1/Probe/breaks"):
            assert "event: " in alice.post(path, content=ROWS, headers={"content-type": JSON, **events}).text
        for content, headers in (
            (b"{", {"content-type": JSON}), (ROWS, {"content-type": "text/plain"}), (b"", {"content-type": JSON}),
            (b"x", {"content-type": JSON, "content-encoding": "gzip"}),
            (ROWS, {"content-type": JSON, "accept": "text/x"}), (ROWS, {"content-type": JSON, "x-timeout-ms": "0"}),
        ):  # fmt: skip
            assert alice.post(IDENTITY, content=content, headers=headers).status_code >= 400
        for query in ("SELECT a FROM orders", "SELECT nothing", "DROP TABLE orders"):
            alice.post("/v1/sql", json={"query": query})
            alice.get("/v1/sql", params={"query": query})
            alice.head("/v1/sql", params={"query": query})
        assert alice.post("/v2/models/Probe.typed/infer", json=INPUTS).status_code == 200
        assert alice.post("/v2/models/Probe.boom/infer", json=INPUTS).status_code == 500
    ended = {(visit.what, visit.ends[0]) for visit in app.access.book}
    assert {("Probe.identity", (0, 2)), ("Probe.pieces", (0, 2)), ("Probe.boom", (13, 0)), ("sql", (0, 1000))} <= ended


def test_who_goes_away_ends_what_he_began(app: Served) -> None:
    stopped = WATCHED.stopped
    endless = json.dumps({"columns": {"a": [1]}}).encode()
    raws = [
        Raw(app.http).send(post("/v1/Probe/never", ROWS, CARL)),
        Raw(app.http).send(post("/v1/Probe/endless", endless, CARL, "accept: text/event-stream")),
        Raw(app.http).send(post("/v1/Probe/endless", endless, CARL, "accept: application/x-ndjson")),
    ]
    eventually(lambda: len(app.access.unended()) == 3)
    for raw in raws:
        raw.close()
    eventually(lambda: not app.access.unended() and WATCHED.stopped >= stopped + 3)
    assert {visit.ends[0][0] for visit in app.access.book} == {1}


def test_every_way_out_of_grpc(app: Served) -> None:
    metadata = [("authorization", bearer("alice"))]
    with grpc.insecure_channel(app.grpc) as channel:
        stub = FlightServeStub(channel)  # type: ignore[no-untyped-call]

        def request(method: str, stream: bytes = GOOD) -> Any:
            return pb.CallRequest(deployment="Probe", method=method, arrow_stream=stream)

        for method, stream in (
            ("identity", GOOD),
            ("boom", GOOD),
            ("pieces", GOOD),
            ("identity", b"no stream"),
            ("nothing", GOOD),
        ):
            with contextlib.suppress(grpc.RpcError):
                stub.Call(request(method, stream), metadata=metadata, timeout=20)
        every = [request(method) for method in ("identity", "boom", "pieces", "breaks", "identity")]
        assert len(list(stub.Stream(iter(every), metadata=metadata, timeout=20))) == 9
        for query in ("SELECT a FROM orders", "SELECT nothing"):
            with contextlib.suppress(grpc.RpcError):
                list(stub.Query(pb.QueryRequest(query=query), metadata=metadata, timeout=20))
        # Given up: alone, and in a stream with others behind it.
        behind = [request("never"), request("identity"), request("identity")]
        for begin, begun in (
            (lambda: stub.Call.future(request("never"), metadata=metadata), 1),
            (lambda: stub.Stream(iter(behind), metadata=metadata), 2),
        ):
            call = begin()
            eventually(lambda begun=begun: len(app.access.unended()) >= begun)  # type: ignore[misc]
            call.cancel()
            eventually(lambda: not app.access.unended())
        with pytest.raises(grpc.RpcError):
            stub.Call(request("never"), metadata=metadata, timeout=0.3)
    ended = {(visit.what, visit.ends[0]) for visit in app.access.book if visit.ends}
    assert {("Probe.identity", (0, 3)), ("Probe.pieces", (0, 3)), ("Probe.boom", (13, 0)), ("sql", (0, 1000))} <= ended


def test_a_stream_of_who_was_revoked_begins_nothing_more(app: Served) -> None:
    metadata = [("authorization", bearer("carl"))]
    with grpc.insecure_channel(app.grpc) as channel:
        stub = FlightServeStub(channel)  # type: ignore[no-untyped-call]
        one = pb.CallRequest(deployment="Probe", method="identity", arrow_stream=GOOD)
        sent: queue.Queue[Any] = queue.Queue()
        replies = stub.Stream(iter(sent.get, None), metadata=metadata, timeout=20)
        sent.put(one)
        assert not next(replies).HasField("status")
        app.access.revoke("carl")
        try:
            sent.put(one)
            assert next(replies).status.code == UNAUTHENTICATED.value[0]
            with pytest.raises(grpc.RpcError) as refused:
                stub.Call(one, metadata=metadata, timeout=20)
            assert refused.value.code() == UNAUTHENTICATED
        finally:
            app.access.restore("carl")
        sent.put(None)


# ---- clients


def test_tritonclient_with_headers(app: Served) -> None:
    def shown() -> dict[str, str]:
        # The client adds its own to what it is given.
        return {"authorization": bearer("carl")}

    for module, address in ((tritonclient.http, app.http.removeprefix("http://")), (tritonclient.grpc, app.grpc)):
        with module.InferenceServerClient(address) as client:
            wanted = module.InferInput("a", [2], "INT64")
            wanted.set_data_from_numpy(pa.array([3, 4]).to_numpy())
            assert client.infer("Probe.typed", [wanted], headers=shown()).as_numpy("a").tolist() == [3, 4]
            assert client.is_model_ready("Probe.typed", headers=shown())
            assert client.get_model_repository_index(headers=shown())
            for wrong in ({}, {"authorization": "Bearer nobody"}):
                with pytest.raises(tritonclient.http.InferenceServerException, match="credentials"):
                    client.infer("Probe.typed", [wanted], headers=dict(wrong))
            with pytest.raises(tritonclient.http.InferenceServerException, match="quinn may not call"):
                client.infer("Probe.typed", [wanted], headers={"authorization": bearer("quinn")})


def test_passwords(app: Served) -> None:
    assert httpx.get(f"{app.http}/docs", auth=("carl", PASSWORD)).status_code == 200
    assert ask_as(app, basic("carl", PASSWORD)) == 200
    assert ask_as(app, basic("carl", PASSWORD + "x")) == ask_as(app, basic("nobody", PASSWORD)) == 401


def test_paths_of_sockets_ask_as_well(tmp_path: Path) -> None:
    web, rpc = tmp_path / "web.sock", tmp_path / "rpc.sock"
    with (
        booked_access(tmp_path) as access,
        served(access=access, http_port=f"unix:{web}", grpc_port=f"unix:{rpc}"),
        httpx.Client(transport=httpx.HTTPTransport(uds=str(web)), base_url="http://localhost") as client,
        grpc.insecure_channel(f"unix:{rpc}") as channel,
    ):
        assert client.get("/docs").status_code == 401
        assert client.get("/docs", headers={"authorization": bearer("nora")}).status_code == 200
        stub = FlightServeStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=20)
        assert refused.value.code() == UNAUTHENTICATED
        stub.ListDeployments(pb.ListDeploymentsRequest(), metadata=[("authorization", bearer("nora"))], timeout=20)


@pytest.mark.parametrize("said", [[b"Bearer \xff\xfe\xfd"], [b""], [b"x" * 4000], [bearer("carl").encode()] * 2])
def test_metadata_that_no_client_library_sends(app: Served, said: list[bytes]) -> None:
    call = pb.CallRequest(deployment="Probe", method="identity", arrow_stream=GOOD).SerializeToString()
    port = int(app.grpc.rpartition(":")[2])
    assert status_of(port, call, [(b"authorization", each) for each in said]) == 16
    assert status_of(port, call, [(b"authorization", bearer("carl").encode())]) == 0


def test_certificates_of_clients_and_call_credentials(tmp_path: Path) -> None:
    pems = {name: issued("clients") for name in ("vera", "stranger")}
    subject = x509.load_pem_x509_certificate(pems["vera"].chain).subject.rfc4514_string()
    files = written(tmp_path, issued(), ca_pem("clients"))
    tls = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.client_ca}
    with booked_access(tmp_path, subject) as access, served(access=access, http_port=0, grpc_port=0, **tls) as host:
        for name, status in (("vera", 200), ("stranger", 401)):
            context = trusting(client=pems[name], folder=tmp_path)
            with httpx.Client(base_url=host.addresses["http"], verify=context, timeout=20) as client:
                headers = {"content-type": JSON}
                for _ in range(2):
                    assert client.post(IDENTITY, content=ROWS, headers=headers).status_code == status
                assert client.get("/docs").status_code == status
                # What he says counts before what he shows.
                headers["authorization"] = bearer("carl")
                assert client.post(IDENTITY, content=ROWS, headers=headers).status_code == 200
            shown = grpc.ssl_channel_credentials(ca_pem(), pems[name].key, pems[name].chain)
            address = f"localhost:{host.addresses['grpc'].rpartition(':')[2]}"
            with grpc.secure_channel(address, shown) as channel:
                assert call_status(channel) == (0 if status == 200 else 16)
            token = grpc.access_token_call_credentials(bearer("carl").removeprefix("Bearer "))
            with grpc.secure_channel(address, grpc.composite_channel_credentials(shown, token)) as channel:
                assert call_status(channel) == 0
    assert {visit.principal for visit in access.book} == {"vera", "carl"}


def call_status(channel: grpc.Channel) -> int:
    stub = FlightServeStub(channel)  # type: ignore[no-untyped-call]
    try:
        reply = stub.Call(pb.CallRequest(deployment="Probe", method="identity", arrow_stream=GOOD), timeout=20)
    except grpc.RpcError as error:
        return int(error.code().value[0])
    assert read(reply.arrow_stream).to_pydict() == {"a": [1, 2, 3]}
    return 0
