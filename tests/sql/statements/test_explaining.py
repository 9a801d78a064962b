"""What EXPLAIN ANALYZE tells strangers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flightserve.errors import InvalidArgument
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.statements.explaining import DEPTH_MAX, NOTHING_RAN, as_typed, read_explain, told
from flightserve.sql.warehouse.queries import Runner
from flightserve.sql.warehouse.replica import _prepare_for
from tests.sql.warehouses import PEOPLE, opened


@pytest.mark.parametrize("load", ["memory", "view"])
def test_a_profile_names_no_path(tmp_path: Path, load: str) -> None:
    folder = tmp_path / "a secret place" / ("long" * 30)
    folder.mkdir(parents=True)
    for name, write in (("people", pq.write_table), ("others", pa.csv.write_csv)):
        write(PEOPLE, folder / f"{name}.{'parquet' if name == 'people' else 'csv'}")
    tables = {"people": folder / "people.parquet", "others": folder / "others.csv"}
    watch = QueryWatch()
    with opened(tables, load=load) as engine:
        runner = Runner(engine, watch)

        def explained(sql: str, rows: pa.RecordBatch | None = None) -> str:
            prepared, columns = _prepare_for(runner, sql, rows)
            (batch,) = runner.stream(prepared, columns, 1)
            assert batch.schema.names == ["explain_key", "explain_value"]
            assert "secret" not in str(batch.to_pylist()) and "long" not in str(batch.to_pylist())
            (text,) = batch.column(1).to_pylist()
            return str(text)

        query = "SELECT p.team, sum(o.id) FROM people p JOIN others o USING (id) WHERE p.score > 0 GROUP BY ALL"
        text = explained(f"EXPLAIN ANALYZE {query}")
        assert "HASH_GROUP_BY: 3 rows" in text and "Filters: " in text and text.startswith("total: ")
        profile = json.loads(explained(f"explain (analyze, format json) {query}"))
        assert profile["seconds"] > 0 and profile["operators"][0]["children"]
        assert "TABLE_SCAN" in explained(
            "EXPLAIN ANALYZE SELECT * FROM people WHERE id > ?", pa.record_batch({"1": [3]})
        )
        assert "Estimated" in explained(f"EXPLAIN (FORMAT json) {query}")
        explained(f"EXPLAIN {query}")
        assert explained("EXPLAIN ANALYZE VALUES (1)") == f"total: 0.000 ms\n{NOTHING_RAN}\n"
        assert json.loads(explained("EXPLAIN (ANALYZE, FORMAT json) VALUES (1)"))["operators"] == []
    watch.stop()


def test_explain_is_read() -> None:
    assert read_explain("EXPLAIN /* a */ SELECT 1").query == "SELECT 1"
    assert read_explain("explain analyze SELECT 1").form == "profile"
    assert read_explain("EXPLAIN (FORMAT JSON, ANALYZE) (SELECT ')')").form == "profile as json"
    assert read_explain("EXPLAIN (FORMAT text) SELECT 1").text == "EXPLAIN (FORMAT text) SELECT 1"
    for wrong in ("EXPLAIN", "EXPLAIN ANALYZE", "EXPLAIN (FORMAT yaml) SELECT 1", "EXPLAIN (ANALYZE, x) SELECT 1"):
        with pytest.raises(InvalidArgument):
            read_explain(wrong)


def test_of_an_operator_only_what_is_known_is_told() -> None:
    scan = {"type": "TABLE_SCAN", "extra_info": {"Filename(s)": "/secret", "New": "/secret", "Filters": "a > 1"}}
    profile = json.dumps({"operator": [{"type": "RESULT_COLLECTOR", "children": [scan]}], "query": {"sql": "secret"}})
    assert told(profile, "profile") == "total: 0.000 ms\nTABLE_SCAN: 0 rows, 0.000 ms\n    Filters: a > 1\n"
    assert "secret" not in told(profile, "profile as json")


@pytest.mark.parametrize("deep", [DEPTH_MAX + 1, 100_000])
def test_a_plan_of_any_depth_is_told_or_refused(deep: int) -> None:
    profile = '{"operator": [' + '{"type": "PROJECTION", "children": [' * deep + "]}" * deep + "]}"
    if deep > DEPTH_MAX + 1:
        with pytest.raises(InvalidArgument, match="too deeply"):
            told(profile, "profile")
    else:
        assert (
            told(profile, "profile").count("PROJECTION") == told(profile, "profile as json").count("PROJECTION") == deep
        )


def test_errors_show_the_statement_as_it_was_typed() -> None:
    sent = "Binder Error: no x\n\nLINE 1: EXPLAIN (ANALYZE, FORMAT json) SELECT x\n" + " " * 46 + "^"
    shown = as_typed(sent).splitlines()
    assert shown[2] == "LINE 1: EXPLAIN ANALYZE SELECT x"
    assert shown[2][shown[3].index("^")] == "x"
    assert as_typed("no x") == "no x"
