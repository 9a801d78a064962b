"""The Ray that this process started or connected to, for as many apps as it serves: a process can be connected to one.

The last app that stops ends it. A Ray that the program itself is connected to is the program's to end.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flightserve import threads
from flightserve.control.carrying import ask_again, carry_logs, carry_logs_beside
from flightserve.errors import Unavailable

if TYPE_CHECKING:
    from flightserve.control.local_ray import LocalRay

log = logging.getLogger("flightserve.control.shared_ray")

SAID_CHARACTERS_MAX: Final = 300
_BUSY: Final = "if the machine is busy, or short of memory or disk, try again when it is not"

_lock = threading.Lock()
_held: Held | None = None


@dataclass(slots=True, eq=False)
class Held:
    """A Ray that we end. `address` is that of one we only connected to."""

    local: LocalRay | None
    address: str | None
    apps: int = 1
    # Nobody has it any more.
    ended: threading.Event = field(default_factory=threading.Event)

    def lost(self) -> str:
        """Which of the processes that Ray cannot be without died, as far as we see it."""
        return self.local.lost() if self.local is not None else ""

    def tend(self) -> None:
        """Now and then: put back what can be put back."""
        if self.local is not None:
            self.local.tend()


def load() -> None:
    """Import Ray, which takes seconds. It would stamp every record of the program's log."""
    factory = logging.getLogRecordFactory()
    import ray  # noqa: F401

    logging.setLogRecordFactory(factory)


def hold(app_id: str, address: str | None) -> Held | None:
    """Start or connect to a Ray, or take the one that is there; None where that is the program's. Raises Unavailable
    where it is another one than `address` asks for, and what connecting raises."""
    global _held  # noqa: PLW0603 - a process is connected to one Ray
    import ray

    with _lock:
        if not ray.is_initialized():
            _held = _begin(app_id, address)
            return _held
        held = _held
        if held is None:
            carry_logs_beside()
            return None
        if lost := held.lost():
            raise Unavailable(f"{lost}; stop what this program serves before it serves more")
        if address not in (None, held.address):
            which = f"the Ray at {held.address}" if held.address else "a Ray of its own"
            raise Unavailable(f"this program serves from {which} already, and cannot from the Ray at {address} as well")
        held.apps += 1
        return held


def release(held: Held) -> None:
    """One app less; the last one ends the Ray."""
    global _held  # noqa: PLW0603
    import ray

    with _lock:
        held.apps -= 1
        if held.apps:
            return
        held.ended.set()
        if held is not _held:
            # The program ended that Ray itself, and there is another one by now.
            if held.local is not None:
                held.local.folder.remove()
            return
        _held = None
        if held.local is not None:
            held.local.stop()
        else:
            ray.shutdown()


def _begin(app_id: str, address: str | None) -> Held:
    from flightserve.control import addresses
    from flightserve.control.local_ray import LocalRay

    if address is not None:
        addresses.connect(address)
        carry_logs()
        held = Held(None, address)
        threads.start("flightserve-lines", lambda: ask_again(held.ended), held.ended.is_set, tell=log.error)
        return held
    local = LocalRay(app_id)
    try:
        local.start()
    except Exception as error:  # whatever Ray raises
        local.stop()
        raise Unavailable(f"Ray does not start: {_explain(error)}; {_BUSY}") from error
    except BaseException:
        local.stop()
        raise
    return Held(local, None)


def _explain(error: Exception) -> str:
    """Ray says much, over many lines, with colours."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()) or type(error).__name__
    return text[:SAID_CHARACTERS_MAX].rstrip(".")
