"""What our processes are called in `ps`, `top` and Ray's lists: `flightserve: replica Pricing-0`.

Ray gives a worker another title before and after every method that it calls. Ours is set by the same function (a second
implementation would not find the memory that the first one took over), and Ray's own calls of it do nothing then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flightserve.core.lifecycle.reconciling import Slot

log = logging.getLogger("flightserve.control.titles")

SUPERVISOR: Final = "flightserve: supervisor"
# What the kernel calls the main thread, and how much of a name it takes, without the NUL.
_COMMAND: Final = Path("/proc/self/comm")
_COMMAND_BYTES_MAX: Final = 15
_set: Callable[[str], None] | None = None


def title_of(slot: Slot) -> str:
    """`flightserve: replica Pricing-0`, `flightserve: router 0`."""
    name = "-".join(part for part in (slot.deployment, str(slot.ordinal)) if part)
    return f"flightserve: {slot.tier} {name}"


def take_title(title: str) -> None:
    """Call this process, one of Ray's workers, so from now on. It keeps Ray's title where this Ray has no such
    function."""
    global _set
    from ray import _raylet

    if _set is None:
        if not hasattr(_raylet, "setproctitle"):
            log.debug("this Ray gives processes no titles")
            return
        _set, _raylet.setproctitle = _raylet.setproctitle, _keep
    _set(title)
    try:
        # The function names the calling thread; `top` shows the name of the main one.
        _COMMAND.write_bytes(title.encode()[:_COMMAND_BYTES_MAX])
    except OSError as error:
        # Sandboxes let nobody write there. A process without that name serves as well.
        log.debug("the main thread keeps its name: %s", error)


def _keep(_title: str) -> None:
    """In the place of Ray's function."""
