"""Folders that are Delta or Iceberg tables, read by `deltalake` and `pyiceberg` (extras).

Which of the folder's files are the table's is in its log, so the files are never taken as they lie there. A table is
served at the version that it has when it is opened.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from flightserve.sql.engine.errors import explain
from flightserve.sql.sources.problems import BadFile

_VERSION: Final = re.compile(r"v?(\d+)(?:-[^/]*)?\.metadata\.json(?:\.gz)?|v?(\d+)\.gz\.metadata\.json")
LAKES: Final = frozenset({"delta", "iceberg"})


def format_of(path: str) -> str | None:
    """ "delta" or "iceberg" where the folder is such a table."""
    if os.path.isdir(os.path.join(path, "_delta_log")):
        return "delta"
    return "iceberg" if os.path.isdir(path) and _metadata_files(path) else None


def version_of(folder: str, kind: str) -> str:
    """What changes with each change of the table."""
    if kind == "iceberg":
        return os.path.basename(_metadata_file(folder))
    log = Path(folder, "_delta_log")
    try:
        # Checkpoints do not change the table; of commits and what compacts them the last one says all.
        last = max((each for each in log.iterdir() if each.suffix == ".json"), default=log, key=lambda each: each.name)
        found = last.stat()
    except OSError as error:
        raise BadFile(folder, f"cannot be read: {error.strerror}") from error
    return f"{last.name} {found.st_size} {found.st_mtime_ns}"


def read_lake(folder: str, kind: str) -> Any:
    """The table's rows, as what Arrow calls a dataset or a table. Raises BadFile."""
    return _read_delta(folder) if kind == "delta" else _read_iceberg(folder)


def _read_delta(folder: str) -> Any:
    try:
        from deltalake import DeltaTable, QueryBuilder
        from deltalake.exceptions import DeltaProtocolError
    except ImportError as error:
        raise BadFile(folder, missing("is a Delta table", "delta")) from error
    try:
        table = DeltaTable(folder)
        with contextlib.suppress(DeltaProtocolError):
            return table.to_pyarrow_dataset()
        # What datasets do not know, as deletion vectors, deltalake's own engine does.
        rows = QueryBuilder().register("t", table).execute("SELECT * FROM t")
        return pa.RecordBatchReader.from_stream(rows).read_all()
    except Exception as error:  # of many libraries below it
        raise BadFile(folder, f"is no Delta table that can be read: {explain(error, (folder,))}") from error


def _read_iceberg(folder: str) -> pa.Table:
    try:
        from pyiceberg.table import StaticTable
    except ImportError as error:
        raise BadFile(folder, missing("is an Iceberg table", "iceberg")) from error
    try:
        return StaticTable.from_metadata(_metadata_file(folder)).scan().to_arrow()
    except Exception as error:  # of many libraries below it
        why = f"{type(error).__name__}: {explain(error, (folder,))}"
        raise BadFile(folder, f"is no Iceberg table that can be read: {why}") from error


def missing(what: str, extra: str) -> str:
    """What to install, for a message."""
    return f"{what}, which needs an extra: pip install 'flightserve[{extra}]'"


def _metadata_files(folder: str) -> list[tuple[int, str]]:
    """The table's metadata files with their numbers."""
    try:
        names = os.listdir(os.path.join(folder, "metadata"))
    except OSError:
        return []
    found = ((_VERSION.fullmatch(name), name) for name in names)
    return sorted((int(match[1] or match[2]), name) for match, name in found if match)


def _metadata_file(folder: str) -> str:
    """The metadata of the table as it is: the one that the hint names, or else the last."""
    files = _metadata_files(folder)
    if not files:
        raise BadFile(folder, "is no Iceberg table any more: its metadata is gone")
    try:
        hint = Path(folder, "metadata", "version-hint.text").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        hint = ""
    named = [name for number, name in files if hint.isdecimal() and number == int(hint)]
    return os.path.join(folder, "metadata", named[-1] if named else files[-1][1])
