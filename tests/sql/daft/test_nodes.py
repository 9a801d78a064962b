"""Daft's processes on the nodes of a Ray. `make daft` runs it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest

from benchmarks import tpch
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import DeadlineExceeded
from flightserve.sql.daft.nodes import LEADERS, on_ray
from flightserve.sql.warehouse.limits import Limits
from tests.sql.daft.answers import Pair, ask, check, write_tpch
from tests.support import eventually

pytest.importorskip("daft", reason="the extra daft is not installed")
pytestmark = pytest.mark.ray

NODES: Final = 3
SLOW: Final = (
    "SELECT count(*) FROM lineitem a, lineitem b WHERE a.l_quantity = b.l_quantity AND a.l_comment || b.l_comment = 'x'"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """In a process of a Ray with several nodes, all on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 128 << 20})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1, object_store_memory=128 << 20)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    made = Pair(write_tpch(tmp_path_factory.mktemp("tpch")))
    yield made
    made.close()
    ray.shutdown()
    cluster.shutdown()


def processes() -> list[dict[str, Any]]:
    """Daft's on the nodes, that live."""
    from ray._private.state import actors

    return [
        each for each in actors().values() if each["ActorClassName"] == "RaySwordfishActor" and each["State"] == "ALIVE"
    ]


@pytest.mark.parametrize("number", [1, 3, 16, 18, 21])
def test_a_query_runs_on_all_nodes(pair: Pair, number: int) -> None:
    assert on_ray()
    check(pair, tpch.QUERIES[number], ordered=True)
    check(pair, "SELECT * FROM lineitem ORDER BY l_orderkey DESC, l_linenumber", ordered=True)
    assert len({each["Address"]["NodeID"] for each in processes()}) == NODES
    assert len(LEADERS._idle) == 1


def test_one_that_ends_before_its_time_takes_its_processes_along(pair: Pair) -> None:
    with pytest.raises(DeadlineExceeded):
        ask(pair.daft, SLOW, limits=Limits(monotonic_ns() + 2 * NS_PER_S))
    eventually(lambda: not processes(), what="Daft's processes end")
    assert not LEADERS._idle
    check(pair, tpch.QUERIES[6])


def test_processes_that_died_are_replaced(pair: Pair) -> None:
    check(pair, tpch.QUERIES[6])
    for each in processes():
        os.kill(each["Pid"], signal.SIGKILL)
    check(pair, tpch.QUERIES[6])
