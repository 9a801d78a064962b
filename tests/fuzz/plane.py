"""A hostile process's frames and descriptors on the sockets between the tiers, and messages on the supervisor's.

Frames of every kind with odd numbers in them, damaged, out of order; segments whose memfds are missing, too many, too
small, unsealed or no memfds at all, sizes that lie. What a peer may ask of the supervisor (`Shutdown` and the like) is
left out: whoever runs as our user may end the app.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tempfile
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from flightserve.clock import monotonic_ns
from flightserve.control import messages
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.batches import stream_of
from flightserve.wire import frames
from tests.frontends.rpc_support import batch_of
from tests.fuzz.findings import Finding
from tests.fuzz.hostile import HELLO, NBYTES, PEER_ID, SEALS, memfd
from tests.fuzz.mutation import INTEGERS, TEXTS, mutated, pieces

CLOSED_S: Final = 20.0
TRACE: Final = f"00-{'a' * 32}-{'b' * 16}-01"
_SAID: Final = ("Probe", "frontend", "replica", "router", "ada admin", "\n\n", TRACE[:30], TRACE)
_GOOD: Final = bytes(stream_of([batch_of(1, 2, 3)]))
_NUMBERS: Final = (*INTEGERS, PEER_ID, PEER_ID, NBYTES, len(_GOOD), 666, 5, 64)
_KINDS: Final = typing.get_args(frames.Frame)
_LENGTH_MAX: Final = 3


# ---- frames


def any_case(path: str, deployment: str, dice: random.Random) -> Counter[str]:
    """One connection to a process of the data plane, which has to end it when we have said all."""
    sent = [HELLO] * (dice.random() < 0.9) + [_any_frame(deployment, dice) for _ in range(dice.choice((1, 2, 3, 8)))]
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(_connected(path))
        for frame in sent:
            data = _encoded(frame)
            if dice.random() < 0.1:
                data = mutated(data, dice)
            fds = _fds(frame, dice)
            stack.callback(_close, fds)
            if not _send(sock, data, fds):
                break
        return Counter((_ended(sock),))


def _any_frame(deployment: str, dice: random.Random) -> Any:
    how = dice.random()
    if how < 0.35:
        owner, nbytes = dice.choice((PEER_ID,) * 9 + (0,)), dice.choice((NBYTES,) * 8 + (1 << 40, 0, -1))
        return frames.Segment(owner, dice.randrange(3), nbytes)
    if how < 0.6:
        length = dice.choice((len(_GOOD),) * 30 + INTEGERS)
        region = frames.Region(PEER_ID, dice.randrange(3), dice.choice((0,) * 9 + (64, NBYTES, -1)), length, 5)
        make = _plausible_part if dice.random() < 0.7 else _odd_part
        parts = [make(dice) for _ in range(dice.randrange(_LENGTH_MAX + 1))]
        return frames.Submit(deployment, dice.choice(("identity", "typed", "pieces", "nope")), region, parts)
    return _made(dice.choice(_KINDS), dice)


def _odd_part(dice: random.Random) -> frames.Part:
    return _made(frames.Part, dice)  # type: ignore[no-any-return]


def _plausible_part(dice: random.Random) -> frames.Part:
    """Of which two may have one id, and a deadline that has passed."""
    deadline_ns = monotonic_ns() + dice.choice((1_000_000_000, 1_000_000_000, -1, 0))
    return frames.Part(
        dice.randrange(4), dice.randrange(4), dice.randrange(4), deadline_ns, dice.choice((0, 9, -1, 1 << 62)),
        *(_value(str, dice) for _ in range(dice.choice((0, 0, 0, 1, 2, 3, 4)))),
    )  # fmt: skip


def _made(kind: Any, dice: random.Random) -> Any:
    """A message of that kind with odd values; its optional fields are said now and then."""
    values = {}
    for field in msgspec.structs.fields(kind):
        if field.required or dice.random() < 0.4:
            values[field.name] = _value(field.type, dice)
    return kind(**values)


def _value(kind: Any, dice: random.Random) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_value(arguments[0], dice) for _ in range(dice.randrange(_LENGTH_MAX + 1))]
    if origin is tuple:
        return tuple(_value(each, dice) for each in arguments if each is not Ellipsis)
    if origin is dict:
        return {dice.choice(TEXTS): _value(arguments[1], dice)} if dice.random() < 0.5 else {}
    if origin in (typing.Union, types.UnionType):
        return _value(dice.choice(arguments), dice)
    if not isinstance(kind, type):
        return None  # of a type that only our own processes use
    plain: dict[Any, Callable[[], Any]] = {
        int: lambda: dice.choice(_NUMBERS),
        str: lambda: dice.choice((*TEXTS, *_SAID)),
        bool: lambda: dice.random() < 0.5,
        float: lambda: dice.choice((0.0, -1.0, 1e300, float("nan"))),
        bytes: lambda: dice.randbytes(dice.choice((0, 1, 32))),
        type(None): lambda: None,
    }
    if kind in plain:
        return plain[kind]()
    if issubclass(kind, msgspec.Struct):
        return _made(kind, dice)
    return {name: _value(each, dice) for name, each in typing.get_type_hints(kind).items()}


def _encoded(frame: Any) -> bytes:
    return frames.encode([frame])


def _fds(frame: Any, dice: random.Random) -> list[int]:
    """What travels beside the frame: mostly what belongs there."""
    if not isinstance(frame, frames.Segment):
        return [memfd()] if dice.random() < 0.03 else []
    how = dice.random()
    if how < 0.5:
        return [memfd(_GOOD)]
    if how < 0.6:
        return []
    if how < 0.7:
        return [memfd() for _ in range(dice.choice((2, 17, 100)))]
    if how < 0.8:
        return [memfd(nbytes=dice.choice((1, NBYTES // 2, 2 * NBYTES)))]
    if how < 0.9:
        return [memfd(seals=dice.choice((0, SEALS & ~2, SEALS & ~4, SEALS & ~1)))]
    return [dice.choice((_pipe, _null, _socket, _file, _directory))()]


def _pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def _null() -> int:
    return os.open("/dev/zero", os.O_RDWR)


def _socket() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def _file() -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(NBYTES)
        return os.dup(file.fileno())


def _directory() -> int:
    return os.open("/", os.O_RDONLY)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


# ---- the supervisor's messages

_HARMLESS: Final = (
    messages.Ask, messages.Announce, messages.Report, messages.Relayed, messages.Publish, messages.StartFailure,
)  # fmt: skip


def any_control_case(path: str, dice: random.Random) -> Counter[str]:
    """One connection to the supervisor."""
    sent = b"".join(_harmless(dice.choice(_HARMLESS), dice) for _ in range(dice.choice((1, 2, 4))))
    with _connected(path) as sock:
        for piece in pieces(sent, dice):
            if not _send(sock, piece, []):
                break
        return Counter((_ended(sock),))


def _harmless(kind: Any, dice: random.Random) -> bytes:
    while True:
        data = messages.encode(_made(kind, dice))
        if dice.random() < 0.4:
            data = mutated(data, dice)
        if not _is_powerful(data):
            return data


def _is_powerful(data: bytes) -> bool:
    try:
        found = messages.Inbox().feed(data)
    except (FlightserveError, ValueError):
        return False
    return not all(isinstance(each, _HARMLESS) for each in found)


# ---- connections


@contextlib.contextmanager
def _connected(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(CLOSED_S)
        sock.connect(path)
        yield sock


def _send(sock: socket.socket, data: bytes, fds: list[int]) -> bool:
    """False where the other side has closed."""
    try:
        socket.send_fds(sock, [data], fds)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _ended(sock: socket.socket) -> str:
    """Waits for the end. Raises Finding where it does not come."""
    said = "silent"
    try:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            said = "answered"
    except TimeoutError as error:
        raise Finding(f"the connection is open {CLOSED_S} s after we left it") from error
    except ConnectionResetError:
        return "reset"
    return said
