"""What callers show, as it should be and as it should not, on every protocol of an app behind `--auth`."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import random
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jwt

from tests.fuzz import http_answers
from tests.fuzz.credentials import AUDIENCE, ISSUER, KEY, PUBLIC
from tests.fuzz.envelopes import Dealer
from tests.fuzz.findings import Finding
from tests.fuzz.http import Connection
from tests.fuzz.http_requests import SEEDS
from tests.fuzz.mutation import INTEGERS, TEXTS, any_bytes
from tests.fuzz.rpc import GOOD, SERVICE, Rpc, _field
from tests.identity.books import basic, token_of
from tests.identity.web_signing import by_hand

NAME: Final = "ada"
PASSWORD: Final = "correct horse battery staple"
# So far ahead that a seed gives the same token in any year.
_EXPIRES_S: Final = 4_000_000_000
_CLAIMS: Final = {"iss": ISSUER, "aud": AUDIENCE, "exp": _EXPIRES_S, "sub": "carol", "roles": ["admin"]}
_REFUSED: Final = "UNAUTHENTICATED"
# Of a stranger's health checks, and of what browsers ask before they ask.
_OPEN: Final = ("/healthz", "/readyz", "/v2/health/ready")
_ROUTES: Final = tuple(each for each in SEEDS if each.target not in _OPEN and each.method != "OPTIONS")


def signed(claims: Any, **head: Any) -> str:
    """A web token of these claims, by the issuer's own key."""
    said = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.PyJWS().encode(said, KEY, "EdDSA", {"kid": PUBLIC["kid"], **head})


GOOD_TEXTS: Final = (
    f"Bearer {token_of(NAME)}", basic(NAME, PASSWORD), basic(NAME, token_of(NAME)), f"Bearer {signed(_CLAIMS)}",
    basic("carol", signed(_CLAIMS)),
)  # fmt: skip


class Shown(NamedTuple):
    """An `authorization`, and whether whoever shows it is known; None where he may be."""

    text: str
    is_known: bool | None


def secrets() -> tuple[str, ...]:
    """Pieces of what the good show: none of them may be found in anything that the app writes."""
    whole = [token_of(NAME), PASSWORD, signed(_CLAIMS).rpartition(".")[2]]
    whole += [text.partition(" ")[2] for text in GOOD_TEXTS]
    return tuple({each[at : at + 20] for each in whole for at in (len(each) - 20, max(0, len(each) - 45))})


def any_shown(dice: random.Random) -> Shown:
    """One of the good, as it is or damaged; or a token that somebody made up."""
    how = dice.random()
    if how < 0.15:
        return Shown(dice.choice(GOOD_TEXTS), True)
    if how < 0.55:
        good = dice.choice(GOOD_TEXTS)
        text = any_bytes(dice, (good.encode(),), (b" ", b":", b".", b"=", b",", b"Bearer ", b"\0")).decode("latin-1")
        return Shown(text, True if text in GOOD_TEXTS else None if _says_the_same(text) else False)
    return _made_up(dice) if how < 0.8 else Shown(_signed_oddly(dice), None)


