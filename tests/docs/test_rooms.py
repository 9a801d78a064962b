"""Rooms, as ARCHITECTURE.md and CONTRIBUTING.md tell of them, against the contracts and the folders."""

from __future__ import annotations

import re
import tomllib

import flightserve
from flightserve import errors
from tests.test_tidy import QUARANTINE, ROOT

PACKAGE = ROOT / "flightserve"


def rooms_of_architecture() -> dict[str, list[str]]:
    """The cells of the table of rooms, by room."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"(?m)^\| (\d+) \| (.*?) \| (.*) \| (.*?) ?\|$", text)
    return {room: [rank, libraries] for rank, rooms, _, libraries in rows for room in re.findall(r"`(\w+)`", rooms)}


def test_ranks_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = reversed(contracts[0]["layers"])
    ranks = {room: str(rank) for rank, layer in enumerate(layers) for room in re.findall(r"\w+", layer)}
    assert {room: rank for room, (rank, _) in rooms_of_architecture().items()} == ranks


def test_libraries_are_those_of_the_quarantine() -> None:
    homes = {(each.split("/")[1].removesuffix(".py"), library) for library, of in QUARANTINE.items() for each in of}
    said = {
        (room, library)
        for room, (rank, libraries) in rooms_of_architecture().items()
        for library in re.findall(r"`([\w.]+)`", libraries)
        if rank != "0" or room == "proto"
    }
    assert {pair for pair in homes if pair[0] != "fabric"} == {pair for pair in said if pair[0] != "fabric"}


def test_every_room_stands_in_contributing() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## The rooms\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(?:flightserve/)?(\w+)(?:/|\.py)`", section))
    rooms = {each.stem for each in PACKAGE.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists()}
    assert {room for room in rooms if not room.startswith("__")} <= told


def test_every_public_name_stands_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    named = {name.rpartition(".")[2] for name in re.findall(r"(?m)^::: (\S+)", page)}
    # Errors are a module's members; these are rooms, of which each name is there.
    others = {"metrics", "models", "sql"} | set(dir(errors))
    assert set(flightserve.__all__) - others <= named
