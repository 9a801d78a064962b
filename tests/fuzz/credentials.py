"""Readers of credentials: the header, JSON Web Tokens, issuers' keys, and the file that says who may do what."""

from __future__ import annotations

import base64
import json
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flightserve.core.access.credentials import read_authorization
from flightserve.identity.reading import read_book
from flightserve.identity.web_tokens import WebTokenRules, check_token, head_of, read_keys

ISSUER: Final = "https://id.example.com"
AUDIENCE: Final = "flightserve"
_RULES: Final = WebTokenRules(ISSUER, (AUDIENCE,), "jwks.json")
_NOW_S: Final = 1_700_000_000.0
_CLAIMS: Final = {"iss": _RULES.issuer, "aud": "flightserve", "exp": _NOW_S + 600, "sub": "ada", "roles": ["analyst"]}
# The same each time, so that a token that was found comes again.
KEY: Final = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC: Final = {
    "kty": "OKP", "crv": "Ed25519", "kid": "k1", "use": "sig",
    "x": base64.urlsafe_b64encode(KEY.public_key().public_bytes_raw()).rstrip(b"=").decode(),
}  # fmt: skip
KEYS: Final = json.dumps({"keys": [PUBLIC]}).encode()
TOKEN: Final = jwt.encode(_CLAIMS, KEY, "EdDSA", {"kid": "k1"}).encode()
HEADERS: Final = (b"Basic " + base64.b64encode(b"ada:secret"), b"Bearer " + TOKEN, b"bearer abc")
FILE: Final = b"""
[roles.analyst]
call = ["Flights.*"]
query = ["flights", "day_*"]
metrics = false

[[principals]]
name = "nightly"
roles = ["analyst"]
token = "$scrypt$ln=14,r=8,p=1$M53VK26XU4jf+mOiGNKPog$ZZ3yqXxQzSO03RnsRZfdR/wmlhijbHT6Yjn8ij5uMdw"
requests_per_s = 50
max_priority = 5

[jwt]
issuer = "https://id.example.com"
audience = "flightserve"
jwks = "https://id.example.com/jwks.json"
"""
_READ: Final = read_keys(KEYS, _RULES.algorithms, "jwks.json")


def read_header(data: bytes) -> None:
    """An `authorization`."""
    read_authorization(data.decode("latin-1"))


def read_token(data: bytes) -> None:
    """A token: whatever was changed, it is the one that was signed, or none."""
    text = data.decode("latin-1")
    kid, algorithm = head_of(text, _RULES)
    claims = check_token(text, _RULES, _READ.find(kid, algorithm), _NOW_S)
    assert (claims.name, claims.roles) == ("ada", ("analyst",)), f"a token that nobody signed: {data!r}"


def read_issuer(data: bytes) -> None:
    """A JWKS document."""
    read_keys(data, _RULES.algorithms, "jwks.json")


def read_file(data: bytes) -> None:
    """The file of `--auth`."""
    read_book(data, "auth.toml")
