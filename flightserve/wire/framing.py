"""Messages on a byte stream: each behind its length, four bytes, little-endian. Pure.

The data plane's frames and the control plane's messages travel so, each with a bound and a codec of its own. The
decoder is sans-io (after h11): it is fed whatever a socket gave, returns what is whole, keeps the rest, and refuses a
length over the bound before anything is allocated for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from flightserve.errors import ProtocolError

T = TypeVar("T")

PREFIX_BYTES: Final = 4
_PREFIX: Final = struct.Struct("<I")
pack_length = _PREFIX.pack
_length_at = _PREFIX.unpack_from
# What msgspec raises for bytes that are no message. It reads texts as Python does: one that is not UTF-8 is no error of
# its own.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)


class MessageDecoder(Generic[T]):
    """Messages out of a byte stream cut anywhere; `decode` makes one of its bytes. One per connection.

    What is unfinished is looked at again when it is whole: the work is linear in the bytes, however they come.
    """

    def __init__(self, decode: Callable[[bytes | bytearray], T], bytes_max: int, name: str) -> None:
        self._decode = decode
        self._bytes_max = bytes_max
        self._name = name
        self._rest = bytearray()
        # How long the rest is to be before it is worth a look.
        self._wanted = PREFIX_BYTES

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pending} bytes pending>"

    def feed(self, data: bytes | bytearray) -> list[T]:
        """What `data` completes, in order. Raises ProtocolError on a length over the bound or on bytes that are no
        message; the connection is then of no further use."""
        length = len(data) - PREFIX_BYTES
        if 0 < length <= self._bytes_max and not self._rest and _length_at(data)[0] == length:
            # Nearly always: one message, and nothing else.
            try:
                return [self._decode(data[PREFIX_BYTES:])]
            except UNREADABLE as error:
                raise self._unreadable(length, error) from error
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = self._rest
        messages: list[T] = []
        position, end, wanted = 0, len(data), PREFIX_BYTES
        while end - position >= PREFIX_BYTES:
            start = position + PREFIX_BYTES
            (length,) = _length_at(data, position)
            if length > self._bytes_max:
                raise ProtocolError(f"{self._name} of {length} bytes announced; at most {self._bytes_max} are taken")
            if end - start < length:
                wanted = PREFIX_BYTES + length
                break
            try:
                messages.append(self._decode(data[start : start + length]))
            except UNREADABLE as error:
                raise self._unreadable(length, error) from error
            position = start + length
        # Usually whole messages arrive, and nothing is left.
        if position < end or self._rest:
            self._rest, self._wanted = bytearray(data[position:]), wanted
        return messages

    def _unreadable(self, length: int, error: Exception) -> ProtocolError:
        return ProtocolError(f"{length} bytes that are no {self._name}: {error}")

    @property
    def pending(self) -> int:
        """Bytes of an unfinished message held back."""
        return len(self._rest)

    def finish(self) -> None:
        """The stream ended. Raises ProtocolError where it ended inside a message."""
        if self._rest:
            raise ProtocolError(f"the peer closed inside a {self._name}, after {len(self._rest)} bytes of it")
