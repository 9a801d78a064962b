"""TLS for Flight. pyarrow's server reads a certificate once, when it begins to listen.

So a new certificate is taken up by another server on the same port, which has all that the old one has but its gRPC:
the old one stops listening, what runs on its connections goes on to its end, and the next one listens. In between are
some milliseconds in which a client that comes is turned away (UNAVAILABLE; CANCELLED where its call had come and no
thread of the old one had taken it), and comes again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import pyarrow as pa

from flightserve import threads
from flightserve.frontends.certificates import Certificate

log = logging.getLogger("flightserve.tls")

# Old servers whose streams have not ended. With so many, the next certificate waits for the one after it.
GOING_MAX: Final = 8
# How long the port may take to be free, which is a matter of milliseconds, and how often it is tried.
FREE_S: Final = 10.0
TRY_S: Final = 0.001


class Listening(Protocol):
    """pyarrow's server, as far as it matters here."""

    def shutdown(self) -> None:
        """Listen no more, and wait for what runs."""
        ...


S = TypeVar("S", bound=Listening)


def tls_arguments(certificate: Certificate | None) -> dict[str, Any]:
    """What pyarrow's server is told, by its names. It takes TLS 1.2 and 1.3."""
    if certificate is None:
        return {}
    return {
        "tls_certificates": [(certificate.chain, certificate.key)],
        "verify_client": bool(certificate.client_ca),
        "root_certificates": certificate.client_ca,
    }


class Successions:
    """Old servers, whose streams end. One thread at a time."""

    def __init__(self) -> None:
        self._going: list[threading.Thread] = []

    def succeed(self, before: S, make: Callable[[], S]) -> S:
        """The server that listens from now on, in place of `before`: another one, or the same where too many go
        already. The process is lost where nobody can listen any more."""
        self._going = [each for each in self._going if each.is_alive()]
        if len(self._going) >= GOING_MAX:
            told = "Flight keeps its certificate: %d that it had before have streams that do not end"
            log.warning(told, len(self._going))
            return before
        self._going.append(threads.start("flightserve-flight-going", before.shutdown, lambda: True))
        pause, error = threading.Event(), ""
        for _ in range(int(FREE_S / TRY_S)):
            try:
                return make()
            except (pa.ArrowException, OSError) as failed:
                error = str(failed)
                pause.wait(TRY_S)
        threads.lost(f"Flight cannot listen with its new certificate: {error}")
        return before
