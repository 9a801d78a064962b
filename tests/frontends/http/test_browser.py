"""What people do in a browser, in a real one: /docs, a query in the address bar, and pages of other origins."""

from __future__ import annotations

import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import flightserve as fs
from flightserve.config import FrontendOptions
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.frontends.http.browsing import BROWSES, launched, watched_page
from tests.frontends.rpc_support import WATCHED, Probe
from tests.frontends.sql.support import ENDLESS, PEOPLE
from tests.support import eventually

pytestmark = BROWSES


@fs.deployment
class Shop:
    """What the shop knows."""

    @fs.method(input=pa.schema({"n": pa.int64(), "day": pa.date32()}))
    def priced(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A price for each order."""
        return batch

    @fs.method(example=[{"word": "Zo\u00eb's"}])
    def greeted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Takes words."""
        return pa.record_batch({"said": [f"Hello {word}" for word in batch.column("word").to_pylist()]})

    @fs.method(row_aligned=False, example={"n": [1]})
    async def endless(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Rows without end."""
        while True:
            yield pa.record_batch({"x": ["x" * 1000] * 100})

    @fs.method(row_aligned=False, example={"word": ["so", "it", "goes"], "fails": [False, False, False]})
    async def spoken(self, batch: pa.RecordBatch) -> AsyncIterator[dict[str, list[str]]]:
        """Each word by itself."""
        for row in batch.to_pylist():
            if row["fails"]:
                raise ValueError(row["word"])
            yield {"said": [row["word"]]}


class Served(NamedTuple):
    """The app's address, and that of a page of another origin that may call it."""

    app: str
    page: str


@contextmanager
def pages(html: bytes) -> Iterator[str]:
    """A server of another origin: one page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    warehouse = fs.sql.Warehouse({"people": PEOPLE}, name="lake", threads=2)
    warehouse.query("person", "SELECT id, name FROM people WHERE id = $id")
    with pages(b"<!doctype html><title>A notebook</title>") as other:
        options = FrontendOptions(http_port=0, grpc_port=None, flight_port=None, zmq_port=None, cors_origins=[other])
        with LocalService(fs.App(Shop.bind(), Probe.bind(), warehouse)) as service:
            host = FrontendHost(service, options, Metrics())
            try:
                yield Served(host.start()["http"], other)
            finally:
                host.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    with watched_page(browser, *served, "http://localhost:") as page:
        yield page


@pytest.fixture
def docs(page: Page, served: Served) -> Page:
    page.goto(f"{served.app}/docs")
    expect(page.locator("h2").first).to_be_visible()
    return page


def method(docs: Page, name: str) -> Locator:
    """The block of a method, opened."""
    block = docs.locator("details").filter(has=docs.locator(f'summary .name:text-is("POST /v1/{name}")')).last
    block.locator("summary").first.click()
    return block


# ---- /docs


def test_what_is_deployed_is_there_and_internals_are_apart(docs: Page, served: Served) -> None:
    deployments = httpx.get(f"{served.app}/v1/deployments").json()["deployments"]
    for each in deployments:
        expect(docs.get_by_role("heading", name=each["name"])).to_be_visible()
        for one in each["methods"]:
            shown = docs.locator("summary .name", has_text=one["path"]).first
            expect(shown).to_be_hidden() if one["internal"] else expect(shown).to_be_visible()
    docs.get_by_text("Methods that the frontends call").click()
    expect(docs.get_by_text("POST /v1/lake/query", exact=True)).to_be_visible()
    priced = method(docs, "Shop/priced")
    expect(priced).to_contain_text("A price for each order.")
    expect(priced.get_by_role("row").first).to_contain_text("int64")


def test_every_sample_is_answered(docs: Page, served: Served) -> None:
    """Of each method that does not fail by design."""
    deployments = httpx.get(f"{served.app}/v1/deployments").json()["deployments"]
    docs.get_by_text("Methods that the frontends call").click()
    tried = 0
    for one in (one for each in deployments for one in each["methods"] if one["sample"]["body"]):
        block = method(docs, one["path"].removeprefix("/v1/"))
        block.get_by_role("button", name="Send").click()
        expect(block.locator(".said").first, one["path"]).to_contain_text("200")
        tried += 1
    assert tried >= 8
    greeted = docs.locator("details", has_text="POST /v1/Shop/greeted")
    expect(greeted.get_by_label("Answer")).to_contain_text("Hello Zo\u00eb's")
    expect(greeted.locator(".hint").first).to_contain_text("own example")


def test_where_there_is_no_sample_it_says_why(docs: Page) -> None:
    identity = method(docs, "Probe/identity")
    expect(identity).to_contain_text("There is no sample. The method declares neither")
    assert identity.get_by_label("Request body").input_value() == ""


def test_errors_are_said_as_the_service_says_them(docs: Page) -> None:
    priced = method(docs, "Shop/priced")
    priced.get_by_label("Request body").fill('{"columns": {"n": ["<b>x</b>"], "day": ["2013-01-01"]}}')
    priced.get_by_role("button", name="Send").click()
    expect(priced.get_by_role("alert")).to_contain_text("INVALID_ARGUMENT (422)")
    expect(priced.locator("b")).to_have_count(0)


def test_a_method_that_streams_without_end_is_cut(docs: Page) -> None:
    endless = method(docs, "Shop/endless")
    endless.get_by_role("button", name="Send").click()
    expect(endless.locator(".said").first).to_contain_text("the first 100,000 characters")


def test_a_call_is_cancelled(docs: Page) -> None:
    never = method(docs, "Probe/never")
    never.get_by_label("Request body").fill('{"columns": {"a": [1]}}')
    stopped = WATCHED.stopped
    never.get_by_label("Request body").press("Control+Enter")
    expect(never.locator(".said").first).to_contain_text("Running")
    eventually(lambda: WATCHED.running, what="it runs")
    never.get_by_role("button", name="Cancel").click()
    expect(never.locator(".said").first).to_contain_text("Cancelled")
    eventually(lambda: WATCHED.stopped > stopped, what="it ended")


def sql(docs: Page, query: str) -> Locator:
    form = docs.locator("form.sql")
    form.get_by_label("SQL", exact=True).fill(query)
    return form


def test_sql_is_typed_as_sql(docs: Page) -> None:
    form = docs.locator("form.sql")
    # What stands there already runs, by keys alone.
    form.get_by_label("SQL", exact=True).press("Control+Enter")
    expect(form.get_by_role("cell", name="people").first).to_be_visible()
    sql(docs, 'SELECT id AS "2", name AS "1", \'<i>"a,\nb\' AS t, \'\' AS e FROM people WHERE id >= ? ORDER BY id')
    form.get_by_label("Parameters").fill("[2]")
    form.get_by_role("button", name="Run").click()
    expect(form.get_by_role("status")).to_contain_text("5 rows in")
    assert form.get_by_role("columnheader").all_inner_texts() == ["2", "1", "t", "e"]
    cells = form.get_by_role("cell").all()[:8]
    assert [cell.text_content() for cell in cells] == ["2", "Bo", '<i>"a,\nb', "", "3", "null", '<i>"a,\nb', ""]
    href = form.get_by_role("link", name="As a URL").get_attribute("href") or ""
    assert len(httpx.get(href).json()["rows"]) == 5
    form.get_by_label("Parameters").fill("[2")
    form.get_by_role("button", name="Run").click()
    expect(form.get_by_role("alert")).to_contain_text("The parameters are no JSON")


def test_a_result_without_rows_has_its_columns(docs: Page) -> None:
    form = sql(docs, "SELECT id, name FROM people WHERE false")
    form.get_by_role("button", name="Run").click()
    expect(form.get_by_role("status")).to_contain_text("0 rows in")
    assert form.get_by_role("columnheader").all_inner_texts() == ["id", "name"]


def test_large_results_are_cut_and_their_query_ends(docs: Page) -> None:
    form = sql(docs, "SELECT range AS n, NULL AS none FROM range(100000000)")
    form.get_by_role("button", name="Run").click()
    expect(form.get_by_role("status")).to_contain_text("The first 1,000 rows; there are more")
    expect(form.locator("tbody tr")).to_have_count(1000)
    sql(docs, "SELECT columns(*) FROM people").get_by_role("button", name="Run").click()
    expect(form.get_by_role("status")).to_contain_text("6 rows")


def test_a_query_is_cancelled_and_wrong_ones_are_said(docs: Page) -> None:
    form = sql(docs, ENDLESS)
    form.get_by_label("SQL", exact=True).press("Control+Enter")
    expect(form.get_by_role("status")).to_contain_text("Running")
    form.get_by_role("button", name="Cancel").click()
    expect(form.get_by_role("status")).to_contain_text("Cancelled")
    expect(form.get_by_role("button", name="Cancel")).to_be_disabled()
    expect(form.get_by_role("button", name="Run")).to_be_focused()
    sql(docs, "DROP TABLE people").get_by_role("button", name="Run").click()
    expect(form.get_by_role("alert")).to_contain_text("PERMISSION_DENIED (403): DROP statements are not allowed")


@pytest.mark.parametrize("form_of", ["csv", "parquet", "arrow", "json"])
def test_a_result_is_kept_as_a_file(docs: Page, form_of: str, tmp_path: Path) -> None:
    form = sql(docs, "SELECT * FROM people ORDER BY id")
    form.get_by_label("Format of the download").select_option(form_of)
    with docs.expect_download() as download:
        form.get_by_role("button", name="Download").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    read = {"csv": lambda: path.read_text().count("\n") - 1, "json": lambda: path.read_text().count('"id"'),
            "parquet": lambda: pq.read_table(path).num_rows,
            "arrow": lambda: pa.ipc.open_stream(path.read_bytes()).read_all().num_rows}  # fmt: skip
    assert read[form_of]() == 6
    expect(form.get_by_role("status")).to_contain_text("Downloaded query.")


def test_it_is_used_by_keys_on_a_narrow_screen_and_behind_a_prefix(docs: Page, served: Served) -> None:
    docs.set_viewport_size({"width": 360, "height": 640})
    method(docs, "Shop/priced")
    wide = docs.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    # Everything that is clicked can be reached and has a name.
    assert docs.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea, summary, a")]
             .filter((each) => each.tabIndex < 0 ||
               !(each.labels?.length || each.ariaLabel || each.textContent.trim())).map((each) => each.outerHTML)"""
    ) == []  # fmt: skip
    # All that the page asks for is below the folder that it is in.
    asked: list[str] = []
    docs.route("**/*", lambda route: (asked.append(route.request.url), route.continue_(
        url=route.request.url.replace("/some/prefix", ""))))  # fmt: skip
    docs.goto(f"{served.app}/some/prefix/docs")
    expect(docs.get_by_role("heading", name="Shop")).to_be_visible()
    assert len(asked) > 5 and all("/some/prefix/" in url for url in asked if not url.startswith("data:"))


def test_what_a_deployment_says_of_itself_is_text_and_no_markup(docs: Page) -> None:
    expect(docs.locator("main b, main i")).to_have_count(0)


# ---- the address bar


def test_a_query_in_the_address_bar_is_a_page(page: Page, served: Served) -> None:
    query = "SELECT id, name AS \"<b>\", '<script>alert(1)</script>' AS x FROM people ORDER BY id"
    page.goto(f"{served.app}/v1/sql?{urlencode({'query': query})}")
    expect(page.get_by_role("cell", name="<script>").first).to_be_visible()
    assert page.get_by_role("columnheader").all_inner_texts() == ["id", "<b>", "x"]
    expect(page.get_by_text("6 rows")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="csv", exact=True).click()
    assert download.value.suggested_filename == "query.csv"


# ---- streams

# What an EventSource told, until it closed: of it, or because it was told that there is nothing more.
LISTEN = """([app, rows, close]) => new Promise((resolve) => {
  const url = app + "/v1/Shop/spoken?body=" + encodeURIComponent(JSON.stringify({rows}));
  const events = new EventSource(url), told = [];
  for (const name of ["open", "message", "end", "error"]) {
    events.addEventListener(name, ({data, lastEventId}) => {
      told.push(data === undefined ? name : `${name} ${data} ${lastEventId ? "with id" : "without"}`);
      if (close && (name === "end" || name === "error")) events.close();
      if (events.readyState === EventSource.CLOSED) resolve(told);
    });
  }
})"""


def rows(*words: str) -> list[dict[str, Any]]:
    return [{"word": word, "fails": word == "no"} for word in words]


@pytest.mark.parametrize("where", ["app", "page"])
def test_an_event_source_hears_rows_and_their_end(page: Page, served: Served, where: str) -> None:
    page.goto(f"{served.app}/docs" if where == "app" else served.page)
    told = ["open", 'message {"said":"so"} with id', 'message {"said":"it"} with id', 'end {"rows":2} with id']
    assert page.evaluate(LISTEN, [served.app, rows("so", "it"), True]) == told
    *first, error = page.evaluate(LISTEN, [served.app, rows("so", "no"), True])
    assert first == told[:2] and error.startswith('error {"error":{"code":"INTERNAL","message":"ValueError: no"')
    # An error before the first row has a status, which an EventSource does not tell.
    assert page.evaluate(LISTEN, [served.app, rows("no"), False]) == ["error"]


def test_one_that_does_not_close_connects_again_and_the_method_runs_once(page: Page, served: Served) -> None:
    page.goto(served.page)
    assert page.evaluate(LISTEN, [served.app, rows("so"), False]) == [
        "open", 'message {"said":"so"} with id', 'end {"rows":1} with id', "error", "error"
    ]  # fmt: skip


def test_lines_are_read_by_fetch(page: Page, served: Served) -> None:
    page.goto(served.page)
    read = """async ([app, rows]) => {
      const response = await fetch(app + "/v1/Shop/spoken", {method: "POST", body: JSON.stringify({rows}),
        headers: {"content-type": "application/json", "accept": "application/x-ndjson"}});
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return text.trim().split("\\n").map(JSON.parse);
        text += value;
      }
    }"""
    assert page.evaluate(read, [served.app, rows("so", "it")]) == [{"said": "so"}, {"said": "it"}]


def test_docs_show_how_a_page_listens(docs: Page, served: Served) -> None:
    spoken = method(docs, "Shop/spoken")
    spoken.get_by_text("In a page").click()
    shown = spoken.get_by_label("The call for a page").inner_text()
    assert 'new EventSource("' in shown and "/v1/Shop/spoken?body=" in shown
    said = docs.evaluate(
        """(code) => new Promise((resolve) => {
          const said = [], console = {log: (x) => said.push(x), error: resolve};
          eval(code + "; events.addEventListener('end', () => resolve(said));");
        })""", shown
    )  # fmt: skip
    assert said == [{"said": "so"}, {"said": "it"}, {"said": "goes"}]
    expect(docs.locator("details", has_text="POST /v1/Shop/greeted").get_by_text("In a page")).to_have_count(0)


# ---- another origin

READ = """async ([app, options]) => {
  const url = app + "/v1/sql?" + new URLSearchParams({query: "SELECT id, name FROM people ORDER BY id", format: "csv"});
  const first = await fetch(url, options);
  const etag = first.headers.get("etag");
  const again = await fetch(url, {headers: {"if-none-match": etag}, cache: "no-store"});
  const lines = (await first.text()).split("\\n").length;
  return [first.status, first.headers.get("content-disposition"), lines, again.status];
}"""


def test_a_page_of_an_origin_that_was_named_reads(page: Page, served: Served) -> None:
    page.goto(served.page)
    assert page.evaluate(READ, [served.app, {}]) == [200, 'attachment; filename="query.csv"', 8, 304]
    posted = """async (app) => (await fetch(app + "/v1/sql", {method: "POST",
      headers: {"content-type": "application/sql", "x-timeout-ms": "5000"}, body: "SELECT 42 AS n"})).json()"""
    assert page.evaluate(posted, served.app) == {"rows": [{"n": 42}]}


def test_a_page_of_any_other_origin_does_not(page: Page, served: Served) -> None:
    """The same page by another name is another origin. It can neither read nor embed."""
    page.goto(served.page.replace("127.0.0.1", "localhost"))
    failed = """async ([app, options]) => fetch(app + "/v1/sql?query=SELECT+1", options).then(
      (answer) => answer.status, (error) => String(error))"""
    assert "TypeError" in page.evaluate(failed, [served.app, {}])
    embedded = """(app) => new Promise((resolve) => {
      const made = document.createElement("script");
      made.onload = () => resolve("loaded");
      made.onerror = () => resolve("refused");
      made.src = app + "/v1/sql?query=SELECT+1&format=csv";
      document.head.append(made);
    })"""
    assert page.evaluate(embedded, served.app) == "refused"
    with page.expect_response("**/v1/sql*") as answer:
        page.evaluate("(app) => { location.href = app + '/v1/sql?query=SELECT+1' }", served.app)
    assert answer.value.status == 403
