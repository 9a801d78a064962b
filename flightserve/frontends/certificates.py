"""The certificate that a server shows, its key, and the CA of its clients, as the files say them now.

`read` judges them all together, before anything listens: the first thing that is wrong is said, with its option and
what to do. A process looks at them again every `LOOK_S` (`CertificateFiles`), and takes up what changed once all of it
is good; until then, and where it is not, it shows what it had. The server of each protocol asks for the newest at every
handshake, as far as its library lets it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import stat
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from flightserve.config import FrontendOptions
from flightserve.errors import ConfigError

log = logging.getLogger("flightserve.tls")

LOOK_S: Final = 1.0
DAY_S: Final = 86_400.0
# From so long before its end on the log says so, once.
EXPIRES_SOON_S: Final = 7 * DAY_S
# A bundle of CAs has a few hundred KB.
FILE_BYTES_MAX: Final = 8 << 20
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
# OpenSSL's: a certificate is shown what it is, whatever the time. Python has no name for it.
_NO_CHECK_TIME: Final = 0x200000
_TURNS_MAX: Final = 8

_Stamp = tuple[tuple[int, ...], ...]


class TlsFiles(NamedTuple):
    """Where they lie; "" where clients are not asked for theirs."""

    cert: str
    key: str
    client_ca: str

    @classmethod
    def of(cls, options: FrontendOptions) -> TlsFiles | None:
        """Those of the options; None without TLS."""
        if options.tls_cert is None or options.tls_key is None:
            return None
        return cls(str(options.tls_cert), str(options.tls_key), str(options.tls_client_ca or ""))

    def stamp(self) -> _Stamp:
        """Another one where one of them is another file than before, or was written."""
        return tuple(_stamp(path) for path in self if path)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the files said at one time, in PEM; `client_ca` is empty where clients are not asked. `names` are the hosts
    that it is of; `expires_s` is a date, in seconds of Unix."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes
    names: tuple[str, ...]
    expires_s: float
    context: ssl.SSLContext = field(repr=False)

    @property
    def content(self) -> tuple[bytes, bytes, bytes]:
        """What another one differs in."""
        return self.chain, self.key, self.client_ca


class CertificateFiles:
    """The newest good certificate of a process. `look` on one thread, `newest` on any."""

    def __init__(self, files: TlsFiles, now_s: Callable[[], float] = time.time) -> None:
        """Raises ConfigError as `read`."""
        self._files = files
        self._now_s = now_s
        self._seen = files.stamp()
        self._warned = False
        # Why what they say now is not taken up.
        self._fault = ""
        self.newest = read(files, now_s())
        self.on_change: list[Callable[[Certificate], None]] = []

    def look(self) -> None:
        """Take up what changed. What was wrong is tried again, though the files are the same: a certificate may have
        become valid, or a file readable."""
        seen = self._files.stamp()
        if seen != self._seen or self._fault:
            self._seen = seen
            self._take()
        if not self._warned and (left_s := self.newest.expires_s - self._now_s()) < EXPIRES_SOON_S:
            self._warned = True
            log.warning("the certificate in %s expires in %.1f days; renew it", self._files.cert, left_s / DAY_S)

    def _take(self) -> None:
        try:
            newest = read(self._files, self._now_s())
        except ConfigError as error:
            if error.message != self._fault:
                self._fault = error.message
                log.warning("the certificate stays the one from before: %s", error.message)
            return
        self._fault = ""
        before, self.newest = self.newest, newest
        if newest.content == before.content:
            return
        self._warned = False
        log.info("the certificate was renewed; it expires in %.1f days", (newest.expires_s - self._now_s()) / DAY_S)
        for told in self.on_change:
            told(newest)

    def __repr__(self) -> str:
        return f"<CertificateFiles {self._files.cert}>"


class NewestContext(ssl.SSLContext):
    """For a server on an event loop: each connection begins with the newest certificate's context. At most `most` shake
    hands at a time, because the server does not know of them yet."""

    _files: CertificateFiles
    _most: int
    _begun: weakref.WeakSet[ssl.SSLObject]

    def __new__(cls, files: CertificateFiles, most: int) -> NewestContext:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        context._files = files
        context._most = most
        context._begun = weakref.WeakSet()
        return context

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Called by the loop for each connection. Raises ConnectionAbortedError, for which it ends that."""
        if len(self._begun) >= self._most:
            for each in [each for each in self._begun if each.version() is not None]:
                self._begun.discard(each)
            if len(self._begun) >= self._most:
                raise ConnectionAbortedError(f"{self._most} connections shake hands")
        begun = self._files.newest.context.wrap_bio(*arguments, **named)
        self._begun.add(begun)
        return begun


