"""Who is recognised by what he shows, for how long, and what becomes of him when the file changes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightserve.clock import NS_PER_S
from flightserve.contracts.access import Access
from flightserve.core.access.credentials import (
    ABSENT,
    AUTHORIZATION_CHARS_MAX,
    ISSUED,
    MALFORMED,
    WRONG,
    Basic,
    Bearer,
)
from flightserve.errors import FlightserveError, ResourceExhausted, Unauthenticated, Unavailable
from flightserve.identity import recogniser
from flightserve.identity.access import FileAccess, open_access
from flightserve.identity.hashing import Hashed
from flightserve.identity.issuing import LIFETIME_S
from flightserve.identity.recogniser import EXPIRED
from tests.identity.books import PASSWORD, ROLES, basic, bearer, book_text, principal, put, token_of
from tests.identity.times import Times
from tests.support import eventually

KEY = b"k" * 32


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    more = 'subject = ["CN=alice", "CN=alice,O=x"]\nin_flight = 2\n'
    return put(tmp_path / "auth.toml", ROLES + principal("alice", more=more) + principal("bob"))


@pytest.fixture
def access(file: Path, times: Times) -> Iterator[FileAccess]:
    opened = open_access(str(file), KEY, times.monotonic_ns, times.date)
    # A test looks itself.
    opened._following.stop()
    yield opened
    opened.stop()


@pytest.mark.parametrize(
    "shown",
    [
        bearer("alice"),
        bearer("alice").replace("Bearer ", "bearer   "),
        basic("alice", PASSWORD),
        basic("alice", token_of("alice")),
    ],
)
def test_right_credentials(access: FileAccess, shown: str) -> None:
    assert access.known(shown) is None
    found = access.recognise(shown)
    assert (found.name, found.roles) == ("alice", ("reader",))
    assert access.known(shown) is found
    assert asyncio.run(access.recognised(shown)) is found
    assert found.rights.may_call("Flights", "delays")
    assert not found.rights.operate


ALTERED = token_of("alice")[:-1] + "t"
NOT_BASE64 = "Basic " + "=" * 8


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (None, ABSENT),
        ("", ABSENT),
        ("   ", ABSENT),
        ("Bearer", MALFORMED),
        ("Bearer ", MALFORMED),
        ("Bearer a b", MALFORMED),
        ("Bearer a,b", MALFORMED),
        ("Digest username=alice", MALFORMED),
        (token_of("alice"), MALFORMED),
        ("Basic", MALFORMED),
        (NOT_BASE64, MALFORMED),
        ("Basic " + base64.b64encode(b"alice").decode(), MALFORMED),
        ("Basic " + base64.b64encode(b"alice:").decode(), MALFORMED),
        ("Basic " + base64.b64encode(b"\xff\xfe:x").decode(), MALFORMED),
        ("Basic " + base64.b64encode(b"a" * 129 + b":x").decode(), MALFORMED),
        ("Basic " + base64.b64encode(b"alice:x").decode() + "\n", MALFORMED),
        ("Bearer \x00", MALFORMED),
        ("Bearer \ud800", MALFORMED),
        ("Bearer ünïcode", MALFORMED),
        ("Bearer garbage", WRONG),
        ("Bearer fst_.", WRONG),
        (f"Bearer {ALTERED}", WRONG),
        (f"Bearer {token_of('alice')}x", WRONG),
        (f"Bearer {token_of('nobody')}", WRONG),
        (f"Bearer {ISSUED}", WRONG),
        (f"Bearer {ISSUED}{'A' * 80}", WRONG),
        ("Bearer " + PASSWORD.encode().hex(), WRONG),
        (basic("alice", "wrong"), WRONG),
        (basic("alice", "\x00"), WRONG),
        (basic("nobody", PASSWORD), WRONG),
        (basic("", PASSWORD), WRONG),
        (basic("al\x00ice", PASSWORD), WRONG),
        (basic("Alice", PASSWORD), WRONG),
        (basic("bob", token_of("alice")), WRONG),
        (basic("", token_of("alice")), WRONG),
        (basic("alice", "x" * 8000), WRONG),
    ],
)
def test_wrong_credentials(access: FileAccess, shown: str | None, why: str) -> None:
    for _ in range(2):
        with pytest.raises(Unauthenticated) as refused:
            access.recognise(shown)
        assert refused.value.message == why
        with pytest.raises(Unauthenticated) as refused:
            asyncio.run(access.recognised(shown))
        assert refused.value.message == why


def test_credentials_of_any_length_are_refused_before_they_are_hashed(access: FileAccess) -> None:
    for length in (AUTHORIZATION_CHARS_MAX + 1, 10_000_000):
        with pytest.raises(Unauthenticated, match="at most 16,384"):
            access.known("Bearer " + "a" * (length - 7))
    with pytest.raises(Unauthenticated, match="wrong"):
        access.known("Bearer " + "a" * (AUTHORIZATION_CHARS_MAX - 7))


def test_certificates(access: FileAccess) -> None:
    for subject in ("CN=alice", "CN=alice,O=x"):
        found = access.known(None, subject)
        assert found is not None and found.name == "alice"
        assert access.recognise(None, subject) is found
    for subject in ("CN=alic", "cn=alice", "alice"):
        with pytest.raises(Unauthenticated, match="certificate"):
            access.known(None, subject)
    # What a header says is what holds.
    with pytest.raises(Unauthenticated):
        access.recognise(basic("alice", "wrong"), "CN=alice")


def test_many_who_say_the_same_at_once_cost_one_hash(access: FileAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes, go = [], threading.Event()
    matches = Hashed.matches

    def counted(self: Hashed, secret: bytes) -> bool:
        hashes.append(secret)
        go.wait(10)
        return matches(self, secret)

    monkeypatch.setattr(Hashed, "matches", counted)

    async def all_at_once() -> list[str]:
        calls = [asyncio.ensure_future(access.recognised(bearer("alice"))) for _ in range(100)]
        await asyncio.sleep(0)
        # One of them goes away, and the others are answered all the same.
        calls[0].cancel()
        go.set()
        return [found.name for found in await asyncio.gather(*calls[1:])]

    assert asyncio.run(all_at_once()) == ["alice"] * 99
    assert len(hashes) == 1


def test_strangers_are_bounded_and_those_who_are_known_go_on(
    access: FileAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = access.recognise(bearer("alice"))
    go = threading.Event()
    monkeypatch.setattr(Hashed, "matches", lambda self, secret: go.wait(10) and False)
    guesses = [access._recogniser.find(basic("alice", f"guess {number}")) for number in range(64)]
    with pytest.raises(Unavailable, match="too many") as refused:
        access.recognise(basic("bob", "guess"))
    assert refused.value.retry_after_ms > 0
    assert access.known(bearer("alice")) is found
    # Tokens are checked by another thread than passwords.
    assert access._recogniser.find(bearer("bob")) is not None
    go.set()
    assert all(isinstance(guess.result(10), Unauthenticated) for guess in guesses)
    with pytest.raises(Unauthenticated):
        access.recognise(basic("bob", "guess"))


def test_what_is_not_there_takes_as_much_work_as_what_is_wrong(
    access: FileAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[int] = []
    monkeypatch.setattr(Hashed, "matches", lambda self, secret: work.append(self.p) or False)
    for shown in (basic("nobody", "x"), basic("", "x"), bearer("nobody")):
        with pytest.raises(Unauthenticated):
            access.recognise(shown)
    assert work == [5, 5, 1]


def test_what_is_remembered_is_over_after_a_minute_and_what_was_wrong_sooner(access: FileAccess, times: Times) -> None:
    access.recognise(bearer("alice"))
    wrong = basic("alice", "wrong")
    with pytest.raises(Unauthenticated):
        access.recognise(wrong)
    with pytest.raises(Unauthenticated):
        access.known(wrong)
    times.advance(recogniser.WRONG_NS / NS_PER_S)
    assert access.known(wrong) is None
    assert access.known(bearer("alice")) is not None
    times.advance(60)
    assert access.known(bearer("alice")) is None


def test_what_is_remembered_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recogniser, "WRONG_MAX", 10)
    access = open_access(str(file), KEY)
    kept = access.recognise(bearer("alice"))
    monkeypatch.setattr(Hashed, "matches", lambda self, secret: False)
    for number in range(20):
        with pytest.raises(Unauthenticated):
            access.recognise(basic("alice", f"guess {number}"))
    assert len(access._recogniser._wrong) == 10
    access.stop()
    assert access._recogniser._finding == {}
    assert access.known(bearer("alice")) is kept


def test_no_secret_is_kept_or_shown(access: FileAccess) -> None:
    for _ in range(3):
        access.recognise(bearer("alice"))
        access.recognise(basic("bob", PASSWORD))
    shown = repr([access, access._recogniser, vars(access._recogniser), access._recogniser.book.entries])
    assert token_of("alice")[-43:] not in shown
    assert PASSWORD not in shown
    keys = list(access._recogniser._shown._entries)
    assert all(isinstance(key, bytes) and len(key) == 16 for key in keys)


def left_by_refusals() -> list[object]:
    kinds = (Basic, Bearer, Unauthenticated, ResourceExhausted)
    return [each for each in gc.get_objects() if type(each) in kinds]


def test_what_is_refused_is_kept_by_no_cycle(access: FileAccess) -> None:
    alice = access.recognise(bearer("alice"))
    held = [access.begin(alice, "Flights.delays", str(number)) for number in range(2)]
    gc.collect()
    before = {id(each) for each in left_by_refusals()}
    gc.disable()
    try:
        for shown in (basic("alice", "wrong"), bearer("nobody")):
            with contextlib.suppress(Unauthenticated):
                access.recognise(shown)
        with contextlib.suppress(ResourceExhausted):
            access.begin(alice, "Flights.delays", "3")
        # The thread that checked it may be about to let go.
        eventually(lambda: not {id(each) for each in left_by_refusals()} - before)
    finally:
        gc.enable()
    for visit in held:
        visit.end(0)


# ---- issued tokens


def test_issued_tokens_are_taken_by_every_frontend_of_the_app_until_they_expire(
    access: FileAccess, file: Path, times: Times
) -> None:
    token = access.issue(access.recognise(basic("alice", PASSWORD)))
    other = open_access(str(file), KEY, times.monotonic_ns, times.date)
    stranger = open_access(str(file), b"another", times.monotonic_ns, times.date)
    for shown in (f"Bearer {token}", basic("alice", token)):
        found = other.known(shown)
        assert found is not None and found.name == "alice"
        with pytest.raises(Unauthenticated):
            stranger.recognise(shown)
        with pytest.raises(Unauthenticated):
            other.known(basic("bob", token))
    times.advance(LIFETIME_S - 1)
    assert access.recognise(f"Bearer {token}").name == "alice"
    times.advance(2)
    with pytest.raises(Unauthenticated, match="expired") as refused:
        access.recognise(f"Bearer {token}")
    assert refused.value.message == EXPIRED
    other.stop()
    stranger.stop()


def test_a_clock_that_is_set_counts_within_a_minute(access: FileAccess, times: Times) -> None:
    token = access.issue(access.recognise(basic("alice", PASSWORD)))
    assert access.recognise(f"Bearer {token}").name == "alice"
    times.date_s += LIFETIME_S
    times.ns += 61 * NS_PER_S
    with pytest.raises(Unauthenticated, match="expired"):
        access.recognise(f"Bearer {token}")


def test_issued_tokens_that_were_altered(access: FileAccess) -> None:
    token = access.issue(access.recognise(bearer("alice")))
    body = token.removeprefix(ISSUED)
    for at in range(0, len(body) - 1, 7):
        altered = body[:at] + ("A" if body[at] != "A" else "B") + body[at + 1 :]
        with pytest.raises(Unauthenticated):
            access.recognise(f"Bearer {ISSUED}{altered}")


# ---- the file changes


def test_a_principal_that_is_revoked_stops_with_all_he_has(access: FileAccess, file: Path) -> None:
    alice, bob = access.recognise(bearer("alice")), access.recognise(bearer("bob"))
    issued = access.issue(alice)
    assert access.known(f"Bearer {issued}") is alice
    access.begin(alice, "Flights.delays", "0").end(0)
    put(file, book_text("bob"))
    access._following._look()
    for shown in (bearer("alice"), f"Bearer {issued}", basic("alice", PASSWORD)):
        with pytest.raises(Unauthenticated):
            access.recognise(shown)
    with pytest.raises(Unauthenticated):
        access.known(None, "CN=alice")
    with pytest.raises(Unauthenticated):
        access.begin(alice, "Flights.delays", "1")
    # Others are not asked again.
    assert access.known(bearer("bob")) is not None
    access.begin(bob, "Flights.delays", "1").end(0)


def test_a_principal_that_is_added_is_let_in_though_he_was_wrong_before(access: FileAccess, file: Path) -> None:
    with pytest.raises(Unauthenticated):
        access.recognise(bearer("carol"))
    put(file, book_text("alice", "carol"))
    access._following._look()
    assert access.recognise(bearer("carol")).name == "carol"


def test_other_credentials_end_the_ones_before(access: FileAccess, file: Path) -> None:
    issued = access.issue(access.recognise(bearer("bob")))
    put(file, file.read_text().replace(principal("bob"), principal("bob", more='subject = "CN=bob"')))
    access._following._look()
    with pytest.raises(Unauthenticated):
        access.known(f"Bearer {issued}")
    # The token is as it was, but what he is known by is not: it is looked at again.
    assert access.known(bearer("bob")) is None
    found = access.known(None, "CN=bob")
    assert found is not None and found.name == access.recognise(bearer("bob")).name == "bob"


def test_other_rights_hold_for_those_who_are_known(access: FileAccess, file: Path) -> None:
    before = access.recognise(bearer("bob"))
    access.begin(before, "sql", "0").end(0)
    put(file, file.read_text().replace('["trips"]', '["fares"]'))
    access._following._look()
    now = access.known(bearer("bob"))
    assert now is not None and now.rights.may_query("fares") and not now.rights.may_query("trips")
    assert access.rights("bob reader").may_query("fares")
    with pytest.raises(Unauthenticated, match="other rights"):
        access.begin(before, "sql", "1")
    access.begin(now, "sql", "2").end(0)


def test_a_change_of_others_leaves_who_is_in_alone(access: FileAccess, file: Path) -> None:
    before = access.recognise(bearer("bob"))
    put(file, file.read_text() + "[roles.more]\n" + principal("carol", '["more", "reader"]'))
    access._following._look()
    access.begin(before, "sql", "1").end(0)


def test_a_wrong_file_changes_nothing_and_is_told_once(
    access: FileAccess, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = file.read_text()
    found = access.recognise(bearer("alice"))
    for wrong, why in [("[roles", "is no TOML"), ("[role]\n", "did you mean 'roles'"), (None, "cannot be read")]:
        caplog.clear()
        if wrong is None:
            file.unlink()
        else:
            put(file, wrong)
        for _ in range(3):
            access._following._look()
        assert [why in record.getMessage() for record in caplog.records] == [True]
        assert "what it said before holds" in caplog.text
        assert access.known(bearer("alice")) is found
    put(file, right)
    access._following._look()
    assert access.known(bearer("alice")) is not None


def test_a_file_that_is_wrong_from_the_start_lets_nobody_in_until_it_is_right(
    tmp_path: Path, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    file = put(tmp_path / "auth.toml", "[nonsense]")
    access = open_access(str(file), KEY, times.monotonic_ns, times.date)
    assert "nobody is recognised until it is mended" in caplog.text
    for shown in (bearer("alice"), None, f"Bearer {ISSUED}"):
        with pytest.raises(Unavailable, match="nobody can be recognised"):
            access.recognise(shown)
    assert not access.rights("alice admin").may_call("Flights", "delays")
    put(file, book_text("alice"))
    eventually(lambda: _recognised(access, bearer("alice")))
    access.stop()


def _recognised(access: Access, shown: str) -> bool:
    try:
        return access.recognise(shown).name == "alice"
    except FlightserveError:
        return False


# ---- rights of callers


def test_rights_of_callers(access: FileAccess) -> None:
    assert access.rights("").operate
    assert access.rights("alice admin").operate
    assert access.rights("alice reader").may_call("Flights", "x")
    assert not access.rights("alice unknown").may_call("Flights", "x")
    assert not access.rights("alice ").may_call("Flights", "x")
    together = access.rights("alice admin\nbob reader\ncarol reader,ops")
    assert together.may_call("Flights", "x")
    assert not together.may_call("Prices", "x")
    assert together.may_query("trips")
    assert together.any_tables
    assert not together.may_query("fares")
    assert not together.operate
    assert not together.all_tables


# ---- visits


def test_visits_are_counted_until_their_first_end(access: FileAccess) -> None:
    alice = access.recognise(bearer("alice"))
    first, second = (access.over("http").begin(alice, "Flights.delays", str(n)) for n in range(2))
    with pytest.raises(ResourceExhausted, match="2 requests in flight"):
        access.over("grpc").begin(alice, "Flights.delays", "3")
    first.end(0)
    first.end(0)
    third = access.begin(alice, "Flights.delays", "4")
    with pytest.raises(ResourceExhausted):
        access.begin(alice, "Flights.delays", "5")
    second.end(0)
    third.end(13)
