"""How many rows a table has, by what is known of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flightserve.sql.warehouse.row_counts import COUNTED_FILES_MAX, UNKNOWN, count_rows
from tests.sql.warehouses import PEOPLE, opened


@pytest.mark.parametrize("load", ["memory", "view"])
def test_rows_are_counted_where_that_reads_no_files(tmp_path: Path, load: str) -> None:
    pq.write_table(PEOPLE, tmp_path / "one.parquet")
    pyarrow.csv.write_csv(PEOPLE, tmp_path / "texts.csv")
    for folder, files in (("few", COUNTED_FILES_MAX), ("many", COUNTED_FILES_MAX + 1)):
        (tmp_path / folder).mkdir()
        for n in range(files):
            pq.write_table(PEOPLE, tmp_path / folder / f"{n}.parquet")
    tables = {"one": "one.parquet", "texts": "texts.csv", "few": "few", "many": "many"}
    paths = {name: tmp_path / path for name, path in tables.items()}
    with opened({**paths, "frame": PEOPLE}, load=load) as engine:
        counts = count_rows(engine)
        several = 6 * (COUNTED_FILES_MAX + 1)
        read = {"texts": UNKNOWN, "many": UNKNOWN} if load == "view" else {"texts": 6, "many": several}
        assert counts == {"one": 6, "few": 6 * COUNTED_FILES_MAX, "frame": 6} | read
        if load == "view":
            (tmp_path / "one.parquet").unlink()
            assert count_rows(engine)["one"] == UNKNOWN
