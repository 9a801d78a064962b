"""Processes that user code forks from a replica, as `multiprocessing` does: they end with it, whatever ends it.

Nobody else would end them, and what they hold of the replica (its memory, ports that the user's code opened) would stay
taken. `PR_SET_PDEATHSIG` is no way: it tells of the death of the thread that forked. So a thread in each of them waits
for the replica's end by a pidfd, which a fork inherits. A program that is started anew (`subprocess`) goes its own way.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
from typing import Final

_PIDFD: Final = "anon_inode:[pidfd]"


def end_with_this_process() -> None:
    """Call it once, in the replica's process, before user code runs."""
    pidfd = os.pidfd_open(os.getpid())
    os.register_at_fork(after_in_child=lambda: _watch(pidfd))


def _watch(pidfd: int) -> None:
    # Not one of `threading`'s: user code may count those. None can be had where this process ends already.
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(_end_with, (pidfd,))


def _end_with(pidfd: int) -> None:
    # Whoever makes a daemon of itself closes all descriptors, and the number is another file's then.
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/self/fd/{pidfd}").startswith(_PIDFD):
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if any(found & select.POLLIN for _, found in poll.poll()):
                os.kill(os.getpid(), signal.SIGKILL)
