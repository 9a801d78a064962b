"""Stands in for one of the two agents of a raylet: run as `python -I -S agents.py SCRIPT ARGUMENT...`.

Nobody here asks the dashboard's agent anything, since there is no dashboard. The one that makes runtime environments is
started by the first connection to its port: it then takes this process's place, and Ray asks again. Each of them costs
half a second of processor time and 60 MB, and the raylet waits for both when it starts. This imports nothing but the
standard library.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
UNUSED = -1
OF_ENVIRONMENTS = "runtime_env_agent_port"
# What the raylet waits for, a file each; it takes this for "there is none".
OF_THE_DASHBOARD = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")


def main() -> None:
    """End with the raylet, or become the agent."""
    command = sys.argv[1:]
    options = dict(each[2:].split("=", 1) for each in command if each.startswith("--") and "=" in each)
    try:
        raylet = os.pidfd_open(int(os.environ["RAY_RAYLET_PID"]))
    except ProcessLookupError:
        return
    if "runtime-env-agent-port" not in options:
        for name in OF_THE_DASHBOARD:
            tell(options, name, UNUSED)
        select.select([raylet], [], [])
        return
    with socket.create_server((LOOPBACK, int(options["runtime-env-agent-port"]))) as listener:
        port = listener.getsockname()[1]
        tell(options, OF_ENVIRONMENTS, port)
        if raylet in select.select([raylet, listener.fileno()], [], [])[0]:
            return
    os.execv(sys.executable, [sys.executable, "-u", *command, f"--runtime-env-agent-port={port}"])


def tell(options: dict[str, str], name: str, port: int) -> None:
    """Write the port where the raylet looks for it, at once as a whole."""
    path = Path(options["session-dir"], f"{name}_{options['node-id']}")
    written = path.with_name(f"{path.name}.written")
    written.write_text(str(port))
    written.rename(path)


if __name__ == "__main__":
    main()
