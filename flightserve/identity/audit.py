"""The audit log: a line for each call and query, and for those who were not recognised.

What a request costs of it is an entry in a queue; a thread writes. Nothing waits for a disk: where that is too slow, or
gone, entries are lost, and it is told how many. A line says who, what, when, for how long, how it ended and how many
rows there were; never a value, nor the text of a statement.

With a file each line goes there. Without, lines are records of the logger `flightserve.audit`, beside all others, which
travel to whoever started the app. That has its price (1,000 of them took a tenth of 35,000 HTTP calls a second), so
there are at most so many a second, and no more wait than may be written.

Lines of those who were not recognised, of what somebody lacked the right to, and of all else wait apart: neither who
calls as often as he can nor who is refused as often hides what the others tell.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from flightserve import threads
from flightserve.clock import NS_PER_MS
from flightserve.errors import ConfigError
from flightserve.identity.issuing import Date, today
from flightserve.wire.status import Code, name_of

log = logging.getLogger("flightserve.identity")
audit: Final = logging.getLogger("flightserve.audit")

QUEUE_MAX: Final = 65_536
WRITE_S: Final = 0.2
# Records of the log, of each kind of line; a file takes all.
LOGGED_PER_S: Final = 100
# Lines about those who were not recognised: strangers decide how many there would be.
FAILED_PER_S: Final = 10
TEXT_CHARS_MAX: Final = 256
TABLES_MAX: Final = 64
PIECE_BYTES: Final = 256 << 10
MODE: Final = 0o600
# How often losses are told.
TELL_S: Final = 10.0
# What those did who were not recognised.
AUTHENTICATION: Final = "authentication"
# Who lacks a right, or has lost what he was recognised by. Not who is at one of his limits: it is calls that he makes
# too many of.
DENIED: Final = frozenset({int(Code.PERMISSION_DENIED), int(Code.UNAUTHENTICATED)})

NS_PER_US: Final = 1_000
_encode = msgspec.json.Encoder().encode


class AuditEntry(msgspec.Struct, eq=False, gc=False):
    """One line, as it waits. `began_s` is seconds since 1970."""

    began_s: float
    principal: str
    protocol: str
    what: str
    code: int
    rows: int = 0
    request_id: str = ""
    tables: Sequence[str] | None = None
    why: str = ""
    took_ns: int = 0


class Waiting:
    """Lines of one kind, until they are written. What fills it takes no room from another kind."""

    __slots__ = ("_left", "_per_s", "_second", "entries", "entries_max")

    def __init__(self, entries_max: int, per_s: int) -> None:
        self.entries: deque[AuditEntry] = deque()
        self.entries_max = entries_max
        self._per_s = self._left = per_s
        self._second = 0

    def take(self, second: int) -> list[AuditEntry]:
        """Those that may be written in this second. One thread at a time."""
        if second != self._second:
            self._second, self._left = second, self._per_s
        some = [self.entries.popleft() for _ in range(min(len(self.entries), self._left))]
        self._left -= len(some)
        return some


class AuditLog:
    """Of one process. Any thread."""

    def __init__(self, path: str | None, date: Date = today) -> None:
        """Without a path it goes to the log."""
        self.date = date
        self._file = AuditFile(path) if path else None
        bounds = (QUEUE_MAX, sys.maxsize) if path else (LOGGED_PER_S, LOGGED_PER_S)
        self._kinds = self._strangers, self._denied, self._others = tuple(Waiting(*bounds) for _ in range(3))
        self._lost = 0
        self._told_s = 0.0
        self._second = 0
        self._failed = 0
        self._stopping = threading.Event()
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"<AuditLog with {sum(len(kind.entries) for kind in self._kinds)} waiting, {self._lost} lost>"

    def note(self, entry: AuditEntry) -> None:
        """Have it written."""
        waiting = self.room(entry.code, entry.principal != "")
        if waiting is not None:
            waiting.append(entry)

    def room(self, code: int, known: bool = True) -> deque[AuditEntry] | None:
        """Where an entry of this code, of a principal or of somebody unknown, is to wait. None where there is no room
        for one, which is counted: then nobody need make it."""
        kind = self._others if code not in DENIED else self._denied if known else self._strangers
        if len(kind.entries) < kind.entries_max:
            return kind.entries
        self._lost += 1
        return None

    def note_failure(self, protocol: str, why: str) -> None:
        """Somebody was not recognised. Only so many a second are noted, and all are counted."""
        second = int(self.date())
        if second != self._second:
            more, self._second, self._failed = self._failed - FAILED_PER_S, second, 0
            if more > 0:
                why = f"{why}; and {more} others a while ago"
        self._failed += 1
        if self._failed <= FAILED_PER_S:
            self.note(AuditEntry(self.date(), "", protocol, AUTHENTICATION, Code.UNAUTHENTICATED, why=why))

    def note_refusal(self, principal: str, what: str) -> None:
        """A principal was refused this for want of a right."""
        self.note(AuditEntry(self.date(), principal, "", what, Code.PERMISSION_DENIED))

    def start(self) -> None:
        """Write from now on."""
        threads.start("flightserve-audit", self._run, self._stopping.is_set, again=True)

    def _run(self) -> None:
        while not self._stopping.wait(WRITE_S):
            self.write()

    def write(self) -> None:
        """Write what waits, as far as it may be written by now."""
        with self._writing:
            now_s = time.monotonic()
            self._put([entry for kind in self._kinds for entry in kind.take(int(now_s))])
            if now_s - self._told_s >= TELL_S or self._stopping.is_set():
                self._tell_lost(now_s)

    def _put(self, some: list[AuditEntry]) -> None:
        if self._file is not None:
            self._lost += self._file.write(some) if some else 0
        elif audit.isEnabledFor(logging.INFO):
            for entry in some:
                line = told(entry)
                audit.info("%s %s", line["principal"], line["what"], extra=line)
        else:
            # Nobody wants any.
            self._lost = 0

    def _tell_lost(self, now_s: float) -> None:
        if self._lost:
            lost, self._lost, self._told_s = self._lost, 0, now_s
            hint = "" if self._file is not None else "; --audit-log FILE takes all"
            log.warning("%d lines of the audit log are lost%s", lost, hint)

    def stop(self) -> None:
        """Write what waits, and no more."""
        self._stopping.set()
        self.write()
        if self._file is not None:
            self._file.close()


class AuditFile:
    """Lines in a file that several processes may write to, and that may be moved away: then another one is begun."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._told = ""

    def write(self, some: Iterable[AuditEntry]) -> int:
        """How many of these entries could not be written."""
        lines = [line_of(entry) for entry in some]
        written = 0
        try:
            self._open()
            while written < len(lines):
                written += self._write_piece(lines[written:])
            self._told = ""
        except OSError as error:
            if str(error.strerror) != self._told:
                self._told = str(error.strerror)
                log.error("the audit log %s cannot be written: %s", self._path, error.strerror)
        return len(lines) - written

    def _write_piece(self, lines: list[bytes]) -> int:
        """Whole lines at once, so that those of other processes stand between them, not in them."""
        piece, count = bytearray(), 0
        for line in lines:
            if piece and len(piece) + len(line) > PIECE_BYTES:
                break
            piece += line
            count += 1
        done = os.write(self._fd, piece)
        while done < len(piece):
            done += os.write(self._fd, piece[done:])
        return count

    def _open(self) -> None:
        """The file of that name, which may be another one than before."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                    return
            self.close()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def close(self) -> None:
        """Until something is to be written again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_writable(path: str) -> str:
    """The path. Raises ConfigError where there can be no such file."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE))
    except OSError as error:
        raise ConfigError(f"audit_log {path} cannot be written: {error.strerror}") from error
    return path


def _chosen(text: str) -> str:
    """What a caller chose: cut, and without halves of surrogate pairs, as bytes in a URL that are no UTF-8 become."""
    return text[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()


def told(entry: AuditEntry) -> dict[str, Any]:
    """The entry as a record of the log has it."""
    line: dict[str, Any] = {
        "began": _stamp(entry.began_s),
        "principal": entry.principal,
        "protocol": entry.protocol,
        "what": _chosen(entry.what),
        "code": name_of(entry.code),
        "ms": entry.took_ns // NS_PER_US / 1000,
        "rows": entry.rows,
        "request_id": _chosen(entry.request_id),
    }
    return line | _rest(entry)


def line_of(entry: AuditEntry) -> bytes:
    """The same as a line of a file. Its middle is the same for many, and made once."""
    rest = _rest(entry)
    return b'{"time":"%s",%s,"ms":%.3f,"rows":%d,"request_id":%s%s}\n' % (
        _stamp(entry.began_s).encode(),
        _middle(entry.principal, entry.protocol, entry.what, entry.code),
        entry.took_ns / NS_PER_MS,
        entry.rows,
        _encode(_chosen(entry.request_id)),
        b"," + _encode(rest)[1:-1] if rest else b"",
    )


def _rest(entry: AuditEntry) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    if entry.tables:
        rest["tables"] = [_chosen(table) for table in entry.tables[:TABLES_MAX]]
    if entry.why:
        rest["why"] = entry.why
    return rest


@functools.lru_cache(maxsize=1024)
def _middle(principal: str, protocol: str, what: str, code: int) -> bytes:
    said = {"principal": principal, "protocol": protocol, "what": _chosen(what), "code": name_of(code)}
    return _encode(said)[1:-1]


def _stamp(date_s: float) -> str:
    return f"{_second(int(date_s))}.{int(date_s % 1 * 1000):03d}Z"


@functools.lru_cache(maxsize=4)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
