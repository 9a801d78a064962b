"""What the documents name exists: files behind links, files and modules in code quotes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import flightserve
from examples.flights.launch import ROOT
from tests.docs.blocks import blocks_of

# CHANGELOG tells of what was, so its names are not looked for.
TOP = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:flightserve|tests|examples|benchmarks|docs|proto)/[\w./*-]*|[\w-]+\.(?:md|toml|yml)|Makefile")
MODULE = re.compile(r"flightserve(?:\.[A-Za-z_]\w*)+")
# Made when it is asked for, and in no clone.
MADE = {"benchmarks/results", "examples/flights/data"}
ACTIONS = "".join((ROOT / f"flightserve/frontends/flight/{name}.py").read_text() for name in ("server", "sql_actions"))
SPANS = "".join(
    (ROOT / f"flightserve/{name}.py").read_text()
    for name in ("frontends/spans", "router/queue_spans", "replica/run_spans", "sql/warehouse/engine_spans", "tiers")
)
PROTO = (ROOT / "flightserve" / "proto" / "flightserve" / "v1" / "flightserve.proto").read_text()


def prose(page: Path) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```\s*$", "", page.read_text())


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The names that links to a document's headings use."""
    headings = re.findall(r"(?m)^#+ +(.*?) *$", prose(page))
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text.lower())) for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{label(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{label(page)} links to {link}, a heading that is not there"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_files_and_names_in_code_quotes_exist(page: Path) -> None:
    for quoted in QUOTED.findall(prose(page)):
        if PATH.fullmatch(quoted):
            path = quoted.rstrip("/")
            assert path in MADE or any(ROOT.glob(path)) or (page.parent / path).exists(), f"{label(page)}: {quoted}"
        elif MODULE.fullmatch(quoted):
            assert found(quoted) or on_the_wire(quoted), (
                f"{label(page)}: {quoted} is neither a module nor a name in one"
            )


def on_the_wire(name: str) -> bool:
    """Whether that is a service or message of our proto, one of our Flight actions, or an attribute of spans."""
    last = name.removeprefix("flightserve.v1.").split(".")[0]
    return bool(re.search(rf"(?m)^(?:service|message|enum) {last}\b", PROTO)) or f'"{name}"' in ACTIONS + SPANS


def found(name: str) -> bool:
    """Whether that is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_what_is_taken_of_the_package_is_there(page: Path) -> None:
    """Also in a line of a snippet that is not reached when it runs."""
    for name in re.findall(r"\bfs\.([A-Za-z_]\w*)", page.read_text()):
        assert hasattr(flightserve, name), f"{label(page)}: fs.{name}"


def test_helpers_are_in_the_files_that_the_page_says() -> None:
    rows = re.findall(
        r"(?m)^\| `(tests/[\w/.]+\.py)` \| (.*) \|$", (ROOT / "docs/contributing/test-helpers.md").read_text()
    )
    assert rows
    for path, told in rows:
        for name in re.findall(r"`(\w+)(?:\(.*?\))?`", told):
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} is not in {path}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6 << 10


def test_a_name_that_is_not_there_is_found_out() -> None:
    assert found("flightserve.testing.LocalService") and not found("flightserve.testing.Nobody")


def test_no_page_has_an_unclosed_block() -> None:
    for page in PAGES:
        assert len(re.findall(r"(?m)^ *```", page.read_text())) % 2 == 0, label(page)
        blocks_of(page.read_text())
