"""What pyproject.toml says of the versions it takes is what is tested: those in constraints.txt."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Used by names that are no promise of theirs, or gone through for one version: the next one has to be tried first.
BOUNDED_ABOVE = {"duckdb", "pyarrow", "ray"}


def requirements() -> dict[str, str]:
    """Every library's range by name, of all extras; ranges of our own extras left out."""
    texts = [*PROJECT["dependencies"], *(t for extra in PROJECT["optional-dependencies"].values() for t in extra)]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", text) for text in texts]
    return {match[1].lower(): match[2] for match in found if match is not None and match[1] != PROJECT["name"]}


def pinned() -> dict[str, str]:
    lines = [line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in lines}


@pytest.mark.parametrize(("name", "bounds"), sorted(requirements().items()))
def test_a_lower_bound_is_the_version_that_is_tested(name: str, bounds: str) -> None:
    version = pinned()[re.sub(r"[-_.]+", "-", name)]
    least = re.match(r"(?:>=|==)([\d.]+)", bounds)
    assert least is not None, f"{name} has no lower bound"
    assert f"{version}.".startswith(f"{least[1]}.")
    assert ("<" in bounds) == (name in BOUNDED_ABOVE)


@pytest.mark.parametrize("name", sorted(BOUNDED_ABOVE))
def test_what_is_installed_is_what_is_pinned(name: str) -> None:
    assert metadata.version(name) == pinned()[name]
