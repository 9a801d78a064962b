"""What else goes on on this machine, and what it is like: for who may keep a core from others (`spinning`).

All of it takes some 100 us to be found, so it is asked for seldom.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flightserve.core.overload.staying_awake import Surroundings

_GROUPS: Final = Path("/sys/fs/cgroup")
# Of version 1, the folder of what shares out the cores; of 2 there is one for all.
_OF_CORES: Final = "cpu"
_NAP_NS: Final = 20_000
_NAPS: Final = 3


def look_around() -> Surroundings:
    """What goes on now. What the kernel does not say is 0."""
    return Surroundings(_runnable(), sum(map(_throttled, groups(_own_groups()))))


def wake_up_ns() -> int:
    """What it costs this thread now to block and be woken: how late short sleeps end, at the best of some, because
    what makes them later is others' work. Takes about 100 us."""
    slack = Path(f"/proc/{threading.get_native_id()}/timerslack_ns")
    with contextlib.suppress(OSError):
        # Else the kernel may be late by 50 us, to wake several at once.
        slack.write_text("1")
    try:
        return min(_nap_late_ns() for _ in range(_NAPS))
    finally:
        with contextlib.suppress(OSError):
            slack.write_text("0")


def _nap_late_ns() -> int:
    begun_ns = time.monotonic_ns()
    time.sleep(_NAP_NS / 1e9)
    return time.monotonic_ns() - begun_ns - _NAP_NS


def _runnable() -> int:
    """Threads that run or wait for a core, of the whole machine: the fourth of /proc/loadavg's fields."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, IndexError, ValueError):
        return 0


def _own_groups() -> str:
    try:
        # A group's name may be any bytes.
        return Path("/proc/self/cgroup").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def groups(text: str) -> Iterator[Path]:
    """The cgroups that a process is in by its /proc/PID/cgroup, with those above: each may have a quota. Some may not
    be there: what a container is told of its groups may be their names outside."""
    for line in text.split("\n"):
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if not name or (controllers and _OF_CORES not in controllers.split(",")):
            continue
        top = _GROUPS / (_OF_CORES if controllers else "")
        group = top / name.lstrip("/")
        yield group
        while group != top:
            group = group.parent
            yield group


def _throttled(group: Path) -> int:
    try:
        lines = (group / "cpu.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("nr_throttled "))
