"""File descriptors, of which the kernel gives a process so many: a bound on connections beside `EdgeLimits`.

The lowest free number is given first, so the number of a new one tells how many are held at least. Where they run short
idle connections make room, and the log says so; at the very limit the event loop would reset whoever connects.
"""

from __future__ import annotations

import logging
import os
import resource
from typing import Final

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.log_throttle import LogThrottle

log = logging.getLogger("flightserve.fabric.transport.descriptors")

# Kept for what is under way: bursts of connections, segments, channels to routers.
RESERVE: Final = 128
RESERVE_SHARE: Final = 4
LOOK_S: Final = 1.0
_telling = LogThrottle(30 * NS_PER_S)


def use_all() -> None:
    """As many as this process may have at all, not only as many as a program is given at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.info("the limit of open files stays %d: %s", soft, error)


def short(descriptor: int) -> bool:
    """Whether one that was just given is among the last."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptor < most - min(RESERVE, most // RESERVE_SHARE):
        return False
    if _telling.count(monotonic_ns()):
        advice = "idle HTTP connections make room for new ones; raise the hard limit (ulimit -Hn) to have more"
        log.warning("file descriptors run short, of the %d that this process may have: %s", most, advice)
    return True


def look() -> None:
    """Now and then: connections that others than HTTP take in are told of as well."""
    try:
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        short(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        return
    os.close(descriptor)
    short(descriptor)
