"""What is no Python goes into a wheel only where pyproject.toml says so."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

from tests.test_tidy import ROOT, files

PACKAGE_DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]


def _is_packaged(path: Path) -> bool:
    patterns = PACKAGE_DATA.get(".".join(path.parent.parts), [])
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def test_wheels_hold_every_file_of_the_package() -> None:
    data = [path for path in files() if path.parts[0] == "flightserve" and path.suffix != ".py"]
    assert Path("flightserve/frontends/http/docs.html") in data
    assert [path for path in data if not _is_packaged(path)] == []
