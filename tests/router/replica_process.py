"""A replica as a process of its own, for the tests' router: something that can be killed, stopped and starved.

    python -m tests.router.replica_process '{"peer_id": 5, "directory": "...", "table": "<base64>", "limits": {...}}'

It prints `ready` when the router knows it, and ends with its standard input.
"""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.replica.forks import end_with_this_process
from flightserve.replica.service import ReplicaService
from flightserve.wire.table import RoutingTable
from tests.plane import Plane
from tests.support import eventually

ROOT = Path(__file__).parents[2]


@fs.deployment(max_batch_rows=4)
class Mortal:
    """Methods that answer with the process they ran in, one when the test says so. All write down what they ran."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def _note(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with (self.directory / "ran").open("a") as file:
            file.writelines(f"{key} {os.getpid()}\n" for key in batch.column("x").to_pylist())
        return batch.append_column("pid", pa.array([os.getpid()] * batch.num_rows))

    def _wait(self) -> None:
        eventually((self.directory / "gate").exists, what="the gate opened")

    def pid(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._note(batch)

    def held(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        noted = self._note(batch)
        self._wait()
        return noted

    @fs.method(idempotent=False)
    def held_once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        noted = self._note(batch)
        self._wait()
        return noted

    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield self._note(batch)
        self._wait()
        yield batch

    @fs.method(idempotent=False)
    def engross(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One call of C code that lets no other thread run, for as many steps as the first row says."""
        sum(itertools.repeat(1, batch.column("x")[0].as_py()))
        return self._note(batch)

    def dream(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One call of C code that lets no other thread run and does nothing, for as many microseconds as the first
        row says. It may run twice."""
        noted = self._note(batch)
        ctypes.PyDLL(None).usleep(batch.column("x")[0].as_py())
        return noted

    @fs.method(idempotent=False)
    def fork_unheard_and_hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Leave a child behind that Python knows nothing of, and that has all that this process has open."""
        library = ctypes.CDLL(None)
        child = library.fork()
        if not child:
            library.pause()
        (self.directory / "child").write_text(str(child))
        return self.held_once(batch)

    @fs.method(idempotent=False)
    def fork_and_hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Leave a child behind that has all that this process has open."""
        child = os.fork()
        if not child:
            signal.pause()
        (self.directory / "child").write_text(str(child))
        return self.held_once(batch)


class ReplicaProcess:
    """Use as a context manager."""

    def __init__(self, plane: Plane, directory: Path, **limits: object) -> None:
        arguments = {
            "peer_id": next(plane._ids),
            "directory": str(directory),
            "table": base64.b64encode(msgspec.msgpack.encode(plane.table())).decode(),
            "limits": dataclasses.asdict(plane.limits) | limits,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.router.replica_process", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> ReplicaProcess:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> ReplicaProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def _main() -> None:
    arguments = json.loads(sys.argv[1])
    table = msgspec.msgpack.decode(base64.b64decode(arguments["table"]), type=RoutingTable)
    # The spec as the router has it: a class of `__main__` is another version of itself.
    (entry,) = table.deployments
    limits = FabricLimits(**arguments["limits"])
    end_with_this_process()
    replica = ReplicaService(arguments["peer_id"], entry.spec, Mortal.bind(arguments["directory"]).make(), limits)
    replica.start()
    replica.apply_table(table)
    eventually(replica.ready, what="the router greeted")
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _main()
