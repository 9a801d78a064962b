"""Whether the app of this container is up, for its health check: `/healthz` on the loopback, by HTTP or HTTPS."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 2.0


def is_up(port: str) -> bool:
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
    sys.exit(not is_up(os.environ.get("FLIGHTSERVE_HTTP_PORT", "8080")))
