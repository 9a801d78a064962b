"""What files of `--auth` may say, and what is told of those that say something else."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from flightserve.errors import ConfigError
from flightserve.identity.hashing import LN_MIN, make_hash, read_hash
from flightserve.identity.reading import FILE_BYTES_MAX, read_auth, read_book, read_bytes, warn_of_readers
from tests.identity.books import ROLES, book_text, cheap_hash, principal, token_of

HASH = cheap_hash("x")
PRINCIPAL = f'[[principals]]\nname = "a"\ntoken = "{HASH}"\n'


def test_a_book() -> None:
    limits = "requests_per_s = 0.5\nin_flight = 3\nmax_priority = 0\nmax_query_s = 60\nbytes_in_flight = 1000\n"
    book = read_book((ROLES + principal("alice", '["reader", "admin"]', limits)).encode(), "auth.toml")
    alice = book.entries["alice"]
    assert alice.principal.roles == ("reader", "admin")
    assert alice.principal.rights.operate
    assert alice.principal.limits.requests_per_s == 0.5
    assert alice.principal.limits.max_priority == 0
    assert alice.shows == ["token", "password"]
    assert read_book(b"", "auth.toml").entries == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\x00", "auth.toml: is no TOML"),
        ("[" * 5000, "auth.toml: is no TOML"),
        ("principal = []", r"auth.toml: principal is not known; did you mean 'principals'\?"),
        ("roles = 1", "auth.toml: roles is not a table"),
        ("[roles]\nreader = 1", "auth.toml: roles.reader is not a table"),
        ("[roles.reader]\ncalls = []", r"auth.toml: roles.reader.calls is not known; did you mean 'call'\?"),
        ("[roles.reader]\ncall = 'Flights'", "auth.toml: roles.reader.call is not a list"),
        ("[roles.reader]\ncall = [1]", "auth.toml: roles.reader.call is a list of"),
        ("[roles.reader]\nquery = ['']", "auth.toml: roles.reader.query is a list of"),
        ("[roles.reader]\noperate = 1", "auth.toml: roles.reader.operate is not true or false"),
        ("[roles.admin]", "auth.toml: roles.admin is there already, and may all"),
        ("[roles.'a b']", "auth.toml: roles.'a b' is no name"),
        ("principals = 1", "auth.toml: principals is not a list"),
        ("principals = [1]", "auth.toml: principals is a list of tables"),
        ("[[principals]]", r"auth.toml: principals\[1\].name is no name"),
        ("[[principals]]\nname = 1", r"auth.toml: principals\[1\].name is not a text"),
        ("[[principals]]\nname = 'a b'", r"auth.toml: principals\[1\].name is no name"),
        ("[[principals]]\nname = 'a'", r"auth.toml: principals\[1\].name is 'a', who has neither token"),
        (PRINCIPAL + PRINCIPAL, r"auth.toml: principals\[2\].name is 'a', as another principal's is"),
        (
            ROLES + PRINCIPAL + "roles = ['raeder']",
            r"auth.toml: principals\[1\].roles has 'raeder', .* 'reader'\?",
        ),
        (PRINCIPAL + "role = 'x'", r"auth.toml: principals\[1\].role is not known; did you mean 'roles'\?"),
        (PRINCIPAL + "password = 'hunter2'", r"auth.toml: principals\[1\].password is no hash"),
        (PRINCIPAL + "in_flight = -1", r"auth.toml: principals\[1\].in_flight is no whole number from 0"),
        (PRINCIPAL + "in_flight = 1.5", r"auth.toml: principals\[1\].in_flight is no whole number from 0"),
        (PRINCIPAL + "requests_per_s = nan", r"auth.toml: principals\[1\].requests_per_s is no number"),
        (PRINCIPAL + "requests_per_s = inf", r"auth.toml: principals\[1\].requests_per_s is no number"),
        (PRINCIPAL + "max_priority = 10", r"auth.toml: principals\[1\].max_priority is no whole number from 0 to 9"),
        (PRINCIPAL + "max_query_s = true", r"auth.toml: principals\[1\].max_query_s is no number"),
        (
            PRINCIPAL + "subject = 'x'\n" + PRINCIPAL.replace("'a'", "'b'").replace('"a"', '"b"') + "subject = 'x'",
            r"auth.toml: principals\[2\].subject is that of 'a' as well",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{why}") as refused:
        read_book(text.encode(), "auth.toml")
    assert "hunter2" not in refused.value.message


def test_a_file_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match="is not UTF-8, at byte 2"):
        read_book(b"a \xff", "auth.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "auth.toml"
    with pytest.raises(ConfigError, match=r"No such file or directory; flightserve auth add NAME --auth"):
        read_auth(str(file))
    with pytest.raises(ConfigError, match="Is a directory"):
        read_bytes(str(tmp_path))
    file.write_bytes(b"#" * FILE_BYTES_MAX)
    file.chmod(0o600)
    assert len(read_bytes(str(file))) == FILE_BYTES_MAX
    file.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="more than 4,194,304 bytes"):
        read_bytes(str(file))


def test_who_else_may_use_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "auth.toml"
    file.write_text(book_text("alice"))
    for mode, warned in [(0o600, False), (0o400, False), (0o640, True), (0o644, True)]:
        file.chmod(mode)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read_bytes(str(file))
            warn_of_readers(str(file))
        assert ("can be read by other users" in caplog.text) is warned
    for mode in (0o602, 0o666, 0o646):
        file.chmod(mode)
        with pytest.raises(ConfigError, match="everybody may write to it"):
            read_bytes(str(file))


def test_who_else_may_change_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "auth.toml"
    file.write_text(book_text("alice"))
    file.chmod(0o660)
    warn_of_readers(str(file))
    assert "can be changed by other users (mode 660)" in caplog.text
    if os.geteuid() == 0:
        file.chmod(0o600)
        os.chown(file, 65534, -1)
        warn_of_readers(str(file))
        assert "is user 65534's" in caplog.text


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"is no file|Is a directory"):
            read_bytes(str(path))


def test_hashes() -> None:
    made = make_hash(b"secret", 1)
    assert re.fullmatch(r"\$scrypt\$ln=14,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", str(made))
    again = read_hash(str(made))
    assert again == made
    assert made.matches(b"secret")
    assert not made.matches(b"Secret")
    assert make_hash(b"secret", 1) != made
    assert str(made.salt) not in repr(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        token_of("a"),
        HASH.replace("scrypt", "argon2id"),
        HASH.replace(f"ln={LN_MIN}", f"ln={LN_MIN - 1}"),
        HASH.replace(f"ln={LN_MIN}", "ln=22"),
        HASH.replace(f"ln={LN_MIN}", "ln=99"),
        HASH.replace("r=8", "r=0"),
        HASH.replace("p=1", "p=0"),
        HASH.replace(f"ln={LN_MIN}", "ln=18").replace("p=1", "p=99"),
        HASH[:-10],
        HASH + "\n",
    ],
)
def test_what_is_no_hash_or_asks_for_too_little_or_too_much(text: str) -> None:
    assert read_hash(text) is None


def test_hashes_of_other_programs_are_taken() -> None:
    # As passlib writes it (its documentation's example, of "password").
    other = read_hash("$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E")
    assert other is not None
    assert other.matches(b"password")
