"""JSON Web Tokens of an identity provider: those that are taken, all those that are not, and keys that change."""

from __future__ import annotations

import base64
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from flightserve.clock import NS_PER_S, Clock
from flightserve.core.access.credentials import WRONG
from flightserve.errors import ConfigError, Unauthenticated
from flightserve.identity import key_source
from flightserve.identity.access import FileAccess, open_access
from flightserve.identity.checker import WAITING_MAX
from flightserve.identity.reading import check_keys, read_book
from flightserve.identity.web_tokens import read_keys
from tests.identity.books import PASSWORD, basic, bearer, principal, put
from tests.identity.times import Times
from tests.identity.web_signing import (
    AUDIENCE,
    ISSUER,
    ROLES_TEXT,
    by_hand,
    claims,
    jwks,
    private_key,
    public_jwk,
    sign,
    usual_algorithm,
)
from tests.support import eventually

KEY = b"k" * 32
RULES = f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks = "keys.json"\n'


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    put(tmp_path / "keys.json", jwks("rsa", "ec", "ed"))
    return put(tmp_path / "auth.toml", ROLES_TEXT + RULES + principal("alice"))


@pytest.fixture
def access(file: Path, times: Times) -> Iterator[FileAccess]:
    opened = open_access(str(file), KEY, times.monotonic_ns, times.date)
    opened._following.stop()
    yield opened
    opened.stop()


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
def test_tokens_that_are_taken(access: FileAccess, times: Times, kid: str) -> None:
    token = sign(claims(times.date_s), kid)
    found = access.recognise(f"Bearer {token}")
    assert (found.name, found.roles) == ("carol", ("reader",))
    assert found.rights.may_query("trips") and not found.rights.operate
    assert access.known(f"Bearer {token}") is found
    access.begin(found, "sql", "1").end(0)
    # As the password of a client that has only names and passwords.
    assert access.recognise(basic("carol", token)).name == "carol"
    with pytest.raises(Unauthenticated):
        access.recognise(basic("alice", token))


@pytest.mark.parametrize(
    ("said", "roles"),
    [
        ({"roles": "reader unknown"}, ("reader",)),
        ({"roles": ["admin", "reader", "reader", 1, None]}, ("admin", "reader")),
        ({"roles": []}, ()),
        ({"roles": None}, ()),
        ({"roles": {"reader": True}}, ()),
        ({"roles": [["reader"]]}, ()),
        ({"aud": ["other", AUDIENCE, 3]}, ("reader",)),
        ({"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}, ("reader",)),
        ({"nbf": 0}, ("reader",)),
    ],
)
def test_what_claims_may_be(access: FileAccess, times: Times, said: dict[str, Any], roles: tuple[str, ...]) -> None:
    assert access.recognise(f"Bearer {sign(claims(times.date_s, **said))}").roles == roles


NOW_S = Times().date_s


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"exp": NOW_S - 60}, "the token has expired"),
        ({"exp": None}, "the token does not say when it expires"),
        ({"exp": str(NOW_S + 300)}, "the token's exp is no date"),
        ({"exp": True}, "the token's exp is no date"),
        ({"exp": 1e300}, "the token's exp is no date"),
        ({"exp": 10**400}, "the token's exp is no date"),
        ({"nbf": -(10**400)}, "the token's nbf is no date"),
        ({"nbf": NOW_S + 61}, r"the token does not hold yet \(nbf\)"),
        ({"iat": NOW_S + 61}, r"the token does not hold yet \(iat\)"),
        ({"nbf": []}, "the token's nbf is no date"),
        ({"iss": "https://id.example/"}, "another issuer's"),
        ({"iss": None}, "another issuer's"),
        ({"iss": [ISSUER]}, "another issuer's"),
        ({"aud": "flightserve2"}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": {AUDIENCE: 1}}, "another audience"),
        ({"sub": None}, "no name of a principal"),
        ({"sub": ""}, "no name of a principal"),
        ({"sub": 7}, "no name of a principal"),
        ({"sub": "carol reader\nadmin admin"}, "no name of a principal"),
        ({"sub": "carol\x00"}, "no name of a principal"),
        ({"sub": "käthe"}, "no name of a principal"),
        ({"sub": "c" * 129}, "no name of a principal"),
    ],
)
def test_claims_that_are_not_taken(access: FileAccess, said: dict[str, Any], why: str) -> None:
    token = sign(claims(NOW_S, **said))
    for _ in range(2):
        with pytest.raises(Unauthenticated, match=why):
            access.recognise(f"Bearer {token}")


