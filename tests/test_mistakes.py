"""The commonest mistakes, each as a beginner makes it: one line says what was wrong, where, and what to do.

The rows are those of `docs/how-to/troubleshooting.md`, "What a message means", where `...` stands for anything.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import flightserve as fs
from flightserve.cli.main import main
from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.control import addresses, boot, folder, local_ray, processes, shared_ray
from flightserve.core.lifecycle.placement import RayNode, Want, in_all
from flightserve.errors import FlightserveError
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.control.standins import plan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "troubleshooting.md"
# Nothing starts: where a mistake were not found, there would be no Ray at this address.
NOTHING_STARTS = [*(f"--{protocol}-port=0" for protocol in PROTOCOLS), "--address", "nowhere"]
HEAD = "import flightserve as fs\nimport pyarrow as pa\n\n"
CLASS = "class Pricing:\n    def charge(self, batch: pa.RecordBatch):\n        return batch\n\n\n"
DEPLOYED = f"{HEAD}@fs.deployment\n{CLASS}"
PRICING = f"{DEPLOYED}app = fs.App(Pricing.bind())\n"

# ---- what is typed: row of the page, the module pricing.py, arguments

COMMANDS: list[tuple[str, str, list[str]]] = [
    ("there is no module 'pricin' in ...; did you mean 'pricing'?", PRICING, ["run", "pricin:app"]),
    ("'pricing.py' is not module:app; write pricing:app ...", PRICING, ["run", "pricing.py"]),
    ("'pricing' is not module:app; write pricing:app ...", PRICING, ["run", "pricing"]),
    ("module pricing has no 'ap'; the module's apps: pricing:app", PRICING, ["run", "pricing:ap"]),
    (
        "pricing:Pricing is the class Pricing; it must be a flightserve.App; the module's apps: pricing:app",
        PRICING, ["run", "pricing:Pricing"],
    ),
    ("ray.py in ... hides the package ray from replicas; rename the file", PRICING, ["run", "ray:app"]),
    ("--http-port is 70000; a port is 0 to 65535, ...", PRICING, ["run", "pricing:app", "--http-port", "70000"]),
    (
        "--http-port and --grpc-port are both 8080; each protocol has a port of its own",
        PRICING, ["run", "pricing:app", "--http-port", "8080", "--grpc-port", "8080"],
    ),
    ("--host elsewhere: ...", PRICING, ["run", "pricing:app", "--host", "elsewhere"]),
    (
        "--host 0.0.0.0: it would be open to other machines: ...",
        PRICING, ["run", "pricing:app", "--host", "0.0.0.0"],
    ),
    (
        "... cannot be read: No such file or directory; flightserve auth add NAME --auth ... makes it",
        PRICING, ["run", "pricing:app", "--auth", "nothing.toml"],
    ),
    (
        "--tls-cert is given without --tls-key; TLS takes both, ...",
        PRICING, ["run", "pricing:app", "--tls-cert", "server.pem"],
    ),
    (
        "--set: there is no setting 'http_prt'; did you mean 'http_port'?",
        PRICING, ["run", "pricing:app", "--set", "http_prt=1"],
    ),
    ("replicas of Pricing: 0; it must be 1 to ...", PRICING, ["run", "pricing:app", "--replicas", "Pricing=0"]),
    (
        "replicas are given for Prices; the app's deployments are: Pricing",
        PRICING, ["run", "pricing:app", "--replicas", "Prices=2"],
    ),
    ("--address 'nowhere' is neither host:port, ...", PRICING, ["run", "pricing:app"]),
    ("table 'nothing': nothing lies at ...", "", ["sql", "nothing.parquet"]),
    ("table 'notes': notes.parquet is no Parquet file: ...", "", ["sql", "notes.parquet"]),
    (
        "--memory-limit is 'lots'; it is a size, such as '4GB' or '512MB'",
        "", ["sql", "t.parquet", "--memory-limit=lots"],
    ),
    ("no app pricing runs on this machine", "", ["scale", "Pricing=2", "--app", "pricing"]),
    # ---- the app's module
    (
        "pricing.py, line 9: Pricing has no bind(): write @fs.deployment above the class, ...",
        f"{HEAD}{CLASS}app = fs.App(Pricing.bind())\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 10: App takes what bind() returns, as in App(Pricing.bind()); not the class Pricing",
        f"{DEPLOYED}app = fs.App(Pricing)\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 10: App takes what bind() returns, as in App(Pricing.bind()); not an object of Pricing",
        f"{DEPLOYED}app = fs.App(Pricing())\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 10: App() has nothing to serve; ...",
        f"{DEPLOYED}app = fs.App()\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 10: two deployments are called 'Pricing'; name one of them, ...",
        f"{DEPLOYED}app = fs.App(Pricing.bind(), Pricing.bind())\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 10: Pricing.bind(): got an unexpected keyword argument 'tax'",
        f"{DEPLOYED}app = fs.App(Pricing.bind(tax=0.08))\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 4: unknown deployment option 'replica'; did you mean 'replicas'?",
        f"{HEAD}@fs.deployment(replica=2)\n{CLASS}", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 4: replicas is 0; it must be greater than 0",
        f"{HEAD}@fs.deployment(replicas=0)\n{CLASS}", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 1: there is no module 'a_missing_package'; install the package that has it ...",
        "import a_missing_package\n", ["run", "pricing:app"],
    ),
    (
        "pricing.py, line 2: ZeroDivisionError: division by zero",
        "def load():\n    return 1 / 0\n\n\nload()\n", ["run", "pricing:app"],
    ),
    ("pricing.py, line 1: SyntaxError: ...", "class Pricing\n", ["run", "pricing:app"]),
    (
        "Pricing cannot be sent to its replicas: ...; make it in __init__",
        f"import threading\n{DEPLOYED}Pricing.__init__ = lambda self, lock: None\n"
        "app = fs.App(Pricing.bind(threading.Lock()))\n", ["run", "pricing:app"],
    ),
]  # fmt: skip

# ---- what methods do: row of the page, and the method


@fs.deployment
class Model:
    """What the others call."""

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows themselves."""
        return batch

    @fs.method(input=pa.schema([("x", pa.int64())]))
    def typed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows themselves."""
        return batch


@fs.deployment
class Wrong:
    """A method for each mistake."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def itself(self, batch: pa.RecordBatch) -> Any:
        return self.model(batch)

    def remote(self, batch: pa.RecordBatch) -> Any:
        return self.model.predict.remote(batch)

    def misspelt(self, batch: pa.RecordBatch) -> Any:
        return self.model.predct(batch)

    def not_awaited(self, batch: pa.RecordBatch) -> Any:
        return self.model.predict.aio(batch)

    async def used_too_early(self, batch: pa.RecordBatch) -> Any:
        coroutine = self.model.predict.aio(batch)
        try:
            return coroutine["x"]
        finally:
            coroutine.close()

    async def blocking(self, batch: pa.RecordBatch) -> Any:
        return self.model.predict(batch)

    def other_columns(self, batch: pa.RecordBatch) -> Any:
        return self.model.typed({"y": [1, 2, 3]})

    def no_column(self, batch: pa.RecordBatch) -> Any:
        return batch["price"]

    def no_dict(self, batch: pa.RecordBatch) -> Any:
        return dict(batch.items())  # type: ignore[attr-defined]

    def nothing(self, batch: pa.RecordBatch) -> None:
        pass

    def scalar(self, batch: pa.RecordBatch) -> Any:
        return 3

    def fewer_rows(self, batch: pa.RecordBatch) -> Any:
        return batch.slice(0, 1)

    @fs.single_input
    def no_row(self, row: dict[str, Any]) -> None:
        pass

    @fs.method(output=pa.schema([("price", pa.float64())]))
    def undeclared(self, batch: pa.RecordBatch) -> Any:
        return batch

    def uneven(self, batch: pd.DataFrame) -> Any:
        return {"a": [1, 2, 3], "b": [1]}


