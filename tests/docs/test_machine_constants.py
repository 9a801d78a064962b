"""docs/measurements/machine-constants.md: times that could be one machine's are all there, and are what it says."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "measurements" / "machine-constants.md"
# Where requests pass.
ROOMS = ("core", "caller", "fabric", "router", "replica", "frontends", "carrier", "wire", "loops.py")
UNITS_NS = {"NS": 1, "US": 1_000, "MS": 1_000_000, "S": 1_000_000_000}
# What is longer is a pace, or somebody's patience.
SHORT_NS = 50_000_000
_TIME = re.compile(r"_(NS|US|MS|S)(_FIRST|_MIN|_MAX|_PER_BYTE)?$")
_CONVERSION = re.compile(r"(NS|US|MS)_PER_(US|MS|S)$")
_ROW = re.compile(r"^\| `(flightserve[\w.]+)` \| (\S+) \|", re.MULTILINE)


def constants(path: Path) -> Iterator[str]:
    """The names that a module gives values in capitals, at its top."""
    for node in ast.parse(path.read_text()).body:
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        yield from (each.id for each in targets if isinstance(each, ast.Name) and each.id.isupper())


def value_of(name: str) -> Any:
    module, _, constant = name.rpartition(".")
    return getattr(importlib.import_module(module), constant)


def short_times() -> Iterator[str]:
    for room in ROOMS:
        top = ROOT / "flightserve" / room
        for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for constant in constants(path):
                unit = _TIME.search(constant)
                if unit is None or _CONVERSION.search(constant):
                    continue
                value = value_of(f"{module}.{constant}")
                if isinstance(value, int | float) and 0 < value * UNITS_NS[unit[1]] <= SHORT_NS:
                    yield f"{module}.{constant}"


def test_values_are_those_of_the_code() -> None:
    rows = _ROW.findall(PAGE.read_text())
    assert rows
    for name, said in rows:
        assert str(value_of(name)) == said, name


def test_times_that_could_be_a_machines_are_explained() -> None:
    explained = {name for name, _ in _ROW.findall(PAGE.read_text())}
    assert set(short_times()) - explained == set(), f"say in {PAGE.name} why they hold on any machine, or learn them"
