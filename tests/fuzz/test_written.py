"""What `make fuzz` holds an app's files against."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.targets import Written

SECRET = "correct horse battery"


def test_a_secret_is_found_in_whatever_is_written(tmp_path: Path) -> None:
    written, log = Written([SECRET], tmp_path), tmp_path / "logs" / "app.log"
    log.parent.mkdir()
    assert list(written.new()) == []
    log.write_text("x" * 1000 + SECRET[:9])
    assert list(written.new()) == []
    # In two writes, between which was a look.
    with log.open("a") as file:
        file.write(SECRET[9:])
    ((name, place),) = written.new()
    assert name == "app.log" and SECRET in place
    assert list(written.new()) == []
