"""The console as people use it, in a real browser; `test_console_live` has what the server does for it."""

from __future__ import annotations

import datetime
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import FrontendOptions
from flightserve.contracts.own_app import OwnApp
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.frontends.access_support import booked_access
from tests.frontends.http.browsing import BROWSES, launched, watched_page
from tests.frontends.http.console_support import MARKUP, ROWS, Load, Supervisor, app
from tests.frontends.sql.support import ENDLESS
from tests.identity.books import token_of
from tests.support import eventually

pytestmark = BROWSES
PARTS = ("Tiers", "Plots", "SQL", "Methods")


class Console(NamedTuple):
    """The app's address, that of the same where callers have to say who they are, and who stands in for its
    supervisor. What its routers count is that of a `Load`."""

    app: str
    closed: str
    supervisor: Supervisor


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    supervisor = Supervisor()
    options = FrontendOptions(http_port=0, grpc_port=0, flight_port=0, zmq_port=None)
    alone = FrontendOptions(http_port=0, grpc_port=None, flight_port=None, zmq_port=None)
    own = OwnApp("frontend-0", supervisor)
    with LocalService(app()) as service, booked_access(tmp_path_factory.mktemp("auth")) as access:
        host = FrontendHost(service, options, Metrics(), own_app=own)
        closed = FrontendHost(service, alone, Metrics(), access=access, own_app=own)
        try:
            addresses = host.start()
            # An hour of samples, as one who comes late finds them: at most 15 minutes of it.
            history, load, now_ns = host._running["http"]._sampler.history, Load(), monotonic_ns()
            for ago in range(720, 0, -1):
                history.take(now_ns - ago * 5 * NS_PER_S, load.counts(), {"Pricing": load.answers()})
            supervisor.view = type(supervisor.view)("0123456789ab", "ready", "", "", 17, 1, addresses, ())
            supervisor.set()
            yield Console(addresses["http"], closed.start()["http"], supervisor)
        finally:
            host.stop()
            closed.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, console: Console) -> Iterator[Page]:
    console.supervisor.answers = True
    console.supervisor.set()
    with watched_page(browser, console.app) as page:
        yield page


def opened(page: Page, console: Console, part: str) -> Page:
    """A part, by keys: past the link to the content, along the parts."""
    page.goto(f"{console.app}/console")
    link = page.get_by_role("link", name=part, exact=True)
    expect(link).to_be_visible()
    for _ in range(2 + PARTS.index(part)):
        page.keyboard.press("Tab")
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    return page


# ---- every part


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_seen_by_everybody(page: Page, console: Console, part: str) -> None:
    """Neither empty nor wider than the screen, on a desk and on a phone, in the light and in the dark; and as axe-core
    has it, every element can be perceived, reached and understood."""
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        opened(page, console, part)
        fill(page, part)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{part} is {wide} px wider than a screen of {width}"
        assert ink(page.locator("main").screenshot()) > 0.01


def fill(page: Page, part: str) -> None:
    """As it looks while it is used."""
    if part == "Tiers":
        expect(page.get_by_role("row").filter(has_text="replica-shop-0")).to_be_visible()
    if part == "Plots":
        expect(page.locator(".legend b").first).not_to_have_text("\u2013")
    if part == "Methods":
        page.get_by_label("Method", exact=True).select_option("Pricing.charge")
        page.locator("summary", has_text="As JSON").click()
        page.get_by_role("button", name="Add a row").click()
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("422")
        page.get_by_role("button", name="Remove the last row").click()
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_label("Answer")).to_contain_text("tags")
    if part == "SQL":
        page.get_by_text("History").click()
        page.get_by_text("orders", exact=True).click()
        run(page, "SELECT * FROM orders")
        expect(said(page)).to_contain_text("The first 10,000 rows")
        page.locator("summary", has_text="Chart").click()
        page.get_by_role("gridcell", name=MARKUP).first.click()
        page.get_by_role("textbox", name="Statement").press("Control+End")
        page.keyboard.type(" o")
        expect(choices(page).get_by_role("option").first).to_be_visible()


def ink(png: bytes) -> float:
    """What share of the picture is not of its commonest colour."""
    picture = Image.open(io.BytesIO(png)).convert("L")
    counts = picture.histogram()
    return 1 - max(counts) / sum(counts)


