"""The deployer's environment variables in a replica's process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import threadpoolctl

from flightserve.control import environment
from flightserve.control.names import APP_ID_VARIABLE


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """`adopt` may change all of it."""
    before = dict(os.environ)
    cores = pa.cpu_count()
    yield
    pa.set_cpu_count(cores)
    os.environ.clear()
    os.environ.update(before)
    time.tzset()


def test_a_replica_has_its_deployers_variables_and_what_ray_says_of_its_process() -> None:
    os.environ.clear()
    os.environ |= {"MODEL": "v1", "GONE": "x", "RAY_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0", APP_ID_VARIABLE: "me"}
    environment.adopt({"MODEL": "v2"}, cpus=0)
    assert dict(os.environ) == {
        "MODEL": "v2",
        "RAY_JOB_ID": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        APP_ID_VARIABLE: "me",
    }


def test_nothing_that_is_said_of_a_process_is_carried() -> None:
    os.environ.clear()
    os.environ |= {"MODEL": "v2", "RAY_ADDRESS": "here", "MALLOC_ARENA_MAX": "4", "CUDA_VISIBLE_DEVICES": "1"}
    assert environment.carried() == {"MODEL": "v2"}


@pytest.mark.parametrize(
    ("given", "cpus", "threads"),
    [({}, 0, None), ({}, 0.5, None), ({}, 3.5, "3"), ({"OMP_NUM_THREADS": "7"}, 2, "7")],
)
def test_numerical_libraries_get_the_cores_that_are_reserved(
    given: dict[str, str], cpus: float, threads: str | None
) -> None:
    os.environ[environment.THREADS_VARIABLE] = "1"  # as Ray sets it for whoever reserves none
    with threadpoolctl.threadpool_limits(limits=1):
        environment.adopt(given, cpus)
        pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    assert os.environ.get(environment.THREADS_VARIABLE) == threads
    assert np.zeros(1).size == 1, "NumPy's library is loaded"
    assert {pa.cpu_count()} == pools == {int(threads or len(os.sched_getaffinity(0)))}


def test_another_terminal_makes_no_other_version_and_another_variable_does() -> None:
    one = {"MODEL": "v1", "TERM": "xterm", "SHLVL": "1", "SSH_CLIENT": "a", "_": "/bin/flightserve"}
    other = {"MODEL": "v1", "TERM": "screen", "COLUMNS": "80"}
    assert environment.telling(one) == environment.telling(other)
    assert environment.telling(one) != environment.telling(other | {"MODEL": "v2"})


def test_the_time_zone_is_taken_up() -> None:
    environment.adopt({"TZ": "Asia/Kolkata"}, cpus=0)
    assert time.timezone == -19_800