def pem(kid: str) -> bytes:
    """The public key, as everybody may have it."""
    of = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(private_key(kid).public_key().public_bytes(serialization.Encoding.PEM, of))


def signed_by_public_key(algorithm: str = "HS256") -> str:
    """The oldest trick: what everybody has, taken as a secret."""
    unsigned = by_hand({"alg": algorithm, "kid": "rsa", "typ": "JWT"}, claims(NOW_S)).removesuffix(".")
    mac = hmac.digest(pem("rsa"), unsigned.encode(), "sha256")
    return f"{unsigned}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def altered() -> str:
    head, _, signature = sign(claims(NOW_S)).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(NOW_S, roles=["admin"])).encode()).decode().rstrip("=")
    return f"{head}.{body}.{signature}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: by_hand({"alg": "none"}, claims(NOW_S)),
        lambda: by_hand({"alg": "None", "kid": "rsa"}, claims(NOW_S), b"x"),
        lambda: by_hand({"alg": None, "kid": "rsa"}, claims(NOW_S), b"x"),
        lambda: by_hand({"kid": "rsa"}, claims(NOW_S), b"x"),
        lambda: by_hand({"alg": ["RS256"], "kid": "rsa"}, claims(NOW_S), b"x"),
        signed_by_public_key,
        lambda: signed_by_public_key("RS256"),
        altered,
        lambda: sign(claims(NOW_S)).rpartition(".")[0] + ".",
        lambda: sign(claims(NOW_S))[:-4] + "AAAA",
        # By a key of somebody else's, under the issuer's key's id, or with the key in its head.
        lambda: sign_as("rsa-of-another", "rsa"),
        lambda: sign_as("rsa-of-another", "rsa", jwk=public_jwk("rsa-of-another")),
        lambda: sign_as("rsa-of-another", "rsa", jku="https://evil.example/keys.json"),
        lambda: sign_as("rsa-of-another", None),
        lambda: sign_as("rsa", "unknown"),
        lambda: sign_as("rsa", "ec"),
        lambda: sign_as("rsa", "../../etc/passwd"),
        lambda: by_hand({"alg": "RS256", "kid": 7}, claims(NOW_S), b"x"),
        lambda: by_hand({"alg": "RS256", "kid": "rsa", "b64": False, "crit": ["b64"]}, claims(NOW_S), b"x"),
        lambda: sign_as("rsa", "rsa", crit=["exp"], exp=1),
        lambda: "eyJ.eyJ.eyJ",
        lambda: "eyJhbGciOiJSUzI1NiJ9..",
        lambda: "eyJ" + "A" * 11_000 + ".eyJ.AAAA",
        lambda: f"eyJ{'W' * 6000}.{'A' * 4000}.{'A' * 2000}",
    ],
)
def test_tokens_that_nobody_signed(access: FileAccess, make: Callable[[], str]) -> None:
    token = make()
    for shown in (f"Bearer {token}", basic("carol", token)):
        with pytest.raises(Unauthenticated) as refused:
            access.recognise(shown)
        assert refused.value.message == WRONG


def sign_as(by: str, kid: str | None, **head: Any) -> str:
    import jwt

    named = {name: value for name, value in {"kid": kid, **head}.items() if value is not None}
    return jwt.PyJWS().encode(json.dumps(claims(NOW_S)).encode(), private_key(by), usual_algorithm(by), named)


def test_a_payload_that_is_no_object(access: FileAccess) -> None:
    import jwt

    for body in (b"[]", b"7", b"", b"\xff", b'{"exp": NaN}', b"[" * 10_000):
        token = jwt.PyJWS().encode(body, private_key("rsa"), "RS256", {"kid": "rsa"})
        with pytest.raises(Unauthenticated):
            access.recognise(f"Bearer {token}")


def test_algorithms_are_pinned(file: Path, access: FileAccess, times: Times) -> None:
    put(file, file.read_text().replace("[jwt]", '[jwt]\nalgorithms = ["ES256"]'))
    access._following._look()
    assert access.recognise(f"Bearer {sign(claims(times.date_s), 'ec')}").name == "carol"
    with pytest.raises(Unauthenticated):
        access.recognise(f"Bearer {sign(claims(times.date_s), 'rsa')}")


