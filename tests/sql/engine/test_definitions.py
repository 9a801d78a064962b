"""Views and macros over the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from flightserve.cli.source_options import read_init
from flightserve.errors import ConfigError
from flightserve.sql.engine import EngineOptions
from flightserve.sql.warehouse.refresh import Generations
from tests.sql.sources.files import LOADS, write
from tests.sql.warehouses import opened, run, watching


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths are as an operator types them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


INIT: Final = """-- what is large
CREATE VIEW large AS SELECT *, twice(a) AS b FROM t WHERE a > 1;
CREATE OR REPLACE MACRO twice(x) AS x * 2;
CREATE MACRO lowest(n) AS TABLE SELECT * FROM t ORDER BY a LIMIT n;
CREATE VIEW shaken AS SELECT a, random() AS r FROM t;
CREATE VIEW named(c) AS SELECT a AS c FROM large;
"""
# In the order in which one may use another.
ORDERED: Final = "\n".join([*INIT.splitlines()[2:3], *INIT.splitlines()[:2], *INIT.splitlines()[3:]])


@LOADS
def test_views_and_macros_are_defined_over_the_tables(load: str) -> None:
    with opened({"t": pa.table({"a": [1, 2, 3]})}, load=load, init=ORDERED, catalog="shop") as engine:
        assert set(engine.tables) == {"t", "large", "shaken", "named"}
        assert run(engine, "FROM large ORDER BY a").to_pylist() == [{"a": 2, "b": 4}, {"a": 3, "b": 6}]
        assert run(engine, "SELECT twice(c) AS d FROM named ORDER BY c").to_pylist() == [{"d": 4}, {"d": 6}]
        assert run(engine, "FROM lowest(1)").to_pylist() == [{"a": 1}]
        # What is not the same each time is told.
        assert engine.parser.undefined == {"shaken", "lowest"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("CREATE VIEW v AS FROM t;\n\n  DROP TABLE t;", "line 3: DROP TABLE t; ...: only CREATE VIEW and CREATE MACRO"),
        ("-- x\n/* y */ CREATE TABLE q AS SELECT 1", "line 2: CREATE TABLE q AS ...: only"),
        ("CREATE TEMP VIEW v AS SELECT 1", "line 1: CREATE TEMP VIEW v ...: only"),
        ("CREATE VIEW T AS SELECT 1", "line 1: view T: a table is called T already"),
        ("\nCREATE VIEW v AS SELECT nope FROM t", 'line 2: view v: .*"nope" not found'),
        ("SELECT 1;\nSELEC 1", "line 2 cannot be parsed"),
        ("CREATE VIEW v AS FROM read_csv('secret.csv')", "line 1: view v: .*Permission"),
        ("CREATE MACRO SUM(x) AS 1", "line 1: macro SUM: the engine has a function"),
        ("CREATE VIEW main.v AS SELECT 1", "its name stands alone"),
        ("CREATE VIEW __fs_v AS SELECT 1", "are flightserve's own"),
        ("ATTACH 'x.duckdb'", "line 1: ATTACH"),
        ("SET threads = 1", "line 1: SET"),
    ],
)
def test_other_statements_are_refused_with_their_line(text: str, why: str) -> None:
    write({"secret.csv": "a\n1\n"})
    with pytest.raises(ConfigError, match=f"(?s)the init file's {why}|{why}"):
        with opened({"t": pa.table({"a": [1]})}, init=text):
            pass


def test_views_follow_the_files_and_a_misfit_keeps_the_old_ones() -> None:
    write({"t.csv": "a\n1\n", "v.sql": "\ufeffCREATE VIEW v AS SELECT a + 1 AS b FROM t"})
    options = EngineOptions(threads=1, init=read_init("v.sql"))
    with watching() as watch:
        generations = Generations({"t": "t.csv"}, options, watch, lambda runner: {})
        before = generations.current.versions["v"]
        write({"t.csv": "a\n22\n"})
        assert generations.look() and generations.current.versions["v"] != before
        write({"t.csv": "c\n1\n"})
        assert not generations.look() and "the init file's line 1: view v" in generations.problem
        generations.close()
    with pytest.raises(ConfigError, match=r"--init none\.sql cannot be read: No such file"):
        read_init("none.sql")
