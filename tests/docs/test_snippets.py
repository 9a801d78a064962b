"""Every snippet of README.md and docs/ runs, and prints what the page says (tests/docs/blocks.py tells how)."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.flights.launch import ROOT
from tests.docs.blocks import RUN, SHOWN, Block, blocks_of, continues, matches
from tests.docs.workspace import SnippetFailed, Workspace

TOP = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
# Its blocks are typed into terminals by test_ten_minutes.py.
IN_TERMINALS = ROOT / "docs" / "tutorial" / "ten-minutes.md"
# Blocks that cannot run here. One more needs a good reason, and this number raised.
NOT_RUN_MAX = 21
REASON_CHARS_MIN = 10


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def has_snippets(page: Path) -> bool:
    return page != IN_TERMINALS and any(
        block.language in RUN and block.not_run is None for block in blocks_of(page.read_text())
    )


def followers(page: Path) -> list[Path]:
    """The page, and those that continue it, in the order of their names."""
    return [page, *(each for next_one in PAGES if continues(next_one) == page for each in followers(next_one))]


GROUPS = [followers(page) for page in PAGES if continues(page) is None]


@pytest.mark.ray
@pytest.mark.parametrize("pages", [g for g in GROUPS if any(map(has_snippets, g))], ids=lambda group: label(group[0]))
def test_the_snippets_run(pages: list[Path], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Workspace(tmp_path, lambda: request.getfixturevalue("flights_addresses")) as workspace:
        for page in pages:
            for block in blocks_of(page.read_text()):
                if block.language in RUN and block.not_run is None:
                    check(workspace, block, f"{label(page)}:{block.line}")
            workspace.end_page()


def check(workspace: Workspace, block: Block, where: str) -> None:
    try:
        printed = workspace.run(block, where)
    except SnippetFailed as failed:
        pytest.fail(f"{where} does not run: {failed}", pytrace=False)
    if block.expected is not None and not matches(block.expected, printed):
        pytest.fail(f"{where} prints\n{printed}\nand not\n{block.expected}", pytrace=False)


def test_every_page_runs_once() -> None:
    assert sorted(page for group in GROUPS for page in group) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page.read_text()):
        assert block.language in RUN | SHOWN, f"{label(page)}:{block.line}: ```{block.language}"


def test_what_is_not_run_is_little_and_has_a_reason() -> None:
    left_out = [(page, block) for page in PAGES for block in blocks_of(page.read_text()) if block.not_run is not None]
    assert len(left_out) <= NOT_RUN_MAX, [f"{label(page)}:{block.line}" for page, block in left_out]
    for page, block in left_out:
        assert len(block.not_run or "") >= REASON_CHARS_MIN, f"{label(page)}:{block.line} does not say why"


def test_blocks_are_read_as_they_stand() -> None:
    text = """
<!-- not run: needs a cluster -->
```bash
ray up
```

Then:

```python title="a.py"
x = 1
```

```python
print(x)
```
```text
1
```

```console
$ echo a \\
  b
a b
$ true
```
"""
    assert blocks_of(text) == [
        Block("bash", "ray up", 3, not_run="needs a cluster"),
        Block("python", "x = 1", 9, title="a.py"),
        Block("python", "print(x)", 13, expected="1"),
        Block("bash", "echo a \\\n  b", 20, expected="a b"),
        Block("bash", "true", 20),
    ]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [("a\n", "a", True), ("a", "b", False), ("a...d", "abc\nd\n", True), ("a...", "b", False), ("a.c", "abc", False)],
)
def test_output_is_compared(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) == same
