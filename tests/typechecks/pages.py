"""The Python of README.md and docs/ as files for type checkers: a package for each page.

A block with a title becomes the module of that name, the others together the module `page`. Each line keeps the number
it has in the page, so that what a checker says of `readme/page.py:40` is of README.md:40.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import Block, blocks_of, continues

PAGE = "page"


def package_of(page: Path, root: Path) -> str:
    """The name of the page's package."""
    return re.sub(r"\W", "_", str(page.relative_to(root).with_suffix(""))).lower()


def write_pages(pages: list[Path], root: Path, folder: Path) -> None:
    """Write the packages of all pages into the folder."""
    for page in pages:
        package = folder / package_of(page, root)
        for module, text in modules_of(page, root).items():
            package.mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").touch()
            (package / f"{module}.py").write_text(text)


def modules_of(page: Path, root: Path) -> dict[str, str]:
    """The page's modules by name. Imports of the reader's own files, those of the page that this one continues
    included, are made imports from the packages."""
    return {module: "\n".join(lines) + "\n" for module, lines in _read(page, root)[0].items()}


def _read(page: Path, root: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The lines of its modules, and where the reader's files are at its end."""
    before = continues(page)
    homes = {} if before is None else _read(before, root)[1]
    made: dict[str, list[str]] = {}
    for block in _python(page):
        module = _own_name(block, made)
        if block.title:
            homes[Path(block.title).stem] = f"{package_of(page, root)}.{module}"
        lines = made.setdefault(module, [])
        # A line more than there are before the block: its fence.
        lines += [""] * (block.line - len(lines))
        lines += [_with_homes(line, homes) for line in block.text.splitlines()]
    return made, homes


def _python(page: Path) -> list[Block]:
    return [block for block in blocks_of(page.read_text()) if block.language == "python" and block.not_run is None]


def _own_name(block: Block, made: dict[str, list[str]]) -> str:
    """A file that the page writes again is another module."""
    stem = Path(block.title).stem if block.title else PAGE
    again = sum(1 for name in made if re.fullmatch(rf"{stem}(_\d+)?", name))
    return f"{stem}_{again + 1}" if block.title and again else stem


def _with_homes(line: str, homes: dict[str, str]) -> str:
    found = re.match(r"( *)(from|import) (\w+)\b(.*)", line)
    if found is None or found[3] not in homes:
        return line
    home = homes[found[3]]
    return f"{found[1]}from {home}{found[4]}" if found[2] == "from" else f"{found[1]}import {home} as {found[3]}"
