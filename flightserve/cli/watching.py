"""`flightserve status --watch`: look again and again, until Ctrl-C or q.

A terminal gets the newest look in the place of the one before, on a screen of its own that is gone at the end (rich
draws it, as large as the terminal is at that moment). Elsewhere looks come one after another, with an empty line
between, or as JSON a line each. An app that ends is no reason to stop: the next one is seen.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from flightserve.cli.colour import is_dumb, is_terminal

if TYPE_CHECKING:
    from flightserve.cli.status import StatusLook

_QUIT: Final = frozenset(b"qQ\x03")
KEYS_MAX: Final = 64


def watch(look: Callable[[], StatusLook], every_s: float, *, is_json: bool) -> int:
    """Until told to stop; the exit status of one who was asked to."""
    drawn = is_terminal(sys.stdout) and not is_dumb(os.environ) and not is_json
    with signals() as told, keys() as pressed:
        sources = [told] if pressed is None else [told, pressed]
        (_draw if drawn else _print)(look, lambda: not _stopped(sources, every_s))
    return 0


def _draw(look: Callable[[], StatusLook], goes_on: Callable[[], bool]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            shown = look()
            text = "\n\n".join([*shown.views, *shown.problems, "q or Ctrl-C ends this"])
            live.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            if not goes_on():
                return


def _print(look: Callable[[], StatusLook], goes_on: Callable[[], bool]) -> None:
    while True:
        shown = look()
        apart = [] if all(text.startswith("{") for text in shown.views) else [""]
        for text in [*shown.views, *(apart if shown.views else [])]:
            print(text, flush=True)
        for text in shown.problems:
            print(text, file=sys.stderr, flush=True)
        if not goes_on():
            return


@contextlib.contextmanager
def signals() -> Iterator[int]:
    """A descriptor on which SIGINT and SIGTERM come as a key does: a wait goes on after a signal otherwise."""
    reading, writing = os.pipe()
    before = {
        number: signal.signal(number, lambda *_: os.write(writing, b"q") and None)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def keys() -> Iterator[int | None]:
    """A descriptor on which keys come as they are pressed; None where nobody presses any."""
    try:
        fd = sys.stdin.fileno()
        usable = os.isatty(fd) and is_terminal(sys.stdout)
    except (ValueError, OSError, AttributeError):
        usable = False
    if not usable:
        yield None
        return
    import termios
    import tty

    before: list[Any] = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _stopped(sources: Sequence[int], within_s: float) -> bool:
    """Wait so long for the next look; whether a key or a signal said that there is none."""
    until = time.monotonic() + within_s
    while (typed := pressed(sources, until - time.monotonic())) is not None:
        if _QUIT & {*typed}:
            return True
    return False


def pressed(sources: Sequence[int], within_s: float) -> bytes | None:
    """What came of keys and signals at once, as a terminal sends it; None where nothing came in time. A terminal that
    is gone is one on which somebody pressed q."""
    ready, _, _ = select.select(sources, [], [], max(0.0, within_s))
    return (os.read(ready[0], KEYS_MAX) or b"q") if ready else None
