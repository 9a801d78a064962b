"""Statements that are no queries and change nothing, which clients open with or ask for the shape of a table by.

Each is answered by a query in its place that gives what the engine would. The settings stay as they are, transactions
are of one query each (nothing can be written), and each statement may run on a connection of its own: so what would
change something is refused, though the engine would take it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import duckdb

# What may be set, and to what, in lower case: what the engine has them at.
SETTINGS: Final = {"timezone": frozenset({"utc"})}
# No rows of what the engine says of statements that give nothing.
NOTHING: Final = 'SELECT true AS "Success" WHERE false'

_SCHEMA: Final = "main"
_TRANSACTIONS: Final = frozenset({"begin", "start", "commit", "end", "rollback", "abort"})
_WORDS_MAX: Final = 16


def find_substitute(kind: str, text: str, catalog: str, tables: Collection[str]) -> str | None:
    """The query that answers the statement, None for one that is not known to be harmless. `kind` is the engine's name
    for what it is, `catalog` the current one, `tables` are the tables' names in lower case."""
    words = words_of(text)
    if not words or len(words) > _WORDS_MAX:
        return None
    first, rest = words[0].lower(), words[1:]
    if kind == "TRANSACTION" and first in _TRANSACTIONS:
        return NOTHING
    if kind == "SET" and first == "use" and _name(rest) in {(catalog.lower(),), (_SCHEMA,), (catalog.lower(), _SCHEMA)}:
        return NOTHING
    if kind == "SET" and first == "set" and _sets_what_is(rest):
        return NOTHING
    if kind == "PRAGMA" and len(rest) == 4 and [rest[0].lower(), rest[1], rest[3]] == ["table_info", "(", ")"]:
        table = _unquoted(rest[2])
        if table.lower() in tables:
            return f"SELECT * FROM pragma_table_info({_quoted(table)})"
    return None


def first_word(text: str) -> str:
    """The word that the statement begins with, in upper case; "" where it begins with something else."""
    words = words_of(text)
    return words[0].upper() if words and words[0].isalpha() else ""


def words_of(text: str) -> list[str]:
    """The statement's words and marks, without comments and the semicolon that ends it."""
    raw = text.encode()
    tokens = duckdb.tokenize(text)
    ends = [start for start, _ in tokens[1:]] + [len(raw)]
    words = [
        raw[start:end].decode(errors="replace").strip()
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind != duckdb.token_type.comment
    ]
    while words and words[-1] == ";":
        words.pop()
    return words


def _sets_what_is(words: list[str]) -> bool:
    """[SESSION | GLOBAL] name {= | TO} value, or TIME ZONE value."""
    lower = [word.lower() for word in words]
    if lower[:1] in (["session"], ["global"]):
        words, lower = words[1:], lower[1:]
    if lower[:2] == ["time", "zone"] and len(lower) == 3:
        return _unquoted(words[2]).lower() in SETTINGS["timezone"]
    if len(lower) != 3 or lower[1] not in ("=", "to"):
        return False
    return _unquoted(words[2]).lower() in SETTINGS.get(_unquoted(words[0]).lower(), ())


def _name(words: list[str]) -> tuple[str, ...]:
    """The parts of a name with dots between them, in lower case; nothing where it is none."""
    if len(words) % 2 == 0 or any(word != "." for word in words[1::2]):
        return ()
    return tuple(_unquoted(word).lower() for word in words[::2])


def _unquoted(word: str) -> str:
    for quote in "'\"":
        if len(word) >= 2 and word[0] == word[-1] == quote:
            return word[1:-1].replace(quote * 2, quote)
    return word


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