def said(page: Page) -> Locator:
    return page.locator(".said").first


def choices(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Names that fit")


# ---- tiers


# How busy two processes are, which have the same number on two nodes.
BUSY = """async () => {
  const { Lately } = await import(new URL("console/figures.js", document.baseURI));
  const lately = new Lately();
  const at = (now, ...seconds) => lately.of({ processes: seconds.map((busy_seconds, place) => (
    { name: `replica-A-${place}`, pid: 7, numbers: { lanes: 1, busy_seconds } })) }, now);
  at(0, 0, 100);
  return at(4000, 4, 100).map(({ busy }) => busy);
}"""


def test_the_tiers_are_drawn_as_they_are_now(page: Page, console: Console) -> None:
    opened(page, console, "Tiers")
    picture = page.get_by_role("img", name=re.compile("1 frontend, 1 router, 5 replicas of 3 deployments; 3 requests"))
    expect(picture).to_be_visible()
    for text in ("frontend-0", "router-0", "Pricing", "shop", "3 queued", "10.0.0.0"):
        expect(picture.locator("text", has_text=text).first).to_be_visible()
    first = page.get_by_role("row").filter(has_text="replica-Pricing-0")
    expect(first).to_contain_text("1 of 2 lanes running")
    insecure = "others reach it; without TLS, tokens can be read"
    console.supervisor.set(replicas=40, restarts=7, ready=False, problem=f"it {MARKUP}", insecure=insecure)
    expect(first).to_contain_text("suspect")
    expect(first.get_by_role("cell").nth(4)).to_have_text("7")
    expect(page.locator("#state")).to_contain_text(MARKUP)
    expect(page.locator("svg")).to_contain_text("and 16 more")
    expect(page.get_by_role("row").filter(has_text=f"load {MARKUP}")).to_be_visible()
    expect(page.locator("main img")).to_have_count(0)
    expect(page.get_by_role("status")).to_have_text(f"This app is insecure: {insecure}")
    assert page.evaluate(BUSY) == [1, 0]


def test_a_server_that_is_gone_is_said_and_comes_back(page: Page, console: Console) -> None:
    page.clock.install()
    opened(page, console, "Tiers")
    row = page.get_by_role("row").filter(has_text="replica-shop-0")
    expect(row).to_be_visible()
    page.route("**/console/live", lambda route: route.abort())
    page.clock.run_for(1000)
    expect(page.get_by_role("status")).to_contain_text("The server does not answer since")
    expect(row).to_be_visible()
    page.unroute("**/console/live")
    page.clock.run_for(2000)
    expect(page.get_by_role("status")).to_be_empty()
    console.supervisor.answers = False
    expect(page.get_by_role("status")).to_contain_text("the supervisor of the app did not answer")


def test_a_hidden_page_asks_nothing(page: Page, console: Console) -> None:
    asked: list[str] = []
    answered: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfinished", lambda request: answered.append(request.url))
    page.clock.install()
    opened(page, console, "Tiers")
    expect(page.get_by_role("row").filter(has_text="replica-shop-0")).to_be_visible()
    hide = """(state) => {
      Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""

    def pass_seconds() -> None:
        """As many as it takes to ask again, which it does once it has its answer."""
        page.clock.run_for(2000)
        eventually(lambda: page.title() and len(answered) == len(asked), what="what it asked is answered")

    page.evaluate(hide, "hidden")
    pass_seconds()
    before = len(asked)
    for _ in range(10):
        pass_seconds()
    assert len(asked) == before
    page.evaluate(hide, "visible")
    expect(page.locator("#state")).to_contain_text("ready")
    eventually(lambda: pass_seconds() or len(asked) > before + 2, what="it asks again")  # type: ignore[func-returns-value]


# ---- plots


def test_what_was_is_there_when_somebody_comes_to_look(page: Page, console: Console) -> None:
    opened(page, console, "Plots")
    latency = page.get_by_role("group", name="Time to the answer this frontend")
    expect(latency.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"half under [\d.]+ ms, at most"))
    # As far as the plot is wide.
    path = page.locator("figure").first.locator("path").first.get_attribute("d") or ""
    places = [float(x) for x in re.findall(r"[ML]([\d.]+),", path)]
    assert len(places) > 150 and min(places) < 70 and max(places) > 300
    latency.focus()
    legend = page.locator("figure").nth(1).locator("li")
    expect(legend).to_have_count(3)
    page.keyboard.press("ArrowLeft")
    expect(legend).to_have_count(4)
    before = legend.last.inner_text()
    page.keyboard.press("Home")
    expect(legend.last).not_to_have_text(before)
    label = latency.get_by_role("img").get_attribute("aria-label") or ""
    page.get_by_label("Deployment").select_option("shop")
    expect(latency.get_by_role("img")).not_to_have_attribute("aria-label", label)
    waited = page.get_by_role("group", name="Queue wait").get_by_role("img")
    expect(waited).to_have_attribute("aria-label", re.compile("waited [1-9]"))
    page.locator("summary", has_text="Values").click()
    expect(page.get_by_role("row").nth(150)).to_be_attached()


# ---- SQL


def run(page: Page, query: str) -> None:
    page.get_by_role("textbox", name="Statement").fill(query)
    page.get_by_role("button", name="Run").click()


def test_a_query_is_written_and_read_by_keys_alone(page: Page, console: Console) -> None:
    opened(page, console, "SQL")
    expect(page.get_by_text("orders", exact=True)).to_be_visible()
    statement = page.get_by_role("textbox", name="Statement")
    statement.fill("")
    # The first that fits is taken by Tab, another by arrows and Enter.
    page.keyboard.type("sel")
    page.keyboard.press("Tab")
    page.keyboard.type(" id, o. FROM ord")
    page.keyboard.press("Tab")
    page.keyboard.type(" o WHERE o.co")
    expect(choices(page).get_by_role("option")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type(" = 'It")
    expect(choices(page).get_by_role("option").first).to_be_hidden()
    page.keyboard.type("' LIMIT 3")
    for _ in range(len("FROM orders o WHERE o.country = 'It' LIMIT 3") + 1):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+Space")
    expect(choices(page).get_by_role("option", name=MARKUP)).to_be_visible()
    choices(page).get_by_role("option", name="a b").click()
    assert statement.input_value() == "select id, o.\"a b\" FROM orders o WHERE o.country = 'It' LIMIT 3"
    statement.fill(statement.input_value().replace("'It'", "'IT'"))
    page.keyboard.press("Control+Enter")
    expect(said(page)).to_contain_text("3 rows in")
    assert page.get_by_role("columnheader").all_inner_texts() == ["id", "a b"]
    page.get_by_role("grid", name="Result").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.get_by_label("The cell in full")).to_have_text('it\'s\n"so"\t$HOME `id` \\ \U0001f600')
    # Tab leaves the field where there is nothing to complete.
    statement.focus()
    page.keyboard.press("Tab")
    expect(statement).not_to_be_focused()


def test_of_many_rows_those_in_sight_are_drawn(page: Page, console: Console) -> None:
    opened(page, console, "SQL")
    run(page, f'SELECT id, country, "{MARKUP}" FROM orders ORDER BY id')
    expect(said(page)).to_contain_text("The first 10,000 rows (there are more")
    grid = page.get_by_role("grid", name="Result")
    expect(grid).to_have_attribute("aria-rowcount", "10001")
    assert grid.get_by_role("row").count() < 120
    assert grid.get_by_role("columnheader").last.inner_text() == MARKUP
    assert grid.get_by_role("row").nth(3).get_by_role("gridcell").all_inner_texts() == ["2", "null", MARKUP]
    page.locator(".grid").evaluate("(grid) => grid.scrollTo(0, grid.scrollHeight)")
    expect(grid.get_by_role("gridcell", name="9999", exact=True)).to_be_visible()
    run(page, "SELECT 1 AS n WHERE false")
    expect(said(page)).to_contain_text("0 rows in")
    assert grid.get_by_role("columnheader").all_inner_texts() == ["n"]
    run(page, f"SELECT {', '.join(f'{n} AS c{n}' for n in range(300))}")
    expect(page.get_by_text("The first 200 of 300 columns")).to_be_visible()


def test_a_chart_is_drawn_of_what_was_asked(page: Page, console: Console) -> None:
    opened(page, console, "SQL")
    run(page, f'SELECT country AS "{MARKUP}", sum(price) AS total, -1 AS low FROM orders GROUP BY ALL ORDER BY ALL')
    expect(said(page)).to_contain_text("4 rows")
    page.locator("summary", has_text="Chart").click()
    drawn = page.get_by_role("img", name="bars of total by")
    expect(drawn.locator("rect")).to_have_count(4)
    assert drawn.locator("text", has_text="null").count() == 1
    page.get_by_label("Up", exact=True).select_option("low")
    expect(page.get_by_role("img", name="bars of low by").locator("rect")).to_have_count(4)
    run(page, "SELECT day, count(*) AS n FROM orders GROUP BY ALL")
    expect(page.get_by_role("img", name="lines of n by day").locator("path")).to_have_attribute("d", re.compile("L"))
    page.get_by_label("As", exact=True).select_option("points")
    expect(page.get_by_role("img", name="points of n by day").locator("circle")).to_have_count(50)
    run(page, "SELECT id, price FROM orders")
    expect(page.get_by_text("2,000 of 10,000 values are drawn")).to_be_visible()
    run(page, "SELECT country FROM orders")
    expect(page.locator("summary", has_text="Chart")).to_be_hidden()


def test_rows_are_shown_before_the_last_has_come(page: Page, console: Console) -> None:
    """A query that never ends is cut at its first rows, or cancelled."""
    opened(page, console, "SQL")
    run(page, "SELECT range AS n FROM range(1000000000000)")
    expect(said(page)).to_contain_text("The first 10,000 rows")
    run(page, ENDLESS)
    expect(said(page)).to_contain_text("Running")
    page.keyboard.press("Escape")
    expect(said(page)).to_contain_text("Cancelled")
    run(page, f"SELECT error('{MARKUP}')")
    expect(page.get_by_role("alert").first).to_contain_text(MARKUP)


def test_plans_parameters_and_what_was_run_before(page: Page, console: Console) -> None:
    opened(page, console, "SQL")
    page.get_by_label("Parameters").fill('{"low": 24990}')
    run(page, "SELECT count(*) AS n FROM orders WHERE id >= $low")
    expect(page.get_by_role("gridcell", name="10")).to_be_visible()
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_label("Plan", exact=True)).to_contain_text("orders", ignore_case=True)
    page.reload()
    assert "$low" in page.get_by_role("textbox", name="Statement").input_value()
    page.get_by_role("textbox", name="Statement").fill("")
    page.get_by_text("History").click()
    page.get_by_role("button", name=re.compile("^SELECT count")).click()
    assert "$low" in page.get_by_role("textbox", name="Statement").input_value()
    page.get_by_role("button", name="Forget all").click()
    expect(page.get_by_text("None yet.")).to_be_visible()


FORMS: dict[str, Callable[[Path], int]] = {
    "CSV": lambda path: path.read_text().count("\n") - 1,
    "Parquet": lambda path: pq.read_table(path).num_rows,
    "Arrow": lambda path: pa.ipc.open_stream(path.read_bytes()).read_all().num_rows,
}


def test_all_rows_are_kept_as_a_file(page: Page, console: Console, tmp_path: Path) -> None:
    opened(page, console, "SQL")
    page.get_by_role("textbox", name="Statement").fill("SELECT id FROM orders")
    for form, rows_in in FORMS.items():
        page.get_by_label("Format of the download").select_option(form)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert rows_in(path) == ROWS, form


# ---- methods

AWKWARD = 'it\'s "so" $HOME `id` \\ %s {x} \U0001f600 \u2028 -- <b>'
LINES = ("curl", "Python", "gRPC in Python")
SENT = {
    "price": [9.5, -1e-7], "note": [AWKWARD, None], "day": [datetime.date(2024, 2, 29), None], "gift": [False, True],
    "n": [2**53 + 1, None], "tags": [["a", "b'c"], None],
}  # fmt: skip


def test_a_method_is_called_by_its_form_and_by_the_lines_that_are_shown(page: Page, console: Console) -> None:
    """The lines are run as they stand there, whatever the values are."""
    opened(page, console, "Methods")
    page.get_by_label("Method", exact=True).select_option("Pricing.charge")
    page.get_by_role("button", name="Add a row").click()
    for place, row in enumerate(zip(*SENT.values(), strict=True)):
        fieldset = page.get_by_role("group", name=f"Row {place + 1}")
        for name, value in zip(SENT, row, strict=True):
            give(fieldset, name, value)
    page.keyboard.press("Control+Enter")
    expect(said(page)).to_contain_text("200 in")
    answer = json.loads(page.get_by_label("Answer").inner_text())
    assert answer["columns"]["n"] == SENT["n"] and answer["columns"]["note"] == SENT["note"]
    shown = {each: page.get_by_label(f"The call with {each}", exact=True).text_content() or "" for each in LINES}
    for program in ("sh", "bash"):
        by_curl = subprocess.run([program, "-c", shown["curl"]], capture_output=True, text=True, check=True).stdout
        assert json.loads(by_curl) == answer
    for each in LINES[1:]:
        got: list[Any] = []
        exec(shown[each], {"print": got.append})
        assert pa.table(got[0]).to_pydict() == SENT, shown[each]


def give(fieldset: Locator, name: str, value: Any) -> None:
    """As somebody types it."""
    if value is None:
        fieldset.get_by_label(f"{name} is null").check()
        return
    field = fieldset.get_by_label(re.compile(f"^{name} (?!is)"))
    if isinstance(value, bool):
        field.select_option(str(value).lower())
    else:
        field.fill(json.dumps(value) if isinstance(value, list) else str(value))


def test_a_body_is_written_by_hand_where_nothing_is_declared(page: Page, console: Console) -> None:
    opened(page, console, "Methods")
    page.get_by_label("Method", exact=True).select_option("Pricing.boom")
    body = page.get_by_role("textbox", name="Body")
    body.fill('{"rows": [')
    expect(page.get_by_label("The call with Python", exact=True)).to_contain_text("The body is no JSON")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("INVALID_ARGUMENT (400)")
    body.fill(json.dumps({"rows": [{"a": "<b>"}]}))
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text(f"ValueError: {MARKUP}")
    page.get_by_label("Method", exact=True).select_option("Flow.run")
    page.get_by_role("button", name="Send").click()
    expect(said(page)).to_contain_text("200 in")
    page.get_by_label("Method", exact=True).select_option("shop.by_country")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_label("Answer")).to_contain_text("6250")
    expect(page.locator("main b b, main img")).to_have_count(0)


# ---- who may see what


def test_one_signs_in_and_sees_what_one_may(browser: Browser, console: Console) -> None:
    """By the browser's own question for the page; by a token on the page for another."""
    with watched_page(browser, console.closed, signed=("quinn", token_of("quinn"))) as page:
        page.goto(f"{console.closed}/console#%zz")
        # The first part that he may see, where the link names none.
        expect(page.get_by_role("heading", name="SQL")).to_be_visible()
        run(page, "SELECT count(*) AS n FROM orders")
        expect(page.get_by_role("gridcell", name=str(ROWS))).to_be_visible()
        page.get_by_role("link", name="Tiers").click()
        expect(page.get_by_text("quinn may not see this: it takes a role with operate = true.")).to_be_visible()
        page.get_by_role("link", name="Methods").click()
        expect(page.get_by_text("quinn may not see this: it takes a role that grants call")).to_be_visible()
        page.get_by_text("Signed in as quinn").click()
        for wrong, says in (("no token", "characters that none has"), ("fst_wrong", "UNAUTHENTICATED (401)")):
            page.get_by_label("Token").fill(wrong)
            page.get_by_role("button", name="Sign in").click()
            expect(page.locator("#me").get_by_role("alert")).to_contain_text(says)
        page.set_viewport_size({"width": 390, "height": 800})
        assert Axe().run(page).violations_count == 0
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        page.get_by_label("Token").fill(token_of("alice"))
        page.keyboard.press("Enter")
        expect(page.get_by_text("Signed in as alice")).to_be_visible()
        page.get_by_role("link", name="Tiers").click()
        expect(page.get_by_role("row").filter(has_text="replica-shop-0")).to_be_visible()
        page.reload()
        expect(page.get_by_text("Signed in as alice")).to_be_visible()
        assert page.evaluate("[JSON.stringify(localStorage), document.cookie].join()").count("fst_") == 0
        page.get_by_text("Signed in as alice").click()
        page.get_by_role("button", name="Forget the token").click()
        expect(page.get_by_text("Signed in as quinn")).to_be_visible()
