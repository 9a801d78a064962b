"""The console in five browsers: what the frontend that serves it takes more of a core, the tiers drawn live."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.tiers import children_of
from benchmarks.usage import threads_ns

NAME: Final = "console open in 5 browsers: a frontend's added CPU"
BROWSERS: Final = 5
# One after another the rest of the machine is the same. Long enough for several of what the page asks for.
SECONDS_MIN: Final = 5.0
# As root Chromium has no sandbox; the others keep it from looking for its maker's hosts.
_ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def added(bench: Bench) -> Sequence[Figure]:
    """Percent of a core, against none open."""
    if not bench.wants(NAME):
        return []
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print(f"{NAME}: left out, it takes chromium and playwright", file=sys.stderr)
        return []
    from playwright.sync_api import sync_playwright

    server = bench.flightserve()
    frontend = next(child["pid"] for child in children_of(server.process.pid) if child["tier"] == "frontend")
    seconds = max(bench.settings.seconds, SECONDS_MIN) if not bench.settings.brief else bench.settings.seconds
    samples = []
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS) as one:
        for _ in range(bench.settings.rounds):
            before = _percent(frontend, seconds)
            contexts = [one.new_context() for _ in range(BROWSERS)]
            for context in contexts:
                page = context.new_page()
                page.goto(f"{server.addresses['http']}/console")
                page.get_by_role("link", name="Tiers").click()
                page.get_by_role("row").filter(has_text="% busy").first.wait_for()
            samples.append(Sample(_percent(frontend, seconds) - before, BROWSERS, BROWSERS))
            for context in contexts:
                context.close()
    return [Figure(NAME, "% of a core", tuple(samples), bar=Bar("at_most", 2), compare="value")]


def _percent(pid: int, seconds: float) -> float:
    """What a process takes of a core while nothing is done here."""
    begun_ns, used_ns = time.monotonic_ns(), sum(threads_ns(pid).values())
    time.sleep(seconds)
    return 100 * (sum(threads_ns(pid).values()) - used_ns) / (time.monotonic_ns() - begun_ns)
