"""What the kernel says that a process took: processor time and memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """Processor seconds of a process since its start, the user's and the kernel's."""

    user_s: float
    system_s: float

    @classmethod
    def of(cls, pid: int) -> Used:
        """By /proc/PID/stat, also of threads that ended. Raises OSError when the process is gone."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls(int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S)

    def since(self, before: Used) -> Used:
        """What was used after `before`."""
        return Used(self.user_s - before.user_s, self.system_s - before.system_s)


def threads_ns(pid: int) -> dict[int, int]:
    """Processor time of each thread of a process in ns, as the kernel's scheduler counts it."""
    found: dict[int, int] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        # A thread may end meanwhile.
        with contextlib.suppress(OSError):
            found[int(task.parent.name)] = int(task.read_text().split()[0])
    return found


def pss_mb(pid: int) -> float:
    """Proportional set size in MB; raises OSError when the process is gone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
