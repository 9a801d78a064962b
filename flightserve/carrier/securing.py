"""Connections between carriers, encrypted where the app has TLS.

The files of `--tls-cert` name hosts to clients, and need not lie on other nodes. So each carrier makes a key and a
certificate of its own when it starts: they are in its memory alone, and gone with it. Nobody judges the certificate by
names, issuer or dates. What both ends prove with the app's secret (`greeting`) is bound to the very certificate that
was shown on the connection (RFC 5929, `tls-server-end-point`): who stands between has another one, with which no proof
that he passes on is good. TLS is 1.3, because both ends are ours.

A carried connection is read by one thread while another writes it, and OpenSSL's state is for one at a time. So OpenSSL
works in memory, where it never waits, and each thread does its own reading or writing of the socket; 256 KB at a time,
where OpenSSL itself would take two calls of the kernel for each 16 KB.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import threading
from typing import Final, Protocol

from flightserve.errors import ProtocolError, Unavailable

# So much is read, or encrypted, before the other thread has its turn.
READ_BYTES: Final = 256 << 10
# Most connections carry little: the room for a read grows where it is filled.
READ_BYTES_FIRST: Final = 16 << 10
STEP_BYTES: Final = 256 << 10
# More is in no record (RFC 8446, 5.1); room for it is made first.
RECORD_BYTES_MAX: Final = 16 << 10
_VALID: Final = datetime.timedelta(days=36_500)


class Link(Protocol):
    """What carriers need of a connection to each other: one thread reads while another writes, and any hangs up."""

    def recv(self, nbytes: int, /) -> bytes: ...
    def recv_into(self, room: memoryview, /) -> int: ...
    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def settimeout(self, timeout_s: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class SecuredSocket:
    """A `Link` that is encrypted, from `shake_hands` on. Errors and timeouts are those of sockets."""

    def __init__(self, sock: Link, context: ssl.SSLContext, own: bytes = b"") -> None:
        """`own` is the certificate that this end shows, where it accepted. The socket is taken over."""
        self._sock = sock
        self._own = own
        self._arrived = ssl.MemoryBIO()
        self._leaving = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=bool(own))
        self._using = threading.Lock()
        self._room = memoryview(bytearray(READ_BYTES_FIRST))

    def __repr__(self) -> str:
        return f"<SecuredSocket on {self._sock!r}: {self._tls.version() or 'not secured yet'}>"

    def shake_hands(self) -> bytes:
        """Have the connection encrypted: what a proof is bound to. Raises ProtocolError for a peer with whom that
        cannot be, Unavailable where it is gone, or slow."""
        try:
            self._shake_hands()
        except ssl.SSLError as error:
            raise ProtocolError(f"the connection cannot be encrypted: {said(error)}") from error
        except ConnectionError as error:
            what = f"the peer left before the connection was encrypted: {said(error)}"
            if self._own:
                # A stranger who looks what is here.
                raise Unavailable(what) from error
            raise ProtocolError(f"{what}; is it a carrier of this version, of an app with TLS?") from error
        except OSError as error:
            raise Unavailable(f"the connection was not encrypted in time: {said(error)}") from error
        shown = self._own or self._tls.getpeercert(binary_form=True)
        if not shown:
            raise ProtocolError("the peer shows no certificate")
        return hashlib.sha256(shown).digest()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._sock.sendall(self._leaving.read())
                if not self._read_on():
                    raise ConnectionResetError("it closed the connection") from None
            finally:
                # The last message, or why there is none.
                self._sock.sendall(self._leaving.read())

    def _read_on(self) -> bool:
        """Wait for more from the network; False at its end."""
        nbytes = self._sock.recv_into(self._room)
        with self._using:
            self._arrived.write(self._room[:nbytes])
        if nbytes == self._room.nbytes < READ_BYTES:
            self._room = memoryview(bytearray(2 * nbytes))
        return nbytes > 0

    def recv(self, nbytes: int, /) -> bytes:
        """As a socket's."""
        while True:
            try:
                with self._using:
                    return self._tls.read(min(nbytes, RECORD_BYTES_MAX))
            except ssl.SSLWantReadError:
                if not self._read_on():
                    return b""

    def recv_into(self, room: memoryview, /) -> int:
        """As a socket's."""
        while True:
            if taken := self._take(room):
                return taken
            if not self._read_on():
                return 0

    def _take(self, room: memoryview) -> int:
        """What has arrived, as far as there is room for it."""
        taken = 0
        with self._using:
            try:
                while taken < room.nbytes:
                    part = room[taken : taken + RECORD_BYTES_MAX]
                    # Its type says bytes, which it returns without a buffer.
                    nbytes = int(self._tls.read(part.nbytes, part))
                    if not nbytes:
                        # The peer said that there is no more.
                        break
                    taken += nbytes
            except ssl.SSLWantReadError:
                pass
        return taken

    def sendall(self, data: bytes | memoryview, /) -> None:
        """As a socket's; one thread at a time."""
        with memoryview(data) as view, view.cast("B") as whole:
            for at in range(0, whole.nbytes, STEP_BYTES):
                with self._using:
                    self._tls.write(whole[at : at + STEP_BYTES])
                    encrypted = self._leaving.read()
                self._sock.sendall(encrypted)

    def settimeout(self, timeout_s: float | None, /) -> None:
        self._sock.settimeout(timeout_s)

    def shutdown(self, how: int, /) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


class Securing:
    """What a carrier encrypts its connections with. Any thread."""

    def __init__(self) -> None:
        self._accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._own = _take_own(self._accepting)
        # Nobody resumes a connection.
        self._accepting.num_tickets = 0
        self._connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The proof is what judges it.
        self._connecting.check_hostname = False
        self._connecting.verify_mode = ssl.CERT_NONE
        for context in (self._accepting, self._connecting):
            context.minimum_version = ssl.TLSVersion.TLSv1_3

    def accepted(self, sock: Link) -> SecuredSocket:
        """Of a connection that somebody made to us; the socket is taken over. Does not wait."""
        return SecuredSocket(sock, self._accepting, self._own)

    def connected(self, sock: Link) -> SecuredSocket:
        """Of a connection that we made; the socket is taken over. Does not wait."""
        return SecuredSocket(sock, self._connecting)


def shake_hands(link: Link) -> bytes:
    """Have it encrypted, where it is to be: what a proof is bound to, b"" where it is not. Raises as that of
    `SecuredSocket`."""
    return link.shake_hands() if isinstance(link, SecuredSocket) else b""


def said(error: OSError) -> str:
    """The error's words, without the line of Python's source."""
    return (error.strerror or str(error)).partition(" (_ssl.c")[0]


def _take_own(context: ssl.SSLContext) -> bytes:
    """Make a key and a certificate for the context: the certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "flightserve carrier")])
    # Dates play no part: it is gone with its process.
    begins = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), begins, begins + _VALID
    )
    made = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # Python's library takes files alone; this one has no name, and nobody else opens it.
    file = os.memfd_create("flightserve-carrier", os.MFD_CLOEXEC)
    try:
        os.write(file, private + made.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return made.public_bytes(serialization.Encoding.DER)
