"""What user code prints in a child: standard output and error as streams whose lines are records of the log.

A call of `print` is one record, whatever its text holds: it is complete when what was written ends a line, as lines of
one thread do not mix with another's. `flush` writes what there is of a line; not a progress bar, which begins with a
carriage return and overwrites itself. What C libraries and other processes write to the descriptors goes by these
streams, and becomes a record where the lines arrive (`control.carrying`).
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from flightserve.control.logs import about_request, log_file, now
from flightserve.wire.log_lines import MESSAGE_CHARS_MAX, Record, shorten

# Ray speaks to its log by lines of these forms.
_RAYS: Final = (":actor_name:", ":task_name:", ":job_id:")


class Printed(io.TextIOBase):
    """A stream of text that `say` gets, message by message. `pass_on` gets what Ray tells its own."""

    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, fd: int, name: str, say: Callable[[str], None], pass_on: Callable[[str], None]) -> None:
        self.name = name
        self._fd = fd
        self._say = say
        self._pass_on = pass_on
        # By thread: the beginning of a line that is not ended yet.
        self._held: dict[int, str] = {}
        self.buffer = PrintedBytes(self)

    def __repr__(self) -> str:
        return f"<Printed {self.name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As everywhere."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Nothing that is printed fails for its characters."""
        return "backslashreplace"

    def fileno(self) -> int:
        """The descriptor under it, which C code uses."""
        return self._fd

    def writable(self) -> bool:
        """It is."""
        return True

    def reconfigure(self, **_: object) -> None:
        """Scripts ask for UTF-8, or for lines at once; they have both."""

    def detach(self) -> PrintedBytes:  # type: ignore[override]
        """Scripts put a wrapper of their own around these; what is under it stays the same."""
        return self.buffer

    def write(self, text: str) -> int:
        """Take the text; raises ValueError when the stream was closed."""
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        thread = threading.get_ident()
        held = self._held.pop(thread, "") + text
        if held.endswith("\n") or len(held) > MESSAGE_CHARS_MAX:
            self._tell(held)
        elif held:
            self._held[thread] = held
        return len(text)

    def flush(self) -> None:
        """What there is of a line, unless it is a bar that is drawn over."""
        thread = threading.get_ident()
        if not self.closed and not self._held.get(thread, "").startswith("\r"):
            self._tell(self._held.pop(thread, ""))

    def end_lines(self) -> None:
        """All that there is of any thread's line: nothing more will come."""
        for thread in list(self._held):
            self._tell(self._held.pop(thread, ""))

    def _tell(self, text: str) -> None:
        if text.startswith(_RAYS):
            self._pass_on(text.rstrip("\n"))
        elif said := text.strip("\r\n"):
            self._say(said.rpartition("\r")[2] if text.startswith("\r") else said)


class PrintedBytes(io.BufferedIOBase):
    """For code that writes bytes."""

    def __init__(self, text: Printed) -> None:
        self._text = text

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor under it."""
        return self._text.fileno()

    def write(self, data: Any) -> int:
        """As text: what is no UTF-8 stands as escapes."""
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)

    def flush(self) -> None:
        """As the text's."""
        self._text.flush()


def take_prints(process: str, deployment: str) -> None:
    """From now on what this process's code prints is a record. Called again where it becomes another child."""

    def saying(logger: str) -> Callable[[str], None]:
        def say(text: str) -> None:
            log_file().write(printed_record(logger, process, text, about_request(deployment)))

        return say

    for fd, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        with contextlib.suppress(Exception):
            before.flush()
        setattr(sys, name, Printed(fd, f"<{name}>", saying(name), log_file().write_text))


def printed_record(logger: str, process: str, text: str, about: Mapping[str, object]) -> Record:
    """What was printed, as a record."""
    return {"time": now(), "level": "INFO", "logger": logger, "process": process, "message": shorten(text), **about}


def let_prints_end() -> None:
    """The last of what was printed, when the process ends, by whatever thread of it."""
    for stream in (sys.stdout, sys.stderr):
        # User code may have closed or replaced both.
        with contextlib.suppress(Exception):
            stream.end_lines() if isinstance(stream, Printed) else stream.flush()
