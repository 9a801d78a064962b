"""Records of the log for people: short lines that say when, who and what.

Pure: a record and a time of day, in; text, out. Whatever a record holds, it moves no cursor (`log_lines.neutral`).
"""

from __future__ import annotations

from typing import Final

from flightserve.wire.log_lines import LEVELS, Record, neutral

# Request ids that a line names.
IDS_MAX: Final = 3
PRINTED: Final = frozenset({"stdout", "stderr"})
# Who tells how far the loading of a table is, and that it is loaded.
LOADING: Final = "flightserve.sql.loading"
# Of flightserve's own records below a warning, people want those of these loggers.
TOLD: Final = ("flightserve.told", LOADING, "flightserve.cli.reloading")
# Libraries whose warnings are about themselves.
_QUIET: Final = frozenset({"ray", "grpc"})
_STYLES: Final = {"DEBUG": "2", "INFO": "", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_WORDS: Final = {"WARNING": "warning ", "ERROR": "error ", "CRITICAL": "error "}
DIM: Final = "2"
WHO: Final = "36"


def painted(text: str, style: str, colour: bool) -> str:
    """The text in a style of the terminal (the numbers of SGR), if there is to be colour."""
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style and text else text


def is_printed(record: Record) -> bool:
    """Whether user code printed it."""
    return record["logger"] in PRINTED


def is_for_people(record: Record) -> bool:
    """Whether it is told where nobody asked for a level: what went wrong, what starts and is ready, and all that users
    print and log."""
    level, logger = LEVELS.index(record["level"]), record["logger"]
    if logger in _QUIET:
        return level >= LEVELS.index("ERROR")
    ours = logger == "flightserve" or logger.startswith("flightserve.")
    return level >= LEVELS.index("WARNING") or (level == LEVELS.index("INFO") and (not ours or logger in TOLD))


def text_of(record: Record, clock: str, colour: bool) -> str:
    """The record as one line; what has more lines is indented below."""
    level = record["level"]
    who = _who(record)
    message = neutral(record["message"])
    exception = neutral(str(record.get("exception") or ""))
    first, *more = f"{message}\n{exception}".rstrip().split("\n")
    head = [
        painted(clock, DIM, colour),
        painted(_WORDS.get(level, "").rstrip(), _STYLES[level], colour),
        painted(who, WHO, colour),
        painted(first, _STYLES[level] if level == "DEBUG" else "", colour),
        painted(_requests(record), DIM, colour),
    ]
    below = [painted(f"  {line}", DIM, colour) for line in more]
    return "\n".join([" ".join(part for part in head if part), *below])


def _who(record: Record) -> str:
    """`Pricing-0.charge`, `router-0`; nobody for the process whose log it is."""
    process, method = neutral(str(record["process"])), record.get("method")
    if process == "launcher":
        return ""
    name = process.removeprefix("replica-")
    return f"{name}.{neutral(method)}" if isinstance(method, str) and method else name


def _requests(record: Record) -> str:
    ids = record.get("request_ids")
    if not isinstance(ids, list) or not ids:
        return ""
    count = record.get("requests")
    shown = ", ".join(neutral(str(each)) for each in ids[:IDS_MAX])
    more = count - IDS_MAX if isinstance(count, int) and count > IDS_MAX else 0
    return f"[{shown} and {more} more]" if more else f"[{shown}]"
