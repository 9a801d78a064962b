"""Certificates for tests: a CA, what it has signed, and the files that a server is given."""

from __future__ import annotations

import datetime
import functools
import ssl
from pathlib import Path
from typing import NamedTuple

import trustme

from flightserve.frontends.certificates import TlsFiles

HOSTS = ("localhost", "127.0.0.1")


@functools.cache
def authority(name: str = "ours") -> trustme.CA:
    """A CA; another one for another name. It takes a while to make one."""
    return trustme.CA(organization_name=name)


class Pems(NamedTuple):
    """A chain and its key."""

    chain: bytes
    key: bytes


def issued(by: str = "ours", *, begins_days: float = -1, ends_days: float = 10, hosts: tuple[str, ...] = HOSTS) -> Pems:
    """A certificate, of this machine's loopback unless other hosts are named."""
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = (now + datetime.timedelta(days=days) for days in (begins_days, ends_days))
    made = authority(by).issue_cert(*hosts, not_before=begins, not_after=ends)
    return Pems(b"".join(each.bytes() for each in made.cert_chain_pems), made.private_key_pem.bytes())


def ca_pem(name: str = "ours") -> bytes:
    return authority(name).cert_pem.bytes()


def written(folder: Path, pems: Pems, client_ca: bytes = b"") -> TlsFiles:
    """The files, of which each is replaced as a whole; in that order, as tools write them."""
    named = {"cert.pem": pems.chain, "key.pem": pems.key, "ca.pem": client_ca}
    for name, content in named.items():
        new = folder / f"{name}.new"
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.rename(folder / name)
    return TlsFiles(str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem") if client_ca else "")


def trusting(ca: str = "ours", client: Pems | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """A client's context. Its own certificate is read from files, in `folder`."""
    context = ssl.create_default_context(cadata=ca_pem(ca).decode())
    if client is not None and folder is not None:
        path = folder / "client.pem"
        path.write_bytes(client.chain + client.key)
        context.load_cert_chain(path)
    return context
