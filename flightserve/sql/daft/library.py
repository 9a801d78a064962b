"""The one place that imports Daft, when it is asked for: it has 160 MB, and most warehouses have no use for it."""

from __future__ import annotations

import functools
import os
from importlib import metadata
from typing import Any, Final

from flightserve.errors import ConfigError

# It is used by names that are no promise of its own (`processes`), so that other versions are refused.
SUPPORTED: Final = "0.7"
# Of its processes as well: no reports to its makers, no bars drawn into the log.
QUIET: Final = {"DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0", "DAFT_DASHBOARD_ENABLED": "0"}


@functools.cache
def daft() -> Any:
    """The library. Raises ConfigError where it is missing or of another version."""
    os.environ.update(QUIET)  # tidy: nothing is read; the library looks there when it is imported
    try:
        import daft as library
    except ImportError as error:
        raise ConfigError("engine='daft' needs Daft: pip install 'flightserve[daft]'") from error
    version = metadata.version("daft")
    if not version.startswith(f"{SUPPORTED}."):
        raise ConfigError(f"daft {version} is installed; engine='daft' supports {SUPPORTED}")
    return library
