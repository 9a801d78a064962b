"""Whether the app of this container is up, for its health check: `/healthz` on the loopback, by HTTP or HTTPS."""

from __future__ import annotations

import os
import ssl
import sys
import tomllib
import urllib.error
import urllib.request

TIMEOUT_S = 2.0
USUAL_PORT = 8080


def http_port() -> int | str:
    """The one that the environment says, or the file of settings."""
    if said := os.environ.get("FLIGHTSERVE_HTTP_PORT"):
        return said
    try:
        with open(os.environ.get("FLIGHTSERVE_CONFIG", ""), "rb") as file:
            port: int | str = tomllib.load(file).get("http_port", USUAL_PORT)
            return port
    except (OSError, ValueError):
        return USUAL_PORT


def is_up(port: int | str) -> bool:
    """Whether it answers. Whose certificate it is matters to others; on the loopback there is nobody else."""
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    for url in (f"http://127.0.0.1:{port}/healthz", f"https://127.0.0.1:{port}/healthz"):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=unchecked if url.startswith("https") else None):
                return True
        except (OSError, urllib.error.URLError):
            continue
    return False


if __name__ == "__main__":
    sys.exit(not is_up(http_port()))
