"""What the tests of the console look at: an app whose names and values look like markup, and what its supervisor would
say of it."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import threading
from typing import Any

import msgspec
import pyarrow as pa

import flightserve as fs
from flightserve.control.messages import ChildView, DeploymentView, View
from flightserve.errors import Unavailable

# Text that does something where it is taken for HTML.
MARKUP = "<img src=x onerror=alert(1)>"
NODES = ("a" * 56, "b" * 56)
ROWS = 25_000
ORDERS = pa.table(
    {
        "id": pa.array(range(ROWS), pa.int64()),
        "day": pa.array([datetime.date(2024, 1, 1) + datetime.timedelta(n % 50) for n in range(ROWS)]),
        "country": pa.array(["DE", "FR", None, "IT"] * (ROWS // 4)),
        "price": pa.array([n % 97 / 4 for n in range(ROWS)]),
        MARKUP: pa.array([MARKUP] * ROWS),
        "a b": pa.array(['it\'s\n"so"\t$HOME `id` \\ \U0001f600'] * ROWS),
    }
)
PRICED = pa.schema(
    [
        pa.field("price", pa.float64(), nullable=False),
        pa.field("note", pa.string()),
        pa.field("day", pa.date32()),
        pa.field("gift", pa.bool_()),
        pa.field("n", pa.int64()),
        pa.field("tags", pa.list_(pa.string())),
    ]
)


@fs.deployment
class Pricing:
    """What it costs: <b>nothing</b>."""

    @fs.method(input=PRICED, output=PRICED)
    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows as they came, `checked`."""
        return batch

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Says why it cannot."""
        raise ValueError(MARKUP)


def app() -> fs.App:
    """All of it, with a pipeline."""
    warehouse = fs.sql.Warehouse({"orders": ORDERS, f"t {MARKUP}": ORDERS.slice(0, 3)}, name="shop", threads=2)
    warehouse.query(
        "by_country", "SELECT count(*) AS n FROM orders WHERE country = $country", example={"country": "DE"}
    )
    priced = Pricing.bind()
    return fs.App(priced, warehouse, fs.pipeline("Flow", priced.charge))


def _child(tier: str, number: int, deployment: str = "", **statistics: float) -> ChildView:
    name = "-".join([tier, *([deployment] if deployment else []), str(number)])
    return ChildView(name, tier, deployment, "serving", True, 4000 + number, number, 0, 75.0, "1", {}, statistics,
                     NODES[number % 2])  # fmt: skip


class Supervisor:
    """Says what it is told to; `asked` counts how often. Any thread."""

    def __init__(self) -> None:
        self.asked = 0
        self.held = threading.Event()
        self.held.set()
        self.answers = True
        self.view = View(
            "0123456789ab", "ready", "", "", 17, 1, {"http": "http://127.0.0.1:1", "grpc": "127.0.0.1:2"}, ()
        )

    def set(
        self, replicas: int = 3, restarts: int = 0, ready: bool = True, problem: str = "", insecure: str = ""
    ) -> None:
        """So many replicas, the first of which was started anew so often."""
        of_shop = {f"shop.{name}": float(n) for n, name in enumerate(("queued_requests", "in_flight_batches"), 3)}
        first = msgspec.structs.replace(_child("replica", 0, "Pricing", running=1, lanes=2), restarts=restarts,
                                        ready=ready, phase="serving" if ready else "suspect")  # fmt: skip
        carriers = [
            msgspec.structs.replace(_child("carrier", n), addresses={"carrier": f"10.0.0.{n}:999"}) for n in (0, 1)
        ]
        children = [
            _child("frontend", 0, in_flight=2), _child("router", 0, **of_shop), first,
            *(_child("replica", n, "Pricing", running=0, lanes=2) for n in range(1, replicas)),
            _child("replica", 0, "shop", running=3, lanes=4), _child("replica", 0, "Flow", running=0, lanes=1),
            _child("standby", 0), *carriers,
        ]  # fmt: skip
        deployments = [
            DeploymentView("Flow", "1", "served", 1, 1, 0),
            DeploymentView("Pricing", "1", "served", replicas, replicas - (not ready), 0, "1 to 8", f"load {MARKUP}"),
            DeploymentView("shop", "1", "served", 1, 1, 0),
        ]  # fmt: skip
        self.view = msgspec.structs.replace(
            self.view, children=tuple(children), deployments=tuple(deployments), problem=problem, insecure=insecure
        )

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        self.held.wait(20)
        if not self.answers:
            raise Unavailable("the supervisor of the app did not answer in 2.0 s")
        status: dict[str, Any] = msgspec.to_builtins(self.view)
        return status


@dataclasses.dataclass
class Load:
    """What routers would have counted until the second `at`, for a `History`."""

    at: int = 0

    def counts(self) -> dict[str, dict[str, float]]:
        """As they come with a routing table."""
        self.at += 1
        n = float(self.at * (10 + self.at % 7))
        named = {
            "arrived": 50 * n, "completed": 48 * n, "shed": n, "failed": n / 10, "expired_queued": n / 5,
            "queued_requests": float(self.at % 9), "queue_waits": 40 * n, "queue_wait_ns": 9e7 * n,
            "dispatched_batches": 10 * n, "dispatched_requests": 40 * n, "dispatched_rows": 400 * n,
        }  # fmt: skip
        pairs = itertools.product(("Pricing", "shop"), named.items())
        return {"router-0": {f"{deployment}.{name}": value for deployment, (name, value) in pairs}}

    def answers(self) -> list[float]:
        """How many took how long: most of them a few milliseconds."""
        return [0.0, 0.0, 300.0 * self.at, 600.0 * self.at, 80.0 * self.at, 20.0 * self.at, float(self.at), *[0.0] * 10]
