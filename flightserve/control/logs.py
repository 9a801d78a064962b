"""Logs of our processes: one JSON object a line on stderr; Ray carries the children's to the launcher.

Ray would print what it carries with a coloured prefix on every line, leave out lines that look alike, and send
what user code prints to standard output. `carry_logs` has each line written to standard error as it was, and what the
raylet itself says as a line of ours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
from typing import Any, Final

log = logging.getLogger(__name__)

# What a record carries beside these was passed as `extra` and belongs in the line.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# The name under which `ray.init` registers what prints the children's lines.
RAY_PRINTER: Final = "ray_print_logs"


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "process", "message", ...extra}`; a traceback goes under "exception"."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class StandardError(logging.StreamHandler[Any]):
    """Writes to the stream that was standard error at first. User code may close that, and shall not fail whoever has
    something to say: such lines go to the descriptor, or nowhere."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Instead of the tracebacks that logging writes, to the very stream that failed."""
        with contextlib.suppress(Exception):
            os.write(2, (self.format(record) + self.terminator).encode("utf-8", "replace"))


def configure_logging(process: str, level: int = logging.INFO) -> None:
    """Send the `flightserve` loggers of this process to stderr. Other loggers are left alone."""
    logger = logging.getLogger("flightserve")
    stream = StandardError(sys.stderr)
    stream.setFormatter(JsonFormatter(process))
    logger.handlers[:] = [stream]
    logger.setLevel(level)
    logger.propagate = False


def carry_logs() -> None:
    """Write what Ray brings from the children to this process's standard error, unchanged. Call it after
    `ray.init`; it lasts until `ray.shutdown`, which removes Ray's printer, and so ours, by its name."""
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
    except ImportError:
        log.debug("this Ray's printer cannot be replaced: its lines have a prefix")
        return
    dispatcher.remove_handler(RAY_PRINTER)
    dispatcher.add_handler(RAY_PRINTER, _write_lines)
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        # The raylet's own words (a process died, memory is short) go by no dispatcher.
        worker.print_to_stdstream = _pass_on


def _pass_on(batch: dict[str, Any], ignore_prefix: bool) -> None:
    """What a process of Ray's says of itself, as our log. The supervisor tells what it means for the app."""
    for line in batch.get("lines", ()):
        log.info("Ray's %s: %s", batch.get("pid", "process"), _COLOUR.sub("", line).strip())


def _write_lines(batch: dict[str, Any]) -> None:
    """`batch["lines"]`: what one process wrote, without line ends. A closed standard error loses them."""
    if batch.get("pid") == "autoscaler":
        # Its whole log; Ray, too, prints none of it but events, which one node has none of.
        return
    try:
        sys.stderr.write("".join(f"{line}\n" for line in batch.get("lines", ())))
        sys.stderr.flush()
    except (OSError, ValueError):
        return
