"""What the kernel says of another process, when the process itself says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Fields of /proc/PID/stat behind the command, which may hold anything and ends with the last ")": proc(5).
_STATE = 0
_USER_TICKS = 11
_SYSTEM_TICKS = 12


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """A process at one moment. `stopped`: SIGSTOP or a debugger holds it. `ticks` of processor time it has used, all
    threads together; they do not grow while it is stopped or frozen."""

    stopped: bool
    ticks: int


def look_at(pid: int) -> ProcessLook | None:
    """The process as it is now; None where there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state = fields[_STATE]
    if state in "ZX":
        return None
    return ProcessLook(state in "Tt", int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS]))


def is_stopped(pid: int) -> bool:
    """True for a process that SIGSTOP or a debugger holds."""
    look = look_at(pid)
    return look is not None and look.stopped
