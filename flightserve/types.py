"""Plain values shared by every room: what is deployed, and what the edge knows of a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import msgspec

from flightserve.clock import NEVER_NS

# The first column of what a delimited method gives.
RID: Final = "rid"
# `DeploymentSpec.kind` of a warehouse. Not in `contracts/warehouse.py`, which has rows for examples: for the first
# array that is made of a list pyarrow loads pandas, into whoever asks.
WAREHOUSE_KIND: Final = "sql"


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One public method of a deployment, as clients see it.

    `input_schema` and `output_schema` are serialised Arrow schemas (`pa.Schema.serialize()`), or None where the method
    declares none. A `strict` one takes columns of these very types; of others they are cast. `form` is the Python type
    the method takes: `record_batch`, `table`, `numpy`, `polars`, `pandas` or `row` (`@single_input`). `example` is an
    Arrow IPC stream of rows that it takes, or None where it gives none.

    A `delimited` method is not row-aligned, and its requests share micro-batches all the same: its result begins with
    the column `rid`, which says for each row what row of the input it belongs to. It does many requests at nearly the
    cost of one, so that they wait for each other (`core.routing.gathering`), unless it is `streaming`. Where a decimal
    is what an engine makes of sums (`sums`), JSON has it as a number. A method that `rounds` takes wider floats, and
    whole numbers, as the floats that it declares, rounded: to a model of 32-bit floats 0.1 is as near as they come.
    `chain` is there of a pipeline that is one chain, as deployments and methods: callers send its requests to the
    first, with the others to follow.
    """

    name: str
    form: str = "record_batch"
    row_aligned: bool = True
    idempotent: bool = True
    streaming: bool = False
    is_async: bool = False
    input_schema: bytes | None = None
    output_schema: bytes | None = None
    doc: str = ""
    delimited: bool = False
    strict: bool = False
    example: bytes | None = None
    sums: bool = False
    # Of an `async def` method: how many of its micro-batches one replica runs at a time; 0: as many as it runs of any.
    max_concurrent: int = 0
    rounds: bool = False
    chain: tuple[tuple[str, str], ...] = ()


# Micro-batches of `async def` methods that one replica runs at once where its deployment says nothing.
ASYNC_CONCURRENCY: Final = 64


# As many as a deployment may have.
REPLICAS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Autoscale:
    """A number of replicas that follows the load (`core.lifecycle.autoscaling`): from `low` to `high`, more of them
    when requests wait for longer than `target_queue_ms` in the mean, fewer when fewer would have done for
    `down_after_s`."""

    low: int
    high: int
    target_queue_ms: float = 50.0
    down_after_s: float = 60.0

    @property
    def start(self) -> int:
        """How many there are at first: one also where there may be none, which shows that it can start."""
        return max(self.low, 1)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


# A number, one that follows the load, or only between what bounds it does.
ReplicaCount: TypeAlias = int | Autoscale | tuple[int, int]


@dataclass(frozen=True, slots=True)
class DeploymentOptions:
    """What `@fs.deployment(...)` takes. Sizes in rows or bytes, times in milliseconds. `concurrency` that is None is 1
    for plain methods and `ASYNC_CONCURRENCY` for `async def` ones; a number holds for both together. `autoscale` is
    what a `replicas` that was no number but `fs.autoscale(...)` said; `replicas` is one all the same, that of now."""

    replicas: int = 1
    max_batch_rows: int = 65_536
    max_batch_bytes: int = 64 << 20
    linger_ms: float = 0.0
    router: str = "fifo"
    concurrency: int | None = None
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    placement: str = "pack"
    labels: dict[str, str] = field(default_factory=dict)
    max_queued_requests: int = 10_000
    max_queued_bytes: int = 1 << 30
    max_queue_wait_ms: float = 0.0
    adaptive_limit: bool = False
    latency_target_ms: float = 0.0
    default_timeout_ms: int = 60_000
    max_timeout_ms: int = 3_600_000
    reentrant: bool = True
    strict: bool = False
    autoscale: Autoscale | None = None


class Lanes(NamedTuple):
    """The lanes of one replica: `serial` ones, each of which runs one micro-batch after another, and where
    `side_by_side` is not 0 one more, which runs so many of `async def` methods at a time; then the others run none."""

    serial: int
    side_by_side: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.serial + (self.side_by_side > 0)


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """A deployment as every tier knows it: name, version, options and methods, without the user's code.

    `kind` is "class", or "sql" for a warehouse, whose methods the SQL frontends call.
    """

    name: str
    version: str
    options: DeploymentOptions
    methods: tuple[MethodSpec, ...]
    doc: str = ""
    kind: str = "class"

    @property
    def key(self) -> str:
        """`name@version`: what the data plane calls it by, so that no request meets another version's replicas."""
        return f"{self.name}@{self.version}"

    @property
    def lanes(self) -> Lanes:
        """Those of each of its replicas."""
        kinds, concurrency = {m.is_async for m in self.methods}, self.options.concurrency
        own = max([m.max_concurrent for m in self.methods], default=0)
        if concurrency is not None and len(kinds) == 2 and not own:
            # What holds for both together is kept by lanes that run both.
            return Lanes(concurrency, 0)
        most = max(own, ASYNC_CONCURRENCY) if concurrency is None or False in kinds else concurrency
        return Lanes(0 if kinds == {True} else concurrency or 1, most if True in kinds else 0)

    @property
    def takes_turns(self) -> bool:
        """Whether the generators of a lane give a part each in turn, and let others run between two of their parts."""
        mixed = not self.lanes.side_by_side and any(method.is_async for method in self.methods)
        return self.options.reentrant and not mixed

    def method(self, name: str) -> MethodSpec | None:
        """The method of that name, or None."""
        return next((m for m in self.methods if m.name == name), None)


class MetricFamily(msgspec.Struct, array_like=True, frozen=True):
    """One metric of a replica, as `/metrics` shows it: `kind` is counter, gauge or histogram. `samples` are by label
    values, in the order of `labels`: one number, or for a histogram the counts of its buckets, that of what is above
    the last of the `bounds`, and the sum."""

    kind: str
    name: str
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    samples: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...] = ()


class RequestMeta(msgspec.Struct, frozen=True):
    """What the edge knows of a request beside its rows.

    `deadline_ns` is absolute `CLOCK_MONOTONIC`; `request_id` is echoed and logged ("" lets the data plane
    make one up); `traceparent` is passed through as it came, or, of a request that is traced, names the frontend's span
    of it, and `caller_span` is what its caller's own was; `tracestate` goes with it. Requests of one `key` are sent the
    same way where a split decides (`pipelines.splitting`). `caller` is who asks (`core.access`), "" where nobody has to
    say: what is called onwards for him is judged by his rights. Where `tables` is a list, the names of those that its
    statement reads come to stand in it, for the audit log.
    """

    deadline_ns: int = NEVER_NS
    priority: int = 0
    request_id: str = ""
    traceparent: str = ""
    key: str = ""
    caller: str = ""
    caller_span: str = ""
    tables: list[str] | None = None
    tracestate: str = ""


def add_tables(known: list[str], more: Iterable[str]) -> None:
    """Those that are not there yet: a statement that runs again reads the same."""
    known.extend(name for name in more if name not in known)
