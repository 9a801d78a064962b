"""What the processes of an app write, on its way to whoever started the app.

Ray brings it line by line. It would print lines with a coloured prefix, leave out those that look alike, and send what
user code prints to standard output. Here each becomes a record, whoever wrote it, and `deliver_to` says who gets the
records. Until then they go to the program's own logging: they are records of the logger `flightserve`, with the names
that they had. What is printed is no log, and is written where the program shows no such records; a program without any
logging set up sees lines of text on standard error.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.control.logs import now, time_of_day
from flightserve.core.cache import LRUCache
from flightserve.wire.log_lines import FIELDS, Joining, Record, fold, neutral, raw_record
from flightserve.wire.log_text import is_for_people, is_printed, text_of

log = logging.getLogger("flightserve.control.carrying")
_carried: Final = logging.getLogger("flightserve.carried")

# The name under which `ray.init` registers what prints the children's lines.
RAY_PRINTER: Final = "ray_print_logs"
# Files that lines are put together of, and processes whose names are known.
FILES_MAX: Final = 2048
# How often Ray's GCS is asked for lines that it may know nothing of any more.
ASK_AGAIN_S: Final = 5.0
_CLASS_PREFIX: Final = "flightserve: "
_REPLICA: Final = re.compile(r"replica-(\w+)-\d+")
# How Ray and gRPC's library begin lines of their logs, with the level's initial.
_OF_LIBRARIES: Final = (
    ("ray", re.compile(r"^\[[\d-]+ [\d:,.]+ ([DIWEFC]) \d+ \d+\] ")),
    ("grpc", re.compile(r"^([IWEF])\d{4} \d\d:\d\d:\d\d|^(W)ARNING: All log messages before absl")),
)
# What Ray's processes have to say of an app's end may be read a while after it.
STOPPED_NS: Final = 2 * NS_PER_S
_INITIALS: Final = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL", "C": "CRITICAL"}

Deliver = Callable[[Record], None]


class Carrier:
    """Batches of lines in, records out. Any thread."""

    def __init__(self) -> None:
        self._files: LRUCache[tuple[object, bool], Joining] = LRUCache(FILES_MAX)
        self._names: LRUCache[object, str] = LRUCache(FILES_MAX)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Carrier of {len(self._files)} files>"

    def records(self, batch: dict[str, Any]) -> list[Record]:
        """What one batch completes: `lines` of one file of the process `pid`, which is an actor of that name."""
        pid, is_error = batch.get("pid"), bool(batch.get("is_err"))
        if pid == "autoscaler":
            # Its whole log; Ray, too, prints none of it but events, which one node has none of.
            return []
        with self._lock:
            joining = self._files.get((pid, is_error))
            if joining is None:
                joining = Joining()
                self._files.put((pid, is_error), joining)
            return list(self._made(joining, batch, pid, is_error))

    def _made(self, joining: Joining, batch: dict[str, Any], pid: object, is_error: bool) -> Iterator[Record]:
        raw: list[str] = []
        for each in joining.feed(batch.get("lines", ())):
            if isinstance(each, str):
                raw.append(each)
                continue
            yield from self._raw(raw, batch, pid, is_error)
            raw = []
            self._names.put(pid, each["process"])
            yield each
        yield from self._raw(raw, batch, pid, is_error)

    def _raw(self, lines: list[str], batch: dict[str, Any], pid: object, is_error: bool) -> Iterator[Record]:
        actor = str(batch.get("actor_name") or "").removeprefix(_CLASS_PREFIX).replace(" ", "-")
        process = self._names.get(pid) or actor or f"ray-{pid or 'process'}"
        for message in fold(lines):
            yield judged(message, process, is_error)


class Stops:
    """Ordinary ends of apps, which go on or were a moment ago. Ray's GCS may then want to kill an actor that has just
    left, and calls it an error that there is none. It is nobody's. Any thread."""

    def __init__(self, clock: Clock = monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._going_on = 0
        self._until_ns = 0

    def begin(self) -> None:
        """An app is being stopped, and nothing went wrong before."""
        with self._lock:
            self._going_on += 1

    def end(self) -> None:
        """It has stopped."""
        with self._lock:
            self._going_on -= 1
            self._until_ns = self._clock() + STOPPED_NS

    def any(self) -> bool:
        """Whether there is one."""
        return self._going_on > 0 or self._clock() < self._until_ns


stops: Final = Stops()


def judged(message: str, process: str, is_error: bool) -> Record:
    """The record of raw text. Lines of Ray's and gRPC's own logs say their level; what Ray says while an app is stopped
    is at most for information."""
    record = raw_record(now(), process, neutral(message), is_error)
    if replica := _REPLICA.fullmatch(process):
        record["deployment"] = replica[1]
    if process.startswith("ray-"):
        record["logger"] = "ray"
    for library, form in _OF_LIBRARIES:
        if found := form.match(message):
            record |= {"logger": library, "level": _INITIALS[found[1] or "W"]}
    if record["logger"] == "ray" and record["level"] != "DEBUG" and stops.any():
        record["level"] = "INFO"
    return record


_deliver: Deliver | None = None
_carrier: Final = Carrier()


def deliver_to(deliver: Deliver | None) -> None:
    """Who gets the records of all apps of this process from now on; None: the program's logging."""
    global _deliver  # noqa: PLW0603 - a process has one log
    _deliver = deliver


class _Beside:
    """In the place of Ray's printer where the Ray is the program's: lines of our children are taken, all others are
    printed as before."""

    def __init__(self, printer: Callable[[dict[str, Any]], None]) -> None:
        self._printer = printer

    def __call__(self, batch: dict[str, Any]) -> None:
        ours = str(batch.get("actor_name") or "").startswith(_CLASS_PREFIX)
        (take if ours else self._printer)(batch)


def carry_logs_beside() -> None:
    """Take what the program's own Ray brings from our children. Once is enough until its `ray.shutdown`."""
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
    except ImportError:
        log.debug("this Ray's printer cannot be replaced: our children's lines have a prefix")
        return
    printer = dict(dispatcher.handlers).get(RAY_PRINTER)
    if printer is not None and not isinstance(printer, _Beside):
        dispatcher.remove_handler(RAY_PRINTER)
        dispatcher.add_handler(RAY_PRINTER, _Beside(printer))


def carry_logs() -> None:
    """Take what Ray brings from the children. Call it after `ray.init`; it lasts until `ray.shutdown`, which removes
    Ray's printer, and so ours, by its name."""
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
    except ImportError:
        log.debug("this Ray's printer cannot be replaced: its lines have a prefix")
        return
    dispatcher.remove_handler(RAY_PRINTER)
    dispatcher.add_handler(RAY_PRINTER, take)
    carry_words()


def ask_again(ended: threading.Event) -> None:
    """Until `ended`: ask Ray's GCS for the lines now and then. One that was started again does not know who wants them,
    and Ray asks once. To ask twice brings nothing twice."""
    from ray._private.worker import global_worker

    while not ended.wait(ASK_AGAIN_S):
        try:
            global_worker.gcs_log_subscriber.subscribe()
        except Exception as error:  # whatever Ray raises while there is no GCS
            log.debug("Ray's GCS was not asked for lines: %s", error)


def carry_words() -> None:
    """The raylet's own words (a process died, memory is short), which come another way."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _pass_on


def _pass_on(batch: dict[str, Any], ignore_prefix: bool) -> None:
    """What a process of Ray's says of itself, as our log. The supervisor tells what it means for the app."""
    for line in batch.get("lines", ()):
        log.info("Ray's %s: %s", batch.get("pid", "process"), neutral(line).strip())


def take(batch: dict[str, Any]) -> None:
    """Deliver the records of one batch of lines; raises nothing."""
    deliver = _deliver or to_program
    for record in _read(batch):
        try:
            deliver(record)
        except Exception:  # handlers of the program may raise anything, on Ray's thread
            log.debug("a record could not be delivered", exc_info=True)


def _read(batch: dict[str, Any]) -> list[Record]:
    """The batch's records. It is strangers' text, and what fails here would end Ray's thread, and all logs with it."""
    try:
        return _carrier.records(batch)
    except Exception:
        log.exception("lines of %s could not be read", batch.get("pid"))
        return []


def to_program(record: Record) -> None:
    """The record by the program's own logging, or as a line where it has none."""
    number = logging.getLevelNamesMapping()[record["level"]]
    if not _carried.hasHandlers():
        if is_for_people(record):
            _write(record)
    elif _carried.isEnabledFor(number):
        _carried.handle(_as_logged(record, number))
    elif is_printed(record):
        _write(record)


def _as_logged(record: Record, number: int) -> logging.LogRecord:
    exception = f"\n{record['exception']}" if record.get("exception") else ""
    made = logging.LogRecord(record["logger"], number, "", 0, record["message"] + exception, None, None)
    about = {key: value for key, value in record.items() if key not in FIELDS}
    made.__dict__.update({"replica": record["process"], "flightserve": about})
    return made


def _write(record: Record) -> None:
    try:
        sys.stderr.write(text_of(record, time_of_day(record), colour=False) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        # A closed standard error loses them.
        return
