"""What `flightserve sql` is told of the files that it serves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flightserve.cli.arguments import csv_option
from flightserve.errors import ConfigError

if TYPE_CHECKING:
    from flightserve.app import App


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add them to the command's."""
    option = parser.add_argument
    about = (
        "how CSV files are written, e.g. delim=';', null=NA, header=false, encoding=latin-1, decimal_separator=','; "
        "may be given again"
    )
    option("--csv", action="append", default=[], type=csv_option, metavar="KEY=VALUE", help=about)
    about = "a file of CREATE VIEW and CREATE MACRO statements over the tables; run again after each refresh"
    option("--init", metavar="FILE", help=about)
    about = "do not start where a file cannot be read (default: leave it out, name it, and serve the others)"
    option("--strict", action="store_true", help=about)


def check_tables(tables: Sequence[tuple[str, str]]) -> None:
    """Raises ConfigError where there are none, and for two of one name."""
    if not tables:
        raise ConfigError("no tables are named: give [NAME=]PATH, or write them under [sql.tables] in a file")
    names = [name for name, _ in tables]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"two tables would be called {repeated[0]!r}; write NAME=PATH for one of them")


def warehouse_app(arguments: argparse.Namespace) -> App:
    """What `flightserve sql` serves with these arguments. Raises ConfigError."""
    from flightserve.app import App
    from flightserve.sql import Warehouse

    warehouse = Warehouse(
        dict(arguments.tables),
        name=arguments.name,
        load=arguments.load,
        engine=arguments.engine,
        threads=arguments.threads,
        memory_limit=arguments.memory_limit,
        spill_limit=arguments.spill_limit,
        refresh_s=arguments.refresh,
        cache_mb=arguments.cache_mb,
        strict_files=arguments.strict,
        csv=csv_options(arguments.csv),
        init=read_init(arguments.init),
    )
    return App(warehouse.bind())


def csv_options(given: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """The options by name; words for no value may be several. Raises ConfigError."""
    values: dict[str, list[str]] = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    twice = [name for name, each in values.items() if len(each) > 1 and name not in ("null", "nullstr")]
    if twice:
        raise ConfigError(f"--csv {twice[0]} is given twice")
    return {name: each if len(each) > 1 else each[0] for name, each in values.items()}


def read_init(path: str | None) -> str:
    """The file's text, "" where none was named. Raises ConfigError."""
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ConfigError(f"--init {path} cannot be read: {why}") from error
