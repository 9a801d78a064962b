"""The lines that a terminal shows below the log while an app starts: how many processes are ready, and for each table
that is being read its file, bytes, share and time. rich draws them, as wide as the terminal is at that moment, and they
are gone when the app is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from flightserve.wire.log_lines import Record, neutral
from flightserve.wire.log_text import LOADING

# Tables that are drawn at a time.
TABLES_MAX: Final = 8


class LoadingDisplay:
    """For one start. Not for several threads at a time."""

    def __init__(self, out: TextIO, colour: bool) -> None:
        self._console = Console(
            file=out, force_terminal=True, color_system="standard" if colour else None, no_color=not colour
        )
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[about]}"),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tables: dict[tuple[str, str], TaskID] = {}
        self._start = self._progress.add_task("starting", total=None, about="")
        self._progress.start()
        self._progress.refresh()

    def __repr__(self) -> str:
        return f"<LoadingDisplay of {len(self._tables)} tables>"

    def close(self) -> None:
        """Clear the lines."""
        self._progress.stop()

    def print(self, lines: Sequence[str]) -> None:
        """Lines of the log, above."""
        for line in lines:
            self._console.print(Text.from_ansi(line), soft_wrap=True, highlight=False)
        self._progress.refresh()

    def starting(self, ready: int, known: int) -> None:
        """So many of the processes that are known are ready."""
        self._progress.update(
            self._start, total=known or None, completed=ready, about=f"{ready} of {known} processes" if known else ""
        )
        self._progress.refresh()

    def take(self, record: Record) -> bool:
        """Draw what the record says of a loading; False where it is a line of the log as well."""
        table = record.get("table")
        if record["logger"] != LOADING or not isinstance(table, str):
            return False
        key = (record["process"], table)
        if "share" not in record:
            # It is loaded.
            if (task := self._tables.pop(key, None)) is not None:
                self._progress.remove_task(task)
            return False
        task = self._tables.get(key)
        if task is None and len(self._tables) < TABLES_MAX:
            task = self._tables[key] = self._progress.add_task(neutral(table), total=1.0, about="")
        if task is not None:
            about = neutral(str(record.get("about", "")))
            self._progress.update(task, completed=float(record["share"]), about=about)
            self._progress.refresh()
        return True
