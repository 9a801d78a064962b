"""`make pictures`: the pictures of docs/how-to/console.md, taken anew of the example under some load.

They are small: few colours, and together at most `BYTES_MAX`.
"""

from __future__ import annotations

import io
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.harness import serving
from benchmarks.processes import Server
from examples.flights import data
from tests.frontends.http.browsing import CHROMIUM, launched

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "console"
BYTES_MAX: Final = 200_000
COLOURS: Final = 48
SIZE: Final = {"width": 1000, "height": 640}
# So long that the plots have something to show.
SAMPLES: Final = 18
QUERY: Final = """SELECT name, avg(arr_delay) AS minutes_late, count(*) AS flights
FROM flights JOIN airlines USING (carrier)
GROUP BY ALL
ORDER BY minutes_late DESC"""


@contextmanager
def loaded(address: str) -> Iterator[None]:
    """Some callers, now more and now less busy."""
    over = threading.Event()
    callers = [threading.Thread(target=_call, args=(address, over, seed)) for seed in range(4)]
    for each in callers:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in callers:
            each.join()


def _call(address: str, over: threading.Event, seed: int) -> None:
    rng = random.Random(seed)
    busy = 0.01
    with httpx.Client(base_url=address, timeout=30) as client:
        while not over.wait(rng.expovariate(1 / busy)):
            if rng.random() < 0.01:
                busy = rng.choice((0.003, 0.01, 0.03))
            rows = [{"origin": "EWR", "dest": "IAH", "air_time": 200 + n} for n in range(rng.randrange(1, 60))]
            client.post("/v1/Flights/distance", json={"rows": rows}).raise_for_status()


def take(page: Page, name: str) -> int:
    """Keep what the page shows; returns the picture's size."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path = FOLDER / f"{name}.png"
    picture.save(path, optimize=True)
    return path.stat().st_size


def pictures(page: Page, address: str) -> Iterator[int]:
    """All of them."""
    page.goto(f"{address}/console")
    page.get_by_role("link", name="Tiers").click()
    expect(page.get_by_role("row").filter(has_text="% busy").first).to_be_visible()
    yield take(page, "tiers")
    page.get_by_role("link", name="Plots").click()
    expect(page.locator(".legend b").first).not_to_have_text("\N{EN DASH}")
    yield take(page, "plots")
    page.get_by_role("link", name="SQL").click()
    page.get_by_role("textbox", name="Statement").fill(QUERY)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".said").first).to_contain_text("16 rows")
    page.locator("summary", has_text="Chart").click()
    page.evaluate("scrollTo(0, 300)")
    yield take(page, "sql")
    page.get_by_role("link", name="Methods").click()
    page.get_by_label("Method", exact=True).select_option("Flights.distance")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".said").first).to_contain_text("200")
    page.evaluate("scrollTo(0, 0)")
    yield take(page, "methods")


def main() -> None:
    """Serve, load, look."""
    if CHROMIUM is None:
        sys.exit("there is no chromium on this machine: apt-get install chromium")
    data.ensure_all()
    FOLDER.mkdir(exist_ok=True)
    with Server(serving("examples.flights.app:app")) as server:
        address = server.addresses["http"]
        with loaded(address), launched() as browser:
            page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
            while len(httpx.get(f"{address}/console/history").json()["samples"]) < SAMPLES:
                page.wait_for_timeout(1000)
            sizes = list(pictures(page, address))
    print(f"{len(sizes)} pictures in {FOLDER}, {sum(sizes):,} bytes")
    if sum(sizes) > BYTES_MAX:
        sys.exit(f"they are larger than {BYTES_MAX:,} bytes together")


if __name__ == "__main__":
    main()
