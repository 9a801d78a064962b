"""A process that may have few file descriptors: idle connections make room for new clients, and the log says so."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

# Serves HTTP in a process that may have 200 files, until its standard input ends.
SERVER = """
import logging, resource, sys
from flightserve.config import FrontendOptions
from flightserve.fabric.transport import descriptors
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.control.pricing import app

resource.setrlimit(resource.RLIMIT_NOFILE, (150, 200))
descriptors.use_all()
logging.basicConfig(stream=sys.stderr, format="%(message)s")
with LocalService(app) as service:
    options = FrontendOptions(http_port=0, grpc_port=None, flight_port=None, zmq_port=None)
    host = FrontendHost(service, options, Metrics())
    print(host.start()["http"], flush=True)
    sys.stdin.read()
    host.stop()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_idle_connections_make_room_where_file_descriptors_are_few() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=Path.cwd(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    answers = []
    try:
        with contextlib.ExitStack() as held:
            for number in range(400):
                held.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10))
                if number % 20 == 19:
                    with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
                        answers.append(answer.status)
    finally:
        limit, said = server.communicate(timeout=60)
    assert answers == [200] * 20
    assert limit.strip() == "200"
    assert len([line for line in said.splitlines() if "file descriptors run short, of the 200" in line]) == 1
