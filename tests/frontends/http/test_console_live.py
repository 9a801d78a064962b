"""What the server makes of the app for the console: one picture for all who look, bounded, and never a fault of its
own."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import msgspec
import orjson
import pytest

from flightserve.clock import NS_PER_S
from flightserve.contracts.own_app import OwnApp
from flightserve.errors import InvalidArgument
from flightserve.frontends.http.assets import assets_in
from flightserve.frontends.http.console.history import History
from flightserve.frontends.http.console.live import PROCESSES_MAX, Live
from flightserve.frontends.http.console.routes import ASSETS, _after
from tests.frontends.http.console_support import Supervisor
from tests.support import eventually


class Nothing:
    """A service of no deployments."""

    def deployments(self) -> list[Any]:
        return []


class Looked:
    """A `Live` with a clock that is set, and a supervisor."""

    def __init__(self) -> None:
        self.supervisor = Supervisor()
        self.supervisor.set()
        self.now_ns = NS_PER_S
        own = OwnApp("frontend-1", self.supervisor)
        self.live = Live(Nothing(), own, History(()), lambda: self.now_ns)  # type: ignore[arg-type]

    async def look(self) -> dict[str, Any]:
        self.now_ns += NS_PER_S
        found: dict[str, Any] = orjson.loads(await self.live.body())
        return found


def test_all_who_look_at_once_see_one_picture() -> None:
    async def ask() -> None:
        looked = Looked()
        found = await asyncio.gather(*(looked.live.body() for _ in range(50)))
        assert len(set(found)) == 1 and looked.supervisor.asked == 1
        # One who goes away takes nobody's answer with him.
        looked.now_ns += NS_PER_S
        held = threading.Event()
        looked.supervisor.held = held
        gone, stays = (asyncio.ensure_future(looked.live.body()) for _ in range(2))
        await asyncio.to_thread(eventually, lambda: looked.supervisor.asked == 2, what="both wait for the picture")
        gone.cancel()
        held.set()
        await stays
        assert looked.supervisor.asked == 2
        await looked.live.body()
        assert looked.supervisor.asked == 2

    asyncio.run(ask())


def test_a_supervisor_that_is_silent_leaves_the_last_picture() -> None:
    async def ask() -> None:
        looked = Looked()
        looked.supervisor.answers = False
        nothing = await looked.look()
        assert (
            nothing["processes"] == [] and nothing["problem"].startswith("the supervisor") and not nothing["silent_s"]
        )
        looked.supervisor.answers = True
        seen = await looked.look()
        looked.supervisor.answers = False
        looked.now_ns += 29 * NS_PER_S
        stale = await looked.look()
        assert stale["processes"] == seen["processes"] and stale["silent_s"] == 30 and stale["problem"]

    asyncio.run(ask())


def test_a_picture_has_so_many_processes() -> None:
    async def ask() -> None:
        looked = Looked()
        looked.supervisor.set(replicas=PROCESSES_MAX)
        found = await looked.look()
        assert len(found["processes"]) == PROCESSES_MAX and found["processes_left_out"] == 7
        looked.supervisor.view = msgspec.structs.replace(looked.supervisor.view, children=())
        assert (await looked.look())["processes_left_out"] == 0

    asyncio.run(ask())


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT TWO}", "0" * 5000, "9" * 16]
)
def test_the_number_of_a_sample_is_a_number(text: str) -> None:
    with pytest.raises(InvalidArgument):
        _after(text)
    assert _after("9" * 15) == 10**15 - 1


def test_no_script_or_style_is_within_a_page_and_none_is_loaded_from_elsewhere() -> None:
    assert assets_in().keys() < ASSETS.keys()
    for name, asset in ASSETS.items():
        text = asset.content.decode()
        assert asset.etag.startswith('"') and asset.content_type
        for found in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", 'setAttribute("style"'):
            assert found not in text, (name, found)
        addresses = text.replace("http://www.w3.org/2000/svg", "").replace("grpc://127.0.0.1:8815", "")
        assert "//www." not in addresses and "http://" not in addresses and "https://" not in addresses, name
        if name.endswith(".html"):
            assert not re.search(r"\s(on\w+|style)\s*=|<style|<script(?! type=\"module\" src=)", text), name
