"""Strangers' messages on the ZeroMQ port, and bytes that are no ZeroMQ."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any, Final

import zmq

from tests.frontends.rpc_support import GOOD
from tests.fuzz.findings import Finding, check_code
from tests.fuzz.http import Connection
from tests.fuzz.mutation import INTEGERS, TEXTS, any_bytes, mutated, pieces
from tests.fuzz.rpc import METHODS, STREAMS
from tests.served.entrance import Keys

ANSWER_MS: Final = 15_000
# A NULL handshake of a DEALER as libzmq sends it (rfc.zeromq.org/spec/23), and a short message.
_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31)
_READY: Final = b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
_MESSAGE: Final = b"\x01\x02{}\x00\x00"


class Dealer:
    """A DEALER, made anew when a message was not answered. Use as a context manager."""

    def __init__(self, address: str, keys: Keys | None = None, authorization: str = "") -> None:
        self._address = address
        self._keys = keys
        self.authorization = authorization
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._connect()

    def _connect(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.DEALER)
        for name, value in {"LINGER": 0, "RCVTIMEO": ANSWER_MS, "SNDTIMEO": ANSWER_MS}.items():
            made.setsockopt(getattr(zmq, name), value)
        if (keys := self._keys) is not None:
            made.curve_serverkey, made.curve_publickey, made.curve_secretkey = keys.server, keys.public, keys.secret
        made.connect(self._address)
        return made

    def ask(self, parts: list[bytes]) -> str:
        """The code that a message got. Raises Finding where it got none."""
        self._socket.send_multipart(parts)
        try:
            *_, head, _ = self._socket.recv_multipart()
        except zmq.Again as error:
            self._socket.close()
            self._socket = self._connect()
            raise Finding(f"no answer to {[part[:100] for part in parts]}") from error
        told = json.loads(head)
        return check_code(told["code"], told.get("message", ""))

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        self._context.term()


def any_case(dealer: Dealer, dice: random.Random) -> Counter[str]:
    """One message."""
    return Counter((dealer.ask(_parts(dice, dealer.authorization)),))


def _header(dice: random.Random, authorization: str) -> bytes:
    fields: dict[str, Any] = {"deployment": "Probe", "method": dice.choice(METHODS)}
    if authorization:
        fields["authorization"] = authorization
    for _ in range(dice.choice((0, 1, 1, 3))):
        names = (
            "x-timeout-ms",
            "x-priority",
            "x-request-id",
            "x-request-key",
            "traceparent",
            "authorization",
            "deployment",
            "x",
        )
        fields[dice.choice(names)] = dice.choice((*TEXTS, *INTEGERS, None, True, 1.5, [], {}, {"a": [1]}))
    data = json.dumps(fields).encode()
    return mutated(data, dice) if dice.random() < 0.3 else data


def _parts(dice: random.Random, authorization: str) -> list[bytes]:
    parts = [_header(dice, authorization), GOOD if dice.random() < 0.3 else any_bytes(dice, STREAMS)]
    how = dice.random()
    if how < 0.1:
        return [dice.randbytes(dice.choice((0, 1, 5))) for _ in range(dice.choice((1, 2, 3, 17, 20, 40)))]
    if how < 0.2:
        return [b"", *parts]
    if how < 0.25:
        return [*(b"hop" for _ in range(dice.randrange(18))), b"", *parts]
    return parts[: dice.choice((1, 2))] if how < 0.35 else parts


def any_bytes_case(address: str, dice: random.Random, said: bytes = _GREETING + _READY + _MESSAGE) -> Counter[str]:
    """A connection of ZMTP's own bytes, damaged."""
    data = mutated(said, dice)
    with Connection(address) as connection:
        received = connection.exchange(pieces(data, dice))
    return Counter(("bytes" if received else "closed",))
