"""What all tests share: a quiet environment, and a check that nothing is left behind.

Every process that the tests start inherits a mark in its environment. When the session ends, no process with
the mark may live, whoever its parent is by then, and this process may hold no memfd and no socket of
flightserve's. What is found fails the run, by name.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.ordering import LONG_S, mixed, scope_of

RUN_MARK = "TEST_FLIGHTSERVE_RUN"
SETTLE_S = 15.0
SOCKET_PREFIX = "@flightserve"

os.environ[RUN_MARK] = uuid.uuid4().hex
# The tests start a Ray of their own and never join one that happens to run; and Ray phones nobody.
os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

# How long an example takes to run or to be drawn tells of the machine's other load, not of the code. CI draws
# the same examples each time, so that it is green or red for what was changed; everybody else looks for new ones.
hypothesis.settings.register_profile(
    "flightserve",
    deadline=None,
    max_examples=60,
    print_blob=True,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("flightserve")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each of several processes loads all files of the tests, and writes down what is compiled of one that nobody has
    loaded before. In the same order all of them would compile all; so each begins with a part of its own."""
    config = session.config
    if hasattr(config, "workerinput") and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        own, count = int(config.workerinput["workerid"].removeprefix("gw")), config.workerinput["workercount"]
        for file in sorted(config.rootpath.glob("tests/**/test_*.py"))[own::count]:
            # What is wrong with it is told when it is collected.
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(".".join(file.relative_to(config.rootpath).with_suffix("").parts))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several processes take files in an order of their own (`tests/ordering.py`)."""
    if hasattr(config, "workerinput"):
        scopes = list(dict.fromkeys(scope_of(item.nodeid) for item in items))
        waiting = {scope_of(item.nodeid) for item in items if item.get_closest_marker("ray")} | LONG_S.keys()
        places = {scope: place for place, scope in enumerate(mixed(scopes, waiting))}
        items.sort(key=lambda item: places[scope_of(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist=loadfile` has a process for each file; here, one for all that share a system, which starts once."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    scheduling = LoadFileScheduling(config, log)
    scheduling._split_scope = scope_of
    return scheduling


def marked_processes() -> dict[int, str]:
    """Living processes that these tests started, themselves left out: pid to command line."""
    mark = f"{RUN_MARK}={os.environ[RUN_MARK]}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command and "multiprocessing.resource_tracker" not in command:
                    found[int(entry.name)] = command[:200]
        except OSError:  # it ended while we looked, or is not ours to read
            continue
    return found


def held_files(prefix: str) -> list[str]:
    """What this process's file descriptors point at, where that starts with `prefix`."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # the descriptor of the listing itself
            continue
    return sorted(link for link in links if link.startswith(prefix))


def held_memfds() -> list[str]:
    """The memfds that this process holds open."""
    return held_files("/memfd:")


def held_sockets() -> list[str]:
    """Sockets named as flightserve names them that this process holds."""
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in held_files("socket:[")}
    found = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and SOCKET_PREFIX in fields[7] and fields[6] in inodes:
            found.append(fields[7])
    return sorted(found)


def left_behind(memfds_before: list[str]) -> list[str]:
    """All that is there and should not be, one line each."""
    # At each look: a thread that ended since the last one may have left a circle that holds something.
    gc.collect()
    lines = [f"process {pid}: {command}" for pid, command in sorted(marked_processes().items())]
    # Ray and others may hold a memfd of their own from before the first test; only more than then is a leak.
    extra = held_memfds()
    for known in memfds_before:
        if known in extra:
            extra.remove(known)
    return lines + extra + held_sockets()


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails the run where a process, memfd or socket outlives the tests."""
    memfds_before = held_memfds()
    yield
    pause, end = threading.Event(), time.monotonic() + SETTLE_S
    while (left := left_behind(memfds_before)) and time.monotonic() < end:
        pause.wait(0.1)
    assert not left, "the tests left behind:\n  " + "\n  ".join(left)


def pytest_collection_finish() -> None:
    """The tests themselves stay until the end, a million objects, and a collection looks at none that is frozen."""
    gc.collect()
    gc.freeze()


# At the interpreter's end what is frozen would count as leaked: the engine says so of each of its names. Not before, so
# that the collections with which pytest ends need not look at it.
atexit.register(gc.unfreeze)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """What the large rows of one file took malloc and Arrow would keep for later: of all files together 2 GiB."""
    yield
    from flightserve.frontends.edge_watch import give_back

    give_back()


class Flights:
    """The flights example, served by `flightserve run` on free ports from the first test that wants it until the last
    one of its process."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self._addresses: dict[str, str] = {}

    def addresses(self) -> dict[str, str]:
        """Those of its `ready` line."""
        from examples.flights.launch import Example

        if not self._addresses:
            self._addresses = self._running.enter_context(Example()).addresses
        return self._addresses

    def end(self) -> None:
        self._addresses = {}
        self._running.close()


FLIGHTS = Flights()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Five processes that nobody asks any more would still take their part of the processors until the run ends."""
    if nextitem is None or scope_of(nextitem.nodeid) != scope_of(item.nodeid):
        FLIGHTS.end()


@pytest.fixture
def flights_addresses() -> dict[str, str]:
    """Where the flights example is served, by protocol."""
    return FLIGHTS.addresses()
