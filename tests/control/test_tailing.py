"""Lines of files that grow, as they come."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flightserve.control.tailing import LINE_BYTES_MAX, ROUNDS, Tail
from tests.support import eventually

GONE = 2**22 + 1


class Tailed:
    """A folder of logs and what was handed over of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[dict[str, Any]] = []
        self.tail = Tail(str(folder), self.batches.append)
        (folder / "old").mkdir()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        with path.open("ab") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path

    def lines(self) -> list[str]:
        return [line for batch in self.batches for line in batch["lines"]]


@pytest.fixture
def tailed(tmp_path: Path) -> Iterator[Tailed]:
    tailed = Tailed(tmp_path)
    yield tailed
    tailed.tail.start()
    tailed.tail.stop()


def _out(pid: int = os.getpid(), stream: str = "out") -> str:
    return f"worker-0a1b-01000000-{pid}.{stream}"


def test_lines_are_handed_over_with_whose_they_are(tailed: Tailed) -> None:
    tailed.write(_out(), ":job_id:01\none\n:actor_name:flightserve: router 0\n:task_name:x\ntwo\r\nthree\n")
    tailed.write(_out(stream="err"), "bad \xff\n".encode("latin-1"))
    tailed.write("raylet.err", "died\n")
    tailed.write("raylet.out", "chatter\n")
    tailed.write("agent.err", "chatter\n")
    assert tailed.tail.look()
    assert not tailed.tail.look()
    me = os.getpid()
    assert sorted(tailed.batches, key=lambda batch: str(batch["lines"])) == [
        {"pid": me, "is_err": True, "actor_name": None, "lines": ["bad \ufffd"]},
        {"pid": "raylet", "is_err": True, "actor_name": None, "lines": ["died"]},
        {"pid": me, "is_err": False, "actor_name": None, "lines": ["one"]},
        {"pid": me, "is_err": False, "actor_name": "flightserve: router 0", "lines": ["two", "three"]},
    ]


def test_a_line_waits_for_its_end_but_not_for_ever(tailed: Tailed) -> None:
    tailed.write(_out(), "begun")
    tailed.tail.look()
    tailed.tail.look()
    assert tailed.lines() == []
    tailed.write(_out(), " and ended\nnext")
    tailed.tail.look()
    assert tailed.lines() == ["begun and ended"]
    tailed.tail.look()
    tailed.tail.look()
    assert tailed.lines()[1:] == ["next"]
    tailed.write(_out(), b"x" * (LINE_BYTES_MAX + 1))
    while tailed.tail.look():
        pass
    assert tailed.lines()[2:] == ["x" * (LINE_BYTES_MAX + 1)]


def test_what_a_process_that_is_gone_wrote_is_read_to_its_end_and_put_away(tailed: Tailed) -> None:
    path = tailed.write(_out(GONE), "last\nwords")
    for _ in range(ROUNDS):
        tailed.tail.look()
    assert tailed.lines() == ["last", "words"]
    assert not path.exists()
    assert (tailed.folder / "old" / path.name).exists()


def test_what_cannot_be_put_away_is_not_read_twice(tailed: Tailed) -> None:
    (tailed.folder / "old").rmdir()
    tailed.write(_out(GONE), "once\n")
    for _ in range(3 * ROUNDS):
        tailed.tail.look()
    assert tailed.lines() == ["once"]


def test_a_file_in_the_place_of_another_is_read_from_its_beginning(tailed: Tailed) -> None:
    path = tailed.write(_out(), "before\n")
    tailed.tail.look()
    path.rename(f"{path}.1")
    with Path(f"{path}.1").open("a") as file:
        file.write("more\n")
    tailed.write(_out(), "after\n")
    for _ in range(2 * ROUNDS):
        tailed.tail.look()
    assert tailed.lines() == ["before", "more", "after"]


def test_the_thread_reads_and_the_end_hands_over_the_rest(tmp_path: Path) -> None:
    tailed = Tailed(tmp_path)
    tailed.tail.start()
    tailed.write(_out(), "one\n")
    eventually(lambda: tailed.lines() == ["one"])
    tailed.write(_out(), "two\nrest")
    tailed.write(_out(GONE), "late\n")
    tailed.tail.stop()
    assert sorted(tailed.lines()) == ["late", "one", "rest", "two"]
    opened = subprocess.run(["ls", "-l", f"/proc/{os.getpid()}/fd"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in opened


def test_a_folder_that_has_gone_is_no_fault(tailed: Tailed) -> None:
    """Ray's own, at the end; what is open is read all the same."""
    tailed.write(f"worker-a-b-{os.getpid()}.out", "first\n")
    tailed.tail.look()
    path = tailed.write(f"worker-a-b-{os.getpid()}.out", "last\n")
    path.unlink()
    (tailed.folder / "old").rmdir()
    tailed.folder.rmdir()
    tailed.tail.look()
    assert tailed.lines() == ["first", "last"]
    tailed.folder.mkdir()
