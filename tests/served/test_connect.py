"""`fs.connect`: the same calls by memory and over Flight, with the same answers; nothing stays of a client."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.client.blocking import Client
from flightserve.errors import SchemaMismatch, TooLarge
from tests.columns import columns
from tests.control.served import Served
from tests.served.serve import FABRIC, LIMITS
from tests.support import eventually

ROWS = pa.table({"a": [1, 2, 3]})
PID_FIRST = """
import sys, flightserve as fs
client = fs.connect(sys.argv[1], way=sys.argv[2])
print(client.Probe.identity({"a": [1]}), flush=True)
client.Probe.never({"a": [1]}, timeout_s=60)
"""

FORKS = """
import multiprocessing, sys, flightserve as fs
client = fs.connect(sys.argv[1], way=sys.argv[2])

def call(number):
    try:
        return client.Probe.identity({"a": number})["a"]
    except RuntimeError as error:
        return "gRPC does not go on" in str(error)

if __name__ == "__main__":
    print(client.Probe.identity({"a": 1})["a"])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(call, [5, 6]), client.Probe.identity({"a": 7})["a"])
"""


@pytest.fixture(params=["memory", "flight"])
def client(request: pytest.FixtureRequest, system: Served) -> Iterator[Client]:
    with fs.connect(system.addresses["flight"], way=request.param) as client:
        yield client


def statistic(system: Served, child: str, name: str) -> float:
    return system.child(child).statistics.get(name, 0.0)


def test_by_memory_where_that_can_be(system: Served) -> None:
    with fs.connect(system.addresses["flight"]) as client:
        assert client.way == "memory"
    with fs.connect(system.addresses["flight"].replace("127.0.0.1", "localhost")) as client:
        assert client.way == "memory"


GIVEN: list[Any] = [
    pa.record_batch({"a": [1, 2, 3]}),
    ROWS,
    pa.table({"a": pa.chunked_array([[1], [2, 3]], pa.int64())}),
    ROWS.slice(0, 0),
    {"a": [1, 2]},
    [{"a": 1}, {"a": 2}],
    {"a": 1},
    [{"a": i} for i in range(5000)],
]


def test_an_answer_is_of_the_kind_that_was_given(client: Client) -> None:
    for given in GIVEN:
        for method in (client.Probe.identity, client.Probe.typed):
            answer = method(given)
            assert type(answer) is type(given)
            assert answer == given


def test_frames_and_arrays(client: Client) -> None:
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    pd.testing.assert_frame_equal(client.Probe.identity(frame), frame)
    polar = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert client.Probe.identity(polar).equals(polar)
    assert client.Probe.identity({"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert client.Probe.identity(frame, as_="rows") == [{"a": 1}, {"a": 2}]
    assert client.Probe.identity(polar.lazy().collect(), as_="table").column_names == ["a", "b"]


def test_columns_of_every_type(client: Client) -> None:
    """In answers that hold others of a stream as well, and in a table with all."""
    for name, column in columns().items():
        batch = pa.record_batch({name: column})
        assert client.Probe.identity(batch).equals(batch), name
        assert [answer.equals(batch) for answer in client.Probe.identity(iter([batch, batch]))] == [True, True], name


def test_names(client: Client) -> None:
    assert {"Chain", "Narrow", "Probe"} <= set(client.deployments())
    assert {"Chain", "Narrow", "Probe", "close"} <= set(dir(client))
    assert {"identity", "typed"} <= set(dir(client.Probe))
    assert "Probe" in repr(client)
    assert "identity" in repr(client.Probe)
    assert client["Probe"]["identity"](ROWS) == ROWS
    assert "One column of int64, checked." in client.Probe.typed.__doc__
    assert "takes a: int64" in client.Probe.typed.__doc__
    with pytest.raises(AttributeError, match="did you mean 'Probe'"):
        client.Prob  # noqa: B018
    with pytest.raises(fs.NotFound, match="did you mean 'identity'"):
        client.Probe.identiti  # noqa: B018
    assert not hasattr(client, "_repr_html_")
    with pytest.raises(TypeError, match=r"call one of its methods, .*client\.Probe\.identity\(rows\)"):
        client.Probe(ROWS)


def test_errors_are_of_their_classes_and_name_the_request(client: Client) -> None:
    with pytest.raises(fs.MethodFailed, match="ValueError: boom") as failed:
        client.Probe.boom(ROWS, request_id="mine-1")
    assert failed.value.request_id == "mine-1"
    with pytest.raises(SchemaMismatch, match="does not take these columns: missing 'a'; unexpected 'b'"):
        client.Probe.typed({"b": [1]})
    with pytest.raises(fs.MethodFailed, match="4"):
        client.Probe.longer(ROWS)
    with pytest.raises(fs.DeadlineExceeded) as late:
        client.Probe.never(ROWS, timeout_s=0.3)
    assert late.value.request_id
    with pytest.raises(TooLarge, match=str(LIMITS.body_bytes_max)):
        client.Probe.identity({"a": np.zeros(LIMITS.body_bytes_max // 8 + 1)})
    with pytest.raises(fs.InvalidArgument, match="priority is 11"):
        client.Probe.identity(ROWS, priority=11)
    assert client.Probe.identity(ROWS, priority=9, timeout_s=5) == ROWS


def test_what_is_said_beside_the_rows(client: Client) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    traced = {"traceparent": trace, "tracestate": "a=1, b=2"}
    told = client.Probe.told({"a": 1}, timeout_s=9, priority=7, request_id="mine-3", request_key="k", **traced)
    assert 5 < told.pop("left_s") <= 9
    assert told == {"priority": 7, "id": "mine-3", "trace": trace, "state": "a=1,b=2"}
    (answer,) = client.Probe.told.map([{"a": 1}], priority=2, timeout_s=9, traceparent="no trace", tracestate="a=1")
    assert 5 < answer["left_s"] <= 9
    assert (answer["priority"], answer["trace"], answer["state"]) == (2, "", "")


def test_parts_come_as_they_are_made(client: Client) -> None:
    assert list(client.Probe.pieces({"a": [1, 2, 3]})) == [{"a": [1]}, {"a": [2]}, {"a": [3]}]
    assert client.Probe.pieces(ROWS).read_all() == ROWS
    with client.Probe.large({"a": [100_000]}, as_="table") as parts:
        assert next(parts).num_rows == 32_768
    # The app gives the rest up, which the check after each test looks for.
    with pytest.raises(StopIteration):
        next(parts)


def test_a_generator_of_batches(client: Client) -> None:
    answers = client.Probe.identity({"a": [i]} for i in range(200))
    assert [answer["a"][0] for answer in answers] == list(range(200))
    assert list(client.Probe.identity.map([], as_="rows")) == []


def test_answers_of_a_stream_do_not_wait_for_its_end(client: Client) -> None:
    more = threading.Semaphore(1)

    def slowly() -> Iterator[Any]:
        for i in range(3):
            assert more.acquire(timeout=20)
            yield {"a": [i]}

    for place, answer in enumerate(client.Probe.identity(slowly())):
        assert answer == {"a": [place]}
        more.release()


def test_a_stream_that_fails_says_so_after_the_answers_before(client: Client) -> None:
    def broken() -> Iterator[Any]:
        yield {"a": [1]}
        raise KeyError("mine")

    answers = client.Probe.identity(broken())
    assert next(answers) == {"a": [1]}
    with pytest.raises(KeyError, match="mine"):
        next(answers)
    values = client.Probe.picky({"a": [i]} for i in (1, 2, -3, 4))
    assert [next(values), next(values)] == [{"a": [1]}, {"a": [2]}]
    with pytest.raises(fs.MethodFailed, match="no negative values"):
        next(values)
    early = client.Probe.identity.map(({"a": [i]} for i in range(10_000)), window=3)
    next(early)
    early.close()


def test_pandas_is_there_before_the_first_rows(client: Client) -> None:
    assert client.Narrow.warm({"a": [1]}) == {"a": [1]}


def test_a_full_queue_is_tried_again(client: Client) -> None:
    """Six at once for three places: all are served in the end, and one that may not be tried again is told."""
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(client.Narrow.slowly, {"a": [50]}, retries=50, timeout_s=20) for _ in range(6)]
        assert [each.result() for each in asked] == [{"a": [50]}] * 6
        slow = [pool.submit(client.Narrow.slowly, {"a": [500]}, retries=0) for _ in range(6)]
        errors = [each.exception() for each in slow]
    assert {type(error) for error in errors} == {type(None), fs.ResourceExhausted}


def test_what_may_have_run_is_not_run_again(client: Client, system: Served, resting: Any) -> None:
    pids = {resting.pid(name): name for name in ("replica-Probe-0", "replica-Probe-1")}
    with pytest.raises(fs.Unavailable, match="not idempotent"):
        client.Probe.exits(ROWS)
    assert client.Probe.identity(ROWS) == ROWS
    left = {client.Probe.where(ROWS, as_="columns")["a"][0] for _ in range(6)}
    (gone,) = [name for pid, name in pids.items() if pid not in left]
    resting.replaced(gone)


@pytest.mark.parametrize("way", ["memory", "flight"])
def test_what_streams_holds_its_client(way: str, system: Served) -> None:
    """One that nobody holds is closed; who reads on does."""

    def let_go() -> None:
        gc.collect()
        for each in threading.enumerate():
            if each.name == "flightserve-client-end":
                each.join(10)

    parts = fs.connect(system.addresses["flight"], way=way).Probe.large({"a": [100]}, as_="table")
    let_go()
    assert sum(part.num_rows for part in parts) == 100 * 32_768
    answers = fs.connect(system.addresses["flight"], way=way).Probe.identity({"a": [i]} for i in range(10))
    assert next(answers) == {"a": [0]}
    let_go()
    assert len(list(answers)) == 9


def test_a_stream_that_nobody_reads_is_not_begun(client: Client) -> None:
    taken: list[int] = []
    client.Probe.identity({"a": [taken.append(i)]} for i in range(10))
    client.Probe.identity.map({"a": [taken.append(i)]} for i in range(10))
    gc.collect()
    assert not [each for each in threading.enumerate() if each.name == "flightserve-client-feed"]
    assert not taken


def test_threads_share_a_client(client: Client) -> None:
    def call(number: int) -> bool:
        return all(client.Probe.identity({"a": [number, i]}) == {"a": [number, i]} for i in range(20))

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(call, range(5)))


def test_answers_that_are_kept_stay_as_they_were_and_take_no_memory_from_others(client: Client) -> None:
    """Three times what one process of the app may have in all."""
    rows = np.arange(LIMITS.body_bytes_max // 16)
    count = 3 * FABRIC.memory_bytes_max // rows.nbytes
    kept = [client.Probe.identity({"a": rows + i}, as_="table", timeout_s=5) for i in range(count)]
    client.close()
    assert all(table["a"][0].as_py() == i and table["a"][-1].as_py() == rows[-1] + i for i, table in enumerate(kept))


def test_a_closed_client(client: Client, system: Served) -> None:
    method = client.Probe.never
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(method, ROWS, timeout_s=60)
        eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 1)
        client.close()
        with pytest.raises((fs.Unavailable, fs.Cancelled, RuntimeError)):
            running.result(20)
    with pytest.raises(RuntimeError, match="the client is closed"):
        method(ROWS)
    client.close()
    assert "closed" in repr(client)


def test_parts_of_a_closed_client(client: Client) -> None:
    parts = client.Probe.large({"a": [100_000]}, as_="table")
    next(parts)
    client.close()
    with pytest.raises((fs.Unavailable, fs.Cancelled)):
        list(parts)


@pytest.mark.parametrize("way", ["memory", "flight"])
def test_parts_of_a_closed_client_of_coroutines(way: str, system: Served) -> None:
    async def run() -> None:
        client = await fs.connect_async(system.addresses["flight"], way=way)
        parts = await client.Probe.large({"a": [100_000]}, as_="table")
        await anext(parts)
        await client.close()
        with pytest.raises((fs.Unavailable, fs.Cancelled)):
            async for _ in parts:
                pass
        parts.close()

    asyncio.run(run())


@pytest.mark.parametrize("way", ["memory", "flight"])
def test_a_client_that_dies(way: str, system: Served) -> None:
    command = [sys.executable, "-c", PID_FIRST, system.addresses["flight"], way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "{'a': [1]}"
        eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 1)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 0)


@pytest.mark.parametrize(("way", "says"), [("memory", "[5, 6] 7"), ("flight", "[True, True] 7")])
def test_children_that_are_forked(way: str, says: str, system: Served, tmp_path: Path) -> None:
    """They go on by memory. Over Flight a call would never end: it is refused in words."""
    script = tmp_path / "forks.py"
    script.write_text(FORKS)
    command = [sys.executable, str(script), system.addresses["flight"], way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["1", says]


def test_addresses_where_nobody_listens() -> None:
    with pytest.raises(fs.Unavailable, match="cannot be reached"):
        fs.connect("grpc://127.0.0.1:1", retries=0)
    with pytest.raises(fs.Unavailable, match="no app of this machine and user"):
        fs.connect("grpc://127.0.0.1:1", way="memory")
    with pytest.raises(fs.InvalidArgument, match="begins with grpc://"):
        fs.connect("127.0.0.1:8815")
    with pytest.raises(fs.InvalidArgument, match="way is 'http'"):
        fs.connect("grpc://127.0.0.1:1", way="http")


# ---- coroutines


@pytest.mark.parametrize("way", ["memory", "flight"])
def test_coroutines(way: str, system: Served) -> None:
    async def run() -> None:
        async with fs.connect_async(system.addresses["flight"], way=way) as client:
            probe = client.Probe
            assert client.way == way
            assert "Probe" in await client.deployments()
            assert {"Probe", "sql"} <= set(dir(client))
            assert "identity" in dir(client.Probe)
            assert await probe.identity(ROWS) == ROWS
            answers = await asyncio.gather(*[probe.identity({"a": i}) for i in range(30)])
            assert answers == [{"a": i} for i in range(30)]
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(probe.identity({"a": 5}))
            assert task.result() == {"a": 5}
            await _check_async_errors(client)
            await _check_async_streams(client)
            await _check_cancelling(client, system)
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.Probe.identity(ROWS)

    asyncio.run(run())


async def _check_async_errors(client: Any) -> None:
    with pytest.raises(fs.MethodFailed, match="boom") as failed:
        await client.Probe.boom(ROWS, request_id="mine-2")
    assert failed.value.request_id == "mine-2"
    with pytest.raises(SchemaMismatch, match="unexpected 'b'"):
        await client.Probe.typed({"b": [1]})
    with pytest.raises(fs.NotFound, match="did you mean 'Probe'"):
        await client.Prob.identity(ROWS)
    with pytest.raises(fs.DeadlineExceeded):
        await client.Probe.never(ROWS, timeout_s=0.3)
    with pytest.raises(TypeError, match="use await"):
        await anext(aiter(client.Probe.identity(ROWS)))
    with pytest.raises(TypeError, match="use async for"):
        await client.Probe.identity(iter([ROWS]))
    slow = [client.Narrow.slowly({"a": [50]}, retries=50, timeout_s=20) for _ in range(6)]
    assert await asyncio.gather(*slow) == [{"a": [50]}] * 6


async def _check_async_streams(client: Any) -> None:
    assert [part async for part in client.Probe.pieces({"a": [1, 2]})] == [{"a": [1]}, {"a": [2]}]
    parts = await client.Probe.pieces(ROWS)
    assert await parts.read_all() == ROWS
    async with await client.Probe.large({"a": [100_000]}, as_="table") as parts:
        assert (await anext(parts)).num_rows == 32_768
    assert [answer async for answer in client.Probe.identity({"a": i} for i in range(40))] == [
        {"a": i} for i in range(40)
    ]

    async def rows() -> AsyncIterator[Any]:
        for value in (1, 2, -3, 4):
            yield {"a": [value]}

    answers = client.Probe.picky.map(rows(), retries=0, window=2)
    assert [await anext(answers), await anext(answers)] == [{"a": [1]}, {"a": [2]}]
    with pytest.raises(fs.MethodFailed, match="no negative values"):
        await anext(answers)


async def _check_cancelling(client: Any, system: Served) -> None:
    """A task that is cancelled gives its request up."""

    def running() -> bool:
        return statistic(system, "router-0", "Probe.in_flight_batches") == 1

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(client.Probe.never(ROWS, timeout_s=60))
        await asyncio.to_thread(eventually, running)
        task.cancel()
    await asyncio.to_thread(eventually, lambda: not running())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.Probe.never(ROWS, timeout_s=60), 0.1)


def test_a_client_of_coroutines_is_of_one_loop(system: Served) -> None:
    client = fs.connect_async(system.addresses["flight"])
    assert "not connected yet" in repr(client)

    async def connect() -> None:
        await client

    async def call() -> Any:
        return await client.Probe.identity(ROWS)

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop's"):
            await asyncio.to_thread(asyncio.run, call())

    async def both() -> None:
        await connect()
        assert await call() == ROWS
        await elsewhere()
        await client.close()

    asyncio.run(both())
