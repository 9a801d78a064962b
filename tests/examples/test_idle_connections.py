"""Ten thousand clients that connect and say nothing, on each frontend of the served example: the good are served."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from tests.frontends.rpc_support import stream_of
from tests.served.callers import CALLERS

CONNECTIONS: Final = 10_000
# For all else that this process holds.
SPARE: Final = 500
ROWS: Final = pa.record_batch({"origin": ["EWR"], "dest": ["IAH"], "air_time": pa.array([227], pa.int32())})


@pytest.fixture(scope="module")
def connections() -> Iterator[int]:
    """How many this process may open, with all the descriptors it is granted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(CONNECTIONS, hard - SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def silent(address: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    parts = urlsplit(address if "//" in address else f"tcp://{address}")
    assert parts.port is not None
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((parts.hostname or "", parts.port), 20)) for _ in range(count)
        ]


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_row_19_ten_thousand_idle_connections(
    flights_addresses: dict[str, str], connections: int, protocol: str
) -> None:
    with silent(flights_addresses[protocol], connections), CALLERS[protocol](flights_addresses) as caller:
        for _ in range(3):
            answer = caller.call("distance", stream_of(ROWS), "Flights")
            assert answer.code == "OK", answer
            assert answer.rows is not None
            assert answer.rows.num_rows == 1
