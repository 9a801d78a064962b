"""What TLS costs: Flight's pipelined 10 MB batches against pyarrow's own server with the same certificate."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import FLIGHTSERVE, Bench
from benchmarks.payloads import MB


class Pems(NamedTuple):
    """A certificate of loopback, which is its own CA, and its key: paths."""

    cert: str
    key: str


def flight(bench: Bench) -> Sequence[Figure]:
    """One figure, with a certificate that is made for it."""
    with tempfile.TemporaryDirectory(prefix="flightserve-bench-") as folder:
        return [_tls(bench, make_certificate(Path(folder)))]


def make_certificate(folder: Path) -> Pems:
    """By openssl, as the documents do it."""
    pems = Pems(str(folder / "cert.pem"), str(folder / "key.pem"))
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = ("-keyout", pems.key, "-out", pems.cert)
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files)
    subprocess.run(command, check=True, capture_output=True)
    return pems


def _tls(bench: Bench, pems: Pems) -> Figure:
    command = (*FLIGHTSERVE, "--no-zmq", "--tls-cert", pems.cert, "--tls-key", pems.key)

    def measure(flightserve: bool) -> Sample:
        server = bench.server(*command) if flightserve else bench.bare("flight", *pems)
        url, path, seconds = server.addresses["flight"], ["Identity", "identity"], bench.settings.seconds
        return bench.load("load.flight").sample(
            "pipelined", "gb_per_s", url=url, path=path, size_bytes=10 * MB, seconds=seconds, ca=pems.cert
        )

    figure = partial(Figure, "TLS: flight pipelined, 10 MB", "GB/s", bar=Bar("at_least", 0.85))
    try:
        return bench.alternate(figure, partial(measure, True), partial(measure, False))
    finally:
        # Its files go.
        bench.end_server(*command)
