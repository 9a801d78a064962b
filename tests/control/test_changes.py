"""A running app is scaled and replaced under load, over the real tiers: no request fails, none runs twice.

One app and one load for all tests of this module, in order; what the load counted is checked when it has ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flightserve.control.messages import DeploymentView
from tests.control import shop
from tests.control.load import Load
from tests.control.served import ROOT, Served, wait_until

pytestmark = pytest.mark.ray

RUN = ("flightserve", "run", "shop:app", "--http-port", "0", "--no-flight", "--no-grpc", "--zmq-port", "0")
COMMAND_TIMEOUT_S = 120.0
EXTRA = """
@fs.deployment
class Extra:
    @fs.method(input=pa.schema({{"id": pa.{type}()}}))
    def {method}(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def app(directory: Path) -> Iterator[Served]:
    shop.write(directory, 1)
    with Served(directory, command=RUN, cwd=directory) as served:
        yield served.wait_ready()


@pytest.fixture(scope="module")
def load(app: Served, directory: Path) -> Iterator[Load]:
    with Load(app.addresses["zmq"], "Shop", directory / "ledger") as load:
        yield load
    load.check()


def _start(app: Served, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flightserve", *arguments, "--app", app.app_id],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=app.directory,
    )  # fmt: skip


def _end(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error, once it has ended."""
    out, err = command.communicate(timeout=COMMAND_TIMEOUT_S)
    return command.returncode, out, err


def _flightserve(app: Served, *arguments: str) -> tuple[int, str, str]:
    return _end(_start(app, *arguments))


def _shops(app: Served) -> list[DeploymentView]:
    return [each for each in app.view().deployments if each.name == "Shop"]


def _counts(app: Served) -> tuple[int, int, int]:
    (only,) = _shops(app)
    return only.desired, only.ready, only.draining


def _pids(app: Served) -> set[int]:
    return {child.pid for child in app.view().children if child.deployment == "Shop"}


def _goes_on(load: Load, requests: int = 50) -> None:
    """So many more requests are answered."""
    before = load.answered
    wait_until(lambda: load.answered >= before + requests or bool(load.bad), "requests are answered")
    assert load.bad == []


def _get(app: Served, path: str) -> Any:
    with urllib.request.urlopen(app.addresses["http"] + path, timeout=30) as answer:
        return json.load(answer)


def _methods(app: Served) -> dict[str, set[str]]:
    listed = _get(app, "/v1/deployments")["deployments"]
    return {each["name"]: {method["method"] for method in each["methods"]} for each in listed}


# First, so that the load that the others share does not run meanwhile.
def test_the_same_from_python_with_classes_that_travel_by_value() -> None:
    command = [sys.executable, "-m", "tests.control.twins"]
    shown = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, check=True,
        timeout=COMMAND_TIMEOUT_S,
    ).stdout  # fmt: skip
    steps = [json.loads(line) for line in shown.splitlines() if line.startswith('{"step"')]
    assert [(each["step"], each["version"], each["replicas"]) for each in steps] == [
        ("served", 1, 1), ("scaled", 1, 2), ("unknown", 1, 2), ("none", 1, 2), ("deployed", 2, 2),
        ("in place", 5, 2), ("kept", 5, 2), ("replaced", 6, 1), ("again", 9, 1),
    ]  # fmt: skip
    assert steps[1]["done"] == "Who from 1 to 2 replicas"
    assert steps[5]["under_way"] == ""
    assert [each["error"][0] for each in steps if "error" in each] == [
        "NotFound",
        "InvalidArgument",
        "ConfigError",
        "Unavailable",
        "StartFailed",
    ]
    replaced, again = steps[7:]
    assert (replaced["same"], replaced["error"][1]) == (True, "the app was stopped")
    assert re.fullmatch(r"replica-Who-0: tests/control/twins\.py, line \d+: OSError: no disk", again["error"][1])
    assert (again["same"], again["beside"]) == (True, "ready")
    assert shown.count("the program ends, and with it the app") == 2


def test_scaling_up_and_down_is_not_noticed(app: Served, load: Load) -> None:
    _goes_on(load)
    before = _pids(app)
    assert _flightserve(app, "scale", "Shop=3") == (0, "Shop from 2 to 3 replicas\n", "")
    assert before < _pids(app)
    (three,) = _shops(app)
    assert (three.desired, three.ready, three.draining) == (3, 3, 0)
    _goes_on(load)
    assert _flightserve(app, "scale", "Shop=1") == (0, "Shop from 3 to 1 replica\n", "")
    (one,) = _shops(app)
    assert (one.desired, one.ready, one.draining) == (1, 1, 0)
    assert len(_pids(app)) == 1
    assert _pids(app) < before
    _goes_on(load)


@pytest.mark.parametrize(
    ("wish", "code", "message"),
    [
        ("Shop=0", 2, "flightserve: 0 replicas of Shop: it must be 1 to 1024"),
        ("Shpo=2", 1, "flightserve: no deployment 'Shpo'; there are: Shop\n"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_changes_nothing(app: Served, wish: str, code: int, message: str) -> None:
    before = _shops(app)
    status, out, err = _flightserve(app, "scale", wish)
    assert (status, out) == (code, "")
    assert err.startswith(message)
    assert _shops(app) == before


def test_new_code_replaces_the_old_in_one_step_without_a_failed_request(
    app: Served, load: Load, directory: Path
) -> None:
    before = _pids(app)
    (old,) = _shops(app)
    shop.write(directory, 2)
    assert _flightserve(app, "deploy", "shop:app")[0] == 0
    (new,) = _shops(app)
    # It had been scaled; the class declares what it declared before.
    assert (new.state, new.desired, new.ready, new.draining) == ("served", 1, 1, 0)
    assert new.version != old.version
    assert before.isdisjoint(_pids(app))
    _goes_on(load)
    assert load.versions == [1, 2]


def test_the_same_code_again_replaces_nothing_unless_everything_is_to_be(app: Served, load: Load) -> None:
    before = _pids(app)
    assert _flightserve(app, "deploy", "shop:app") == (0, "nothing to change\n", "")
    assert _pids(app) == before
    status, out, _ = _flightserve(app, "deploy", "shop:app", "--everything", "--replicas", "Shop=2")
    assert (status, out.endswith("with 2 replicas\n")) == (0, True)
    assert before.isdisjoint(_pids(app))
    assert len(_pids(app)) == 2
    _goes_on(load)


def test_a_replica_that_is_replaced_runs_what_was_deployed_not_what_lies_on_the_disk(
    app: Served, load: Load, directory: Path
) -> None:
    shop.write(directory, 3, init="raise ValueError('not deployed')")
    before = _pids(app)
    assert _flightserve(app, "scale", "Shop=3")[0] == 0
    assert before < _pids(app)
    _goes_on(load)
    assert load.versions == [1, 2]
    # So that no more than one has to start wherever the tests below replace all.
    assert _flightserve(app, "scale", "Shop=1")[0] == 0


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        ({"init": "raise ValueError('the model file is missing')"}, (), "ValueError: the model file is missing"),
        ({"init": "os._exit(3)"}, (), "died 3 times while starting"),
        ({"init": "threading.Event().wait()"}, ("--timeout", "4"), "not ready after 4 s: waiting for replica-Shop-"),
        ({"options": ", resources={'unobtainium': 1.0}"}, (), "unobtainium wanted, the node has 0"),
        ({"more": "import a_module_that_is_missing"}, (), "nothing was changed: shop.py, line "),
        (
            {"more": EXTRA.format(type="int64", method="first"), "served": "Extra.bind()"},
            ("--replicas", "Shop=0"),
            "no deployment 'Shop'",
        ),
    ],
)
def test_a_deploy_that_cannot_be_is_taken_back_and_says_why(
    app: Served, load: Load, directory: Path, code: dict[str, str], arguments: tuple[str, ...], message: str
) -> None:
    before, pids = _shops(app), _pids(app)
    shop.write(directory, 4, **code)
    status, out, err = _flightserve(app, "deploy", "shop:app", *arguments)
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]
    wait_until(lambda: _shops(app) == before, "what came is gone")
    assert _pids(app) == pids
    _goes_on(load)
    assert load.versions == [1, 2]


def test_deployments_and_methods_come_change_and_go(app: Served, load: Load, directory: Path) -> None:
    served = f"{shop.SERVED}, Extra.bind()"
    shop.write(directory, 2, more=EXTRA.format(type="int64", method="first"), served=served)
    assert _flightserve(app, "deploy", "shop:app")[0] == 0
    assert _methods(app) == {"Shop": {"price", "book"}, "Extra": {"first"}}
    shop.write(directory, 2, more=EXTRA.format(type="string", method="second"), served=served)
    assert _flightserve(app, "deploy", "shop:app")[0] == 0
    assert _methods(app) == {"Shop": {"price", "book"}, "Extra": {"second"}}
    (field,) = _get(app, "/v1/Extra/second")["input_schema"]
    assert (field["name"], field["type"]) == ("id", "string")
    shop.write(directory, 2)
    status, out, _ = _flightserve(app, "deploy", "shop:app")
    assert status == 0
    assert "Extra goes" in out
    assert _methods(app) == {"Shop": {"price", "book"}}
    assert {each.name for each in app.view().deployments} == {"Shop"}
    _goes_on(load)


def test_a_supervisor_that_dies_in_the_middle_of_a_deploy_is_replaced_by_one_that_goes_on(
    app: Served, load: Load, directory: Path
) -> None:
    before, supervisor = _shops(app), app.view().supervisor_pid
    shop.write(directory, 5, init="threading.Event().wait(3)")
    command = _start(app, "deploy", "shop:app")
    wait_until(lambda: any(each.state == "coming" for each in _shops(app)), "the deploy began")
    assert _flightserve(app, "scale", "Shop=1")[::2] == (1, _under_way(app))
    os.kill(supervisor, signal.SIGKILL)
    assert _end(command)[0] == 0
    assert app.view().supervisor_pid != supervisor
    (new,) = _shops(app)
    assert (new.state, new.desired, new.ready, new.draining) == ("served", before[0].desired, before[0].desired, 0)
    _goes_on(load)
    assert load.versions == [1, 2, 5]
    # And what it was told is what a further one goes on with.
    os.kill(app.view().supervisor_pid, signal.SIGKILL)
    wait_until(lambda: app.view().phase == "ready" and _shops(app) == [new], "a new supervisor")
    _goes_on(load)
    assert load.versions == [1, 2, 5]


def test_a_number_that_follows_the_load_goes_up_and_to_none_and_comes_back_with_the_first_request(
    app: Served, load: Load, directory: Path
) -> None:
    shop.write(directory, 6, replicas="fs.autoscale(0, 3, target_queue_ms=0.1, down_after_s=1)")
    assert _flightserve(app, "deploy", "shop:app")[0] == 0
    wait_until(lambda: _counts(app)[1] >= 2, "more replicas")
    _goes_on(load)
    assert "\nShop, 0 to 3: " in _flightserve(app, "status")[1]
    load.pause.set()
    wait_until(lambda: _counts(app) == (0, 0, 0), "nobody calls, and there are none")
    assert _get(app, "/readyz") is not None
    assert app.view().phase == "ready"
    assert load.open == {}
    load.pause.clear()
    _goes_on(load)


def _under_way(app: Served) -> str:
    summary = app.view().change.partition(":")[0]
    return f"flightserve: another change is under way ({summary}); try again when it has ended\n"
