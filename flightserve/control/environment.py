"""The environment variables of whoever serves or deploys, carried to the replicas that run the code.

Ray starts every worker with the environment that its raylet had: with a Ray of our own that of the first launch, in a
cluster that of whoever started the node. A class whose module reads `os.environ` is to see what its deployer saw, so
the deployer's variables travel with the deployment and take the place of the worker's before user code is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

from flightserve.control.names import APP_ID_VARIABLE

# What Ray (in drivers, too: PYTHONBREAKPOINT), the launcher and glibc's settings (`local_ray.MALLOC`) say of the
# process they are in, and the command's settings: never carried, and kept where it is.
_OF_THE_PROCESS: Final = ("RAY_", "MALLOC_", APP_ID_VARIABLE, "PYTHONBREAKPOINT", "FLIGHTSERVE_")
# The accelerators that Ray gave a worker, by the names their makers look for.
_ACCELERATORS: Final = frozenset(
    {
        "ASCEND_RT_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
        "HABANA_VISIBLE_MODULES",
        "HIP_VISIBLE_DEVICES",
        "NEURON_RT_VISIBLE_CORES",
        "ONEAPI_DEVICE_SELECTOR",
        "ROCR_VISIBLE_DEVICES",
        "TPU_VISIBLE_CHIPS",
    }
)
# Another terminal, another login or another test makes another of these, and no other replica.
_OF_THE_SHELL: Final = frozenset(
    {"_", "COLUMNS", "DISPLAY", "LINES", "OLDPWD", "PWD", "PYTEST_CURRENT_TEST", "SHLVL", "TERM", "WINDOWID"}
)
_OF_THE_LOGIN: Final = ("SSH_", "TERM_", "TMUX", "XDG_SESSION_", "DBUS_SESSION_")
THREADS_VARIABLE: Final = "OMP_NUM_THREADS"


def carried() -> dict[str, str]:
    """This process's variables, as a deployment takes them to its replicas."""
    return {name: value for name, value in sorted(os.environ.items()) if not _stays(name)}


def telling(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that make another version of what runs: not what differs from one terminal to the next."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _OF_THE_SHELL and not name.startswith(_OF_THE_LOGIN)
    }


def adopt(environment: Mapping[str, str], cpus: float) -> None:
    """Make these the variables of this process, beside what it says of itself. Numerical libraries get as many threads
    as the replica has `cpus` reserved, or, where it has none, all cores, as outside of flightserve; what the
    deployer set goes before."""
    for name in [name for name in os.environ if not _stays(name) and name not in environment]:
        del os.environ[name]
    os.environ.update(environment)
    if cpus >= 1:
        os.environ.setdefault(THREADS_VARIABLE, str(int(cpus)))
    _give_threads(os.environ.get(THREADS_VARIABLE, ""))
    time.tzset()


def _give_threads(wanted: str) -> None:
    """The same to libraries that this process has loaded already, with Ray's one thread: NumPy's and Arrow's."""
    import pyarrow as pa
    import threadpoolctl

    threads = int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))
    threadpoolctl.threadpool_limits(limits=threads)
    pa.set_cpu_count(threads)


def _stays(name: str) -> bool:
    return name in _ACCELERATORS or name.startswith(_OF_THE_PROCESS)
