"""`flightserve init` makes a project that runs; `flightserve run --reload` serves what is saved in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from flightserve.cli import reloading
from flightserve.cli.main import main
from flightserve.cli.planning import Planned, PlanWish, plan
from flightserve.cli.projects import make_project
from flightserve.cli.reloading import Reloader, Stamps, differing, stamps_of
from flightserve.errors import ConfigError
from tests.control.served import ROOT, Served, wait_until
from tests.support import eventually

ORDER = {"rows": [{"price": 2.0, "quantity": 3}]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path / "my-shop", "0.1.0")
    return tmp_path / "my-shop"


def run(project: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- init


def test_a_new_projects_test_passes_and_its_code_is_tidy(project: Path) -> None:
    assert "2 passed" in run(project, "pytest", "-q", "-p", "no:cacheprovider")
    run(project, "ruff", "check", "--no-cache")
    run(project, "ruff", "format", "--check", "--no-cache")
    names = {path.name for path in project.iterdir()} - {"__pycache__"}
    files = {".dockerignore", ".gitignore", "Containerfile", "README.md", "app.py", "pyproject.toml", "test_app.py"}
    assert names == files
    assert all("@" not in (project / name).read_text() for name in names - {"app.py", "test_app.py"})
    assert "\nUSER " in (project / "Containerfile").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("full", "is not empty: it has notes.txt"),
        ("file", "cannot be made: File exists"),
        ("file/below", "cannot be made: Not a directory"),
        ("-shop", "is no name for a project"),
        ("my shop", "is no name for a project"),
        ("shop.", "is no name for a project"),
        ("lädchen", "is no name for a project"),
        ("a" * 101, "is no name for a project"),
        ("PyArrow", "is a package that flightserve needs"),
        ("flightserve", "is a package that flightserve needs"),
    ],
)
def test_where_no_project_can_be_made_nothing_is_written(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        make_project(tmp_path / name, "0.1.0")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_project_begins_in_an_empty_repository_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop" / ".git").mkdir(parents=True)
    assert main(["init", str(tmp_path / "shop")]) == 0
    assert "flightserve run app:app --reload" in capsys.readouterr().out
    assert main(["init", str(tmp_path / "shop")]) == 2


# ---- reading the app anew


def planned(directory: Path, text: str, changed: list[str] | None = None) -> Any:
    """As a process of its own does it, by a module of a name of its own."""
    name = f"written_{len(list(directory.iterdir()))}"
    (directory / f"{name}.py").write_text(text)
    try:
        return plan(f"{name}:app", PlanWish(changed or []))
    finally:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", "written_0.py, line 1: SyntaxError: '(' was never closed"),
        ("def f():\n    raise KeyError('a\\nb')\nf()", r"written_0.py, line 2: KeyError: 'a\nb'"),
        ("raise SystemExit(3)", "written_0.py, line 1: SystemExit: 3"),
        ("raise SystemExit", "written_0.py, line 1: SystemExit"),
        ("import nowhere.at.all", "written_0.py, line 1: there is no module 'nowhere'"),
        ("app = 3", "written_0:app is int; it must be a flightserve.App"),
        ("", "module written_0 has no 'app'"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = planned(tmp_path, text)
    assert told.problem.startswith(said)
    assert str(tmp_path / "written_0.py") in told.files
    if "nowhere" in text:
        assert str(tmp_path / "nowhere" / "__init__.py") in told.files


APP = """
import flightserve as fs

@fs.deployment
class Shop:
    def price(self, batch):
        return batch

