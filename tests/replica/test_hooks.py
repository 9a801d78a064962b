"""Methods that replicas call themselves: `@fs.warmup`, `@fs.healthy`, `@fs.on_stop`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.declare import Health, spec_of
from flightserve.errors import ConfigError
from flightserve.replica.hooks import Check
from flightserve.testing import LocalService
from tests.plane import plane
from tests.support import eventually

ENDS = """
import atexit, tempfile, os
kept = []
def library(): print("a library's")
atexit.register(library)
from flightserve.replica.hooks import begin_exit_functions, run_exit_functions
begin_exit_functions()
folder = tempfile.TemporaryDirectory()
atexit.register(print, "the user's")
run_exit_functions()
print(os.path.exists(folder.name), flush=True)
os._exit(0)
"""


class Well:
    """What its checks do is for the test to say."""

    def __init__(self) -> None:
        self.asked = 0
        self.said: Any = None
        self.gate = threading.Event()
        self.ended: list[str] = []

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.healthy(every_s=0.01, timeout_s=0.05, failures=2)
    def well(self) -> object:
        self.asked += 1
        if isinstance(self.said, BaseException):
            raise self.said
        if self.said == "hangs":
            self.gate.wait(60)
        return self.said

    @fs.on_stop
    def close(self, *rest: pa.RecordBatch) -> None:
        self.ended.append("close")
        raise SystemExit


class Awaits(Well):
    """Its hooks are coroutines, and run where its methods do."""

    async def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.on_stop
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.ended.append("aclose")


def rows() -> pa.RecordBatch:
    return pa.record_batch({"x": [1]})


def test_hooks_are_not_served() -> None:
    assert [method.name for method in spec_of(fs.bind(Awaits)).methods] == ["echo", "later"]


@pytest.mark.parametrize("said", [None, True, 0, "yes"])
def test_one_that_is_well_is_asked_again_and_again(said: object) -> None:
    with plane(fs.bind(Well)) as running:
        running.targets[0].said = said
        eventually(lambda: running.targets[0].asked > 20)
        assert running.replicas[0].ready()
        assert running.call("echo", rows()) == [rows()]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (False, "it says that it is not well"),
        (ValueError("no weights"), "ValueError: no weights"),
        (SystemExit(1), "SystemExit: 1"),
        ("hangs", "it did not return within 0.05 s"),
    ],
)
def test_one_that_is_not_well_several_times_in_a_row_says_so_and_serves_until_it_is_told_to_make_room(
    said: object, why: str
) -> None:
    with plane(fs.bind(Well)) as running:
        target = running.targets[0]
        target.said = said
        replica = running.replicas[0]
        eventually(lambda: replica.ailing().endswith(f"failed 2 times in a row: {why}"))
        assert replica.ready() and running.call("echo", rows()) == [rows()]
        # It goes on counting.
        ailing = replica.ailing()
        replica.retire(ailing)
        assert replica.unfit()[0] == ailing and not replica.ready()
        target.gate.set()


def test_one_that_is_well_again_before_its_turn_stays() -> None:
    with plane(fs.bind(Well)) as running:
        target, replica = running.targets[0], running.replicas[0]
        target.said = False
        eventually(replica.ailing)
        target.said = True
        eventually(lambda: not replica.ailing())
        assert replica.ready()


class Warm(Well):
    """Says where it is warmed up, and may fail."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.warmed: list[object] = []

    @fs.warmup
    def first(self) -> None:
        if self.fails:
            raise ValueError("no weights")
        self.warmed.append(self.echo(rows()).num_rows)


class WarmAwaits(Warm):
    async def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self.loop is asyncio.get_running_loop()
        return batch

    @fs.warmup
    async def second(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.warmed.append("second")


def test_what_warms_up_does_so_before_the_first_request_and_where_its_methods_run() -> None:
    with plane(fs.bind(WarmAwaits)) as running:
        assert running.targets[0].warmed == [1, "second"]
        assert running.call("later", rows()) == [rows()]
    with LocalService(fs.App(fs.bind(WarmAwaits))) as service:
        assert service.run("WarmAwaits", "later", rows()) == rows()


def test_what_fails_to_warm_up_does_not_start_and_is_told_that_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with plane(fs.bind(Warm)) as running:
        monkeypatch.setattr(Warm, "fails", True)
        with pytest.raises(ValueError, match="no weights"):
            running.start_replica()
        running.replicas.pop()
        assert running.targets.pop().ended == ["close"] and running.call("echo", rows()) == [rows()]
    with pytest.raises(ValueError, match="no weights"):
        LocalService(fs.App(fs.bind(Warm)))


def test_what_ends_is_told_so_after_its_last_request_whatever_that_raises() -> None:
    with plane(fs.bind(Awaits)) as running:
        target = running.targets[0]
        assert running.call("later", rows()) == [rows()]
        assert target.ended == []
    assert target.ended == ["aclose", "close"]


def test_a_failure_between_two_good_answers_is_forgotten_and_a_slow_answer_is_none() -> None:
    now_ns, answers = [0], [False, True, False, "slow", False]

    def ask() -> object:
        answer = answers.pop(0)
        if answer == "slow":
            now_ns[0] += 2_000_000_000
            check.look()
        return answer

    check = Check(ask, Health(1.0, 1.0, 3), lambda function, timeout_s: function(), lambda: now_ns[0])
    for _ in range(4):
        check.once()
    assert not check.ailing
    check.once()
    assert check.ailing


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (lambda: fs.healthy(lambda self, batch: None), "called without arguments"),
        (lambda: fs.on_stop(lambda self, *, code: None), "called without arguments"),
        (lambda: fs.warmup(lambda self, rows: None), "called without arguments"),
        (lambda: fs.on_stop(Well), "decorates plain methods"),
        (lambda: fs.healthy(every_s=0), "greater than 0"),
        (lambda: fs.healthy(failures=-1), "greater than 0"),
    ],
)
def test_what_cannot_be_a_hook_is_refused(decorate: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decorate()


def test_atexit_is_the_users() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n") == ["the user's", "False", ""]
