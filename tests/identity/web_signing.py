"""An issuer of JSON Web Tokens, with keys of its own."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://id.example"
AUDIENCE = "flightserve"
ROLES_TEXT = '[roles.reader]\ncall = ["Flights.*"]\nquery = ["trips"]\n'


@functools.cache
def private_key(kid: str) -> Any:
    if kid.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    if kid.startswith("ed"):
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 1024 if kid.startswith("short") else 2048)


def public_jwk(kid: str) -> dict[str, Any]:
    kind = {"ec": ECAlgorithm, "ed": OKPAlgorithm}.get(kid[:2], RSAAlgorithm)
    return {**json.loads(kind.to_jwk(private_key(kid).public_key())), "kid": kid, "use": "sig"}


def jwks(*kids: str) -> str:
    return json.dumps({"keys": [public_jwk(kid) for kid in kids]})


def usual_algorithm(kid: str) -> str:
    return {"ec": "ES256", "ed": "EdDSA"}.get(kid[:2], "RS256")


def claims(now_s: float, **other: Any) -> dict[str, Any]:
    """Other claims take the place of the usual ones; None leaves one out."""
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "carol", "roles": ["reader"], "exp": now_s + 300, "iat": now_s}
    return {name: value for name, value in {**usual, **other}.items() if value is not None}


def sign(said: dict[str, Any], kid: str = "rsa", **head: Any) -> str:
    body = json.dumps(said).encode()
    named = {name: value for name, value in {"kid": kid, **head}.items() if value is not None}
    return jwt.PyJWS().encode(body, private_key(kid), usual_algorithm(kid), named)


def by_hand(head: dict[str, Any], said: dict[str, Any], signature: bytes = b"") -> str:
    """What no library makes."""
    parts = json.dumps(head).encode(), json.dumps(said).encode(), signature
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
