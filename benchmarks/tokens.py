"""What it costs to say who one is: Flight's ping-pong with a bearer token, against the same app without `--auth`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import FLIGHTSERVE, Bench


@contextmanager
def auth_file() -> Iterator[tuple[str, str]]:
    """A file of `--auth` with one principal, and its token."""
    with tempfile.TemporaryDirectory(prefix="flightserve-bench-") as folder:
        path = str(Path(folder) / "auth.toml")
        add = [sys.executable, "-m", "flightserve", "auth", "add", "bench", "--auth", path, "--role", "admin"]
        yield path, subprocess.run(add, check=True, capture_output=True, text=True).stdout.strip()


def flight(bench: Bench) -> Sequence[Figure]:
    """One stream, 16 rows."""
    with auth_file() as (file, token):
        command = (*FLIGHTSERVE, "--auth", file)

        def measure(asked: bool) -> Sample:
            server = bench.server(*command) if asked else bench.flightserve()
            url, path, said = server.addresses["flight"], ["Identity", "identity"], token if asked else ""
            return bench.load("load.flight").sample(
                "ping_pong", "calls_per_s", url=url, path=path, streams=1, seconds=bench.settings.seconds, token=said
            )

        figure = partial(Figure, "token: flight ping-pong, 16 rows", "calls/s", bar=Bar("at_least", 0.97))
        try:
            return [bench.alternate(figure, partial(measure, True), partial(measure, False))]
        finally:
            # Its file goes.
            bench.end_server(*command)
