"""Processes whose Python is slower: by as much as was asked, and only while it is asked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.slower.sitecustomize import profile
from benchmarks.slowing import LOOPS, TooFine, loops_for, slower

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


def test_what_is_measured_leaves_this_process_as_it_was() -> None:
    found = sys.getprofile()
    assert loops_for(16) > loops_for(8) > 0
    assert sys.getprofile() is found


def test_less_than_can_be_added_is_refused() -> None:
    with pytest.raises(TooFine, match="--slower 1"):
        loops_for(1.0)


def test_the_least_is_a_function_that_does_nothing() -> None:
    assert profile(0).__name__ == "least"
    assert profile(1).__name__ == "waste"
