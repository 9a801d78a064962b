"""What the peers' servers have in common: a free port, and `ready` once the model answers."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from typing import Final

from benchmarks import estimator

POLL_S: Final = 0.1
# A request that came too early may never be answered.
TIMEOUT_S: Final = 2.0


def announce(url: str) -> None:
    """Say `ready` as soon as the model answers there, from a thread beside the server that is about to start. A server
    that never does is ended by whoever waits for the line."""
    threading.Thread(target=wait_and_say, args=(url,), daemon=True).start()


def wait_and_say(url: str) -> None:
    """Say `ready` as soon as the model answers there."""
    while not _answers(url):
        time.sleep(POLL_S)
    print("ready", json.dumps({"http": url}), flush=True)


def _answers(url: str) -> bool:
    body = json.dumps({"columns": estimator.columns(0)}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
