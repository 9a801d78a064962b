"""`--log-format` and `--log-level`, and standard output and error as they ask for."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from flightserve.cli.output import StdoutForPrograms
from flightserve.cli.terminal import FORMATS, LEVEL_NAMES, Terminal, chosen_format
from flightserve.errors import FlightserveError

if TYPE_CHECKING:
    from flightserve.wire.log_lines import Record


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What was asked for; "" where nothing was."""

    form: str = ""
    level: str = ""


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that serve."""
    option: Any = parser.add_argument
    about = "text: short lines for people; json: one object a line (default: text on a terminal, json elsewhere)"
    option("--log-format", choices=FORMATS, help=about)
    about = "the least that is told (default: info; on a terminal what matters of it)"
    option("--log-level", choices=LEVEL_NAMES, help=about)


def log_options(arguments: argparse.Namespace) -> LogOptions:
    """What was given."""
    return LogOptions(arguments.log_format or "", arguments.log_level or "")


def error_record(error: FlightserveError) -> str:
    """What keeps a command from being done, as a line of the log."""
    from flightserve.control.logs import now
    from flightserve.wire.log_lines import encode

    return encode(
        {
            "time": now(),
            "level": "ERROR",
            "logger": "flightserve.told",
            "process": "launcher",
            "message": error.message,
            **detail_of(error),
        }
    )


def detail_of(error: FlightserveError) -> dict[str, str]:
    """The traceback, where there is one."""
    detail = getattr(error, "detail", "")
    return {"exception": detail} if detail else {}


@contextlib.contextmanager
def opened(options: LogOptions) -> Iterator[tuple[TextIO, Terminal]]:
    """The real standard output, which is for programs, and what writes all else to standard error, while the block
    runs. Records of this process and of the app's come to it."""
    for_nobody()
    form = chosen_format(options.form or None, sys.stderr)
    with contextlib.ExitStack() as stack:
        if form == "text":
            out, errors = stack.enter_context(StdoutForPrograms()), sys.stderr
        else:
            from flightserve.cli.capturing import Captured

            out, errors = stack.enter_context(Captured(lambda lines: _raw(terminal, lines)))
        terminal = Terminal(form, options.level, errors)
        stack.callback(terminal.end)
        stack.enter_context(_logging(terminal))
        yield out, terminal


def for_nobody() -> None:
    """Whoever started us may have closed standard output or error: what comes next would get their numbers."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


@contextlib.contextmanager
def _logging(terminal: Terminal) -> Iterator[None]:
    from flightserve.control.carrying import deliver_to
    from flightserve.control.logs import configure_logging

    configure_logging("launcher", terminal.log_level, terminal.write)
    deliver_to(terminal.write)
    try:
        yield
    finally:
        deliver_to(None)


def _raw(terminal: Terminal, lines: Sequence[str]) -> None:
    from flightserve.control.carrying import judged
    from flightserve.wire.log_lines import fold

    for message in fold(lines):
        record: Record = judged(message, "launcher", is_error=True)
        terminal.write(record)
