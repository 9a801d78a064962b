"""Every answer has the header lines that keep a browser from making more of it than it is, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flightserve.frontends.http.security import HSTS, STANDING, standing_headers
from tests.frontends.http.support import ARROW, Raw, http_served

GOOD = {"columns": {"a": [1]}}
PAGES = ["/", "/docs", "/docs/docs.css", "/console", "/openapi.json", "/v1/deployments", "/v1/Probe/identity"]
PAGES += ["/metrics", "/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/models/Probe.identity", "/no", "/v1/No/no"]
NOT_KEPT = ["/openapi.json", "/v1/deployments", "/v1/Probe/identity", "/metrics", "/healthz", "/v2", "/no"]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, httpx.Client]]:
    with http_served() as served:
        yield served


def check(answer: httpx.Response) -> None:
    for name, value in STANDING:
        assert answer.headers.get_list(name.decode()) == [value.decode()], (answer.url, name)
    for name in ("cache-control", "content-security-policy", "date", "content-type"):
        assert len(answer.headers.get_list(name)) <= 1, (answer.url, name)
    assert HSTS[0].decode() not in answer.headers


@pytest.mark.parametrize("path", PAGES)
def test_pages(path: str, server: tuple[Any, httpx.Client]) -> None:
    for method in ("GET", "HEAD", "DELETE", "OPTIONS"):
        answer = server[1].request(method, path)
        check(answer)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    if path in NOT_KEPT:
        assert server[1].get(path).headers["cache-control"] == "no-store"


def test_calls(server: tuple[Any, httpx.Client]) -> None:
    client = server[1]
    url = "/v1/Probe/identity"
    for answer in (
        client.post(url, json=GOOD),
        client.post(url, json=GOOD, headers={"accept": ARROW}),
        client.post(url, json={"columns": 1}),
        client.post(url, content=b"{", headers={"content-type": "application/json"}),
        client.post("/v1/No/no", json=GOOD),
        client.post("/v2/models/Probe.identity/infer", json={}),
        client.post(url, json=GOOD, headers={"host": "evil.example"}),
        client.get("/v1/sql?query=SELECT 1"),
    ):
        check(answer)


def test_an_answer_out_of_turn(server: tuple[Any, httpx.Client]) -> None:
    answer = Raw(str(server[1].base_url)).send(b"nonsense\r\n\r\n").until_closed().received.lower()
    for name, value in STANDING:
        assert answer.count(b"%b: %b\r\n" % (name, value.lower())) == 1


def test_only_who_is_known_to_others_holds_browsers_to_https() -> None:
    assert standing_headers(False) == STANDING
    assert standing_headers(True) == (*STANDING, HSTS)


def test_metrics_do_not_grow_with_what_strangers_say(server: tuple[Any, httpx.Client]) -> None:
    client = server[1]

    def tell(number: int) -> None:
        name = f"n{number}"
        client.post(f"/v1/{name}/{name}", json=GOOD, headers={"x-request-id": name})
        client.post(f"/v1/Probe/{name}", json=GOOD)
        client.request(name.upper(), f"/{name}")
        client.post(f"/v2/models/{name}/infer", json={})
        client.post("/v1/sql", json={"query": f"SELECT {number}"}, headers={"x-warehouse": name})

    tell(0)
    before = client.get("/metrics").text.count("\n")
    for number in range(1, 20):
        tell(number)
    assert client.get("/metrics").text.count("\n") == before
