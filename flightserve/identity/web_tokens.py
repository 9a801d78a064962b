"""JSON Web Tokens of somebody else: what is taken of them, and by whose keys.

A signature is checked first, by a key of the issuer's and an algorithm that the file pins: what the token's own head
says only chooses among these. Only public keys are used; a secret that both sides know is taken nowhere, so a public
key cannot be mistaken for one. What a token claims is told to its sender only after that, because by then it is the
issuer's own word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from flightserve.core.access.allowance import UNLIMITED
from flightserve.core.access.credentials import WRONG
from flightserve.core.access.rights import PrincipalLimits, is_name
from flightserve.errors import ConfigError, Unauthenticated

# Seconds of a date: whole numbers that all readers of JSON have.
DATE_S_MAX: Final = 1 << 53
# Whoever has the key that such a signature is checked with cannot make one.
ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
USUAL: Final = ("RS256", "ES256", "EdDSA")
KEYS_MAX: Final = 1_000
# Keys that are tried where a token does not say which.
TRIED_MAX: Final = 8
ROLES_MAX: Final = 1_000
KEY_BYTES_MAX: Final = 1 << 20
NO_LIBRARY: Final = "needs a library: pip install 'flightserve[jwt]'"
# What makes a key a private one (RFC 7518).
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class WebTokenRules:
    """Whose tokens are taken, and what of them: `[jwt]` of the file."""

    issuer: str
    audience: tuple[str, ...]
    jwks: str
    name_claim: str = "sub"
    roles_claim: str = "roles"
    algorithms: tuple[str, ...] = USUAL
    leeway_s: float = 60.0
    fetch_s: float = 30.0
    limits: PrincipalLimits = UNLIMITED
    # What a principal was recognised by, as far as it is these rules. Made once: it is asked for at every request.
    credential: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shown = self.issuer, self.audience, self.jwks, self.name_claim, self.roles_claim, self.algorithms
        object.__setattr__(self, "credential", hashlib.blake2b(repr(shown).encode(), digest_size=16).hexdigest())


@dataclass(frozen=True, slots=True)
class WebKey:
    """A public key for one algorithm; `thumb` says which without telling it."""

    thumb: str
    made: Any = field(repr=False)


class WebKeySet:
    """The issuer's keys. Does not change."""

    def __init__(self, keys: Mapping[tuple[str, str], list[WebKey]] = {}) -> None:
        self._keys = keys
        self._thumbs = frozenset(key.thumb for some in keys.values() for key in some)

    def __repr__(self) -> str:
        return f"<WebKeySet of {len(self._thumbs)}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WebKeySet) and self._thumbs == other._thumbs

    def __hash__(self) -> int:
        return hash(self._thumbs)

    def __contains__(self, thumb: str) -> bool:
        return thumb in self._thumbs

    def find(self, kid: str, algorithm: str) -> list[WebKey]:
        """Those that may have made a signature: of that id, or of none."""
        if not kid:
            return [key for (_, of), some in self._keys.items() if of == algorithm for key in some][:TRIED_MAX]
        return [key for each in (kid, "") for key in self._keys.get((each, algorithm), ())][:TRIED_MAX]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token that is taken says."""

    name: str
    roles: tuple[str, ...]
    expires_s: float
    thumb: str


def read_keys(data: bytes, algorithms: tuple[str, ...], place: str) -> WebKeySet:
    """A JWKS document. Keys for other uses are passed over. Raises ConfigError where none can be used."""
    import jwt

    try:
        said = msgspec.json.decode(data, type=dict[str, Any])["keys"]
        keys = [key for key in said if isinstance(key, dict)][:KEYS_MAX]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        raise ConfigError(f'{place}: is no JWKS, {{"keys": [...]}}') from None
    found: dict[tuple[str, str], list[WebKey]] = {}
    for key in keys:
        public = {name: value for name, value in key.items() if name not in _PRIVATE}
        for algorithm in _algorithms_of(public, algorithms):
            try:
                made = jwt.PyJWK(public, algorithm)
            except (jwt.PyJWTError, jwt.exceptions.PyJWKError, ValueError, TypeError, KeyError):
                continue
            thumb = hashlib.blake2b(msgspec.json.encode(public, order="sorted"), digest_size=16).hexdigest()
            found.setdefault((str(key.get("kid") or ""), algorithm), []).append(WebKey(thumb, made))
    if not found:
        raise ConfigError(f"{place}: has no public key for {', '.join(algorithms)}")
    return WebKeySet(found)


def _algorithms_of(key: Mapping[str, Any], pinned: tuple[str, ...]) -> Iterator[str]:
    """Which of those that are pinned a key is for."""
    uses = ["verify"] if key.get("key_ops") is None else key["key_ops"]
    if key.get("use", "sig") != "sig" or not isinstance(uses, list | str) or "verify" not in uses:
        return
    kinds = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("Ed",)}
    for algorithm in pinned:
        if algorithm.startswith(kinds.get(str(key.get("kty")), ())) and key.get("alg", algorithm) == algorithm:
            yield algorithm


def head_of(token: str, rules: WebTokenRules) -> tuple[str, str]:
    """Key id and algorithm that a token names. Raises Unauthenticated where no key of ours can have made it."""
    import jwt

    try:
        head = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated(WRONG) from None
    algorithm, kid = head.get("alg"), head.get("kid", "")
    if algorithm not in rules.algorithms or not isinstance(kid, str):
        raise Unauthenticated(WRONG)
    return kid, algorithm


def check_token(token: str, rules: WebTokenRules, keys: list[WebKey], date_s: float) -> Claims:
    """What it claims, where one of the keys signed it and it holds now. Raises Unauthenticated."""
    payload, thumb = _verified(token, rules.algorithms, keys)
    try:
        claims = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unauthenticated(WRONG) from None
    expires_s = _check_claims(claims, rules, date_s)
    name = _claim(claims, rules.name_claim)
    if not isinstance(name, str) or not is_name(name):
        raise Unauthenticated(f"the token's {rules.name_claim} is no name of a principal")
    return Claims(name, _roles(_claim(claims, rules.roles_claim)), expires_s + rules.leeway_s, thumb)


def _verified(token: str, algorithms: tuple[str, ...], keys: list[WebKey]) -> tuple[bytes, str]:
    import jwt

    checking = jwt.PyJWS(algorithms, {"verify_signature": True, "enforce_minimum_key_length": True})
    for key in keys:
        try:
            return checking.decode(token, key.made, algorithms), key.thumb
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            continue
    raise Unauthenticated(WRONG)


def _check_claims(claims: Mapping[str, Any], rules: WebTokenRules, date_s: float) -> float:
    """When it expires, in seconds since 1970."""
    expires_s = _date(claims, "exp")
    if expires_s is None:
        raise Unauthenticated("the token does not say when it expires (exp)")
    if date_s >= expires_s + rules.leeway_s:
        raise Unauthenticated("the token has expired")
    for name in ("nbf", "iat"):
        begins_s = _date(claims, name)
        if begins_s is not None and date_s < begins_s - rules.leeway_s:
            raise Unauthenticated(f"the token does not hold yet ({name}); is the clock right?")
    if claims.get("iss") != rules.issuer:
        raise Unauthenticated("the token is another issuer's (iss)")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(each in rules.audience for each in audiences if isinstance(each, str)):
        raise Unauthenticated("the token is for another audience (aud)")
    return expires_s


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -DATE_S_MAX <= value <= DATE_S_MAX:
        raise Unauthenticated(f"the token's {name} is no date")
    return float(value)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """By its whole name, which may be an address with dots in it, or as a path: `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _roles(value: Any) -> tuple[str, ...]:
    """A list, or words in a text, as in `scope`."""
    some = value.split() if isinstance(value, str) else value
    if not isinstance(some, list):
        return ()
    return tuple(dict.fromkeys(role for role in some[:ROLES_MAX] if isinstance(role, str)))