METHODS = {
    "itself": "TypeError: Model is a deployment; call one of its methods, predict, typed, as in Model.predict(batch)",
    "remote": "AttributeError: Model.predict has no 'remote'; it is called as Model.predict(batch), ...",
    "misspelt": "AttributeError: Model has no method 'predct'; did you mean 'predict'?",
    "not_awaited": "Wrong.not_awaited returned a call that nobody awaited; write async def, and return await ...",
    "used_too_early": "TypeError: 'coroutine' object is not subscriptable; what .aio(...) returns is awaited: ...",
    "blocking": "RuntimeError: Model.predict would block the event loop; use: await Model.predict.aio(batch)",
    "other_columns": "Wrong.other_columns called Model.typed with other columns than it takes: ... missing 'x'; ...",
    "no_column": "KeyError: ...; the request's columns: x",
    "no_dict": "AttributeError: 'pyarrow.lib.RecordBatch' object has no attribute 'items'; annotate the parameter ...",
    "nothing": "Wrong.nothing returned None; a method returns a RecordBatch, a Table, ...",
    "scalar": "Wrong.scalar returned a value of type int; a method returns a RecordBatch, a Table, ...",
    "fewer_rows": "Wrong.fewer_rows got 3 rows and returned 1; ... declared with @method(row_aligned=False))",
    "no_row": "Wrong.no_row returned None for a row; it returns a dict, or one value, for each",
    "undeclared": "Wrong.undeclared returned other columns than it declares: missing 'price'; unexpected 'x'",
    "uneven": "Wrong.uneven returned columns of different lengths ('a': 3, 'b': 1)",
}

# ---- what clients do: row of the page, method and URL, and what is sent

CALL = "/v1/Model/typed"
CLIENTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("no deployment 'Modl'; did you mean 'Model'?", "POST", "/v1/Modl/typed", {"json": {"rows": [{"x": 1}]}}),
    ("Model has no method 'typd'; did you mean 'typed'?", "POST", "/v1/Model/typd", {"json": {"rows": [{"x": 1}]}}),
    (
        "missing columns ['x']; unknown columns ['y']",
        "POST", CALL, {"json": {"columns": {"y": [1]}}},
    ),
    ("Content-Type is 'application/x-www-form-urlencoded'; application/json ...", "POST", CALL, {"data": {"x": 1}}),
]  # fmt: skip


