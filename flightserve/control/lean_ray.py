"""What is replaced in Ray while it starts for us: it has no options for these.

Each is a context around `ray.init`, and all is as it was after it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

AGENTS: Final = frozenset({"dashboard_agent", "runtime_env_agent"})
AGENT: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("agents.py")))
REGISTER_S: Final = 10.0
POLL_S: Final = 0.01


@contextlib.contextmanager
def replaced(owner: Any, **others: Any) -> Iterator[None]:
    """Within it, the owner has these attributes."""
    before = {name: getattr(owner, name) for name in others}
    for name, other in others.items():
        setattr(owner, name, other)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Ray's own ports run what they are sent, and are nobody's business outside this machine. Ray takes loopback
    for its address only where it believes in no clusters, which can be said by its private names alone (of
    `_node_ip_address` it makes an outer address again). It then asks no outer address which interface leads
    there, either, and prints no warning where none does."""
    from ray._private import ray_constants

    with replaced(ray_constants, ENABLE_RAY_CLUSTER=False):
        yield


@contextlib.contextmanager
def only_what_is_needed() -> Iterator[None]:
    """Ray starts an autoscaler, which has nothing to scale on one machine, and the server of its dashboard, without the
    dashboard (usage statistics are off): two Python processes of 48 MB each, for the second of which `ray.init` waits,
    and a sixth of the processor time that a start takes. Of the raylet's two agents one is of use to the dashboard
    alone, the other where somebody has a runtime environment (`agents.py`); Ray imports a web server (0.1 s) to learn
    how the first could be started. What is written we read ourselves (`tailing.py`)."""
    from ray._private import services, utils
    from ray._private.node import Node

    python = services._build_python_executable_command_memory_profileable

    def python_for(process: str, *given: Any, **named: Any) -> list[str]:
        return list(AGENT) if process in AGENTS else python(process, *given, **named)

    def nothing(node: Node, **_: Any) -> None:
        """Not started."""

    with (
        replaced(Node, start_monitor=nothing, start_log_monitor=nothing, start_api_server=nothing),
        replaced(services, _build_python_executable_command_memory_profileable=python_for),
        replaced(utils, get_dashboard_dependency_error=lambda: ImportError("there is no dashboard")),
    ):
        yield


@contextlib.contextmanager
def seen_at_once() -> Iterator[None]:
    """Ray asks for the raylet 0.1 s after it began, and if it is not there yet, a second later. Here it asks when it is
    there."""
    from ray._private import services
    from ray._private.state import GlobalState

    def get_node(gcs_address: str, node_id: str) -> Any:
        state = GlobalState()
        state._initialize_global_state(services._get_gcs_client_options(gcs_address))
        end = time.monotonic() + REGISTER_S
        while time.monotonic() < end and all(node["NodeID"] != node_id for node in state.node_table()):
            time.sleep(POLL_S)
        return state.get_node(node_id)

    with replaced(services, get_node=get_node):
        yield
