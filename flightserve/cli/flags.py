"""Messages that name an option by what it is called in Python, as the command's flags."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from flightserve.config import PROTOCOLS
from flightserve.errors import FlightserveError

if TYPE_CHECKING:
    from flightserve.cli.settings.settled import SettledSettings

FLAGS: Final = {
    **{f"{protocol}_port": f"--{protocol}-port" for protocol in PROTOCOLS},
    "threads": "--threads",
    "memory_limit": "--memory-limit",
    "spill_limit": "--spill-limit",
    "cache_mb": "--cache-mb",
    "drain_timeout_s": "--drain-timeout",
    "allowed_hosts": "--allow-host",
    "cors_origins": "--cors-origin",
    "ticket_key": "--ticket-key",
    "otlp": "--otlp",
    "trace_sample": "--trace-sample",
    "tls_client_ca": "--tls-client-ca",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "zmq_keys": "--zmq-keys",
    "audit_log": "--audit-log",
}
_OPTION: Final = re.compile(r"\b(?:" + "|".join(FLAGS) + r")\b")


@contextlib.contextmanager
def naming_flags(settings: SettledSettings | None = None) -> Iterator[None]:
    """An error that begins with an option's name is raised on with the flag's, or with what else has said it: the
    file's key, the variable. Others, which may be the user's own words, stay as they are."""
    try:
        yield
    except FlightserveError as error:
        if error.message.startswith("host "):
            error.message = f"{_named('--host', settings)}{error.message.removeprefix('host')}"
        elif _OPTION.match(error.message):
            error.message = _OPTION.sub(lambda found: _named(FLAGS[found[0]], settings), error.message)
        elif settings is not None:
            error.message = settings.placed(error.message)
        raise


def _named(flag: str, settings: SettledSettings | None) -> str:
    return flag if settings is None else settings.named(flag)
