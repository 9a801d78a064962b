"""CURVE's handshake with damage in it: by hand, and libzmq's own with a relay between that changes what passes."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import threading
from collections import Counter
from typing import Any, Final

import zmq
import zmq.auth

from tests.frontends.rpc_support import GOOD
from tests.fuzz.envelopes import any_bytes_case
from tests.fuzz.findings import Finding, check_code
from tests.fuzz.http import Connection
from tests.fuzz.mutation import mutated
from tests.served.entrance import Entrance, Keys

# Of one whose handshake was damaged: nothing comes, and nobody says that nothing will.
SILENT_MS: Final = 300
ANSWER_MS: Final = 15_000
_PIECE: Final = 1 << 16
# RFC 26: 64 bytes of greeting, then HELLO: its version, 72 zeros, the client's short-term key, a nonce, a box.
_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15) + b"\0" + bytes(31)


def by_hand(address: str, dice: random.Random) -> Counter[str]:
    """A greeting and a HELLO that nobody sealed, damaged; now and then INITIATE without a WELCOME before."""
    body = b"\x05HELLO\x01\0" + bytes(72) + dice.randbytes(32 + 8 + 80)
    command = b"\x04" + bytes([len(body)]) + body
    if dice.random() < 0.3:
        body = b"\x08INITIATE" + dice.randbytes(dice.choice((0, 8, 96, 240)))
        command = b"\x04" + bytes([min(255, len(body))]) + body
    return any_bytes_case(address, dice, _GREETING + command)


def relayed(address: str, entrance: Entrance, dice: random.Random) -> Counter[str]:
    """A DEALER of libzmq through a relay. Its keys may be wrong; a piece of what it says may be damaged."""
    keys, known = entrance.keys, True
    if dice.random() < 0.3:
        keys, known = _other_keys(keys, dice), False
    damaged = dice.choice((None, 0, 1, 2, 3)) if known else None
    with _Relay(address, damaged, dice) as relay, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        good = known and damaged is None
        _set(dealer, keys, ANSWER_MS if good else SILENT_MS)
        dealer.connect(relay.address)
        dealer.send_multipart(_request(entrance))
        try:
            head, _ = dealer.recv_multipart()
        except zmq.Again:
            if good:
                raise Finding("no answer by CURVE") from None
            return Counter(("silent",))
        if not known:
            raise Finding(f"a stranger's keys were answered: {head[:300]!r}")
        told = json.loads(head)
        return Counter((check_code(told["code"], told.get("message", "")),))


def _request(entrance: Entrance) -> list[bytes]:
    header = {"deployment": "Probe", "method": "identity", "authorization": entrance.authorization}
    return [json.dumps(header).encode(), GOOD]


def _other_keys(keys: Keys, dice: random.Random) -> Keys:
    public, secret = zmq.curve_keypair()
    if dice.random() < 0.5:
        return Keys(keys.server, public, secret)
    return Keys(public, keys.public, keys.secret)


def _set(dealer: zmq.Socket[bytes], keys: Keys, answer_ms: int) -> None:
    # Not again: what a second connection of the same socket says would come whole.
    options = {"LINGER": 0, "RCVTIMEO": answer_ms, "SNDTIMEO": ANSWER_MS, "RECONNECT_IVL": -1}
    for name, value in options.items():
        dealer.setsockopt(getattr(zmq, name), value)
    dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = keys.server, keys.public, keys.secret


class _Relay:
    """One connection to the server's address; the client's piece of that number is damaged, or the last. Use as a
    context manager."""

    def __init__(self, address: str, damaged: int | None, dice: random.Random) -> None:
        self._server = address
        self._damaged, self._dice = damaged, random.Random(dice.random())
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._listening.settimeout(ANSWER_MS / 1000)
        with contextlib.suppress(OSError):
            client, _ = self._listening.accept()
            with client, Connection(self._server) as server:
                self._carry(client, server.socket)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        number = 0
        while not self._over.is_set():
            for source in select.select([client, server], [], [], 0.02)[0]:
                data = source.recv(_PIECE)
                if not data:
                    return
                if source is server:
                    client.sendall(data)
                    continue
                server.sendall(self._changed(data) if number == self._damaged else data)
                number += 1

    def _changed(self, data: bytes) -> bytes:
        dice = self._dice
        return mutated(data, dice) if dice.random() < 0.7 else data[: dice.randrange(len(data))]

    def __enter__(self) -> _Relay:
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._over.set()
        # Nobody may have come.
        with contextlib.suppress(OSError):
            socket.create_connection(self._listening.getsockname()).close()
        self._thread.join()
        self._listening.close()
