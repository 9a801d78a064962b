"""What a client of an app behind TLS, CURVE and `--auth` has."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """A client's keys for CURVE, and the server's public one."""

    server: bytes
    public: bytes
    secret: bytes


@dataclass(frozen=True)
class Entrance:
    """What a client of an app behind TLS, CURVE and `--auth` trusts and shows."""

    ca: bytes
    keys: Keys
    authorization: str

    def context(self, *protocols: str) -> ssl.SSLContext:
        """For a connection of ours, of bytes as they are; `protocols` by ALPN."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context