def test_clocks_may_differ_by_a_minute(access: FileAccess, times: Times) -> None:
    token = sign(claims(NOW_S, exp=NOW_S + 10, nbf=NOW_S + 59, iat=NOW_S + 60))
    found = access.recognise(f"Bearer {token}")
    times.advance(69)
    assert access.recognise(f"Bearer {token}").name == "carol"
    access.begin(found, "sql", "1").end(0)
    times.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        access.recognise(f"Bearer {token}")
    # A stream that goes on finds it out, too.
    with pytest.raises(Unauthenticated, match="expired"):
        access.begin(found, "sql", "2")


def test_what_is_issued_for_a_token_ends_with_it(access: FileAccess, times: Times) -> None:
    issued = access.issue(access.recognise(f"Bearer {sign(claims(NOW_S, exp=NOW_S + 1000))}"))
    found = access.recognise(f"Bearer {issued}")
    assert (found.name, found.roles) == ("carol", ("reader",))
    times.advance(1059)
    assert access.recognise(f"Bearer {issued}").name == "carol"
    times.advance(2)
    with pytest.raises(Unauthenticated, match="expired"):
        access.recognise(f"Bearer {issued}")


def test_claims_by_other_names(file: Path, access: FileAccess, times: Times) -> None:
    others = '[jwt]\nname_claim = "preferred_username"\nroles_claim = "realm_access.roles"\n'
    put(file, file.read_text().replace("[jwt]\n", others))
    access._following._look()
    said = claims(NOW_S, sub=None, preferred_username="dave", realm_access={"roles": ["reader"]}, roles=None)
    found = access.recognise(f"Bearer {sign(said)}")
    assert (found.name, found.roles) == ("dave", ("reader",))
    put(file, file.read_text().replace("realm_access.roles", "https://example.com/roles"))
    access._following._look()
    with pytest.raises(Unauthenticated):
        access.known(f"Bearer {sign(said)}") or access.begin(found, "sql", "1")
    addressed = claims(NOW_S, preferred_username="dave", **{"https://example.com/roles": ["reader"]})
    assert access.recognise(f"Bearer {sign(addressed)}").roles == ("reader",)


def test_limits_of_all_whom_an_issuer_names(file: Path, access: FileAccess) -> None:
    put(file, file.read_text().replace("[jwt]\n", "[jwt]\nin_flight = 7\n"))
    access._following._look()
    assert access.recognise(f"Bearer {sign(claims(NOW_S))}").limits.in_flight == 7


# ---- keys that change


def test_keys_of_a_file_follow_it(file: Path, access: FileAccess) -> None:
    before, after = sign(claims(NOW_S)), sign(claims(NOW_S), "rsa2")
    issued = access.issue(found := access.recognise(f"Bearer {before}"))
    access.begin(found, "sql", "0").end(0)
    with pytest.raises(Unauthenticated):
        access.recognise(f"Bearer {after}")
    put(file.with_name("keys.json"), jwks("rsa", "rsa2"))
    access._following._look()
    assert access.known(f"Bearer {before}") is not None
    assert access.recognise(f"Bearer {after}").name == "carol"
    put(file.with_name("keys.json"), jwks("rsa2"))
    access._following._look()
    # A key that was withdrawn takes all with it that it signed.
    for shown in (f"Bearer {before}", f"Bearer {issued}"):
        with pytest.raises(Unauthenticated):
            access.recognise(shown)
    with pytest.raises(Unauthenticated):
        access.begin(found, "sql", "1")
    assert access.known(f"Bearer {after}") is not None
    put(file.with_name("keys.json"), "{}")
    access._following._look()
    assert access.known(f"Bearer {after}") is not None


def test_without_rules_no_token_is_taken_any_more(file: Path, access: FileAccess) -> None:
    token = sign(claims(NOW_S))
    found = access.recognise(f"Bearer {token}")
    put(file, ROLES_TEXT + principal("alice"))
    access._following._look()
    for shown in (f"Bearer {token}", f"Bearer {sign(claims(NOW_S), 'ec')}"):
        with pytest.raises(Unauthenticated):
            access.recognise(shown)
    with pytest.raises(Unauthenticated):
        access.begin(found, "sql", "1")
    assert access.recognise(basic("alice", PASSWORD)).name == "alice"


