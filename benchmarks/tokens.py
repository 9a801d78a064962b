"""What it costs to say who one is: Flight's ping-pong and HTTP JSON with a bearer token, gRPC with a JSON Web Token,
against the same app without `--auth`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import FLIGHTSERVE, Bench
from benchmarks.processes import Server

CONNECTIONS = 128
IN_FLIGHT = 64
_ISSUER = "https://issuer.example"
_LIFETIME_S = 3600


class Callers(NamedTuple):
    """A file of `--auth`, the token of its one principal, and one that an identity provider has signed."""

    file: str
    token: str
    web_token: str


@contextmanager
def callers() -> Iterator[Callers]:
    """In a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="flightserve-bench-") as folder:
        path = Path(folder) / "auth.toml"
        add = [sys.executable, "-m", "flightserve", "auth", "add", "bench", "--auth", str(path), "--role", "admin"]
        token = subprocess.run(add, check=True, capture_output=True, text=True).stdout.strip()
        with path.open("a") as file:
            file.write(f'\n[jwt]\nissuer = "{_ISSUER}"\naudience = "bench"\njwks = "keys.json"\n')
        yield Callers(str(path), token, _signed(Path(folder) / "keys.json"))


def _signed(keys: Path) -> str:
    """A token, whose key is written there."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    public = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": "bench", "use": "sig"}
    keys.write_text(json.dumps({"keys": [public]}))
    expires = int(time.time()) + _LIFETIME_S
    said = {"iss": _ISSUER, "aud": "bench", "sub": "bench-web", "roles": ["admin"], "exp": expires}
    return jwt.encode(said, key, "RS256", {"kid": "bench"})


def run(bench: Bench) -> Sequence[Figure]:
    """All of the table."""
    seconds = bench.settings.seconds

    def flight(server: Server, token: str) -> Sample:
        url, path = server.addresses["flight"], ["Identity", "identity"]
        load = bench.load("load.flight")
        return load.sample("ping_pong", "calls_per_s", url=url, path=path, streams=1, seconds=seconds, token=token)

    def http(server: Server, token: str) -> Sample:
        url = f"{server.addresses['http']}/v1/Identity/identity"
        load = bench.load("load.http")
        return load.sample("json", "calls_per_s", url=url, connections=CONNECTIONS, seconds=seconds, token=token)

    def grpc(server: Server, token: str) -> Sample:
        address, load = server.addresses["grpc"], bench.load("load.grpc")
        return load.sample("call", "calls_per_s", address=address, in_flight=IN_FLIGHT, seconds=seconds, token=token)

    with callers() as known:
        command = (*FLIGHTSERVE, "--auth", known.file)

        def figure(name: str, unit: str, least: float, ask: Callable[[Server, str], Sample], token: str) -> Figure:
            shown = partial(Figure, f"token: {name}", unit, bar=Bar("at_least", least))
            return bench.alternate(
                shown, lambda: ask(bench.server(*command), token), lambda: ask(bench.flightserve(), "")
            )

        wanted: list[tuple[Any, ...]] = [
            ("flight ping-pong, 16 rows", "calls/s", 0.97, flight, known.token),
            (f"http json, 10 numbers, {CONNECTIONS} connections", "req/s", 0.93, http, known.token),
            (f"grpc call, 16 rows, {IN_FLIGHT} in flight, a JWT", "calls/s", 0.9, grpc, known.web_token),
        ]
        try:
            return [figure(*each) for each in wanted]
        finally:
            # Its file goes.
            bench.end_server(*command)
