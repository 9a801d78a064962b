"""Logs of our processes: one JSON object a line on stderr; Ray carries the children's to the launcher."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

# What a record carries beside these was passed as `extra` and belongs in the line.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


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


def configure_logging(process: str, level: int = logging.INFO) -> None:
    """Send the `flightserve` loggers of this process to stderr. Other loggers are left alone."""
    logger = logging.getLogger("flightserve")
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter(process))
    logger.handlers[:] = [stream]
    logger.setLevel(level)
    logger.propagate = False
