"""All protocols over TLS and CURVE, with the clients that people have: who gets in, who does not, and that a
certificate is replaced while everything runs."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql
import adbc_driver_manager
import grpc
import httpx
import pyarrow as pa
import pytest
import zmq
import zmq.auth
from pyarrow import flight
from zmq.utils.monitor import recv_monitor_message

import flightserve as fs
from flightserve.config import EdgeLimits, FrontendOptions
from flightserve.frontends.host import FrontendHost
from flightserve.frontends.zmq.curve import make_keys
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto.flightserve_pb2_grpc import FlightServeStub
from flightserve.testing import LocalService
from tests.support import eventually
from tests.tls_support import Pems, ca_pem, issued, trusting, written

BATCH = pa.record_batch({"price": [1.0, 2.0]})
WANTED = {"price": [2.0, 4.0]}
WAIT_S = 20


@fs.deployment
class Doubling:
    def twice(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"price": pa.compute.multiply(batch["price"], 2)})


APP = fs.App(Doubling.bind(), fs.sql.Warehouse({"t": pa.table({"x": [1, 2, 3]})}, name="w").bind())


class Serving:
    """All frontends with a certificate in `folder`, and keys for ZeroMQ."""

    def __init__(self, service: LocalService, folder: Path, client_ca: bytes = b"") -> None:
        self.folder = folder
        self.files = written(folder, issued(), client_ca)
        self.keys = folder / "keys"
        make_keys(str(self.keys), ["ana"])
        ca = self.files.client_ca or None
        options = FrontendOptions(
            tls_cert=self.files.cert, tls_key=self.files.key, tls_client_ca=ca, zmq_keys=str(self.keys)
        )
        self.host = FrontendHost(service, options, Metrics())
        self.addresses = self.host.start()

    def port(self, protocol: str) -> int:
        return int(self.addresses[protocol].rpartition(":")[2])

    def stop(self) -> None:
        self.host.drain(5.0)
        self.host.stop()


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    with LocalService(APP) as service:
        yield service


@pytest.fixture(scope="module")
def serving(service: LocalService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(service, tmp_path_factory.mktemp("tls"))
    yield serving
    serving.stop()


@pytest.fixture(scope="module")
def mutual(service: LocalService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """It lets in whom the CA "clients" has signed."""
    serving = Serving(service, tmp_path_factory.mktemp("mtls"), ca_pem("clients"))
    yield serving
    serving.stop()


# ---- clients: each asks once, and gives what came


def stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def by_http(serving: Serving, ca: str, client: Pems | None) -> Any:
    context = trusting(ca, client, serving.folder)
    url = f"{serving.addresses['http']}/v1/Doubling/twice"
    return httpx.post(url, json={"columns": BATCH.to_pydict()}, verify=context, timeout=WAIT_S).json()["columns"]


def by_curl(serving: Serving, ca: str, client: Pems | None) -> Any:
    (serving.folder / "trusted.pem").write_bytes(ca_pem(ca))
    more: list[str] = []
    if client is not None:
        (serving.folder / "client.pem").write_bytes(client.chain + client.key)
        more = ["--cert", str(serving.folder / "client.pem")]
    url = f"https://localhost:{serving.port('http')}/v1/Doubling/twice"
    body = json.dumps({"columns": BATCH.to_pydict()})
    command = ["curl", "-sS", "--cacert", str(serving.folder / "trusted.pem"), *more, "-d", body, url]
    done = subprocess.run([*command, "-H", "content-type: application/json"], check=True, capture_output=True)
    return json.loads(done.stdout)["columns"]


def by_grpc(serving: Serving, ca: str, client: Pems | None) -> Any:
    credentials = grpc.ssl_channel_credentials(
        ca_pem(ca), client.key if client else None, client.chain if client else None
    )
    with grpc.secure_channel(serving.addresses["grpc"], credentials) as channel:
        call = pb.CallRequest(deployment="Doubling", method="twice", arrow_stream=stream(BATCH))
        reply = FlightServeStub(channel).Call(call, timeout=WAIT_S)  # type: ignore[no-untyped-call]
    return pa.ipc.open_stream(reply.arrow_stream).read_all().to_pydict()


def flight_options(ca: str, client: Pems | None) -> dict[str, Any]:
    ours = {"cert_chain": client.chain, "private_key": client.key} if client else {}
    return {"tls_root_certs": ca_pem(ca), **ours}


def by_flight(serving: Serving, ca: str, client: Pems | None) -> Any:
    with flight.FlightClient(serving.addresses["flight"], **flight_options(ca, client)) as asking:
        descriptor = flight.FlightDescriptor.for_path("Doubling", "twice")
        writer, reader = asking.do_exchange(descriptor, flight.FlightCallOptions(timeout=WAIT_S))
        with writer:
            writer.begin(BATCH.schema)
            writer.write_batch(BATCH)
            writer.done_writing()
            return reader.read_all().to_pydict()


def by_connect(serving: Serving, ca: str, client: Pems | None) -> Any:
    options = flight_options(ca, client)
    with fs.connect(serving.addresses["flight"], way="flight", flight_options=options, retries=0) as asking:
        return asking.Doubling.twice(BATCH).to_pydict()


def by_adbc(serving: Serving, ca: str, client: Pems | None) -> Any:
    options = adbc_driver_flightsql.DatabaseOptions
    given = {options.TLS_ROOT_CERTS.value: ca_pem(ca).decode()}
    if client is not None:
        given[options.MTLS_CERT_CHAIN.value] = client.chain.decode()
        given[options.MTLS_PRIVATE_KEY.value] = client.key.decode()
    # Its dbapi leaves what it opened where it cannot connect.
    with (
        adbc_driver_flightsql.connect(serving.addresses["flight"], given) as database,
        adbc_driver_manager.AdbcConnection(database) as connection,
        adbc_driver_manager.AdbcStatement(connection) as statement,
    ):
        statement.set_sql_query("SELECT x * 2.0 AS price FROM t WHERE x < 3 ORDER BY x")
        return pa.RecordBatchReader.from_stream(statement.execute_query()[0]).read_all().to_pydict()


CLIENTS = [by_http, by_curl, by_grpc, by_flight, by_connect, by_adbc]
Client = Callable[[Serving, str, Pems | None], Any]


def refused(client: Client, *arguments: Any) -> bool:
    """It says so by an error, and not by its patience's end."""
    try:
        client(*arguments)
    except Exception as error:
        return "DEADLINE" not in str(error).upper()
    return False


