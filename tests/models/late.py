"""Libraries that are loaded when a test runs: every process of the tests reads every file, and one runs these."""

from __future__ import annotations

from typing import Any


def sk() -> Any:
    """What `tests.models.estimators` has."""
    from tests.models import estimators

    return estimators
