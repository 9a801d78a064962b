"""docs/tutorial/ten-minutes.md as a reader does it: in two real terminals and a real browser, from its own blocks.

A console's commands are typed into the terminal that its title names, and what the page shows has to come. A text with
such a title is what that terminal shows next; `^C` in it is pressed. Files are saved. The browser's steps are `open`,
`press` and `see`. All ports are free ones, in the place of the usual ones.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.docs.blocks import Block, blocks_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "ten-minutes.md"
USUAL = ("8080", "50051", "8815", "5555")
PROTOCOLS = ("http", "grpc", "flight", "zmq")
PROMPT = "at-the-prompt> "
WAIT_S = 90.0
STYLES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9])|\r")


class Shell:
    """A terminal with bash in it, as wide as the page's longest line."""

    def __init__(self, folder: Path) -> None:
        environment = {
            **os.environ, "TERM": "xterm-256color", "PS1": PROMPT, "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        for name in ("NO_COLOR", "FORCE_COLOR", "PROMPT_COMMAND"):
            environment.pop(name, None)
        self._shell: Any = pexpect.spawn(
            "bash", ["--norc", "--noprofile", "--noediting"], cwd=str(folder), env=environment, dimensions=(50, 400),
            encoding="utf-8", echo=False,
        )  # fmt: skip
        self._seen = ""
        self.shows(PROMPT)

    def type(self, command: str) -> None:
        self._seen = ""
        self._shell.sendline(command)

    def interrupt(self) -> None:
        self._seen = ""
        self._shell.sendintr()

    def shows(self, expected: str) -> None:
        """Wait until it shows that, however much comes before or after."""
        until = time.monotonic() + WAIT_S
        while not comes(expected, self._seen):
            assert time.monotonic() < until, f"it shows\n{self._seen}\nand not\n{expected}"
            try:
                self._seen += STYLES.sub("", self._shell.read_nonblocking(1 << 16, timeout=1))
            except pexpect.TIMEOUT:
                continue

    def close(self) -> None:
        self._shell.close(force=True)


def comes(expected: str, seen: str) -> bool:
    """Whether the pieces of what is expected, between its `...`, come one after another."""
    at = 0
    for piece in expected.split("..."):
        at = seen.find(piece.strip(), at)
        if at < 0:
            return False
        at += len(piece.strip())
    return True


@pytest.fixture
def ports() -> dict[str, str]:
    """A free port in the place of each usual one."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in USUAL]
        return {usual: str(probe.getsockname()[1]) for usual, probe in zip(USUAL, probes, strict=True)}


def with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub(rf"(?<=:)(?:{'|'.join(ports)})\b", lambda found: ports[found[0]], text)


def steps() -> Iterator[Block]:
    """The page's blocks, but for the installing."""
    for block in blocks_of(PAGE.read_text()):
        if block.title != "both terminals" or block.text == "flightserve --version":
            yield block


@pytest.mark.ray
def test_a_new_users_ten_minutes(tmp_path: Path, ports: dict[str, str]) -> None:
    with ExitStack() as stack:
        shells = {name: Shell(tmp_path) for name in ("terminal 1", "terminal 2")}
        for shell in shells.values():
            stack.callback(shell.close)
        for block in steps():
            take(block, shells, tmp_path, ports)
        shells["terminal 1"].shows(PROMPT)


def take(block: Block, shells: dict[str, Shell], folder: Path, ports: dict[str, str]) -> None:
    """One step of the reader's."""
    text = with_ports(block.text, ports)
    if block.title == "browser":
        browse(text)
    elif block.title in shells and block.language == "text":
        shell = shells[block.title]
        if text.startswith("^C"):
            shell.interrupt()
        shell.shows(text.removeprefix("^C"))
    elif block.language == "bash":
        shell = shells.get(block.title, shells["terminal 2"])
        serves = text.startswith("flightserve run")
        usual = dict(zip(PROTOCOLS, USUAL, strict=True))
        options = "".join(f" --{protocol}-port {ports[port]}" for protocol, port in usual.items())
        shell.type(text + options if serves else text)
        shell.shows(with_ports(block.expected or "", ports) + ("" if serves else f"...{PROMPT}"))
    else:
        (folder / "shop" / block.title).write_text(text + "\n")


def browse(steps: str) -> None:
    """Do what the page says in a browser; nothing where there is none."""
    from playwright.sync_api import expect

    from tests.frontends.http.browsing import CHROMIUM, launched

    if CHROMIUM is None:
        return
    with launched() as browser:
        page = browser.new_page()
        page.set_default_timeout(30_000)
        block = page.locator("body")
        for step in steps.splitlines():
            what, _, of = step.partition(" ")
            if what == "open" and of.startswith("http"):
                page.goto(of)
            elif what == "open":
                block = page.locator("details").filter(has=page.locator(f'summary .name:text-is("{of}")')).last
                block.locator("summary").first.click()
            elif what == "press":
                block.get_by_role("button", name=of).click()
            else:
                assert what == "see", step
                expect(block).to_contain_text(of)