def test_addresses_say_tls(serving: Serving) -> None:
    http, flight_ = serving.addresses["http"], serving.addresses["flight"]
    assert http.startswith("https://127.0.0.1:")
    assert flight_.startswith("grpc+tls://127.0.0.1:")
    assert serving.addresses["grpc"].startswith("127.0.0.1:")


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_that_trust_the_ca_are_answered(client: Client, serving: Serving) -> None:
    assert client(serving, "ours", None) == WANTED


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_that_trust_another_ca_turn_away(client: Client, serving: Serving) -> None:
    assert refused(client, serving, "another", None)


@pytest.mark.parametrize("client", CLIENTS)
def test_where_clients_are_asked_for_a_certificate_only_those_get_in(client: Client, mutual: Serving) -> None:
    assert refused(client, mutual, "ours", None)
    assert refused(client, mutual, "ours", issued("another"))
    assert client(mutual, "ours", issued("clients")) == WANTED


@pytest.mark.parametrize("protocol", ["http", "grpc", "flight"])
def test_tls_before_1_2_is_refused(protocol: str, serving: Serving) -> None:
    context = trusting()
    context.check_hostname = False
    context.set_ciphers("ALL:@SECLEVEL=0")
    for version, taken in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = version
            context.maximum_version = version
        with socket.create_connection(("127.0.0.1", serving.port(protocol)), WAIT_S) as plain:
            if taken:
                with context.wrap_socket(plain) as wrapped:
                    assert wrapped.version() == "TLSv1.2"
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    context.wrap_socket(plain)


