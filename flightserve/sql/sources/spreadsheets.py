"""Workbooks (.xlsx, .xlsm, .xls, .ods; an extra). Each sheet that has rows is a table.

A sheet's first row names its columns. A column is of the one type that all its cells have, whole numbers where all
numbers are whole; cells of several types make it text.

A process of its own reads them (`cells.py`), with a bound on its memory. The library makes room for every cell between
a sheet's first and last: a workbook of 5 KB with a cell in the last corner ended the process that read it.
"""

from __future__ import annotations

import functools
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pyarrow as pa

from flightserve.sql.sources.cells import BAD_FILE, TOO_LARGE
from flightserve.sql.sources.lakes import missing
from flightserve.sql.sources.problems import BadFile

# What reading one may take: a sheet of a million rows and twenty columns takes half of it.
MEMORY_BYTES_MAX: Final = 4 << 30
READ_S_MAX: Final = 600
_WORKBOOKS_MAX: Final = 256
_OTHERWISE: Final = "delete what stands far from the other cells, or save its sheets as CSV"
_PROGRAM: Final = str(Path(__file__).with_name("cells.py"))


@functools.lru_cache(maxsize=_WORKBOOKS_MAX)
def sheets_in(file: str, stamp: tuple[int, ...]) -> list[tuple[str, ...]]:
    """The names of the sheets that have something in them; `stamp` is of the file as it is. Raises BadFile."""
    return [(name,) for name in _read(file)["sheet"].to_pylist()]


def read_sheet(file: str, sheet: str) -> pa.Table:
    """The sheet's rows. Raises BadFile."""
    return _read(file, sheet)


def _read(file: str, *sheet: str) -> pa.Table:
    if importlib.util.find_spec("python_calamine") is None:
        raise BadFile(file, missing("is a workbook", "xlsx"))
    command = [sys.executable, "-P", _PROGRAM, str(MEMORY_BYTES_MAX), file, *sheet]
    try:
        # In a session of its own: Ctrl-C is for us, and we end it.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
            start_new_session=True, timeout=READ_S_MAX,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BadFile(file, f"takes longer than {READ_S_MAX} s to read; {_OTHERWISE}") from error
    if done.returncode == BAD_FILE:
        raise BadFile(file, done.stdout.decode())
    if done.returncode in (TOO_LARGE, -signal.SIGABRT, -signal.SIGKILL):
        raise BadFile(file, f"takes more than {MEMORY_BYTES_MAX >> 20} MiB of memory to read; {_OTHERWISE}")
    try:
        return pa.ipc.open_stream(done.stdout).read_all()
    except pa.ArrowInvalid as error:
        raise BadFile(file, "is no workbook that can be read") from error
