"""Readers of settings: a file, and `--set`."""

from __future__ import annotations

import tempfile
from typing import Final

from flightserve.cli.main import make_parser
from flightserve.cli.settings.files import read_file
from flightserve.cli.settings.known import read_settings
from flightserve.cli.settings.variables import read_set
from flightserve.errors import ConfigError

_KNOWN: Final = read_settings(make_parser())
FILE: Final = b"""
host = "0.0.0.0"
http_port = "unix:http.sock"
frontends = "node"
drain_timeout = "1.5s"
allow_get = false
allow_host = ["a.example", "b.example"]
replicas = {Pricing = 2, Other = "1-4"}

[sql]
csv = {delim = ";", null = ["NA", "-"]}
tables = {flights = "data/*.parquet", remote = "s3://me:secret@bucket/a.parquet"}

[limits]
body_bytes_max = "64MB"
timeout_ms_max = "2s"
keep_alive_s = 5

[deployments.Pricing]
replicas = {low = 1, high = 4, down_after_s = 5}
linger_ms = 2.5
resources = {tpu = 0.5}
"""
SET: Final = (
    b"limits.body_bytes_max=64MiB", b"deployments.Pricing.replicas=1-4", b"replicas=Pricing=2",
    b"sql.csv=[\"null=NA\"]",
    b"deployments.Pricing.resources={tpu = 0.5}", b"drain_timeout=30s", b"http_port=80", b"allow_get=true",
)  # fmt: skip


def read_a_file(data: bytes) -> None:
    """What `--config` names. Whatever is wrong is said with its name."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            read_file(file.name, _KNOWN)
        except ConfigError as error:
            if file.name not in error.message:
                raise AssertionError(f"no file is named: {error.message}") from error
            raise


def read_one(data: bytes) -> None:
    """What follows `--set`."""
    read_set([data.decode("utf-8", "surrogateescape")], _KNOWN)