def _made_up(dice: random.Random) -> Shown:
    odd = dice.choice(TEXTS)
    public = json.dumps(PUBLIC).encode()
    claimed = dice.choice(("None", "HS256", "ES256", "RS256"))
    texts: tuple[Callable[[], str], ...] = (
        lambda: odd,
        lambda: f"Bearer {odd}",
        lambda: basic(odd, dice.choice(TEXTS)),
        lambda: basic(NAME, odd),
        lambda: basic(odd, PASSWORD),
        lambda: "Basic " + "=" * dice.choice((1, 3, 5000)),
        lambda: "Bearer " + token_of(NAME)[:-1],
        lambda: "Bearer " + token_of(dice.choice(("root", "admin", "bob", NAME * 40))),
        lambda: f"Bearer fsi_{base64.urlsafe_b64encode(dice.randbytes(90)).decode()}",
        lambda: f"Bearer {by_hand({'alg': 'none', 'typ': 'JWT'}, _CLAIMS)}",
        lambda: f"Bearer {by_hand({'alg': claimed}, _CLAIMS, dice.randbytes(64))}",
        lambda: "Bearer " + _by_secret(public),
        lambda: f"Bearer {by_hand({'alg': 'EdDSA', 'jwk': PUBLIC, 'jku': 'https://evil.example'}, _CLAIMS, bytes(64))}",
        lambda: f"Bearer {signed({**_CLAIMS, 'exp': 1_000_000_000})}",
        lambda: f"Bearer {signed({**_CLAIMS, 'aud': 'another'})}",
        lambda: f"Bearer {signed({**_CLAIMS, 'iss': odd})}",
        lambda: f"Bearer {signed({**_CLAIMS, 'nbf': _EXPIRES_S})}",
        lambda: f"Bearer {signed({name: value for name, value in _CLAIMS.items() if name != 'exp'})}",
        lambda: f"Negotiate {base64.b64encode(dice.randbytes(40)).decode()}",
        lambda: f'Digest username="{NAME}", response="{dice.randbytes(16).hex()}"',
    )  # fmt: skip
    return Shown(dice.choice(texts)(), False)


def _by_secret(secret: bytes) -> str:
    """Signed with what everybody knows for a secret, which the library refuses to do."""
    head, claims = by_hand({"alg": "HS256", "kid": PUBLIC["kid"]}, _CLAIMS).split(".")[:2]
    mac = hmac.digest(secret, f"{head}.{claims}".encode(), "sha256")
    return f"{head}.{claims}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _signed_oddly(dice: random.Random) -> str:
    """By the issuer's key, and odd: who has that key may say what he likes, but break nothing."""
    odd: tuple[Any, ...] = (*TEXTS, *INTEGERS, None, True, 1.5, 1e300, [], {}, {"a": [1]}, ["admin"], ["x"] * 500)
    claims = {**_CLAIMS, dice.choice((*_CLAIMS, "nbf", "iat", "jti", "crit")): dice.choice(odd)}
    if dice.random() < 0.3:
        head = {dice.choice(("kid", "typ", "crit", "jwk", "x5u", "b64", "cty")): dice.choice(("x", ["b64"], 5, {}))}
        try:
            return f"Bearer {signed(claims, **head)}"
        except (jwt.PyJWTError, TypeError, ValueError):
            return f"Bearer {by_hand({'alg': 'EdDSA', **head}, claims, dice.randbytes(64))}"
    return f"Bearer {signed(claims)}"


# ---- what counts as the same


def _plain(text: str) -> tuple[str, bytes]:
    """What a header says, read as leniently as any reader does."""
    scheme, _, rest = text.strip(" \t").partition(" ")
    return scheme.lower(), b".".join(_decoded(part) for part in rest.strip(" \t").split("."))


def _decoded(part: str) -> bytes:
    try:
        return base64.b64decode(part.replace("-", "+").replace("_", "/").rstrip("=") + "==")
    except (binascii.Error, ValueError):
        return part.encode("utf-8", "surrogateescape")


def _says_the_same(text: str) -> bool:
    return any(_plain(text) == _plain(each) for each in GOOD_TEXTS)


# ---- how it is shown


def check(shown: Shown, code: str) -> str:
    """The code, where it is what he may get."""
    if shown.is_known and code == _REFUSED:
        raise Finding(f"refused: {shown.text!r}")
    if shown.is_known is False and code in ("OK", "PERMISSION_DENIED", "NOT_FOUND"):
        raise Finding(f"{code} for a stranger: {shown.text!r}")
    return code


