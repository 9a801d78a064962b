"""Folders of what engines spill: locked by those that use them, swept where nobody does, gone with the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flightserve.sql.engine import spilling
from flightserve.sql.engine.spilling import PREFIX, SpillFolder, sweep
from tests.support import eventually

HOLDER = """
import sys
from flightserve.sql.engine.spilling import SpillFolder
folder = SpillFolder(sys.argv[1])
open(f"{folder.path}/spilled", "w").write("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


def folders(parent: Path) -> set[str]:
    return {entry.name for entry in parent.iterdir()}


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a folder of its own, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = SpillFolder(str(tmp_path))
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    (Path(folder.path) / "spilled").write_text("x")
    folder.remove()
    folder.remove()
    assert not folders(tmp_path)


def test_those_in_use_are_left_and_those_of_the_dead_go(tmp_path: Path) -> None:
    process, theirs = holder(tmp_path)
    try:
        ours = SpillFolder(str(tmp_path))
        sweep(str(tmp_path))
        assert folders(tmp_path) == {theirs.name, Path(ours.path).name}
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        another = SpillFolder(str(tmp_path))
        assert folders(tmp_path) == {Path(ours.path).name, Path(another.path).name}
    finally:
        process.kill()
        process.communicate()
    ours.remove()
    another.remove()


def test_what_only_has_the_name_is_left(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}file").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "flightserve-other").mkdir()
    before = folders(tmp_path)
    sweep(str(tmp_path))
    assert folders(tmp_path) == before


def test_one_that_is_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = spilling._lock
    swept: list[int] = []

    def late(fd: int) -> bool:
        if not swept:
            swept.append(fd)
            sweep_now(tmp_path)
        return lock(fd)

    def sweep_now(parent: Path) -> None:
        for entry in parent.iterdir():
            entry.rmdir()

    monkeypatch.setattr(spilling, "_lock", late)
    folder = SpillFolder(str(tmp_path))
    assert swept and folders(tmp_path) == {Path(folder.path).name}
    folder.remove()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_an_app_leaves_none(tmp_path: Path, end: signal.Signals) -> None:
    """After SIGTERM none; after SIGKILL of all, none once another engine has begun there."""
    (tmp_path / "t.csv").write_text("a\n1\n")
    spills = tmp_path / "spills"
    spills.mkdir()
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "flight", "zmq")]
    command = [sys.executable, "-m", "flightserve", "sql", str(tmp_path / "t.csv"), *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(spills)}) as app:
        assert app.stdout is not None
        assert app.stdout.readline().startswith(b"ready"), "it did not start"
        (name,) = [name for name in folders(spills) if name.startswith(PREFIX)]
        app.send_signal(end)
        app.wait(60)
    if end == signal.SIGKILL:
        # Its children end themselves; the folder is free then.
        eventually(lambda: sweep(str(spills)) or not (spills / name).exists(), what="the replica ended")
    assert not [left for left in folders(spills) if left.startswith(PREFIX)]
