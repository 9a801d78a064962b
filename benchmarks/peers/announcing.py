"""What the peers' servers have in common: a free port, and `ready` once the work is answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from typing import Any, Final

from benchmarks.peers import work

POLL_S: Final = 0.02
# A request that came too early may never be answered.
TIMEOUT_S: Final = 2.0


def announce(url: str, what: str, listed: bool = False) -> None:
    """Say `ready` as soon as the work is answered there, from a thread beside the server that is about to start. A
    server that never does is ended by whoever waits for the line."""
    threading.Thread(target=wait_and_say, args=(url, what, listed), daemon=True).start()


def wait_and_say(url: str, what: str, listed: bool = False) -> None:
    """Say `ready` as soon as the work is answered there. Where requests are `listed`, each is a list with one in it."""
    columns: Any = work.probe(what)
    body = json.dumps({"columns": [columns] if listed else columns}).encode()
    while not _answers(url, body):
        time.sleep(POLL_S)
    print("ready", json.dumps({"http": url}), flush=True)


def _answers(url: str, body: bytes) -> bool:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