@pytest.mark.parametrize("protocol", ["http", "grpc", "flight"])
def test_who_speaks_in_the_clear_is_turned_away_and_nobody_else(protocol: str, serving: Serving) -> None:
    with socket.create_connection(("127.0.0.1", serving.port(protocol)), WAIT_S) as plain:
        plain.settimeout(WAIT_S)
        plain.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := plain.recv(4096):
                answer += piece
    assert b"HTTP/1.1 200" not in answer
    assert by_http(serving, "ours", None) == WANTED


def test_http_answers_to_the_names_of_its_certificate(service: LocalService, tmp_path: Path) -> None:
    pems = issued(hosts=("localhost", "pricing.example.com", "*.prices.example"))
    files = written(tmp_path, pems)
    options = FrontendOptions(tls_cert=files.cert, tls_key=files.key, grpc_port=None, flight_port=None, zmq_port=None)
    host = FrontendHost(service, options, Metrics())
    port = host.start()["http"].rpartition(":")[2]
    with httpx.Client(base_url=f"https://localhost:{port}", verify=trusting()) as client:
        for name, status in (("pricing.example.com", 200), ("a.prices.example:443", 200), ("evil.example", 421)):
            answer = client.get("/healthz", headers={"host": name})
            assert answer.status_code == status, name
            # It is of loopback: what else is served there may have no TLS.
            assert "strict-transport-security" not in answer.headers
    host.stop()


def test_strangers_who_only_begin_to_shake_hands_are_bounded(service: LocalService, tmp_path: Path) -> None:
    files = written(tmp_path, issued())
    options = FrontendOptions(
        tls_cert=files.cert, tls_key=files.key, grpc_port=None, flight_port=None, zmq_port=None,
        limits=EdgeLimits(connections_max=3, header_timeout_s=2),
    )  # fmt: skip
    host = FrontendHost(service, options, Metrics())
    place = ("127.0.0.1", int(host.start()["http"].rpartition(":")[2]))

    def is_answered() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"https://localhost:{place[1]}/healthz", verify=trusting(), timeout=WAIT_S).is_success
        return False

    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(place, WAIT_S))
        with socket.create_connection(place, WAIT_S) as one_more:
            assert one_more.recv(1) == b""
        # The others have as long as a head may take.
        eventually(is_answered)
    assert is_answered()
    host.stop()


def test_grpc_on_the_port_of_https_is_told_where_it_is(serving: Serving) -> None:
    credentials = grpc.ssl_channel_credentials(ca_pem())
    with grpc.secure_channel(f"127.0.0.1:{serving.port('http')}", credentials) as channel:
        with pytest.raises(grpc.RpcError, match=r"this is the port of HTTP/1.1; gRPC and Flight have their own"):
            FlightServeStub(channel).ListDeployments(pb.ListDeploymentsRequest(), timeout=WAIT_S)  # type: ignore[no-untyped-call]
    context = trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", serving.port("http")), WAIT_S) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            assert wrapped.selected_alpn_protocol() == "http/1.1"


# ---- ZeroMQ

HANDSHAKE_ENDED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


def by_zmq(serving: Serving, server: bytes | None, ours: tuple[bytes, bytes | None] | None) -> Any:
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.linger = 0
        if server is not None and ours is not None:
            asking.curve_serverkey = server
            asking.curve_publickey, asking.curve_secretkey = ours[0], ours[1] or b""
        monitored = asking.get_monitor_socket(HANDSHAKE_ENDED)
        asking.connect(serving.addresses["zmq"])
        try:
            if recv_monitor_message(monitored)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return None
            asking.send_multipart([b'{"deployment": "Doubling", "method": "twice"}', stream(BATCH)])
            assert asking.poll(WAIT_S * 1000)
            head, body = asking.recv_multipart()
            assert json.loads(head)["code"] == "OK", head
            return pa.ipc.open_stream(body).read_all().to_pydict()
        finally:
            asking.disable_monitor()
            monitored.close()


