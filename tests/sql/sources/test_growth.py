"""Text files that grow while their tables are opened."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from flightserve.sql.engine import growth
from flightserve.sql.engine.opening import TableOpener
from flightserve.sql.sources import Source, files, json_files
from flightserve.sql.sources.files import rows_max
from flightserve.sql.sources.problems import Leniency
from tests.sql.sources.files import LOADS, rows, write
from tests.sql.warehouses import opened


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@LOADS
@pytest.mark.parametrize(("name", "line"), [("t.csv", "1\n"), ("t.json", '{"a":1}\n')])
def test_a_file_that_grows_as_fast_as_it_is_read_is_left_out(
    name: str, line: str, load: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "GROWTH_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(growth, "LOOK_S", 0.02)
    piece = line * (1 << 17)
    write({name: piece, "good.csv": "a\n1\n"})
    begun, over, open_one = threading.Event(), threading.Event(), TableOpener._open

    def grow() -> None:
        assert begun.wait(10)
        with open(name, "a") as file:
            # What the disk of a test may have.
            while not over.is_set() and file.tell() < 256 << 20:
                file.write(piece)
                file.flush()

    def begin(self: TableOpener, source: Source) -> None:
        begun.set()
        open_one(self, source)

    monkeypatch.setattr(TableOpener, "_open", begin)
    leniency = Leniency(strict=False)
    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with opened({"t": name, "good": "good.csv"}, leniency=leniency, load=load) as engine:
            assert set(engine.tables) == {"good"}
    finally:
        over.set()
        writer.join()
    assert f"{name} grew to more than" in leniency.problems[0].told


def test_types_are_of_the_rows_that_files_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine does not hear that it is interrupted while it looks for types."""
    piece = '{"a":1}\n' * 3000
    write({"t.json": piece, "p.json.gz": gzip.compress(piece.encode() * 100), "t.csv": "a\n1\n"})
    assert 6000 <= rows_max(["t.json"]) <= 24001 and rows_max(["p.json.gz"]) >= 300_000 and rows_max(["t.csv"]) == 5
    monkeypatch.setattr(json_files, "rows_max", lambda files: 3000)
    write({"t.json": piece + '{"b":1}\n' * 3000})
    assert rows({"t": "t.json"}, "SELECT * FROM t LIMIT 1") == [{"a": 1}]


@LOADS
def test_a_small_file_that_unpacks_to_very_much_is_left_out(load: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UNPACKED_BYTES_MIN", 1 << 20)
    write({"bomb.csv.zst": pa.compress(b"1\n" * (1 << 23), "zstd", asbytes=True), "good.csv": "a\n1\n"})
    leniency = Leniency(strict=False)
    with opened({"t": "bomb.csv.zst", "good": "good.csv"}, leniency=leniency, load=load) as engine:
        assert set(engine.tables) == {"good"}
    assert "bomb.csv.zst has " in leniency.problems[0].told and "unpacks to more than" in leniency.problems[0].told
    write({"fine.csv.zst": pa.compress(b"1\n" * (1 << 18), "zstd", asbytes=True)})
    assert rows({"t": "fine.csv.zst"}, "SELECT count(*) AS n FROM t", load=load) == [{"n": (1 << 18)}]
