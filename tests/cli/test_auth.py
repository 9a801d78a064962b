"""`flightserve auth`, as it is typed."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightserve.cli.main import main
from flightserve.core.access.credentials import owner_of
from flightserve.identity.reading import read_book
from tests.identity.books import ROLES


def auth(*arguments: str, status: int = 0) -> None:
    assert main(["auth", *arguments]) == status


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "auth.toml"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_principal_makes_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auth("add", "alice", "--auth", str(file), "--role", "admin")
    told = capsys.readouterr()
    token = told.out.removesuffix("\n")
    assert owner_of(token) == "alice"
    assert told.err == ""
    assert mode(file) == 0o600
    text = file.read_text()
    assert "# [roles.analyst]" in text
    assert token not in text and token[-43:] not in text
    entry = read_book(text.encode(), "")
    hashed = entry.entries["alice"].token
    assert hashed is not None and hashed.matches(token.encode())
    # The example is one that can be used as it stands.
    lines = [line[2:] for line in text.splitlines() if line.startswith("# [") or (line[:1] == "#" and "=" in line)]
    used = "\n".join(lines)
    assert "analyst" in read_book(used.encode(), "").roles
    assert [path.name for path in file.parent.iterdir()] == ["auth.toml"]


def test_passwords_come_from_standard_input(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\nmore\n"))
    auth("add", "bob", "--auth", str(file), "--password", "--role", "admin")
    assert capsys.readouterr() == ("", "")
    entry = read_book(file.read_bytes(), "").entries["bob"]
    assert entry.token is None and entry.password is not None
    assert entry.password.matches(b"correct horse battery")
    no_text = io.TextIOWrapper(io.BytesIO(b"\xff" * 20), "utf-8")
    for wrong in (
        None,
        io.StringIO(""),
        io.StringIO("\n"),
        io.StringIO("x" * 1025),
        io.StringIO("\udcff" * 20),
        no_text,
    ):
        monkeypatch.setattr(sys, "stdin", wrong)
        auth("add", "carol", "--auth", str(file), "--password", status=2)
    monkeypatch.setattr(sys, "stdin", io.StringIO("short"))
    auth("add", "dave", "--auth", str(file), "--password")
    assert "can be guessed" in capsys.readouterr().err


def test_what_people_wrote_stays(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = f"# Ours.\n{ROLES}# About nobody.\n\n[[principals]]  # The first.\n"
    auth("add", "zed", "--auth", str(file))
    zed = file.read_text().partition("[[principals]]\n")[2]
    file.write_text(written + zed + "max_priority = 3 # not more\n")
    file.chmod(0o640)
    auth("add", "alice", "--auth", str(file), "--role", "reader", "--role", "ops", "--role", "reader")
    after = file.read_text()
    assert after.startswith(written + zed + "max_priority = 3 # not more\n")
    assert mode(file) == 0o640
    assert read_book(after.encode(), "").entries["alice"].principal.roles == ("reader", "ops")
    auth("revoke", "alice", "--auth", str(file))
    assert file.read_text().rstrip() == (written + zed + "max_priority = 3 # not more").rstrip()
    auth("revoke", "zed", "--auth", str(file))
    assert file.read_text().startswith(f"# Ours.\n{ROLES}")
    assert read_book(file.read_bytes(), "").entries == {}
    auth("add", "zed", "--auth", str(file), "--role", "ops")
    assert list(read_book(file.read_bytes(), "").entries) == ["zed"]
    capsys.readouterr()


def test_principals_in_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auth("add", "zed", "--auth", str(file))
    token = read_book(file.read_bytes(), "").entries["zed"].token
    file.write_text(f"principals = [\n  {{name = 'zed', token = '{token}'}},\n]\n{ROLES}")
    auth("add", "alice", "--auth", str(file), "--role", "reader")
    assert list(read_book(file.read_bytes(), "").entries) == ["zed", "alice"]
    auth("revoke", "zed", "--auth", str(file))
    assert list(read_book(file.read_bytes(), "").entries) == ["alice"]


def test_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file.symlink_to(tmp_path / "real" / "auth.toml")
    auth("add", "alice", "--auth", str(file), "--role", "admin")
    auth("add", "bob", "--auth", str(file), "--role", "admin")
    assert file.is_symlink()
    assert len(read_book((tmp_path / "real" / "auth.toml").read_bytes(), "").entries) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["add", "alice"], 2, "has a principal 'alice' already; flightserve auth revoke alice"),
        (["add", "a b"], 2, "'a b' is no name"),
        (["add", ""], 2, "'' is no name"),
        (["add", "x" * 129], 2, "is no name"),
        (["add", "bob", "--role", "raeder"], 2, "says nothing of a role 'raeder'; did you mean 'reader'?"),
        (["add", "bob", "--role", "other"], 2, "says nothing of a role 'other'; write [roles.other] there first"),
        (["revoke", "alic"], 1, "has no principal 'alic'; did you mean 'alice'?"),
    ],
)
def test_what_cannot_be_done(
    file: Path, arguments: list[str], status: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(ROLES)
    auth("add", "alice", "--auth", str(file), "--role", "reader")
    before = file.read_bytes()
    capsys.readouterr()
    auth(*arguments, "--auth", str(file), status=status)
    told = capsys.readouterr()
    assert told.out == ""
    assert why in told.err and told.err.count("\n") == 1
    assert file.read_bytes() == before


def test_files_that_are_wrong_or_not_there(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["revoke", "alice"], ["list"]):
        auth(*command, "--auth", str(file), status=2)
        assert "No such file" in capsys.readouterr().err
    assert not file.exists()
    auth("add", "a", "--auth", str(tmp_path / "none" / "auth.toml"), status=2)
    assert "its folder cannot be opened" in capsys.readouterr().err
    auth("add", "a", "--auth", str(tmp_path), status=2)
    assert "cannot be read" in capsys.readouterr().err
    file.write_text("[role]\n")
    for command in (["add", "a"], ["revoke", "a"], ["list"]):
        auth(*command, "--auth", str(file), status=2)
        assert "did you mean 'roles'" in capsys.readouterr().err
    assert file.read_text() == "[role]\n"


class FullOutput(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("output", [None, FullOutput()])
def test_a_token_that_nobody_gets_is_taken_back(
    file: Path, output: io.StringIO | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    auth("add", "alice", "--auth", str(file), "--role", "admin")
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdout", output)
    auth("add", "bob", "--auth", str(file), "--role", "admin", status=1)
    assert "bob is not added: standard output does not take the token" in capsys.readouterr().err
    assert list(read_book(file.read_bytes(), "").entries) == ["alice"]


def test_passwords_that_are_asked_for(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Person(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Person())
    for answers, why in [(["a" * 12, "b" * 12], "the two passwords differ"), ([], "no password was given")]:
        saying = iter(answers)
        monkeypatch.setattr("getpass.getpass", lambda prompt, saying=saying: _said(saying))
        auth("add", "bob", "--auth", str(file), "--password", "--role", "admin", status=2)
        assert why in capsys.readouterr().err
    monkeypatch.setattr("getpass.getpass", lambda prompt: "correct horse battery")
    auth("add", "bob", "--auth", str(file), "--password", "--role", "admin")
    hashed = read_book(file.read_bytes(), "").entries["bob"].password
    assert hashed is not None and hashed.matches(b"correct horse battery")


def _said(saying: Iterator[str]) -> str:
    try:
        return next(saying)
    except StopIteration:
        raise EOFError from None


def test_a_list_shows_no_secret(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(ROLES)
    auth("add", "alice", "--auth", str(file), "--role", "reader")
    file.write_text(file.read_text() + "in_flight = 3\n")
    capsys.readouterr()
    auth("list", "--auth", str(file))
    assert capsys.readouterr().out == "alice: reader; token; in_flight 3\n"
    auth("list", "--auth", str(file), "--json")
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["roles"], listed["shows"]) == ("alice", ["reader"], ["token"])
    assert listed["limits"]["in_flight"] == 3
    assert "scrypt" not in json.dumps(listed)


def test_changes_at_once_come_one_after_another(file: Path) -> None:
    """By processes, as two people would; threads of one share its locks."""
    command = [sys.executable, "-m", "flightserve", "auth", "add", "--auth", str(file), "--role", "admin"]
    adding = [subprocess.Popen([*command, f"p{number}"], stdout=subprocess.PIPE, text=True) for number in range(3)]
    tokens = [process.communicate(timeout=60)[0].strip() for process in adding]
    assert [owner_of(token) for token in tokens] == [f"p{number}" for number in range(3)]
    assert sorted(read_book(file.read_bytes(), "").entries) == [f"p{number}" for number in range(3)]
