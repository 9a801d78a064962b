"""Reads the fenced blocks out of a document, and what is to be done with each.

    ```python                 runs, after the page's other blocks, in one namespace a page
    ```python title="a.py"    is written to that file, for `flightserve run a:app` and imports
    ```bash                   runs in the page's folder; `flightserve run ...` and `flightserve sql ...` keep running
    ```console                lines after `$ ` run, the lines between are what they print
    ```sql                    is asked of the app that is served
    ```text                   right after one of these: what it prints; `...` stands for anything

`<!-- not run: why -->` before a block leaves it out, `<!-- continues: PAGE -->` runs a page where that one left off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

RUN = frozenset({"python", "bash", "console", "sql"})
SHOWN = frozenset({"text", "json", "toml", "yaml", "html", "proto", "javascript", "nginx", "prometheus"})

_FENCE = re.compile(r"^( *)```(\S*)(?: title=\"([^\"]+)\")?\s*$")
_NOT_RUN = re.compile(r"^ *<!-- not run: (.*) -->$")
_CONTINUES = re.compile(r"^<!-- continues: (\S+) -->$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `expected` is what it prints, None where the page does not say."""

    language: str
    text: str
    line: int
    title: str = ""
    not_run: str | None = None
    expected: str | None = None


def blocks_of(text: str) -> list[Block]:
    """All blocks of a document in order; a block of output has become its predecessor's `expected`."""
    found: list[Block] = []
    adjacent = False
    for block, is_adjacent in _fences(text):
        adjacent = is_adjacent and bool(found)
        if block.language == "text" and adjacent and found[-1].language in RUN and found[-1].expected is None:
            found[-1] = replace(found[-1], expected=block.text)
        else:
            found.append(block)
    return [part for block in found for part in _console(block)]


def _fences(text: str) -> Iterator[tuple[Block, bool]]:
    """Each block, and whether nothing stands between it and the one before."""
    lines = text.splitlines()
    at, not_run, adjacent = 0, None, False
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            told = _NOT_RUN.match(lines[at])
            if lines[at].strip():
                not_run, adjacent = (told[1] if told else None), False
            at += 1
            continue
        end = at + 1
        while lines[end].strip() != "```":
            end += 1
        body = "\n".join(line.removeprefix(fence[1]) for line in lines[at + 1 : end])
        yield Block(fence[2], body, at + 1, fence[3] or "", not_run), adjacent
        at, not_run, adjacent = end + 1, None, True


def _console(block: Block) -> Iterator[Block]:
    """A session at the prompt as one block a command, each with what it prints; other blocks as they are."""
    if block.language != "console":
        yield block
        return
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, output = _command_and_output(part)
        yield replace(block, language="bash", text=command, expected=output or None)


def _command_and_output(part: str) -> tuple[str, str]:
    lines = part.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.endswith("\\")), len(lines) - 1) + 1
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def continues(page: Path) -> Path | None:
    """The page in whose folder, and beside whose app, this one runs."""
    found = _CONTINUES.search(page.read_text())
    return None if found is None else (page.parent / found[1]).resolve()


def matches(expected: str, printed: str) -> bool:
    """Whether that is what was to be printed, lines' ends and empty lines at the end apart; `...` is anything."""
    pieces = [re.escape(piece) for piece in _plain(expected).split("...")]
    return re.fullmatch(".*".join(pieces), _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()