def read(files: TlsFiles, now_s: float) -> Certificate:
    """All of it, now. Raises ConfigError."""
    chain = _content("tls_cert", files.cert, _CERTIFICATE, "certificate")
    key = _content("tls_key", files.key, _KEY, "private key")
    client_ca = _content("tls_client_ca", files.client_ca, _CERTIFICATE, "certificate") if files.client_ca else b""
    shown = _certificates("tls_cert", files.cert, chain)
    context = _context(files)
    names, expires_s = _check_shown(files.cert, shown, context, now_s)
    if client_ca:
        _check_ca(files.client_ca, _certificates("tls_client_ca", files.client_ca, client_ca), now_s)
        context.load_verify_locations(cadata=client_ca.decode("latin-1"))
        context.verify_mode = ssl.CERT_REQUIRED
    return Certificate(chain, key, client_ca, names, expires_s, context)


def check(files: TlsFiles) -> list[str]:
    """Raises ConfigError as `read`; what is no reason not to start, and should not be."""
    read(files, time.time())
    mode = stat.S_IMODE(os.stat(files.key).st_mode)
    if mode & stat.S_IROTH:
        return [f"tls_key {files.key} can be read by every user of this machine; chmod 600 it"]
    return []


def _content(option: str, path: str, mark: bytes, what: str) -> bytes:
    try:
        if not (os.path.isdir(path) or stat.S_ISREG(os.stat(path).st_mode)):
            raise ConfigError(f"{option} {path} is no file that can be read again; it names a PEM file")
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}; it names a PEM file that this user may read") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{option} {path} has more than {FILE_BYTES_MAX:,} bytes; it is a PEM file")
    if mark not in content:
        raise ConfigError(f"{option} {path} holds no {what}; it is a PEM file with a line -----BEGIN ...-----")
    return content


def _certificates(option: str, path: str, content: bytes) -> ssl.SSLContext:
    """A client's context that trusts what is in the file."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trusting.load_verify_locations(cadata=content.decode("latin-1"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{option} {path} holds a certificate that cannot be read: {_said(error)}") from error
    return trusting


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1", "h2"])
    try:
        context.load_cert_chain(files.cert, files.key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"is not the key of the certificate in {files.cert}, of which the first is the server's own"
        else:
            why = f"cannot be used with {files.cert}: {_said(error)}"
        raise ConfigError(f"tls_key {files.key} {why}") from error
    except _PasswordAsked as asked:
        why = "is protected by a password, which nobody is here to give; openssl pkey -in FILE -out OTHER takes it off"
        raise ConfigError(f"tls_key {files.key} {why}") from asked
    except OSError as error:  # it went since it was read
        raise ConfigError(f"tls_cert {files.cert}, tls_key {files.key}: {error.strerror}") from error
    return context


class _PasswordAsked(Exception):
    pass


def _refuse_password() -> str:
    raise _PasswordAsked


def _said(error: Exception) -> str:
    """OpenSSL's words, without the line of Python's source."""
    text = str(error).partition(" (_ssl.c")[0]
    return "it is damaged, or no such thing" if text == "[SSL] PEM lib" else text


def _check_shown(
    path: str, trusting: ssl.SSLContext, serving: ssl.SSLContext, now_s: float
) -> tuple[tuple[str, ...], float]:
    """Shows the certificate to ourselves: what a client that trusts it would say. Its hosts, and when it expires."""
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        seen = _shake_hands(trusting, serving)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"tls_cert {path} is no certificate of a server: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ConfigError(f"tls_cert {path} cannot be used: {_said(error)}") from error
    begins_s, expires_s = ssl.cert_time_to_seconds(seen["notBefore"]), ssl.cert_time_to_seconds(seen["notAfter"])
    if now_s >= expires_s:
        raise ConfigError(f"tls_cert {path} expired at {seen['notAfter']}; renew it")
    if now_s < begins_s:
        raise ConfigError(f"tls_cert {path} is not valid yet, but from {seen['notBefore']} on; is the clock right?")
    return tuple(name for kind, name in seen.get("subjectAltName", ()) if kind == "DNS"), float(expires_s)


def _shake_hands(trusting: ssl.SSLContext, serving: ssl.SSLContext) -> dict[str, Any]:
    """In memory; the certificate that was shown."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(down, up), serving.wrap_bio(up, down, server_side=True)
    for each in (client, server) * _TURNS_MAX:
        with contextlib.suppress(ssl.SSLWantReadError):
            each.do_handshake()
    return client.getpeercert() or {}


def _check_ca(path: str, holding: ssl.SSLContext, now_s: float) -> None:
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in holding.get_ca_certs()]
    if not ends:
        raise ConfigError(f"tls_client_ca {path} holds no certificate of a CA; what signs clients' certificates is one")
    if max(ends) <= now_s:
        raise ConfigError(f"tls_client_ca {path}: every CA in it has expired; renew it")


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