class Provider:
    """An address that answers as a test says."""

    def __init__(self) -> None:
        self.keys = jwks("rsa")
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def fetch(self, address: str, clock: Clock) -> bytes:
        self.asked += 1
        assert self.answers.wait(30)
        if not self.keys:
            raise ConfigError(f"the keys at {address} cannot be fetched")
        return self.keys.encode()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def remote(file: Path, times: Times, provider: Provider) -> Iterator[FileAccess]:
    put(file, file.read_text().replace('"keys.json"', '"https://id.example/keys"'))
    opened = open_access(str(file), KEY, times.monotonic_ns, times.date, provider.fetch)
    opened._following.stop()
    yield opened
    opened.stop()


def test_keys_of_an_address_are_asked_for_when_a_new_one_comes_but_not_often(
    remote: FileAccess, times: Times, provider: Provider
) -> None:
    assert remote.recognise(f"Bearer {sign(claims(NOW_S))}").name == "carol"
    assert provider.asked == 1
    provider.keys = jwks("rsa", "rsa2")
    new = sign(claims(NOW_S), "rsa2")
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            remote.recognise(f"Bearer {new}")
    assert provider.asked == 1
    times.advance(30)
    assert remote.recognise(f"Bearer {new}").name == "carol"
    assert provider.asked == 2
    # Strangers make up key ids as they like.
    times.advance(29)
    for number in range(5):
        with pytest.raises(Unauthenticated):
            remote.recognise(f"Bearer {sign_as('rsa', f'unknown{number}')}")
    assert provider.asked == 2


def test_many_that_come_with_a_new_key_wait_for_it_together(
    remote: FileAccess, times: Times, provider: Provider
) -> None:
    remote.recognise(f"Bearer {sign(claims(NOW_S))}")
    times.advance(31)
    provider.keys = jwks("rsa", "rsa2")
    provider.answers.clear()
    coming = [remote._recogniser.find(f"Bearer {sign(claims(NOW_S, sub=f's{n}'), 'rsa2')}") for n in range(5)]
    # Meanwhile those whose keys are known do not wait.
    assert remote.recognise(f"Bearer {sign(claims(NOW_S, sub='other'))}").name == "other"
    assert remote.recognise(bearer("alice")).name == "alice"
    provider.answers.set()
    assert [getattr(each.result(30), "name", None) for each in coming] == [f"s{n}" for n in range(5)]
    assert provider.asked == 2


def test_strangers_who_wait_for_keys_do_not_end_what_follows_them(
    remote: FileAccess, times: Times, provider: Provider
) -> None:
    remote.recognise(f"Bearer {sign(claims(NOW_S))}")
    times.advance(31)
    provider.answers.clear()
    coming = [remote._recogniser.find(f"Bearer {sign_as('rsa', f'unknown{n}')}") for n in range(WAITING_MAX)]
    fetching = remote._recogniser._web._fetching
    eventually(lambda: fetching._waiting == WAITING_MAX, what="as many wait for keys as may")
    times.advance(601)
    remote._following._look()
    provider.answers.set()
    assert all(isinstance(each.result(30), Unauthenticated) for each in coming)


