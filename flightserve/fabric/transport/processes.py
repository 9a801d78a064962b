"""What the kernel says of another process, when the process itself says nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Fields of /proc/PID/stat behind the command, which may hold anything and ends with the last ")": proc(5).
_STATE = 0
_USER_TICKS = 11
_SYSTEM_TICKS = 12


# A process that does less than this share of a core's work does none of its own: Ray's threads in a child do 0.005.
BUSY_SHARE: Final = 0.05
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """A process at one moment. `stopped`: SIGSTOP or a debugger holds it. `ticks` of processor time it has used, all
    threads together; they do not grow while it is stopped or frozen."""

    stopped: bool
    ticks: int

    @property
    def cpu_s(self) -> float:
        """The same in seconds."""
        return self.ticks * _TICK_NS / 1e9


class Industry:
    """Whether a process that says nothing works all the same, by the ticks it has used since that began."""

    __slots__ = ("_ns", "_ticks")

    def __init__(self) -> None:
        self.rest()

    def rest(self) -> None:
        """It spoke."""
        self._ns = self._ticks = -1

    def busy(self, ticks: int, now_ns: int) -> bool:
        """By a look of now. The first one since it spoke gives it credit."""
        if self._ns < 0:
            self._ns, self._ticks = now_ns, ticks
            return True
        return (ticks - self._ticks) * _TICK_NS >= BUSY_SHARE * (now_ns - self._ns)


def look_at(pid: int) -> ProcessLook | None:
    """The process as it is now; None where there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    state = fields[_STATE]
    if state in b"ZX":
        return None
    return ProcessLook(state in b"Tt", int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS]))


# struct pidfd_info of linux/pidfd.h: a mask, a cgroup, eleven ids, the exit code (Linux 6.15).
_INFO: Final = struct.Struct("QQ11Ii")
_INFO_EXIT: Final = 1 << 3
# _IOWR(0xFF, 11, struct pidfd_info)
_GET_INFO: Final = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11


def how_it_ended(pidfd: int) -> str:
    """What ended a process that is gone, whoever its parent, for people. "" where the kernel does not say: it is older
    than Linux 6.15, or the process lives."""
    info = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return ""
    mask, *_, status = _INFO.unpack(info)
    if not mask & _INFO_EXIT:
        return ""
    if not os.WIFSIGNALED(status):
        return f"it ended itself with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"killed by {name}" + (", as the kernel does when memory is short" if name == "SIGKILL" else "")


def is_stopped(pid: int) -> bool:
    """True for a process that SIGSTOP or a debugger holds."""
    look = look_at(pid)
    return look is not None and look.stopped
