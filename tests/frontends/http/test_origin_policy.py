"""Who may call from inside of a browser: Host, Origin, Sec-Fetch-Site; and what CORS answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flightserve.config import FrontendOptions
from flightserve.errors import ConfigError, FlightserveError
from flightserve.frontends.http.errors import http_status
from flightserve.frontends.http.origin_policy import JUDGED_MAX, OriginPolicy
from flightserve.frontends.http.protocol import DROPPED_BYTES_MAX
from tests.frontends.http.support import NDJSON, Raw, post
from tests.frontends.rpc_support import served

IDENTITY = "/v1/Probe/identity"
GOOD = b'{"columns":{"a":[1]}}'
APP = "https://app.example"


def judged(
    policy: OriginPolicy, *pairs: tuple[str, str], url: str = "/x", version: str = "1.1", get: bool = False
) -> int:
    """200, or the status of the refusal."""
    raw = [(name.encode(), value.encode()) for name, value in pairs]
    try:
        policy.check(url.encode(), version, get, raw, dict(raw))
    except FlightserveError as error:
        return http_status(error)
    return 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "10.2.3.4", "localhost", "LocalHost:1",
                                   "app.localhost:80", "localhost.", "named.example:9", "a.wild.example")),
        *((host, 421) for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "x",
                                   "localhost.evil.example", "notlocalhost", "wild.example", "127.1", "0x7f000001",
                                   "127.0.0.1evil")),
        *((host, 400) for host in ("", "a b", "http://localhost", "localhost/", "a@localhost",
                                   "localhost:x", "[::1", "a:1:2")),
    ],
)  # fmt: skip
def test_hosts(host: str, status: int) -> None:
    policy = OriginPolicy("127.0.0.1", ["named.example", "*.wild.example"])
    assert judged(policy, ("host", host)) == status
    assert judged(policy, ("host", host)) == status, "differs when it was judged before"


def test_hosts_of_a_frontend_that_listens_beyond_loopback() -> None:
    for policy in (OriginPolicy("0.0.0.0"), OriginPolicy("::"), OriginPolicy("box.example")):
        assert judged(policy, ("host", socket.gethostname())) == 200
        assert judged(policy, ("host", "flightserve:8080")) == 200
        assert judged(policy, ("host", "evil.example")) == 421
    assert judged(OriginPolicy("box.example"), ("host", "BOX.example:8080")) == 200
    assert judged(OriginPolicy("0.0.0.0", ["*"]), ("host", "evil.example")) == 200


def test_a_request_has_one_host() -> None:
    policy = OriginPolicy("127.0.0.1")
    assert judged(policy) == 400
    assert judged(policy, version="1.0") == 200
    assert judged(policy, ("host", "localhost"), ("host", "localhost")) == 400
    assert judged(policy, ("accept", "a"), ("accept", "b"), ("host", "localhost")) == 200


def test_the_absolute_form_names_the_host() -> None:
    policy = OriginPolicy("127.0.0.1")
    assert judged(policy, ("host", "localhost"), url="http://evil.example/x") == 421
    assert judged(policy, ("host", "localhost"), url="http://127.0.0.1:8080/x") == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:8080", 200), ("https://127.0.0.1:8080", 200), (APP, 200), (APP.upper(), 200),
     ("http://127.0.0.1:8081", 403), ("http://127.0.0.1", 403), ("http://evil.example", 403), ("null", 403),
     ("", 403), (f"{APP}.evil.example", 403), (f"{APP}:8443", 403)],
)  # fmt: skip
def test_origins(origin: str, status: int) -> None:
    policy = OriginPolicy("127.0.0.1", cors_origins=[APP])
    assert judged(policy, ("host", "127.0.0.1:8080"), ("origin", origin), ("sec-fetch-site", "cross-site")) == status
    assert judged(OriginPolicy("127.0.0.1", (), ["*"]), ("host", "127.0.0.1"), ("origin", origin)) == 200


def test_two_origins_are_none() -> None:
    assert (
        judged(OriginPolicy("::1"), ("host", "[::1]"), ("origin", "http://evil.example"), ("origin", "http://[::1]"))
        == 400
    )


@pytest.mark.parametrize(
    ("site", "mode", "get", "status"),
    [("same-origin", "cors", False, 200), ("none", "navigate", True, 200), ("cross-site", "navigate", True, 200),
     ("cross-site", "no-cors", True, 403), ("same-site", "no-cors", True, 403), ("cross-site", "navigate", False, 403)],
)  # fmt: skip
def test_what_pages_embed(site: str, mode: str, get: bool, status: int) -> None:
    pairs = [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)]
    assert judged(OriginPolicy("127.0.0.1"), *pairs, get=get) == status
    assert judged(OriginPolicy("127.0.0.1", (), ["*"]), *pairs, get=get) == 200


def test_what_was_judged_is_bounded() -> None:
    policy = OriginPolicy("127.0.0.1")
    for number in range(3 * JUDGED_MAX):
        judged(policy, ("host", f"h{number}.example"))
    assert len(policy._judged) <= JUDGED_MAX


@pytest.mark.parametrize("hosts", [["http://a"], ["a:80"], [""], ["a b"], [b"a"], "a.example"])
def test_names_that_are_none(hosts: Any) -> None:
    with pytest.raises(ConfigError, match="allowed_hosts"):
        FrontendOptions(allowed_hosts=hosts)


@pytest.mark.parametrize(
    "origins", [["app.example"], ["https://app.example/path"], [""], ["https://"], "https://a.example"]
)
def test_origins_that_are_none(origins: Any) -> None:
    with pytest.raises(ConfigError, match="cors_origins"):
        FrontendOptions(cors_origins=origins)


# ---- over a socket


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(http_port=0, allowed_hosts=["named.example"], cors_origins=[APP]) as host:
        yield host.addresses["http"]


@pytest.mark.parametrize(
    "path", ["/healthz", "/metrics", "/docs", "/openapi.json", "/v1/deployments", IDENTITY, "/v1/sql"]
)
@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_every_route_is_behind_the_door(url: str, path: str, headers: dict[str, str]) -> None:
    status = 421 if "host" in headers else 403
    for method in ("GET", "POST", "OPTIONS"):
        answer = httpx.request(method, url + path, headers=headers, content=GOOD if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "PERMISSION_DENIED")
        assert ("allow-host" in answer.text) is (status == 421)
    assert httpx.post(url + IDENTITY, content=GOOD, headers={"host": "named.example:80"}).status_code == 200


def test_a_page_of_a_named_origin_asks_calls_and_reads(url: str) -> None:
    asked = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = httpx.options(url + IDENTITY, headers=asked)
    assert preflight.status_code == 204
    allowed = preflight.headers
    assert allowed["access-control-allow-origin"] == APP
    assert "POST" in allowed["access-control-allow-methods"]
    assert "content-type" in allowed["access-control-allow-headers"]
    assert "x-timeout-ms" in allowed["access-control-allow-headers"]
    assert int(allowed["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in allowed
    assert "access-control-allow-private-network" not in allowed
    private = httpx.options(url + IDENTITY, headers=asked | {"access-control-request-private-network": "true"})
    assert private.headers["access-control-allow-private-network"] == "true"
    with httpx.Client(base_url=url, headers={"origin": APP}) as page:
        answers = [
            page.post(IDENTITY, content=GOOD),
            page.post("/v1/Probe/boom", content=GOOD),
            page.post("/v1/Probe/pieces", content=GOOD, headers={"accept": NDJSON}),
            page.get("/v1/deployments"),
            page.get("/nowhere"),
        ]
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["vary"] == "origin"
        for name in ("x-request-id", "etag", "content-disposition"):
            assert name in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in httpx.post(url + IDENTITY, content=GOOD).headers


def test_a_preflight_of_another_origin_is_refused(url: str) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = httpx.options(url + IDENTITY, headers=asked)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /healthz HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n", 400),
        ("GET /healthz HTTP/1.0\r\n", 200),
        ("GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n", 421),
        ("CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n", 501),
        (f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip, chunked\r\n", 501),
        (f"POST {IDENTITY} HTTP/1.1\r\nhost: [::1]\r\ntransfer-encoding: br\r\ntransfer-encoding: chunked\r\n", 501),
        (f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, chunked\r\n", 400),
        (f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: identity\r\n", 400),
        (f"POST {IDENTITY} HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n", 400),
        ("GET http://[::1/ HTTP/1.1\r\nhost: localhost\r\n", 400),
    ],
)  # fmt: skip
def test_heads_that_are_refused_with_a_reason(url: str, head: str, status: int) -> None:
    raw = Raw(url).send(head.encode() + b"connection: close\r\n\r\n").until_closed()
    assert raw.status == status, raw.received
    assert b"callback" not in raw.received
    if status != 200:
        assert raw.code


def test_who_goes_on_with_a_declared_body_reads_the_refusal(url: str) -> None:
    whole = post(IDENTITY, bytes(8 * DROPPED_BYTES_MAX)).replace(b"host: localhost", b"host: evil.example")
    raw = Raw(url)
    raw.socket.sendall(whole)
    assert raw.until_closed().status == 421