def by_http(address: str, tls: ssl.SSLContext, dice: random.Random) -> Counter[str]:
    """A good request, but for what it shows."""
    shown, route = any_shown(dice), dice.choice(_ROUTES)
    headers = (*route.headers, ("authorization", shown.text), ("connection", "close"))
    data = route._replace(headers=headers).encode()
    if shown.text.strip(" \t") != shown.text or not shown.text.isprintable():
        shown = Shown(shown.text, None if shown.is_known else False)
    with Connection(address, tls) as connection:
        received = connection.exchange([data])
    replies = http_answers.read(received) if received.startswith(b"HTTP/1.1") else []
    return Counter(check(shown, http_answers.check(reply)) for reply in replies) or Counter(("closed",))


_ASKED: Final[tuple[tuple[str, list[bytes]], ...]] = (
    ("/flightserve.v1.FlightServe/ListDeployments", [b""]),
    ("/flightserve.v1.FlightServe/Query", [b"\x0a\x08SELECT 1"]),
    ("/inference.GRPCInferenceService/ModelReady", [b"\x0a\x05Probe"]),
    ("/inference.GRPCInferenceService/RepositoryIndex", [b""]),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [b"\x3a\x01*"]),
)
_ASKED_FLIGHT: Final[tuple[tuple[str, list[bytes]], ...]] = (
    (SERVICE + "ListFlights", [b""]),
    (SERVICE + "ListActions", [b""]),
    (SERVICE + "GetFlightInfo", [b"\x08\x02" + _field(2, b"SELECT 1")]),
    (SERVICE + "DoAction", [_field(1, b"CloseSession")]),
    (SERVICE + "DoGet", [_field(1, b"SELECT 1")]),
)


def by_rpc(calls: Rpc, dice: random.Random) -> Counter[str]:
    """gRPC, or Flight and its handshake."""
    shown = any_shown(dice)
    # What a client's library lets through; what it does not is sent by hand in `by_http`.
    if not shown.text.isascii() or not shown.text.isprintable():
        return Counter(("unsendable",))
    if calls.is_flight and dice.random() < 0.3:
        return Counter((_handshake(calls, shown, dice),))
    method, sent = dice.choice(_ASKED_FLIGHT if calls.is_flight else _ASKED)
    metadata: tuple[tuple[str, Any], ...] = (("authorization", shown.text),)
    if dice.random() < 0.1:
        other = any_shown(dice)
        if other.text.isascii() and other.text.isprintable():
            # Two: whichever is looked at, nobody is let in of whom neither is known.
            metadata += (("authorization", other.text),)
            shown = Shown(
                f"{shown.text} and {other.text}", False if {shown.is_known, other.is_known} == {False} else None
            )
    return Counter((check(shown, calls.call(method, sent, metadata)),))


def _handshake(calls: Rpc, shown: Shown, dice: random.Random) -> str:
    """With a payload as pyarrow's older handlers send it: a name and a password in a message of their own."""
    name, secret = dice.choice((NAME, *TEXTS)).encode(), dice.choice((PASSWORD, token_of(NAME), *TEXTS)).encode()
    payload = any_bytes(dice, (_field(2, name) + _field(3, secret), shown.text.encode(), b""))
    sent = [b"\x08\x01" + _field(2, payload) for _ in range(dice.choice((0, 1, 1, 3)))]
    if dice.random() < 0.5:
        return check(shown, calls.call(SERVICE + "Handshake", sent, (("authorization", shown.text),)))
    # What lies in the payload alone is not looked at.
    return check(Shown(repr(payload), False), calls.call(SERVICE + "Handshake", sent))


def by_dealer(dealer: Dealer, dice: random.Random) -> Counter[str]:
    """The field of a message's header, which may be anything that JSON has."""
    shown = any_shown(dice)
    said: Any = shown.text
    if dice.random() < 0.1:
        said = dice.choice((None, 5, [], [shown.text], {"Bearer": shown.text}, True, ""))
        shown = Shown(repr(said), False)
    header = {"deployment": "Probe", "method": "identity", "authorization": said}
    return Counter((check(shown, dealer.ask([json.dumps(header).encode(), GOOD])),))
