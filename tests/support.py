"""Helpers for tests: `from tests.support import eventually`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest


def eventually(condition: Callable[[], object], timeout_s: float = 60.0, what: str = "") -> None:
    """Wait until `condition()` is true, looking again every 5 ms; fail with `what` when the time is up."""
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {timeout_s} s: {what or condition}")
        pause.wait(0.005)
