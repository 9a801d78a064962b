"""What happened in a run, as it was written down at the places where it happened: values and their files.

Clients write an `Invoke` before they send and an `Outcome` for whatever comes back, also for what nobody waited for.
Replicas write an `Exec` before they touch the rows. The runner writes what it broke (`Fault`), what the frontends
counted (`Count`), and what was left when all was at rest (`Leak`). One JSON object a line; every line is appended
whole by one `write`, so a process that is killed loses nothing that it said, and leaves at most one line unfinished.

All times are `CLOCK_MONOTONIC` nanoseconds: the processes of a run share one machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

# How a request may be treated when what runs it dies. A streamed reply of which a part went out cannot run again.
IDEMPOTENT: Final = "idempotent"
ONCE: Final = "once"
STREAM: Final = "stream"
KINDS: Final = (IDEMPOTENT, ONCE, STREAM)

# Codes beside those of the status table, for what a client sees without the server's word.
DISCONNECTED: Final = "DISCONNECTED"
GAVE_UP: Final = "GAVE_UP"
NO_ANSWER: Final = "NO_ANSWER"
BEHIND: Final = "BEHIND"
# A reply over HTTP that had begun broke off: the only way left to say an error, or the end of the connection.
CUT: Final = "CUT"


class Invoke(msgspec.Struct, frozen=True, tag="invoke"):
    """A client sends a request. `rows_hash` is `rows.rows_hash` of what it sends. `timeout_ms` is what it asks for,
    `tight` says that this may well be too little. `expect` is OK, or the code its method must answer. `frontend`
    names the process it goes to. `doomed`: its client is a process that will be killed."""

    id: int
    protocol: str
    frontend: str
    deployment: str
    method: str
    kind: str
    rows: int
    rows_hash: str
    intended_ns: int
    sent_ns: int
    timeout_ms: int
    priority: int = 0
    tight: bool = False
    expect: str = "OK"
    doomed: bool = False

    @property
    def deadline_ns(self) -> int:
        """When it is too late, as the client reckons: the server's own deadline is later by the way there."""
        return self.sent_ns + self.timeout_ms * 1_000_000

    def __str__(self) -> str:
        return f"request {self.id} ({self.protocol}, {self.deployment}.{self.method}, {self.kind}, {self.rows} rows)"


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """A client has an answer. Of an OK one: how many rows, the `rows_hash` of what they derive from, and the request
    ids found in them. `after` is the request whose error ended the Flight stream that this one was sent on. `own`: the
    code is the client library's word (gRPC's native deadline passed), not the server's."""

    id: int
    code: str
    at_ns: int
    message: str = ""
    rows: int = 0
    rows_hash: str = ""
    ids: tuple[int, ...] = ()
    after: int = 0
    own: bool = False


class Exec(msgspec.Struct, frozen=True, tag="exec"):
    """A replica is about to run rows [first, first + rows) of a request. `epoch` tells the lives of a replica apart."""

    id: int
    first: int
    rows: int
    pid: int
    epoch: str
    at_ns: int


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """The runner broke something: `kind` as in `allowed.TABLE`, `target` a child's name or "". It began, and the
    system was seen whole again; `recovered` is false where that did not come in the time for it."""

    kind: str
    target: str
    pid: int
    begin_ns: int
    end_ns: int
    recovered: bool = True
    note: str = ""


class Count(msgspec.Struct, frozen=True, tag="count"):
    """What the frontends counted of requests that were sent at or after `begin_ns` and answered by `end_ns`. Not
    `complete`: a frontend died in between and took its counts along."""

    protocol: str
    deployment: str
    method: str
    code: str
    counted: int
    begin_ns: int
    end_ns: int
    complete: bool = True


class Balance(msgspec.Struct, frozen=True, tag="balance"):
    """A router's own books at rest: requests that arrived for a deployment, and those with an outcome."""

    router: str
    deployment: str
    arrived: int
    outcomes: dict[str, int]


class Leak(msgspec.Struct, frozen=True, tag="leak"):
    """Something that was not back at its baseline when all was at rest."""

    where: str
    what: str
    baseline: float
    now: float


Record = Invoke | Outcome | Exec | Fault | Count | Balance | Leak

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


@dataclass(slots=True)
class History:
    """All records of a run, by type."""

    invokes: list[Invoke] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    execs: list[Exec] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)

    def add(self, records: Iterable[Record]) -> History:
        """File records under their types."""
        lists: dict[type, list[Record]] = {
            Invoke: self.invokes, Outcome: self.outcomes, Exec: self.execs, Fault: self.faults,
            Count: self.counts, Balance: self.balances, Leak: self.leaks,
        }  # type: ignore[dict-item]  # fmt: skip
        for record in records:
            lists[type(record)].append(record)
        return self


class Journal:
    """A file that records are appended to. Any thread; one `write` a call."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, records: Iterable[Record]) -> None:
        """Append records; they are in the kernel's hands when this returns, so SIGKILL does not lose them."""
        os.write(self._fd, b"".join(_encoder.encode(record) + b"\n" for record in records))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read(directory: Path) -> History:
    """The records of all journals in the directory. A last line without an end (its writer was killed) is left out."""
    history = History()
    for path in sorted(directory.glob("*.jsonl")):
        history.add(_records(path.read_bytes()))
    return history


def _records(data: bytes) -> Iterator[Record]:
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        yield _decoder.decode(line)
