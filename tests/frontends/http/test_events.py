"""Generators for people: rows as they are made, as lines and as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from flightserve.config import EdgeLimits
from tests.frontends import rpc_support
from tests.frontends.http.support import ARROW, JSON, NDJSON, Raw, check_unharmed, frontend_of, http_served, ipc, post
from tests.frontends.rpc_support import WATCHED, batch_of
from tests.support import eventually

EVENTS = "text/event-stream"
PIECES = "/v1/Probe/pieces"
COLUMNS = {"columns": {"a": [1, 2, 3]}}


class Event(NamedTuple):
    """One event as the standard has it: its type, its data, the last id."""

    type: str
    data: Any
    id: str


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    """Events of the lines of a body, as a browser reads them."""
    kind, data, last_id = "", [], ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield Event(kind or "message", json.loads("\n".join(data)), last_id)
            kind, data = "", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last_id = value


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, httpx.Client]]:
    with http_served(EdgeLimits(event_silence_s=0.05)) as served:
        yield served
        check_unharmed(served)


@pytest.fixture
def client(server: tuple[Any, httpx.Client]) -> httpx.Client:
    return server[1]


def asked(client: httpx.Client, path: str, body: Any = COLUMNS, **headers: str) -> httpx.Response:
    return client.post(path, json=body, headers={"accept": EVENTS, "x-request-id": "mine", **headers})


def read(answer: httpx.Response) -> list[Event]:
    return list(events_of(iter(answer.text.split("\n"))))


ROWS = [Event("message", {"a": a}, "mine") for a in (1, 2, 3)]
END = Event("end", {"rows": 3}, "mine")


@pytest.mark.parametrize("path", [PIECES, "/v1/Probe/identity", "/v1/Probe/typed"])
def test_each_row_is_an_event(client: httpx.Client, path: str) -> None:
    answer = asked(client, path)
    assert answer.headers["content-type"] == EVENTS and answer.headers["cache-control"] == "no-store"
    assert read(answer) == [*ROWS, END]
    headers = {"accept": EVENTS, "content-type": ARROW, "x-request-id": "mine"}
    assert read(client.post(path, content=ipc(batch_of(1, 2, 3)), headers=headers)) == [*ROWS, END]


@pytest.mark.parametrize("path", [PIECES, "/v1/Probe/identity"])
def test_text_with_line_breaks_is_one_event(client: httpx.Client, path: str) -> None:
    text = "a\n\ndata: x\r\nid: 7\x85\u2028"
    answer = asked(client, path, {"rows": [{"t": text, "data: ": None}]})
    assert read(answer)[0].data == {"t": text, "data: ": None}
    assert [event.type for event in read(answer)] == ["message", "end"]


def test_no_rows_are_an_end(client: httpx.Client) -> None:
    headers = {"accept": EVENTS, "content-type": ARROW, "x-request-id": "mine"}
    answer = client.post(PIECES, content=ipc(batch_of()), headers=headers)
    assert read(answer) == [Event("end", {"rows": 0}, "mine")]


@pytest.mark.parametrize("accept", [EVENTS, NDJSON])
def test_a_part_is_there_before_the_next_is_made(client: httpx.Client, accept: str) -> None:
    rpc_support.STEP.release()
    with client.stream("POST", "/v1/Probe/stepwise", json=COLUMNS, headers={"accept": accept}) as answer:
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if "{" in line)
        assert json.loads(next(lines)) == {"a": 1}
        for number in (2, 3):
            rpc_support.STEP.release()
            assert json.loads(next(lines)) == {"a": number}
        assert list(lines) == ([] if accept == NDJSON else ['{"rows":3}'])


def test_silence_is_kept_alive(client: httpx.Client) -> None:
    """Before the first row, too: the head is there then."""
    with client.stream("POST", "/v1/Probe/stepwise", json=COLUMNS, headers={"accept": EVENTS}) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(4)] == [":", "", ":", ""]
        rpc_support.STEP.release(3)
        assert [event.type for event in events_of(lines)] == ["message"] * 3 + ["end"]


def test_a_deadline_that_passes_in_the_middle_is_an_event(client: httpx.Client) -> None:
    *rows, last = read(asked(client, "/v1/Probe/endless", **{"x-timeout-ms": "200"}))
    assert rows[0] == ROWS[0]
    assert last.type == "error" and last.data["error"]["code"] == "DEADLINE_EXCEEDED"
    late = asked(client, "/v1/Probe/never", **{"x-timeout-ms": "150"})
    assert late.status_code == 504, "a method that is no generator has a status"


def test_an_error_behind_the_first_row_is_an_event_and_the_last_line(client: httpx.Client) -> None:
    answer = asked(client, "/v1/Probe/breaks")
    row, error = read(answer)
    assert row == ROWS[0] and error.type == "error"
    assert error.data == {"error": {"code": "INTERNAL", "message": "ValueError: broken", "request_id": "mine"}}
    lines = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("POST", "/v1/Probe/breaks", json=COLUMNS, headers={"accept": NDJSON}) as lined,
    ):
        lines += lined.iter_lines()
    assert [json.loads(line) for line in lines][1]["error"]["message"] == "ValueError: broken"


def test_an_error_before_it_has_its_status(client: httpx.Client) -> None:
    assert asked(client, "/v1/Probe/boom").json()["error"]["code"] == "INTERNAL"
    assert asked(client, PIECES, {"rows": 1}).status_code == 400
    assert asked(client, "/v1/Probe/typed", {"rows": [{"b": 1}]}).status_code == 422


@pytest.mark.parametrize("accept", [EVENTS, NDJSON])
def test_who_goes_stops_the_generator(server: tuple[Any, httpx.Client], accept: str) -> None:
    host, client = server
    stopped = WATCHED.stopped
    with client.stream("POST", "/v1/Probe/endless", json=COLUMNS, headers={"accept": accept}) as answer:
        next(answer.iter_raw())
    eventually(lambda: WATCHED.stopped == stopped + 1, what="its finally ran")
    eventually(lambda: frontend_of(host).statistics()["http_in_flight"] == 0, what="nothing is left")


def test_a_reader_that_does_not_read_keeps_nobody_waiting_and_leaves_nothing(server: tuple[Any, httpx.Client]) -> None:
    host, client = server
    body = json.dumps({"columns": {"a": [10_000]}}).encode()
    raw = Raw(host.addresses["http"]).send(post("/v1/Probe/large", body, f"accept: {EVENTS}"))
    raw.socket.recv(1)
    eventually(lambda: frontend_of(host).statistics()["http_in_flight"] == 1, what="it waits")
    assert client.post("/v1/Probe/identity", json=COLUMNS).status_code == 200
    raw.close()
    eventually(lambda: frontend_of(host).statistics()["http_in_flight"] == 0, what="it ended")


# ---- by a URL


def by_url(client: httpx.Client, path: str, query: str, **headers: str) -> httpx.Response:
    return client.get(f"{path}?{query}", headers={"accept": EVENTS, **headers})


BODY = "body=" + quote(json.dumps(COLUMNS))


def test_a_generator_is_called_by_a_url(client: httpx.Client) -> None:
    answer = by_url(client, PIECES, f"{BODY}&x-request-id=mine&x-timeout-ms=20000&x-priority=3")
    assert answer.headers["x-request-id"] == "mine" and read(answer) == [*ROWS, END]
    answer = by_url(client, PIECES, f"{BODY}&x-request-id=other", **{"x-request-id": "mine", "content-type": "text/x"})
    assert read(answer) == [*ROWS, END], "a header counts more"
    for accept in ("*/*", JSON, f"{JSON}, {EVENTS};q=0.5", "text/html", f"{EVENTS};q=0"):
        described = client.get(f"{PIECES}?{BODY}", headers={"accept": accept})
        assert described.json()["streaming"] is True, "anything else asks what it is"


@pytest.mark.parametrize(
    ("path", "query", "status", "said"),
    [
        (PIECES, "", 400, "?body="),
        (PIECES, "body=%FF", 400, "UTF-8"),
        (PIECES, f"{BODY}&{BODY}", 400, "twice"),
        (PIECES, f"{BODY}&x=1", 400, "'x'"),
        (PIECES, f"{BODY}&x-timeout-ms=soon", 400, "x-timeout-ms"),
        (PIECES, f"{BODY}&x-request-key=" + "k" * 129, 400, "x-request-key is"),
        (PIECES, "body={", 400, "truncated"),
        ("/v1/Probe/identity", BODY, 405, "no generator"),
        ("/v1/Probe/nowhere", BODY, 404, "nowhere"),
        (PIECES, f"{BODY}&x-timeout-ms=0", 504, "deadline"),
    ],
)
def test_urls_that_are_refused(client: httpx.Client, path: str, query: str, status: int, said: str) -> None:
    answer = by_url(client, path, query)
    assert answer.status_code == status and said in answer.json()["error"]["message"]


def test_a_reader_that_connects_again_is_told_that_there_is_nothing_more(client: httpx.Client) -> None:
    answer = by_url(client, PIECES, BODY, **{"last-event-id": "mine"})
    assert answer.status_code == 204 and not answer.content


def test_other_sites_do_not_call_by_a_url(client: httpx.Client) -> None:
    assert by_url(client, PIECES, BODY, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert by_url(client, PIECES, BODY, origin="https://elsewhere.example").status_code == 403
    assert by_url(client, PIECES, BODY, **{"sec-fetch-site": "same-origin"}).status_code == 200