# ---- what the machine does


def machine(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], act: Callable[[], object]
) -> str:
    """What is said of it."""
    change(monkeypatch)
    with pytest.raises(FlightserveError) as told:
        act()
    return told.value.message


def _raising(said: str) -> Callable[..., None]:
    def raise_it(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    return raise_it


MISMATCH = "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.0\nThis process ..."
MACHINE: list[tuple[str, Callable[[pytest.MonkeyPatch], None], Callable[[], object]]] = [
    (
        "Ray does not start: ...; if the machine is busy, or short of memory or disk, try again when it is not",
        lambda patch: patch.setattr(local_ray.LocalRay, "start", _raising("The current node\ntimed out.")),
        lambda: shared_ray.hold("an app", None),
    ),
    (
        "the app's sockets and Ray's files have no place in ...: ...; make room there, or set TMPDIR ...",
        lambda patch: patch.setattr(folder, "DISK_BYTES_MIN", 1 << 62),
        lambda: folder.Folder("an app"),
    ),
    (
        "the app's plan (... bytes) cannot be written to ...: ...; make room there, or set TMPDIR ...",
        lambda patch: patch.setattr(boot, "plan_file", lambda *_: "/no/such/folder/plan"),
        lambda: boot._kept(plan()),
    ),
    (
        "the Ray at 127.0.0.1:6379 cannot be used: Version mismatch: ... Run this with the versions ...",
        lambda patch: (
            patch.setattr(addresses, "check_answers", lambda address: None),
            patch.setattr(ray, "init", _raising(MISMATCH)),
        )[0],
        lambda: addresses.connect("127.0.0.1:6379"),
    ),
]  # fmt: skip
CROWDED = "placement cannot be satisfied: 64 CPU wanted, the node has 2; take fewer replicas ..."

# ---- the page

# Of these the words are not ours.
ELSEWHERE = "What other programs say"


def rows() -> list[str]:
    """The first column of the tables, without those that other programs say."""
    section = PAGE.read_text().partition("\n## What a message means\n")[2].partition("\n## ")[0]
    ours = section.partition(f"\n### {ELSEWHERE}\n")[0]
    return re.findall(r"^\| `(.+?)` \|", ours, re.MULTILINE)


def check(row: str, said: str) -> None:
    """One line, as the page has it."""
    assert row in rows()
    assert "Traceback" not in said
    assert re.fullmatch(".*".join(map(re.escape, row.split("..."))), said.strip()), said


def test_the_page_has_these_and_no_others() -> None:
    made = [row for row, *_ in [*COMMANDS, *CLIENTS, *MACHINE]] + [*METHODS.values(), CROWDED]
    assert sorted(rows()) == sorted(made)


@pytest.mark.parametrize(
    ("row", "module", "arguments"), COMMANDS, ids=lambda value: "" if isinstance(value, list) else None
)
def test_what_is_typed(
    row: str,
    module: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    module_name = "ray" if "ray:app" in arguments else "pricing"
    (tmp_path / f"{module_name}.py").write_text(module)
    (tmp_path / "notes.parquet").write_text("not what it says, though long enough")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "t.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "pricing", raising=False)
    importlib.invalidate_caches()
    starting = NOTHING_STARTS if arguments[0] in ("run", "sql") else []
    status = main([arguments[0], *starting, *arguments[1:]])
    sys.modules.pop("pricing", None)
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert (status in (1, 2), out) == (True, "")
    check(row, line.removeprefix("flightserve: "))


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    with LocalService(fs.App(Wrong.bind(Model.bind()))) as running:
        yield running


@pytest.mark.parametrize("method", METHODS)
def test_what_methods_do(method: str, service: LocalService) -> None:
    with pytest.raises(FlightserveError) as told:
        service.run("Wrong", method, {"x": [1, 2, 3]})
    check(METHODS[method], told.value.message)


@pytest.fixture(scope="module")
def http(service: LocalService) -> Iterator[str]:
    options = FrontendOptions(grpc_port=None, flight_port=None, zmq_port=None)
    host = FrontendHost(service, options, Metrics())
    try:
        yield host.start()["http"]
    finally:
        host.stop()


@pytest.mark.parametrize(("row", "verb", "path", "sent"), CLIENTS)
def test_what_clients_do(row: str, verb: str, path: str, sent: dict[str, Any], http: str) -> None:
    check(row, httpx.request(verb, http + path, **sent).json()["error"]["message"])


@pytest.mark.parametrize(("row", "change", "act"), MACHINE)
def test_what_the_machine_does(
    row: str, change: Callable[[pytest.MonkeyPatch], None], act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(row, machine(monkeypatch, change, act))


def test_a_machine_that_is_too_small() -> None:
    only = RayNode("id", "127.0.0.1", {"CPU": 2.0}, {"CPU": 2.0})
    check(CROWDED, processes.missing([Want("Pricing", {"CPU": 32.0})] * 2, [only], in_all))
