"""Slower machines: by as much as was asked, and only while it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.slower.sitecustomize import LOOPS, profile
from benchmarks.slowing import SlowingFailed, loops_for, own_group, slowed, slower
from flightserve.cli.main import make_parser
from flightserve.cli.settings.known import read_settings
from flightserve.cli.settings.variables import read_variables

# Says how many loops the thread of a process, and one that it starts, have to take.
ASK = """
import sys, threading
def found():
    waste = sys.getprofile()
    return None if waste is None else waste.__name__
of_thread = []
thread = threading.Thread(target=lambda: of_thread.append(found()))
thread.start(); thread.join()
print(found(), *of_thread)
"""


def asked() -> str:
    return subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.strip()


def test_all_threads_of_processes_that_are_started_meanwhile_are_slower() -> None:
    before = dict(os.environ)
    with slower(8):
        assert int(os.environ[LOOPS]) > 0
        assert asked() == "waste waste"
    assert dict(os.environ) == before
    assert asked() == "None None"


def test_what_makes_it_slower_is_no_setting_of_the_command() -> None:
    known = read_settings(make_parser())
    before = read_variables(os.environ, known)
    with slower(8):
        assert read_variables(os.environ, known) == before


def test_what_is_measured_leaves_this_process_as_it_was() -> None:
    found = sys.getprofile()
    assert loops_for(16) > loops_for(8) > 0
    assert sys.getprofile() is found


def test_less_than_can_be_added_is_refused() -> None:
    with pytest.raises(SlowingFailed, match="--slower 1"):
        loops_for(1.0)


def test_the_least_is_a_function_that_does_nothing() -> None:
    assert profile(0).__name__ == "least"
    assert profile(1).__name__ == "waste"


def test_a_share_that_no_cgroup_gives_is_refused() -> None:
    with pytest.raises(SlowingFailed, match="--slowed"), slowed(1e-9):
        pytest.fail("it is not refused")


def may_slow() -> bool:
    try:
        return os.access(own_group(), os.W_OK)
    except SlowingFailed:
        return False


needs_groups = pytest.mark.skipif(not may_slow(), reason="no cgroup that we may make")


@needs_groups
def test_slowed_processes_get_their_share_of_a_core() -> None:
    begun = time.monotonic()
    used = time.process_time()
    with slowed(0.2 / len(os.sched_getaffinity(0))):
        while time.process_time() - used < 0.05:
            pass
    # A fifth of one core: 50 ms take five times as long, and longer where others want it.
    assert time.monotonic() - begun > 0.15
    assert Path("/proc/self/cgroup").read_text().count("flightserve-bench") == 0


@needs_groups
def test_who_does_not_end_in_time_is_taken_along() -> None:
    with slowed(0.5):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        groups = Path(f"/proc/{child.pid}/cgroup")
        assert "flightserve-bench" in groups.read_text()
    assert child.poll() is None and "flightserve-bench" not in groups.read_text()
    child.communicate(b"\n")
