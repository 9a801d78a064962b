"""An app whose methods do to their process what user code may do to it, for the fault matrix on a real system.

`ACTS` are what is done, and whether the process can live on. `PLACES` are the methods that do it. `Made` does some of
it while it is made, and serves then. A `Neighbour` has a replica of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import locale
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

import flightserve as fs
from tests.unruly import OfTheUser


def _fork_and_come_back() -> None:
    """The child goes on where its parent was."""
    if os.fork() == 0:
        return


def _fork_and_exit() -> None:
    if os.fork() == 0:
        sys.exit(1)


def _threads() -> None:
    def fail() -> None:
        raise OfTheUser("in a thread")

    threading.excepthook = lambda what: fail()
    for _ in range(20):
        threading.Thread(target=fail).start()


def _processes() -> None:
    _KEPT.append(subprocess.Popen(["sleep", "600"]))
    _KEPT.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"]))


def _loops() -> None:
    """In threads, because the caller's may run one."""

    def run() -> None:
        asyncio.run(asyncio.sleep(0))
        asyncio.set_event_loop_policy(None)
        _KEPT.append(asyncio.new_event_loop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def _streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


def _no_streams() -> None:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


def _nowhere() -> None:
    os.chdir(folder := tempfile.mkdtemp())
    os.rmdir(folder)


def _signals() -> None:
    """Where it may; `SIGTERM` reaches nobody then."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
    except ValueError:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def _locale() -> None:
    locale.setlocale(locale.LC_ALL, "C")
    os.environ["LC_ALL"] = "no_SUCH.locale"
    time.tzset()


def _logs() -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise OfTheUser("no logs")

    for name in ("", "flightserve", "flightserve.replica.lane", "flightserve.replica.binding"):
        logging.getLogger(name).addFilter(refuse)
    logging.disable(logging.NOTSET)


def _hooks() -> None:
    def fail(*_: object) -> None:
        raise OfTheUser("in a hook")

    sys.excepthook = sys.unraisablehook = threading.excepthook = fail
    gc.callbacks.append(fail)
    gc.collect()


def _traced() -> None:
    def trace(*_: object) -> None:
        raise OfTheUser("in a trace")

    threading.settrace(trace)
    sys.settrace(trace)


def _exceptions_in_all_threads() -> None:
    for ident in list(sys._current_frames()):
        if ident != threading.get_ident():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(SystemExit))


def _no_descriptors_left() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _hang() -> None:
    threading.Event().wait()


def _in_itself() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    pa.array(cycle)


_KEPT: list[Any] = []
# By name: what is done, and whether the process may be expected to serve on by itself.
ACTS: dict[str, tuple[Callable[[], object], bool]] = {
    "exit": (lambda: os._exit(3), False),
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), False),
    "crash": (lambda: ctypes.string_at(0), False),
    "abort": (os.abort, False),
    "overflow the stack": (_in_itself, False),
    "close descriptors": (lambda: os.closerange(3, 4096), False),
    "terminate": (lambda: os.kill(os.getpid(), signal.SIGTERM), False),
    "interrupt": (lambda: os.kill(os.getpid(), signal.SIGINT), False),
    "hang": (_hang, False),
    "exceptions in all threads": (_exceptions_in_all_threads, False),
    "no descriptors left": (_no_descriptors_left, False),
    "fork and come back": (_fork_and_come_back, True),
    "fork and exit": (_fork_and_exit, True),
    "threads": (_threads, True),
    "processes": (_processes, True),
    "loops": (_loops, True),
    "streams": (_streams, True),
    "no streams": (_no_streams, True),
    "nowhere": (_nowhere, True),
    "signals": (_signals, True),
    "locale": (_locale, True),
    "logs": (_logs, True),
    "hooks": (_hooks, True),
    "traced": (_traced, True),
    "environment": (os.environ.clear, True),
    "warnings": (lambda: warnings.simplefilter("error"), True),
    "socket timeout": (lambda: socket.setdefaulttimeout(0.001), True),
    "a short stack": (lambda: sys.setrecursionlimit(200), True),
    "long turns": (lambda: sys.setswitchinterval(5.0), True),
    "block": (lambda: time.sleep(3), True),  # tidy: what it is about
}
# What a class may do while it is made, one after another, and serve then.
MAKING = ("streams", "nowhere", "signals", "locale", "logs", "threads", "hooks", "socket timeout", "environment")
PLACES = ("plain", "coroutine", "row", "generator", "finaliser")


class Last:
    """A column that acts when it is no longer needed."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 1

    def __arrow_array__(self, type: Any = None) -> pa.Array:
        return pa.array(["x"])

    def __del__(self) -> None:
        ACTS[self.what][0]()


class Good:
    """What the good calls are made to."""

    def good(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Behaves."""
        return batch

    async def async_good(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Behaves."""
        await asyncio.sleep(0)
        return batch


@fs.deployment
class Wild(Good):
    """Does what it is told."""

    @fs.method(idempotent=False)
    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """In a lane's thread."""
        ACTS[batch.column(0)[0].as_py()][0]()
        return batch

    @fs.method(idempotent=False)
    async def coroutine(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """On the loop."""
        ACTS[batch.column(0)[0].as_py()][0]()
        await asyncio.sleep(0)
        return batch

    @fs.method(idempotent=False)
    @fs.single_input
    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """For a row."""
        ACTS[row["what"]][0]()
        return row

    @fs.method(row_aligned=False, idempotent=False)
    def generator(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Behind a batch."""
        yield batch
        ACTS[batch.column(0)[0].as_py()][0]()

    @fs.method(idempotent=False)
    def finaliser(self, batch: pa.RecordBatch) -> Any:
        """When its result is let go."""
        return {"what": Last(batch.column(0)[0].as_py())}

    async def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A neighbour in the same replica."""
        await asyncio.sleep(0.5)  # tidy: in flight while others act
        return batch


@fs.deployment
class Made(Good):
    """Was made by odd ways."""

    def __init__(self) -> None:
        for what in MAKING:
            ACTS[what][0]()


@fs.deployment
class Neighbour(Good):
    """Another deployment."""


app = fs.App(Wild.bind(), Made.bind(), Neighbour.bind())
