"""Files for the tests of sources, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest

from flightserve.sql.sources.problems import SourceError
from tests.sql.warehouses import opened, run

LOADS: Final = pytest.mark.parametrize("load", ["memory", "view"])


def write(files: Mapping[str, str | bytes]) -> None:
    """The files, below the current folder."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def rows(tables: Mapping[str, Any], sql: str, **options: Any) -> list[dict[str, Any]]:
    """What the statement gives over the tables."""
    with opened(tables, **options) as engine:
        return list(run(engine, sql).to_pylist())


def refusal(tables: Mapping[str, Any], **options: Any) -> SourceError:
    """The error of tables that cannot be opened."""
    with pytest.raises(SourceError) as refused, opened(tables, **options):
        pass
    return refused.value


def make_database(path: str, *statements: str) -> None:
    """A DuckDB file."""
    with duckdb.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
