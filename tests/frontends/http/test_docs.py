"""The page at /docs in a real browser: it lists what is deployed, sends calls, and loads nothing from elsewhere.

The browser is Debian's Chromium (`apt-get install chromium`; CI does). Without one the tests are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.frontends.http.support import http_served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# As root Chromium has no sandbox; the others keep it from looking for its maker's hosts.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as chromium:
            yield chromium


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, httpx.Client]]:
    with http_served() as served:
        yield served


@pytest.fixture
def page(browser: Browser, server: tuple[Any, httpx.Client]) -> Iterator[Page]:
    """The page, loaded; afterwards no error may have been logged and no other host asked."""
    address = server[0].addresses["http"]
    faults: list[str] = []
    with browser.new_page() as page:
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.extend([request.url] * (not request.url.startswith(address))))
        page.goto(f"{address}/docs")
        yield page
    assert faults == []


def test_every_method_is_there_with_its_doc_and_schemas(page: Page, server: tuple[Any, httpx.Client]) -> None:
    deployments = server[1].get("/v1/deployments").json()["deployments"]
    paths = [method["path"] for deployment in deployments for method in deployment["methods"]]
    expect(page.locator("summary")).to_have_count(len(paths))
    for path in paths:
        expect(page.locator("summary", has_text=f"POST {path}").first).to_be_visible()
    typed = page.locator("details", has_text="POST /v1/Probe/typed")
    typed.locator("summary").click()
    expect(typed).to_contain_text("One column of int64, checked.")
    expect(typed.locator("tr").first).to_contain_text("int64")


def test_the_sample_call_is_answered(page: Page) -> None:
    typed = page.locator("details", has_text="POST /v1/Probe/typed")
    typed.locator("summary").click()
    typed.get_by_role("button", name="Send").click()
    expect(typed.locator("pre")).to_contain_text('"a": [')
    expect(typed.locator("pre")).to_contain_text("200 in")


def test_a_bad_call_shows_the_error(page: Page) -> None:
    typed = page.locator("details", has_text="POST /v1/Probe/typed")
    typed.locator("summary").click()
    typed.get_by_label("request body").fill('{"columns": {"a": ["x"]}}')
    typed.get_by_role("button", name="Send").click()
    expect(typed.locator("pre")).to_contain_text("422 in")
    expect(typed.locator("pre")).to_contain_text("INVALID_ARGUMENT")


def test_what_a_deployment_says_of_itself_is_text_and_no_markup(page: Page) -> None:
    expect(page.locator("main")).to_contain_text("a third is <b>one too many</b>.")
    expect(page.locator("main b")).to_have_count(0)
