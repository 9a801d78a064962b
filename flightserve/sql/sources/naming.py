"""What tables are called that are not given a name: as their files are."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flightserve.sql.sources.table_groups import folded
from flightserve.sql.statements.policy import RESERVED_PREFIX

if TYPE_CHECKING:
    from flightserve.sql.sources import Source

NAME_CHARACTERS_MAX: Final = 128
# What is left of a file's name, so that there is room for more to tell it apart.
_OWN_CHARACTERS_MAX: Final = 48


def own_names(source: Source) -> list[str]:
    """Names for one of several tables of a folder, the best first: that of a folder below it that all its files are in,
    its file's, what its files' names begin with."""
    if source.part:
        return _names_of_part(source)
    stems = sorted({os.path.basename(file).partition(".")[0] for file in source.files})
    folder = source.root if source.hive else os.path.commonpath([os.path.dirname(file) for file in source.files])
    text = re.sub(r"[\W\d_]+$", "", _common_start(stems[0], stems[-1])) if len(stems) > 1 else stems[0]
    if source.hive or folder != source.root:
        text = os.path.basename(folder).partition(".")[0]
    text = text or stems[0]
    own = table_name(text) or f"{source.given}_{re.sub(r'[^0-9A-Za-z]+', '_', text)[:_OWN_CHARACTERS_MAX]}".rstrip("_")
    behind = own if own.startswith(source.given) else f"{source.given}_{own}"
    stem = table_name(f"{own}_{stems[0]}") if folder != source.root else own
    return [own, stem, f"{own}_{source.format}", behind, f"{behind}_{source.format}"]


def _names_of_part(source: Source) -> list[str]:
    """Of a table in a file: as it is called there, with its schema, with the name that the file was given."""
    schema, part = source.part[:2] if len(source.part) > 1 else ("", source.part[0])
    usable = part.isprintable() and 0 < len(part) <= NAME_CHARACTERS_MAX
    own = part if schema and usable and not part.lower().startswith(RESERVED_PREFIX) else table_name(part)
    own = own or f"{source.given}_{re.sub(r'[^0-9A-Za-z]+', '_', part)[:_OWN_CHARACTERS_MAX]}".rstrip("_")
    placed = f"{schema}_{own}" if schema not in ("", "main") else own
    return [own, placed, f"{source.given}_{placed}"]


def _common_start(one: str, other: str) -> str:
    """Of the first and the last of sorted texts: what all begin with."""
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def table_name(text: str) -> str:
    """The text as a name that needs no quotes; "" where it is none."""
    name = re.sub(r"\W", "_", text)[:_OWN_CHARACTERS_MAX]
    return "" if not name.strip("_") or name[0].isdigit() or name.lower().startswith(RESERVED_PREFIX) else name


def distinct(wanted: Sequence[Sequence[str]]) -> list[str]:
    """For each the first of its names that no other takes; those with one name have it. Where all are taken, the first
    with a number."""
    levels = [0] * len(wanted)
    names = [names[0] for names in wanted]
    for _ in range(max(map(len, wanted), default=0)):
        count = Counter(map(folded, names))
        for n, choices in enumerate(wanted):
            if count[folded(names[n])] > 1 and len(choices) > 1:
                levels[n] += 1
                names[n] = choices[levels[n]] if levels[n] < len(choices) else ""
    taken = {folded(name) for name in names}
    for n, choices in enumerate(wanted):
        number = 2
        while not names[n]:
            name = f"{choices[0]}_{number}"
            number += 1
            if folded(name) not in taken:
                names[n] = name
                taken.add(folded(name))
    return names
