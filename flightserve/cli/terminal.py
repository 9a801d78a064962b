"""Standard error, as people or programs read it: every record of the log, and what else is to be said, goes through one
`Terminal`.

As JSON each record is a line. As text it is a short line for people (`wire.log_text`); on a terminal a few lines below
show, while an app starts, how far that is (rich draws them), and a banner ends the start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TextIO

from flightserve.cli.colour import colour_of, is_dumb, is_terminal
from flightserve.control.logs import PROGRESS, time_of_day
from flightserve.wire.log_lines import LEVELS, Record, encode
from flightserve.wire.log_text import LOADING, is_for_people, is_printed, text_of

if TYPE_CHECKING:
    from flightserve.cli.drawing import LoadingDisplay

FORMATS: Final = ("text", "json")
LEVEL_NAMES: Final = tuple(level.lower() for level in LEVELS[:4])
# Around whatever is written: where nobody reads any more, the app serves on.
_GONE: Final = contextlib.suppress(OSError, ValueError)


def chosen_format(asked: str | None, stream: TextIO) -> str:
    """What was asked for, else text for people and JSON for programs."""
    return asked or ("text" if is_terminal(stream) else "json")


class Terminal:
    """Writes to `out`. `level` is what was asked for, "" where nobody did. Any thread."""

    def __init__(self, form: str, level: str, out: TextIO) -> None:
        self.form = form
        self.colour = form == "text" and colour_of(out)
        self._level = level.upper()
        self._out = out
        self._lock = threading.RLock()
        self.rows: dict[str, int | None] = {}
        self._display: LoadingDisplay | None = None
        self._live = form == "text" and is_terminal(out) and not is_dumb(os.environ)

    def __repr__(self) -> str:
        return f"<Terminal {self.form}>"

    @property
    def log_level(self) -> int:
        """What the processes of the app are to log. What draws how far a loading is needs more than a log does."""
        asked = logging.getLevelNamesMapping()[self._level] if self._level else logging.INFO
        return min(asked, PROGRESS) if self._live else asked

    def begin(self) -> None:
        """The app starts: from here on, until `end`, there may be something to draw."""
        if self._live:
            from flightserve.cli.drawing import LoadingDisplay

            with self._lock, _GONE:
                self._display = LoadingDisplay(self._out, self.colour)

    def end(self) -> None:
        """Nothing is drawn any more."""
        with self._lock, _GONE:
            display, self._display = self._display, None
            if display is not None:
                display.close()

    def write(self, record: Record) -> None:
        """One record, if it is to be shown."""
        with self._lock, _GONE:
            self._count(record)
            if self._display is not None and self._display.take(record):
                return
            if self._shows(record):
                text = text_of(record, time_of_day(record), self.colour)
                self._put([encode(record) if self.form == "json" else text])

    def starting(self, ready: int, known: int) -> None:
        """So many of the processes that are known are ready."""
        with self._lock, _GONE:
            if self._display is not None:
                self._display.starting(ready, known)

    def show(self, lines: Sequence[str]) -> None:
        """Lines for people."""
        with self._lock, _GONE:
            self._put(lines)

    def _count(self, record: Record) -> None:
        table, rows = record.get("table"), record.get("rows")
        if record["logger"] == LOADING and isinstance(table, str) and isinstance(rows, int):
            self.rows[table] = rows

    def _shows(self, record: Record) -> bool:
        if is_printed(record):
            return True
        if not self._level:
            return is_for_people(record) if self.form == "text" else record["level"] != "DEBUG"
        return LEVELS.index(record["level"]) >= LEVELS.index(self._level)

    def _put(self, lines: Sequence[str]) -> None:
        if self._display is not None:
            self._display.print(lines)
        else:
            self._out.write("".join(f"{line}\n" for line in lines))
            self._out.flush()
