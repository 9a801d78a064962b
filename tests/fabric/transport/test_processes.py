"""What the kernel says of processes that are gone."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from flightserve.fabric.transport.processes import how_it_ended, look_at

# PIDFD_GET_INFO tells of exits since then.
SAYS = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL, as the kernel does when memory is short"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os._exit(3)", "it ended itself with status 3"),
        ("pass", "it ended itself with status 0"),
    ],
)
def test_what_ended_a_process_is_told_where_the_kernel_knows(code: str, told: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import os; input(); {code}"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(child.pid)
    try:
        assert how_it_ended(pidfd) == ""
        child.communicate(b"\n", timeout=60)
        assert select.select([pidfd], [], [], 60)[0]
        assert how_it_ended(pidfd) == (told if SAYS else "")
    finally:
        os.close(pidfd)


def test_a_process_may_have_any_bytes_for_its_name() -> None:
    """It may call itself what it likes, and a name that the kernel cuts may be cut within a letter."""
    code = "open('/proc/self/comm', 'wb').write(b'a) R\\xff\\xc3'); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    look = look_at(child.pid)
    child.communicate(b"\n", timeout=60)
    assert look is not None
    assert not look.stopped
    assert look.cpu_s > 0
    assert look_at(child.pid) is None