app = fs.App(Shop.bind())
"""


def test_a_file_that_only_replicas_import_replaces_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "app.py").write_text(APP)

    def version(*changed: str) -> bytes:
        told = plan("app:app", PlanWish([str(tmp_path / name) for name in changed]))
        assert told.problem == ""
        return told.deployments

    try:
        assert version() == version("app.py")
        assert version("app.py", "imported_later.py") != version("app.py")
    finally:
        sys.modules.pop("app", None)


def test_files_are_seen_by_what_saving_changes(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for name in ("a.py", "b.py", "test_a.py", "conftest.py", "notes.txt"):
        (tmp_path / name).write_text("1")
    before = stamps_of([str(tmp_path), missing])
    assert {Path(path).name for path in before} == {"a.py", "b.py"}
    info = (tmp_path / "a.py").stat()
    (tmp_path / "new").write_text("2")
    os.utime(tmp_path / "new", ns=(info.st_atime_ns, info.st_mtime_ns))
    (tmp_path / "new").rename(tmp_path / "a.py")
    (tmp_path / "b.py").unlink()
    (tmp_path / "c.py").write_text("1")
    (tmp_path / "test_a.py").write_text("another")
    after = stamps_of([str(tmp_path), missing])
    assert {Path(path).name for path in differing(before, after)} == {"a.py", "b.py", "c.py"}


def test_a_link_to_nowhere_hides_no_other_module(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"link_{number}.py").symlink_to(tmp_path / "nowhere")
        (tmp_path / f"file_{number}.py").write_text("1")
    assert len(stamps_of([str(tmp_path)])) == 18


def test_a_folder_that_comes_while_others_are_looked_at_is_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.py").write_text("1")
    looked: list[int] = []

    def look(folders: Iterable[str]) -> Stamps:
        found = stamps_of(folders)
        looked.append(len(found))
        if len(looked) == 4:
            reloader.note_files()
        return found

    monkeypatch.setattr(reloading, "LOOK_S", 0.001)
    monkeypatch.setattr(reloading, "stamps_of", look)
    monkeypatch.setattr(reloading, "module_files", lambda: [str(tmp_path / "a.py")])
    reloader = Reloader("a:app")
    with caplog.at_level("INFO"):
        reloader.begin("none")
        eventually(lambda: looked.count(1) > 4)
        reloader.stop()
    assert not [text for text in caplog.messages if text.endswith("changed")]


@pytest.mark.timeout(60)
def test_what_a_module_starts_does_not_keep_its_reading(tmp_path: Path) -> None:
    """A child of the module's has the answer's pipe open as well."""
    (tmp_path / "forks.py").write_text("import os, time\nif not os.fork():\n    time.sleep(3600)")
    command = [sys.executable, "-m", "flightserve.cli.planning", "forks:app"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    ) as planner:  # fmt: skip
        assert planner.stdin is not None and planner.stdout is not None
        planner.stdin.write(b'{"changed": []}\n')
        assert msgspec.msgpack.decode(planner.stdout.read(), type=Planned).problem.startswith(
            "module forks has no 'app'"
        )


def test_sql_says_what_follows_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "x.parquet", "--reload"]) == 2
    assert "--refresh" in capsys.readouterr().err


# ---- all of it


@pytest.mark.ray
def test_what_is_saved_is_served_and_what_is_broken_is_said(project: Path, tmp_path: Path) -> None:
    """One app, edited as people do: saved, saved by renaming, broken, hanging, saved again, and ended in between."""
    app = project / "app.py"
    text = app.read_text()
    command = ("flightserve", "run", "app:app", "--reload", "--http-port=0", "--no-grpc", "--no-flight", "--no-zmq")
    environment = {"PYTHONPATH": str(ROOT)}
    with Served(tmp_path, command=command, cwd=project, environment=environment, group=True) as served:
        address = served.wait_ready().addresses["http"]

        def total() -> float:
            reply = httpx.post(f"{address}/v1/Pricing/total", json=ORDER, timeout=30)
            assert reply.status_code == 200, reply.text
            value: float = reply.json()["rows"][0]["total"]
            return value

        def said(what: str) -> None:
            eventually(lambda: what in served.errors(), timeout_s=60)

        assert total() == 7.5
        (project / "taxes.py").write_text("TAX = 1.0\n")
        (project / "new").write_text("import taxes\n" + text.replace("0.25", "taxes.TAX"))
        (project / "new").rename(app)
        wait_until(lambda: total() == 12.0, "what was put in a module's place, with a module beside it")

        app.write_text(text.replace("0.25)", "0.25"))
        said("not reloaded, and what was served goes on: app.py, line ")
        app.write_text(text.replace("self.tax = tax", "raise ValueError('no model here')"))
        said("not reloaded, and what was served goes on: taken back: replica-Pricing")
        assert "no model here" in served.errors()
        assert total() == 12.0

        app.write_text(text.replace("self.tax = tax", "import threading; threading.Event().wait()"))
        wait_until(lambda: "0 of 1 new replicas ready" in served.view().change, "the start that hangs")
        app.write_text(text)
        wait_until(lambda: total() == 7.5, "what was saved while a start hung")

        app.write_text("import threading; print('it hangs', flush=True); threading.Event().wait()")
        said("it hangs")
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(60) == 0
        eventually(lambda: not served.left(), timeout_s=60)
