"""SQL whose query is in a URL or is a body's text: forms, file names, bounds, and whose links may ask."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from html import escape
from typing import Any
from urllib.parse import urlencode

import httpx
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.http import ranges
from flightserve.frontends.http.calls import HttpCalls
from flightserve.frontends.http.origin_policy import OriginPolicy
from flightserve.frontends.http.server import HttpFrontend
from flightserve.metrics import Metrics
from tests.frontends.http.support import Raw, table_of
from tests.frontends.sql.support import warehouse
from tests.plane import plane

LIMITS = EdgeLimits(json_bytes_max=1 << 20)
QUERY = "SELECT id, name FROM people WHERE id <= 2 ORDER BY id"
CSV = "text/csv; charset=utf-8"
ROWS = [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bo"}]


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """Of one frontend that takes GET, one that does not, and one that some pages may call."""
    options: dict[str, dict[str, Any]] = {
        "open": {},
        "closed": {"allow_get": False},
        "named": {"allow_get": True, "cors_origins": ["https://wiki.example"]},
    }
    (bound,) = fs.App(warehouse())
    with plane(bound) as running:

        async def frontend(more: dict[str, Any]) -> HttpFrontend:
            return HttpFrontend(running.client, "127.0.0.1", 0, LIMITS, Metrics(), **more)

        made = {name: running.run(frontend(more)) for name, more in options.items()}
        try:
            yield {name: running.run(each.start()) for name, each in made.items()}
        finally:
            for each in made.values():
                running.run(each.stop())
            running.targets[0].close()


@pytest.fixture
def client(addresses: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=addresses["open"], timeout=30) as client:
        yield client


def get(client: httpx.Client, query: str = QUERY, headers: Any = None, **more: str) -> httpx.Response:
    return client.get("/v1/sql", params={"query": query, **more}, headers=headers)


def test_a_url_asks_in_every_form(client: httpx.Client) -> None:
    assert get(client).json() == {"rows": ROWS}
    assert get(client, shape="columns").json() == {"columns": {"id": [1, 2], "name": ["Ada", "Bo"]}}
    assert [json.loads(line) for line in get(client, format="ndjson").text.splitlines()] == ROWS
    assert get(client, format="csv").text.splitlines() == ['"id","name"', '1,"Ada"', '2,"Bo"']
    assert table_of(get(client, format="arrow").content).to_pylist() == ROWS
    assert pq.read_table(io.BytesIO(get(client, format="parquet").content)).to_pylist() == ROWS
    assert get(client, headers={"accept": "text/csv"}).headers["content-type"] == CSV


BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_a_browser_gets_a_page_of_the_first_rows(client: httpx.Client) -> None:
    query = "SELECT range AS n, '<b>&' AS \"<i>\", NULL AS none, 'nan'::DOUBLE AS f FROM range(1001)"
    answer = get(client, query, BROWSER, filename="x")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.text.count("<tr>") == 1001 and "<b>" not in answer.text and "&lt;i&gt;" in answer.text
    assert '<td class="n">999<td>&lt;b&gt;&amp;<td class="null">null<td class="n">nan' in answer.text
    link = escape(f"?{urlencode({'query': query, 'filename': 'x', 'format': 'csv'})}")
    assert "The first 1,000 rows; there are more" in answer.text and f'href="{link}"' in answer.text
    assert "1,000 rows." in get(client, "FROM range(1000)", BROWSER).text
    assert "1 row." in get(client, "SELECT 1", BROWSER).text and "0 rows." in get(client, "FROM range(0)", BROWSER).text
    assert f"<title>SELECT {'&#x27;' * 73}</title>" in get(client, f"SELECT {chr(39) * 80}", BROWSER).text
    assert client.post("/v1/sql", json={"query": "SELECT 1 AS a"}, headers=BROWSER).json() == {"rows": [{"a": 1}]}


def test_parameters_come_one_by_one(client: httpx.Client) -> None:
    query = "SELECT name FROM people WHERE id > ? AND name <> ? ORDER BY id LIMIT ?"
    answer = client.get("/v1/sql", params=[("query", query), ("p", "1"), ("p", "Di & +%\0"), ("p", "1")])
    assert answer.json() == {"rows": [{"name": "Bo"}]}, answer.text
    named = "SELECT name, $Day::DATE AS day FROM people WHERE id = $id"
    answer = client.get("/v1/sql", params={"query": named, "p.id": "2", "p.Day": "2013-01-02"})
    assert answer.json() == {"rows": [{"name": "Bo", "day": "2013-01-02"}]}, answer.text
    for more in ([("p", "1"), ("p.id", "1")], [("p.id", "1"), ("p.id", "2")], [("p", "1"), ("parameters", "[1]")],
                 [("p.", "1")], [("p", "x")], [("p", "1"), ("p", "2")]):  # fmt: skip
        answer = client.get("/v1/sql", params=[("query", "SELECT name FROM people WHERE id = ?"), *more])
        assert answer.status_code == 400, more


def test_parameters_come_as_json(client: httpx.Client) -> None:
    query = "SELECT name FROM people WHERE id = $id"
    assert get(client, query, parameters='{"id": 2}').json() == {"rows": [{"name": "Bo"}]}
    assert get(client, "SELECT name FROM people WHERE id = ?", parameters="[1]").json() == {"rows": [{"name": "Ada"}]}
    assert get(client, "SELECT sum(id) * 10000000000000000 AS n FROM people", integers="number").text.count('"') == 4
    assert get(client, "SELECT 'nan'::DOUBLE AS n", nan="text").json() == {"rows": [{"n": "NaN"}]}


def test_other_programs_read_it(addresses: dict[str, str]) -> None:
    url = f"{addresses['open']}/v1/sql?{urlencode({'query': QUERY, 'format': 'csv'})}"
    assert pd.read_csv(url).to_dict("records") == ROWS


def test_polars_reads_it_in_parts(addresses: dict[str, str]) -> None:
    asked = {"query": "SELECT range AS n, 'x' AS t FROM range(50000)", "format": "parquet"}
    url = f"{addresses['open']}/v1/sql?{urlencode(asked)}"
    assert pl.read_parquet(url)["n"].sum() == sum(range(50000))
    assert pl.scan_csv(url.replace("parquet", "csv")).select(pl.col("n").max()).collect().item() == 49999
    # Another time they are others.
    drawn = f"{addresses['open']}/v1/sql?{urlencode({'query': 'SELECT random() AS x', 'format': 'csv'})}"
    assert pl.read_csv(drawn)["x"][0] != pl.read_csv(drawn)["x"][0]


def test_parts_are_of_one_answer(client: httpx.Client) -> None:
    asked = {"query": "SELECT i, uuid() AS u FROM range(2000) t(i)", "format": "csv"}

    def part(wanted: str, **more: str) -> httpx.Response:
        return client.get("/v1/sql", params=asked | more, headers={"range": wanted})

    first = part("bytes=0-0")
    size = int(first.headers["content-range"].removeprefix("bytes 0-0/"))
    assert (first.status_code, first.content, first.headers["content-length"]) == (206, b'"', "1")
    rest = part("bytes=1-")
    assert rest.headers["content-range"] == f"bytes 1-{size - 1}/{size}" and len(rest.content) == size - 1
    assert part(f"bytes=0-{size}").content == first.content + rest.content
    assert part("bytes=-9").content == rest.content[-9:]
    assert "content-length" not in client.head("/v1/sql", params=asked).headers
    beyond = part(f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    # Whoever asks for all of it, or begins again, gets another answer.
    assert get(client, **asked).content != first.content + rest.content
    assert (part("bytes=0-0").status_code, part("bytes=1-").content == rest.content) == (206, False)


def test_the_length_of_an_answer_that_stays_is_told(client: httpx.Client) -> None:
    asked = {"query": "FROM people ORDER BY id -- kept", "format": "csv"}
    assert client.get("/v1/sql", params=asked, headers={"range": "bytes=-1"}).status_code == 206
    whole = client.get("/v1/sql", params=asked)
    assert client.head("/v1/sql", params=asked).headers["content-length"] == str(len(whole.content))
    assert client.get("/v1/sql", params=asked, headers={"range": "bytes=1-"}).content == whole.content[1:]


def test_where_there_are_no_parts_the_whole_comes(client: httpx.Client) -> None:
    whole = get(client, format="csv").content
    for number, headers in enumerate(
        ({"range": "bytes=5-"}, {"range": "bytes=0-1,3-4"}, {"range": "bytes=0-1", "if-range": 'W/"x"'})
    ):
        answer = get(client, QUERY + " -- " + "x" * number, headers, format="csv")
        assert (answer.status_code, answer.content) == (200, whole), headers
    page = get(client, QUERY, BROWSER | {"range": "bytes=0-1"})
    assert page.status_code == 200 and "accept-ranges" not in page.headers
    assert get(client, "SELECT nothing", {"range": "bytes=0-1"}).status_code == 400
    posted = client.post("/v1/sql", json={"query": QUERY}, headers={"range": "bytes=0-1"})
    assert (posted.status_code, posted.json()) == (200, {"rows": ROWS})


def test_large_answers_come_whole(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "ANSWER_BYTES_MAX", 100_000)
    answer = get(client, "FROM range(100000) ORDER BY ALL", {"range": "bytes=0-1"}, format="csv")
    assert (answer.status_code, answer.text.count("\n")) == (200, 100_001)
    assert get(client, "FROM range(10) ORDER BY ALL", {"range": "bytes=0-1"}, format="csv").status_code == 206


@pytest.mark.parametrize(("form", "ending"), [("csv", "csv"), ("parquet", "parquet"), ("arrow", "arrows")])
def test_files_have_names(client: httpx.Client, form: str, ending: str) -> None:
    wanted = f'attachment; filename="query.{ending}"'
    answer = get(client, format=form)
    assert answer.headers["content-disposition"] == wanted and answer.headers["cache-control"] == "no-cache"
    posted = client.post("/v1/sql", json={"query": QUERY}, headers={"accept": answer.headers["content-type"]})
    assert posted.headers["content-disposition"] == wanted and "cache-control" not in posted.headers
    refused = get(client, "SELECT nothing", format=form)
    assert refused.status_code == 400 and "content-disposition" not in refused.headers
    assert "content-disposition" not in get(client).headers


def test_files_are_called_as_somebody_wishes(client: httpx.Client) -> None:
    wishes = {
        "May 2013": ('filename="May 2013.csv"',),
        "flights.CSV": ('filename="flights.CSV"',),
        "Zo\u00eb": ('filename="Zo_.csv"', "filename*=UTF-8''Zo%C3%AB.csv"),
        'a"; filename=b': ('filename="a__ filename=b.csv"', "filename*=UTF-8''a%22%3B%20filename%3Db.csv"),
        "\U0001f600%41": ('filename="__41.csv"', "filename*=UTF-8''%F0%9F%98%80%2541.csv"),
    }
    for wish, wanted in wishes.items():
        answer = get(client, format="csv", filename=wish)
        assert answer.headers["content-disposition"] == "; ".join(("attachment", *wanted)), answer.text
    assert get(client, filename="rows").headers["content-disposition"] == 'attachment; filename="rows.json"'
    for bad in ("a\r\nx-evil: 1", "a\0", "../x", "a\\b", ".htaccess", " ", "x" * 129, "a\u202eb", "a\u2028b"):
        answer = get(client, format="csv", filename=bad)
        assert answer.status_code == 400 and "x-evil" not in answer.headers, bad


def test_excel_is_told_that_it_is_utf_8(client: httpx.Client) -> None:
    assert get(client, format="csv", bom="1").content == b"\xef\xbb\xbf" + get(client, format="csv").content
    assert get(client, format="csv", bom="0").content == get(client, format="csv").content
    assert get(client, format="json", bom="1").status_code == get(client, format="csv", bom="yes").status_code == 400


def test_who_has_the_answer_is_told_so(client: httpx.Client) -> None:
    answer = get(client, format="csv")
    etag = answer.headers["etag"]
    assert etag.startswith('W/"') and "accept" in answer.headers["vary"]
    for named in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
        again = get(client, headers={"if-none-match": named}, format="csv")
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), named
        assert "content-length" not in again.headers and again.headers["cache-control"] == "no-cache"
    asked = {"query": QUERY, "format": "csv"}
    assert client.head("/v1/sql", params=asked).headers["etag"] == etag
    assert client.head("/v1/sql", params=asked, headers={"if-none-match": etag}).status_code == 304
    assert get(client, headers={"if-none-match": '"x"'}, format="csv").content == answer.content
    ways = ({}, {"format": "parquet"}, {"format": "csv", "bom": "1"}, {"shape": "columns"}, {"integers": "number"})
    others = [get(client, QUERY, None, **more).headers["etag"] for more in ways]
    others.append(get(client, QUERY.replace("2", "3"), format="csv").headers["etag"])
    asked["query"] = "SELECT name FROM people WHERE id = ?"
    others += [client.get("/v1/sql", params=asked | {"p": p}).headers["etag"] for p in "12"]
    assert len({etag, *others}) == len(others) + 1
    assert get(client, QUERY.replace(" FROM", "\nFROM").lower(), format="csv").headers["etag"] == etag


CHANGING = [
    "SELECT random() FROM people", "SELECT now() AS t", "SELECT current_timestamp AS t", "SELECT current_date",
    "SELECT id FROM people LIMIT 2", "SELECT uuid()", "EXPLAIN SELECT 1", "SELECT today()",
    "SELECT * FROM people USING SAMPLE 2", "SELECT * FROM information_schema.tables",
]  # fmt: skip


@pytest.mark.parametrize("query", CHANGING)
def test_what_changes_by_itself_is_not_kept(client: httpx.Client, query: str) -> None:
    answer = get(client, query, {"if-none-match": "*"})
    assert answer.status_code == 200, answer.text
    assert "etag" not in answer.headers and answer.headers["cache-control"] == "no-store"


def test_errors_are_not_kept(client: httpx.Client) -> None:
    answer = get(client, "SELECT nothing FROM people", {"if-none-match": "*"})
    assert (answer.status_code, answer.headers["cache-control"]) == (400, "no-store")
    assert "etag" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/sql", "text/plain; charset=utf-8"])
def test_a_body_may_be_the_text(client: httpx.Client, kind: str) -> None:
    headers = {"content-type": kind}
    assert client.post("/v1/sql", content=QUERY, headers=headers).json() == {"rows": ROWS}
    answer = client.post("/v1/sql?format=csv", content="SELECT 'Zo\u00eb' AS n", headers=headers)
    assert "Zo\u00eb" in answer.text and answer.headers["content-type"] == CSV
    asked = client.post("/v1/sql?" + urlencode({"parameters": "[2]"}), content="SELECT ? + 1 AS n", headers=headers)
    assert asked.json() == {"rows": [{"n": 3}]}
    assert client.post("/v1/sql", content=b"SELECT '\xff'", headers=headers).status_code == 400
    assert client.post("/v1/sql?query=SELECT+1", content=QUERY, headers=headers).status_code == 400
    assert (
        client.post("/v1/sql", content=QUERY, headers={"content-type": "text/plain; charset=latin-1"}).status_code
        == 415
    )


def test_head_says_what_get_would_and_runs_nothing(client: httpx.Client) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) a, range(1000000000000) b"
    answer = client.head("/v1/sql", params={"query": endless, "format": "csv"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == CSV and "content-disposition" in answer.headers
    for _ in range(2):
        assert client.head("/v1/sql", params={"query": "SELECT nothing FROM people"}).status_code == 400
    assert get(client).json() == {"rows": ROWS}


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("", 400),
        ("?query=", 400),
        ("?query=SELECT+1&query=SELECT+2", 400),
        ("?query=SELECT+1&query=", 400),
        ("?query=SELECT+%27a%00b%27", 400),
        ("?query=SELECT+%zz", 400),
        ("?query=SELECT+1;format=csv", 400),
        ("?query=SELECT+1&what=x", 400),
        ("?query=SELECT+1&format=xml", 400),
        ("?query=SELECT+1&format=", 400),
        ("?query=%FF", 400),
        ("?query=SELECT+%3F&parameters=[1", 400),
        ("?query=SELECT+%3F&parameters=[1],%22query%22:%22SELECT+2%22", 400),
        ("?query=SELECT+1&" + "&".join(f"a{n}=1" for n in range(100)), 400),
        ("?query=DROP+TABLE+people", 403),
        ("?query=SELECT+*+FROM+nobody", 404),
        ("?warehouse=other&query=SELECT+1", 404),
        ("?query=SELECT+1--" + "x" * (16 << 10), 414),
    ],
)
def test_what_is_wrong_with_a_url(client: httpx.Client, url: str, status: int) -> None:
    answer = client.get(f"/v1/sql{url}")
    assert (answer.status_code, "error" in answer.json()) == (status, True), answer.text
    assert get(client).json() == {"rows": ROWS}


def test_a_get_with_a_body_is_refused(addresses: dict[str, str]) -> None:
    raw = Raw(addresses["open"])
    raw.send(b"GET /v1/sql?query=SELECT+1 HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\n\r\nhello")
    assert raw.until_closed().status == 413


def test_headers_that_say_nothing_are_nothing(client: httpx.Client) -> None:
    for headers in ({"if-none-match": b"\xff\xfe"}, {"if-none-match": b",,,"}, {"range": b"bytes=\xff-"}):
        assert get(client, headers=headers).json() == {"rows": ROWS}
    assert client.get("/v1/%73ql?query=SELECT+1+AS+a").json() == {"rows": [{"a": 1}]}


def test_it_can_be_closed(addresses: dict[str, str]) -> None:
    with httpx.Client(base_url=addresses["closed"]) as client:
        answer = get(client)
        assert answer.status_code == 405 and "--allow-get" in answer.json()["error"]["message"]
        assert client.head("/v1/sql?query=SELECT+1").status_code == 405
        assert client.post("/v1/sql", content=QUERY, headers={"content-type": "text/plain"}).json() == {"rows": ROWS}


@pytest.mark.parametrize(
    ("host", "allow_get", "taken"),
    [
        ("127.0.0.1", None, True),
        ("localhost", None, True),
        ("192.0.2.1", None, False),
        ("0.0.0.0", None, False),
        ("192.0.2.1", True, True),
        ("127.0.0.1", False, False),
    ],
)
def test_unless_told_otherwise_it_is_open_where_only_this_machine_can_ask(
    host: str, allow_get: bool | None, taken: bool
) -> None:
    nobody: Any = None  # it is not asked: this is decided by the head alone
    calls = HttpCalls(nobody, LIMITS, Metrics(), nobody, OriginPolicy(host), allow_get)
    assert (calls.query_of(b"/v1/sql?query=SELECT+1", b"GET", {}) is not None) == taken


CROSS = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


@pytest.mark.parametrize(
    ("headers", "open_", "named"),
    [
        ({}, 200, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 200, 200),
        ({"sec-fetch-site": "same-origin"}, 200, 200),
        (CROSS, 403, 403),
        (CROSS | {"sec-fetch-site": "same-site"}, 403, 403),
        (CROSS | {"sec-fetch-mode": "no-cors"}, 403, 403),
        (CROSS | {"referer": "https://wiki.example/page"}, 403, 200),
        ({"referer": "https://wiki.example/page"}, 403, 200),
        ({"referer": "https://evil.example/https://wiki.example"}, 403, 403),
        ({"referer": "{own}/docs"}, 200, 200),
        ({"origin": "https://wiki.example"}, 403, 200),
        ({"origin": "https://evil.example"}, 403, 403),
        ({"host": "evil.example"}, 421, 421),
    ],
)
def test_links_of_other_sites_do_not_ask(
    addresses: dict[str, str], headers: dict[str, str], open_: int, named: int
) -> None:
    for name, status in (("open", open_), ("named", named)):
        own = addresses[name]
        with httpx.Client(base_url=own) as client:
            answer = get(client, headers={key: value.format(own=own) for key, value in headers.items()})
            assert answer.status_code == status, (name, answer.text)


def test_many_at_once_on_one_connection(addresses: dict[str, str]) -> None:
    """Pipelined, in order, beside posts."""

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=addresses["open"], timeout=30) as client:
            urls = [f"/v1/sql?query=SELECT+{n}+AS+n" for n in range(20)]
            return [answer.json()["rows"][0]["n"] for answer in await asyncio.gather(*map(client.get, urls))]

    assert asyncio.run(ask()) == list(range(20))
    raw = Raw(addresses["open"])
    raw.send(b"".join(
        b"HEAD /v1/sql?query=SELECT+1 HTTP/1.1\r\nhost: localhost\r\n\r\n"
        b"GET /v1/sql?query=SELECT+%d+AS+n HTTP/1.1\r\nhost: localhost\r\n\r\n" % n for n in range(3)
    ) + b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")  # fmt: skip
    received = raw.until_closed().received
    assert received.count(b"HTTP/1.1 200 OK") == 7 and [b'"n":%d' % n in received for n in range(3)] == [True] * 3


def test_sums_of_a_query_by_name_are_numbers(client: httpx.Client) -> None:
    sums = client.post("/v1/lake/total", json={"rows": [{"id": 3}]})
    assert sums.text == '{"rows":[{"rid":0,"ids":6,"half":3.0,"big":9007199254740993}]}'