def test_an_address_that_does_not_answer_leaves_the_keys_as_they_were(
    remote: FileAccess, times: Times, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    token = sign(claims(NOW_S, exp=NOW_S + 10_000))
    remote.recognise(f"Bearer {token}")
    provider.keys = ""
    for _ in range(3):
        times.advance(601)
        remote._recogniser._web._source.fetch()  # type: ignore[union-attr]
    assert provider.asked == 4
    assert caplog.text.count("cannot be fetched") == 1
    assert remote.recognise(f"Bearer {token}").name == "carol"
    # And a key that was withdrawn ends within ten minutes.
    provider.keys = jwks("rsa2")
    times.advance(601)
    remote._recogniser._web._source.fetch()  # type: ignore[union-attr]
    with pytest.raises(Unauthenticated):
        remote.recognise(f"Bearer {token}")


# ---- what the file may say


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[jwt]", "jwt.issuer is not there"),
        (RULES.replace('"keys.json"', '"http://id.example/keys"'), "jwt.jwks is no https address"),
        (RULES.replace('"keys.json"', '"ftp://id.example/keys"'), "jwt.jwks is no https address"),
        (RULES.replace('"keys.json"', '"https://user:pw@id.example/keys"'), "jwt.jwks is no https address"),
        (RULES + 'algorithms = ["HS256"]', "jwt.algorithms is a list of RS256"),
        (RULES + 'algorithms = ["none"]', "jwt.algorithms is a list of RS256"),
        (RULES + "algorithms = []", "jwt.algorithms is a list of RS256"),
        (RULES + "leeway_s = 3600", "jwt.leeway_s is no number from 0 to 600"),
        (RULES + "fetch_s = 0", "jwt.fetch_s is no number from 1"),
        (RULES + 'isuer = "x"', r"jwt.isuer is not known; did you mean 'issuer'\?"),
    ],
)
def test_rules_that_are_wrong(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^auth.toml: {why}") as refused:
        read_book(text.encode(), "auth.toml")
    assert "user:pw" not in refused.value.message


def test_keys_that_are_no_text_and_places_that_are_no_address() -> None:
    with pytest.raises(ConfigError, match="is no JWKS"):
        read_keys(b'{"keys": [{"kty": "\xff"}]}', ("EdDSA",), "keys.json")
    with pytest.raises(ConfigError, match="is no address"):
        read_book(RULES.replace("keys.json", "https://[x/").encode(), "auth.toml")


def test_places_of_keys(tmp_path: Path) -> None:
    keys = put(tmp_path / "keys.json", jwks("rsa"))
    for said in ("keys.json", str(keys), f"file://{keys}", f"file://localhost{keys}"):
        book = read_book(RULES.replace("keys.json", said).encode(), str(tmp_path / "auth.toml"))
        check_keys(book)
        assert book.web is not None and book.web.jwks == str(keys)
    for text, why in [
        ("", "is no JWKS"),
        ("[]", "is no JWKS"),
        ('{"keys": 1}', "is no JWKS"),
        ('{"keys": []}', "has no public key"),
        (json.dumps({"keys": [{"kty": "oct", "k": "AAAA", "alg": "HS256"}]}), "has no public key"),
        (json.dumps({"keys": [{**public_jwk("rsa"), "use": "enc"}]}), "has no public key"),
        (json.dumps({"keys": [{**public_jwk("rsa"), "alg": "RSA-OAEP"}]}), "has no public key"),
        (json.dumps({"keys": [{**public_jwk("rsa"), "key_ops": 7}]}), "has no public key"),
        (json.dumps({"keys": [{**public_jwk("rsa"), "key_ops": ["sign"]}]}), "has no public key"),
        (json.dumps({"keys": [{"kty": "RSA", "n": "!", "e": 3}, {"kty": "EC"}, 7, {}]}), "has no public key"),
    ]:
        put(keys, text)
        with pytest.raises(ConfigError, match=why):
            check_keys(book)
    put(keys, json.dumps({"keys": [{**public_jwk("rsa"), "key_ops": None}]}))
    check_keys(book)
    keys.unlink()
    with pytest.raises(ConfigError, match=r"keys.json: cannot be read: No such file or directory$"):
        check_keys(book)


def test_a_key_that_is_too_short_checks_nothing(file: Path, access: FileAccess) -> None:
    put(file.with_name("keys.json"), jwks("short"))
    access._following._look()
    with pytest.warns(UserWarning, match="below"):
        token = sign(claims(NOW_S), "short")
    with pytest.raises(Unauthenticated):
        access.recognise(f"Bearer {token}")


def test_answers_of_an_address_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an opener that would go on for ever, or take for ever."""

    class Endless:
        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read1(self, size: int) -> bytes:
            return b"x" * size

    class Opener:
        def open(self, request: object, timeout: float) -> Endless:
            assert timeout == key_source.STEP_TIMEOUT_S
            return Endless()

    monkeypatch.setattr(key_source.urllib.request, "build_opener", lambda *_: Opener())
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes, or come too slowly"):
        key_source.fetch_https("https://id.example/keys", lambda: 0)
    ticks = iter(range(0, 1000 * NS_PER_S, 6 * NS_PER_S))
    with pytest.raises(ConfigError, match="too slowly"):
        key_source.fetch_https("https://id.example/keys", lambda: next(ticks))


def test_an_address_that_cannot_be_reached() -> None:
    with pytest.raises(ConfigError, match=r"the keys at 127\.0\.0\.1 cannot be fetched"):
        key_source.fetch_https("https://127.0.0.1:9/keys", lambda: 0)
