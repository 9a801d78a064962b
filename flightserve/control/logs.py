"""Logs of our processes: each line is one record (`wire.log_lines`), written whole to the file that is standard error.

In a child the user's logging comes the same way. Only what nobody set up is set up for them: the handler of last resort
writes records, so that what a user's module configures (`basicConfig`, `dictConfig`) is what holds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from flightserve.contracts.context import current_or_none
from flightserve.replica.faults import traceback_of
from flightserve.wire.log_lines import FIELDS, LEVELS, Record, encode, shorten

# Beside logging's own: how far the loading of a table is, often. Only a terminal shows that.
PROGRESS: Final = 15
# What a record carries beside these was passed as `extra` and belongs in the line; Ray stamps its own on all.
_STANDARD: Final = (
    frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "_ray_timestamp_ns"} | {*FIELDS}
)
_uncaught: Final = logging.getLogger("flightserve.uncaught")


def stamp(created_s: float) -> str:
    """A time as records have it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created_s)) + f".{int(created_s * 1000) % 1000:03d}Z"


def now() -> str:
    """The time of a record that is made now."""
    return stamp(logging.makeLogRecord({}).created)


def time_of_day(record: Record) -> str:
    """The time of a record for people, where they are; one that says none is of now."""
    try:
        return datetime.fromisoformat(record["time"]).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return time.strftime("%H:%M:%S")


def record_of(record: logging.LogRecord, process: str, about: Mapping[str, object]) -> Record:
    """`logging`'s record as ours; a traceback goes under "exception". `about` says on whose behalf it was made."""
    line: Record = {
        "time": stamp(record.created),
        "level": _level(record.levelno),
        "logger": record.name,
        "process": process,
        "message": shorten(_message(record)),
        **about,
    }
    line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        line["exception"] = traceback_of(record.exc_info[1])
    if record.stack_info:
        line["stack"] = shorten(record.stack_info)
    return line


def _level(number: int) -> str:
    """By its number: libraries make levels up, and give other names, or coloured ones, to those that there are."""
    return LEVELS[max(1, min(len(LEVELS), number // 10)) - 1]


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # arguments that do not fit the message, or raise
        told = record.msg if type(record.msg) is str else f"a {type(record.msg).__name__}"
        return f"{told} (its arguments do not fit: {type(error).__name__})"


class RecordHandler(logging.Handler):
    """Gives records to `write`. Users' code may have closed or replaced anything: nothing is raised to whoever has
    something to say."""

    def __init__(
        self, process: str, write: Callable[[Record], None], about: Callable[[], Mapping[str, object]]
    ) -> None:
        super().__init__()
        self._process = process
        self._write = write
        self._about = about

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        with contextlib.suppress(Exception):
            self._write(record_of(record, self._process, self._about()))


class LogFile:
    """Standard error as it was at first, by a descriptor of its own: user code may close that, or put another there."""

    def __init__(self) -> None:
        try:
            self._fd = os.dup(2)
        except OSError:
            self._fd = 2

    def write(self, record: Record) -> None:
        """The record in one call, so that lines of several threads and processes stay whole."""
        self.write_text(encode(record))

    def write_text(self, line: str) -> None:
        """The same for a line that is none."""
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]


_file: LogFile | None = None


def log_file() -> LogFile:
    """This process's."""
    global _file  # noqa: PLW0603 - a process has one standard error
    if _file is None:
        _file = LogFile()
    return _file


def configure_logging(
    process: str,
    level: int = logging.INFO,
    write: Callable[[Record], None] | None = None,
    about: Callable[[], Mapping[str, object]] = dict,
) -> RecordHandler:
    """Send the `flightserve` loggers of this process to `write` (default: standard error). Other loggers are left
    alone."""
    logger = logging.getLogger("flightserve")
    handler = RecordHandler(process, write or log_file().write, about)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return handler


def about_request(deployment: str) -> Mapping[str, object]:
    """On whose behalf the calling code runs: the requests of its micro-batch, where there is one."""
    current = current_or_none()
    if current is not None:
        return current.describe()
    return {"deployment": deployment} if deployment else {}


def configure_child(process: str, deployment: str, level: int) -> None:
    """All that this process and the user's code in it log, and what nobody catches, as records. A process that becomes
    another child is configured again."""

    def about() -> Mapping[str, object]:
        return about_request(deployment)

    handler = configure_logging(process, level, about=about)
    logging.lastResort = handler
    root = logging.getLogger()
    if deployment and root.level == logging.WARNING:
        # As nobody has set it. Elsewhere nobody's code runs but ours, and that of libraries.
        root.setLevel(level)
    sys.excepthook = _in_main_thread
    threading.excepthook = _in_thread
    sys.unraisablehook = _unraisable
    # A traceback that user code prints is one message, not one for each of its lines.
    traceback.TracebackException.print = _print_at_once  # type: ignore[method-assign]


def _in_main_thread(_kind: type[BaseException], error: BaseException, _trace: Any) -> None:
    _uncaught.error("uncaught exception\n%s", traceback_of(error))


def _in_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_value is not None and not isinstance(what.exc_value, SystemExit):
        name = what.thread.name if what.thread is not None else "?"
        _uncaught.error("thread %s ended by an exception\n%s", name, traceback_of(what.exc_value))


def _unraisable(what: Any) -> None:
    if what.exc_value is not None:
        where = what.err_msg or f"exception ignored in a {type(what.object).__name__}"
        _uncaught.error("%s\n%s", where, traceback_of(what.exc_value))


def _print_at_once(self: traceback.TracebackException, *, file: Any = None, chain: bool = True) -> None:
    print("".join(self.format(chain=chain)), file=file or sys.stderr, end="")
