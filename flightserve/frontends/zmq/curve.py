"""ZeroMQ's own encryption, CURVE: a folder of keys, how they are made, and who may connect.

The folder holds `server.key` (public, for clients), `server.key_secret`, and perhaps `clients`, with a public
`NAME.key` for each client that may connect. Without a folder `clients` whoever knows the server's public key may.
libzmq asks about each connection (ZAP, RFC 27) and is answered here; who was let in is known by NAME (`User-Id` of each
message).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq
import zmq.asyncio
from zmq.auth import create_certificates, load_certificate
from zmq.auth.base import Authenticator

from flightserve.errors import ConfigError

SERVER: Final = "server"
CLIENTS: Final = "clients"
CLIENTS_MAX: Final = 10_000
KEY_FILE_BYTES_MAX: Final = 64 << 10
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EVERY_DOMAIN: Final = "*"
# Z85 of 32 bytes.
_KEY_LENGTH: Final = 40

_Stamp = tuple[tuple[str, int, int, int], ...] | None


class CurveKeys:
    """A folder of keys. `read` first; `look` when it may have changed."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._stamp: _Stamp = None
        self.public = self.secret = b""
        # By their public keys; None where everybody may connect who knows ours.
        self.clients: dict[bytes, str] | None = None

    def read(self) -> None:
        """Raises ConfigError for what is no folder of keys."""
        if not self._folder.is_dir():
            what = "is no folder" if self._folder.exists() else "is not there"
            raise ConfigError(f"zmq_keys {self._folder} {what}; flightserve keys {self._folder} makes one")
        self.public, self.secret = _both(self._folder / f"{SERVER}.key_secret", self._folder)
        self._stamp = self._stamped()
        self.clients = self._read_clients()

    def look(self) -> bool:
        """Whether other clients may connect than before. Raises ConfigError, and leaves all as it was."""
        stamp = self._stamped()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        if stamp is None:
            # Whoever moves it is not to let in everybody meanwhile.
            raise ConfigError(f"zmq_keys: {self._folder / CLIENTS} has gone; all may connect only where it never was")
        before, self.clients = self.clients, self._read_clients()
        return before != self.clients

    def warnings(self) -> list[str]:
        """What is no reason not to start, and should not be."""
        secret = self._folder / f"{SERVER}.key_secret"
        if stat.S_IMODE(secret.stat().st_mode) & stat.S_IROTH:
            return [f"zmq_keys: {secret} can be read by every user of this machine; chmod 600 it"]
        return []

    def __repr__(self) -> str:
        return f"<CurveKeys {self._folder}, {'any client' if self.clients is None else len(self.clients)}>"

    def _files(self) -> list[Path]:
        return sorted((self._folder / CLIENTS).glob("*.key"))

    def _stamped(self) -> _Stamp:
        if not (self._folder / CLIENTS).is_dir():
            return None
        # The last is another one where a file has another owner, too: then it may be read by now.
        return tuple(
            (str(each), (found := each.stat()).st_size, found.st_mtime_ns, found.st_ctime_ns) for each in self._files()
        )

    def _read_clients(self) -> dict[bytes, str] | None:
        if not (self._folder / CLIENTS).is_dir():
            return None
        files = self._files()
        if len(files) > CLIENTS_MAX:
            raise ConfigError(f"zmq_keys: {self._folder / CLIENTS} has {len(files)} keys; at most {CLIENTS_MAX}")
        return {_key_of(each)[0]: each.stem for each in files}


class CurveGate(Authenticator):
    """Answers libzmq's questions about connections. Lives on a loop; `run` is a task of it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys) -> None:
        super().__init__(context)
        self._keys = keys
        self.start()
        self.admit()

    def admit(self) -> None:
        """From now on, those of the keys."""
        clients = self._keys.clients
        self.allow_any = clients is None
        self.certs[_EVERY_DOMAIN] = dict(clients or {})

    async def run(self) -> None:
        """Answer for ever."""
        asked = zmq.asyncio.Socket.from_socket(self.zap_socket)
        while True:
            await self.handle_zap_message(await asked.recv_multipart())

    def curve_user_id(self, client_public_key: bytes) -> str:
        """Its name, or its key."""
        key = zmq.utils.z85.encode(client_public_key)
        return (self._keys.clients or {}).get(key) or key.decode()


def arm(sock: zmq.Socket[bytes], keys: CurveKeys) -> None:
    """The socket takes only connections that are encrypted with its key. Before it is bound."""
    sock.curve_secretkey = keys.secret
    sock.curve_publickey = keys.public
    sock.curve_server = True


def make_keys(folder: str, clients: list[str]) -> list[Path]:
    """Make the folder, the server's keys where there are none, and those of each client; the files that are new.
    Raises ConfigError."""
    place = Path(folder)
    for name in clients:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"client {name!r}: a name has letters, digits, '.', '_' and '-', 64 at most")
        if (place / CLIENTS / f"{name}.key").exists():
            raise ConfigError(f"client {name}: {place / CLIENTS / name}.key is there; remove it to make another")
    made: list[Path] = []
    try:
        with _for_this_user():
            place.mkdir(parents=True, exist_ok=True)
            if not (place / f"{SERVER}.key_secret").exists():
                made += map(Path, create_certificates(place, SERVER))
            for name in clients:
                (place / CLIENTS).mkdir(exist_ok=True)
                made += map(Path, create_certificates(place / CLIENTS, name))
    except OSError as error:
        raise ConfigError(f"{place}: keys cannot be made there: {error.strerror}") from error
    return made


@contextmanager
def _for_this_user() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _both(path: Path, folder: Path) -> tuple[bytes, bytes]:
    public, secret = _key_of(path, f"; flightserve keys {folder} makes them")
    if secret is None:
        raise ConfigError(f"zmq_keys: {path} holds no secret key")
    if zmq.curve_public(secret) != public:
        raise ConfigError(f"zmq_keys: the two keys in {path} are no pair")
    return public, secret


def _key_of(path: Path, remedy: str = "") -> tuple[bytes, bytes | None]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"zmq_keys: {path} is no file{remedy}")
        if found.st_size > KEY_FILE_BYTES_MAX:
            raise ConfigError(f"zmq_keys: {path} is no file of keys: it has {found.st_size:,} bytes")
        public, secret = load_certificate(path)
    except ValueError as error:
        raise ConfigError(f"zmq_keys: {path} is no file of keys{remedy}") from error
    except OSError as error:
        raise ConfigError(f"zmq_keys: {path}: {error.strerror or 'it is not there'}{remedy}") from error
    for key in (public, secret or public):
        if len(key) != _KEY_LENGTH:
            raise ConfigError(f"zmq_keys: {path} has a key of {len(key)} characters; one has {_KEY_LENGTH}")
    return public, secret
