"""Who asks is said in each ZeroMQ message: absent, malformed, wrong, revoked, without the right, with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import zmq

import flightserve as fs
from flightserve.config import FrontendOptions
from flightserve.core.access.rights import Principal
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.frontends.access_support import BookedAccess
from tests.identity.books import PASSWORD, basic, bearer
from tests.support import eventually

ROWS = pa.record_batch({"a": [1, 2]})
TOKENS: dict[str, Any] = {
    "absent": None,
    "malformed": "Bearer",
    "a number": 7,
    "no text": [bearer("root")],
    "wrong": bearer("no"),
    "revoked": bearer("rev"),
}


@fs.deployment
class Shop:
    def price(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def slow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("no")


class Unhurried(BookedAccess):
    """One that knows nobody before it has found out."""

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        return None if authorization else super().known(authorization, subject)


ROLES = '[roles.clerk]\ncall = ["Shop.price"]\n[roles.nobody]\n'
CALLERS = {
    "root": '["admin"]', "ann": '["clerk"]', "nil": '["nobody"]', "rev": '["admin"]', "one": '["admin"]',
}  # fmt: skip


@pytest.fixture(scope="module", params=[BookedAccess, Unhurried])
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BookedAccess, str]]:
    access = request.param(tmp_path_factory.mktemp("auth"), ROLES, CALLERS, {"one": "in_flight = 1"})
    access.revoke("rev")
    ports = {"http_port": None, "grpc_port": None, "flight_port": None, "zmq_port": 0}
    with LocalService(fs.App(Shop.bind())) as service:
        host = FrontendHost(service, FrontendOptions(**ports), Metrics(), access=access)
        yield access, host.start()["zmq"]
        host.stop()
    eventually(lambda: not access.unended(), what="every visit ends once")
    access.stop()


@pytest.fixture
def ask(both: tuple[BookedAccess, str]) -> Iterator[Any]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVTIMEO, 20_000)
        sock.connect(both[1])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, ROWS.schema) as writer:
            writer.write_batch(ROWS)
        body = sink.getvalue().to_pybytes()

        def ask(authorization: Any, method: str = "price", deployment: str = "Shop", **fields: Any) -> dict[str, Any]:
            said = {} if authorization is None else {"authorization": authorization}
            sock.send_multipart(
                [json.dumps({"deployment": deployment, "method": method, **said, **fields}).encode(), body]
            )
            header, answer = sock.recv_multipart()
            told: dict[str, Any] = json.loads(header)
            if told["code"] == "OK":
                assert pa.ipc.open_stream(answer).read_all() == pa.Table.from_batches([ROWS])
            return told

        yield ask


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("method", ["price", "slow", "nothing"])
def test_who_cannot_say_who_he_is_is_refused_before_anything_else(ask: Any, name: str, method: str) -> None:
    told = ask(TOKENS[name], method, **{"x-request-id": "mine"})
    assert told["code"] == ("INVALID_ARGUMENT" if name == "no text" else "UNAUTHENTICATED")
    assert told["request_id"] == "mine" and "token" not in told["message"].replace("Bearer TOKEN", "").lower()


def test_each_message_is_its_callers(ask: Any) -> None:
    for _ in range(2):
        assert ask(bearer("ann"))["code"] == "OK"
        assert ask(basic("root", PASSWORD), "price")["code"] == "OK"
        assert ask(bearer("nil"))["code"] == "PERMISSION_DENIED"
        assert ask(bearer("ann"), "slow")["code"] == "PERMISSION_DENIED"
        assert ask(bearer("root"), "slow")["code"] == "INTERNAL"
        # Alike, whether there is one or not.
        told = [ask(bearer("ann"), "x", deployment)["message"] for deployment in ("Shop", "Nowhere")]
        assert told[0].replace("Shop", "Nowhere") == told[1]
        assert ask(bearer("root"), "x")["code"] == "NOT_FOUND"


def test_calls_are_let_in_and_end_once(both: tuple[BookedAccess, str], ask: Any) -> None:
    access, before = both[0], len(both[0].book)
    assert ask(bearer("one"), **{"x-request-id": "r1", "x-priority": 3})["code"] == "OK"
    assert ask(bearer("one"), "slow")["code"] == "INTERNAL"
    assert ask(bearer("one"), **{"x-timeout-ms": 0})["code"] == "DEADLINE_EXCEEDED"
    access.begin(access.recognise(bearer("one")), "Shop.price", "held")
    assert ask(bearer("one"))["code"] == "RESOURCE_EXHAUSTED"
    access.book[-1].end(0)
    first, second, _ = access.book[before:]
    eventually(lambda: second.ends, what="the call ended")
    assert (first.what, first.request_id, first.ends) == ("Shop.price", "r1", [(0, 2)])
    assert second.ends == [(13, 0)]
