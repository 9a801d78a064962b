"""A pipe in the place of descriptors 1 and 2, read by a thread: raw text in, lines out.

Lines are cut where they are too long. What has no end yet is given when nothing more came for a moment, so that it
is seen. Processes that inherited the pipe may hold it open; so its end is told by `end`, not by end of file.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Final, TextIO

from flightserve import threads
from flightserve.wire.log_lines import MESSAGE_CHARS_MAX

READ_BYTES: Final = 1 << 16
# How long the rest of a line is waited for.
PARTIAL_MS: Final = 250
END_S: Final = 2.0

Take = Callable[[Sequence[str]], None]


class Lines:
    """Bytes in, whole lines out; pure."""

    def __init__(self) -> None:
        self._held = b""

    def __repr__(self) -> str:
        return f"<Lines: {len(self._held)} bytes held>"

    @property
    def holds(self) -> bool:
        """Whether the rest of a line is awaited."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[str]:
        """The lines that this completes; one that grows too long is given in pieces."""
        *whole, self._held = (self._held + data).split(b"\n")
        if len(self._held) > MESSAGE_CHARS_MAX:
            whole.append(self._held)
            self._held = b""
        return [_text(line) for line in whole]

    def rest(self) -> list[str]:
        """What has no end."""
        held, self._held = self._held, b""
        return [_text(held)] if held else []


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "backslashreplace")


class Capturing:
    """Write to `writing`; `take` gets the lines that came."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._stop_reading, self._stop_writing = os.pipe()
        self._ended = False
        self._thread = threads.start("flightserve-capturing", self._run, lambda: self._ended, again=True)

    def __repr__(self) -> str:
        return f"<Capturing by descriptor {self.writing}>"

    def _run(self) -> None:
        lines = Lines()
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        poll.register(self._stop_reading, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(PARTIAL_MS if lines.holds else None)}
            data = self._read() if self._reading in ready else b""
            found = lines.feed(data) if data else []
            if not data:
                found = lines.rest()
            if found:
                self._take(found)
            if self._stop_reading in ready and not data:
                return

    def _read(self) -> bytes:
        try:
            return os.read(self._reading, READ_BYTES)
        except BlockingIOError:
            return b""

    def end(self) -> None:
        """Give what is still there, and close."""
        os.close(self.writing)
        self._ended = True
        os.write(self._stop_writing, b"x")
        self._thread.join(END_S)
        if self._thread.is_alive():
            # Processes that inherited the pipe write on, or nobody takes the lines: it keeps the descriptors it is at.
            return
        for fd in (self._reading, self._stop_reading, self._stop_writing):
            os.close(fd)


class Captured:
    """Inside, what anything in this process writes to descriptors 1 and 2 comes to `take` as lines; `with` gives the
    real standard output and standard error. For JSON, where nothing may stand between the records."""

    def __init__(self, take: Take) -> None:
        self._take = take

    def __enter__(self) -> tuple[TextIO, TextIO]:
        _flush()
        self._kept = [os.dup(1), os.dup(2)]
        self._files = [os.fdopen(os.dup(fd), "w", encoding="utf-8", errors="backslashreplace") for fd in self._kept]
        self._capturing = Capturing(self._take)
        os.dup2(self._capturing.writing, 1)
        os.dup2(self._capturing.writing, 2)
        return self._files[0], self._files[1]

    def __exit__(self, *_: object) -> None:
        _flush()
        for number, fd in enumerate(self._kept, 1):
            os.dup2(fd, number)
            os.close(fd)
        self._capturing.end()
        for file in self._files:
            # Of a stream that nobody reads any more, what was not taken is still there.
            with contextlib.suppress(OSError):
                file.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