def keys_of(serving: Serving, name: str) -> tuple[bytes, bytes | None]:
    return zmq.auth.load_certificate(serving.keys / name)


def test_zeromq_lets_in_who_has_a_key_that_it_knows(serving: Serving) -> None:
    server, _ = keys_of(serving, "server.key")
    ana = keys_of(serving, "clients/ana.key_secret")
    assert by_zmq(serving, server, ana) == WANTED
    assert by_zmq(serving, None, None) is None
    assert by_zmq(serving, server, zmq.curve_keypair()) is None
    assert by_zmq(serving, zmq.curve_keypair()[0], ana) is None


def test_zeromq_takes_up_who_may_connect(serving: Serving) -> None:
    server, _ = keys_of(serving, "server.key")
    make_keys(str(serving.keys), ["bo"])
    bo = keys_of(serving, "clients/bo.key_secret")
    eventually(lambda: by_zmq(serving, server, bo) == WANTED)
    (serving.keys / "clients" / "bo.key").unlink()
    eventually(lambda: by_zmq(serving, server, bo) is None)
    (serving.keys / "clients" / "bo.key").write_text("no key")
    assert by_zmq(serving, server, keys_of(serving, "clients/ana.key_secret")) == WANTED


# ---- another certificate


def shown_by(serving: Serving, protocol: str) -> bytes:
    context = trusting()
    context.set_alpn_protocols(["http/1.1"] if protocol == "http" else ["h2"])
    with socket.create_connection(("127.0.0.1", serving.port(protocol)), WAIT_S) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"").encode()


def test_a_certificate_is_replaced_while_everything_runs(serving: Serving) -> None:
    """Connections and streams from before go on; whoever comes is shown the new one; nobody sees another error than
    that Flight was not there for a moment."""
    asking = flight.FlightClient(serving.addresses["flight"], **flight_options("ours", None))
    writer, reader = asking.do_exchange(flight.FlightDescriptor.for_path("Doubling", "twice"))
    writer.begin(BATCH.schema)

    def ping() -> Any:
        writer.write_batch(BATCH)
        return reader.read_chunk().data.to_pydict()

    done = threading.Event()
    errors: list[str] = []
    counts = dict.fromkeys(CLIENTS, 0)

    def load(client: Client) -> None:
        while not done.is_set():
            try:
                assert client(serving, "ours", None) == WANTED
                counts[client] += 1
            except Exception as error:
                errors.append(f"{client.__name__}: {error}")

    loads = [threading.Thread(target=load, args=(client,)) for client in (by_http, by_grpc, by_flight)]
    with httpx.Client(verify=trusting(), base_url=serving.addresses["http"]) as kept:
        assert kept.get("/readyz").status_code == 200
        assert ping() == WANTED
        for each in loads:
            each.start()
        for _ in range(2):
            new = issued()
            leaf = new.chain[: new.chain.index(b"-----END") + len(b"-----END CERTIFICATE-----")].strip()
            written(serving.folder, new)
            for protocol in ("http", "grpc", "flight"):
                eventually(lambda p=protocol, leaf=leaf: _shown(serving, p).startswith(leaf), what=protocol)  # type: ignore[misc]
            before = dict(counts)
            eventually(lambda before=before: all(counts[each] > before[each] for each in (by_http, by_grpc, by_flight)))  # type: ignore[misc]
            assert kept.get("/readyz").status_code == 200
            assert ping() == WANTED
        (expires,) = re.findall(r"^flightserve_tls_certificate_expires_seconds (\S+)$", kept.get("/metrics").text, re.M)
        assert 9 < (float(expires) - time.time()) / 86_400 <= 10
        done.set()
        for each in loads:
            each.join()
    writer.done_writing()
    writer.close()
    asking.close()
    assert [each for each in errors if not each.startswith("by_flight: ")] == []
    assert all(re.search("refused|navailable|CANCELLED", each) for each in errors), errors


def _shown(serving: Serving, protocol: str) -> bytes:
    try:
        return shown_by(serving, protocol)
    except ConnectionError:
        return b""
