"""A real browser: Debian's Chromium (`apt-get install chromium`; CI does). Tests that take it are marked `BROWSES`, and
skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM: Final = shutil.which("chromium") or shutil.which("google-chrome")
# As root Chromium has no sandbox; the others keep it from looking for its maker's hosts.
ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
BROWSES: Final = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
WAIT_MS: Final = 20_000
# What a page makes itself.
_OWN: Final = ("blob:", "data:")


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, until the block ends. One for a whole file: it takes a second."""
    # Its own 5 s are what a busy machine may take for a page.
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser:
            yield browser


@contextmanager
def watched_page(browser: Browser, *addresses: str, signed: tuple[str, str] | None = None) -> Iterator[Page]:
    """A page with nothing kept from another, which may load from these addresses only; `signed`: the name and the
    password that the browser has for who asks. Afterwards no script of it may have failed, or broken its policy, and no
    dialogue may have opened."""
    faults: list[str] = []
    credentials: Any = signed and {"username": signed[0], "password": signed[1]}
    with browser.new_page(accept_downloads=True, http_credentials=credentials) as page:
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: faults.extend(
            [request.url] * (not request.url.startswith((*addresses, *_OWN)))
        ))  # fmt: skip
        page.on("console", lambda told: faults.extend([told.text] * ("Content Security Policy" in told.text)))
        page.set_default_timeout(WAIT_MS)
        yield page
    assert faults == []
