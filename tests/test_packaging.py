"""What is no Python goes into a wheel only where pyproject.toml says so."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

import pytest

from flightserve.cli.main import main
from tests.test_tidy import ROOT, files

PACKAGE_DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]


def _is_packaged(path: Path) -> bool:
    packages = [parent for parent in path.parents if ".".join(parent.parts) in PACKAGE_DATA]
    return any(
        fnmatch.fnmatch(str(path.relative_to(package)), pattern)
        for package in packages
        for pattern in PACKAGE_DATA[".".join(package.parts)]
    )


def test_wheels_hold_every_file_of_the_package() -> None:
    data = [path for path in files() if path.parts[0] == "flightserve" and path.suffix != ".py"]
    assert Path("flightserve/frontends/http/web/docs.js") in data
    assert [path for path in data if not _is_packaged(path)] == []


def test_the_proto_files_are_where_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proto"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert "package flightserve.v1;" in (folder / "flightserve" / "v1" / "flightserve.proto").read_text()
    # Where a clone has them for who does not install it.
    assert (ROOT / "proto").samefile(folder)
    data = [path.name for path in files() if path.suffix == ".proto" and path.parts[:2] == ("flightserve", "proto")]
    assert sorted(data) == ["flight.proto", "flightserve.proto", "kserve.proto", "sql.proto"]
