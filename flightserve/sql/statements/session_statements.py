"""Statements that are no queries and change nothing, which clients open with or ask for the shape of a table by.

Each is answered by a query in its place that gives what the engine would. The settings stay as they are, transactions
are of one query each (nothing can be written), and each statement may run on a connection of its own: so what would
change something is refused, though the engine would take it.

A setting may be set to what it is, or reset, where its name and value say nothing of the machine: SETTINGS has those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flightserve.sql.sources.spelling import quoted, quoted_name
from flightserve.sql.statements.words import Word, read_words, unquoted

# By their names in lower case.
SETTINGS: Final = frozenset(
    {
        "arrow_large_buffer_size",
        "arrow_lossless_conversion",
        "arrow_output_list_view",
        "arrow_output_version",
        "calendar",
        "default_collation",
        "default_null_order",
        "default_order",
        "enable_progress_bar",
        "enable_progress_bar_print",
        "errors_as_json",
        "explain_output",
        "ieee_floating_point_ops",
        "integer_division",
        "null_order",
        "order_by_non_integer_literal",
        "ordered_aggregate_threshold",
        "pivot_filter_threshold",
        "pivot_limit",
        "preserve_identifier_case",
        "preserve_insertion_order",
        "scalar_subquery_error_on_multiple_rows",
        "timezone",
    }
)
# The schema in use, by these names.
PATHS: Final = ("schema", "search_path")
# No rows of what the engine says of statements that give nothing.
NOTHING: Final = 'SELECT true AS "Success" WHERE false'

_SCHEMA: Final = "main"
_TRANSACTIONS: Final = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"})
_WORDS_MAX: Final = 32
# What values are called beside what the engine calls them.
_SAME: Final = {
    **dict.fromkeys(("true", "on", "yes", "1", "t"), "true"),
    **dict.fromkeys(("false", "off", "no", "0", "f"), "false"),
    **dict.fromkeys(("etc/utc", "zulu"), "utc"),
    **dict.fromkeys(("ascending",), "asc"),
    **dict.fromkeys(("last", "nulls last"), "nulls_last"),
}


@dataclass(frozen=True, slots=True)
class InUse:
    """What is in use: the catalog, its tables in lower case, and the settings' values, by lower-case names."""

    catalog: str
    tables: Collection[str]
    settings: Mapping[str, str]


def find_substitute(kind: str, text: str, in_use: InUse) -> str | None:
    """The query that answers the statement, None for one that is not known to be harmless. `kind` is the engine's name
    for what it is. The query is one of a stranger's still: it is looked at like any."""
    words = read_words(text)
    answer = _ANSWERS.get(kind)
    if not words or answer is None or len(words) > _WORDS_MAX:
        return None
    return answer(words, text, in_use)


def first_word(text: str) -> str:
    """The word that the statement begins with, in upper case; "" where it begins with something else."""
    words = read_words(text)
    return words[0].upper if words and words[0].text.isalpha() else ""


def _transaction(words: Sequence[Word], _: str, __: InUse) -> str | None:
    return NOTHING if words[0].upper in _TRANSACTIONS else None


def _set(words: Sequence[Word], _: str, in_use: InUse) -> str | None:
    first, rest = words[0].upper, words[1:]
    if first == "USE":
        return NOTHING if _names_schema(_name(rest), in_use) else None
    if rest and rest[0].upper in ("SESSION", "GLOBAL"):
        rest = rest[1:]
    if first == "RESET":
        return NOTHING if len(rest) == 1 and unquoted(rest[0].text).lower() in in_use.settings else None
    # `PRAGMA name = value` is one for the engine, too.
    return NOTHING if first in ("SET", "PRAGMA") and _sets_what_is(rest, in_use) else None


def _pragma(words: Sequence[Word], _: str, in_use: InUse) -> str | None:
    name, rest = words[1].text.lower() if len(words) > 1 else "", words[2:]
    if name == "database_list" and not rest:
        return f"SELECT 0::BIGINT AS seq, {quoted(in_use.catalog)} AS name, NULL::VARCHAR AS file"
    if name in _PRAGMAS and not rest:
        return _PRAGMAS[name]
    if name == "table_info" and len(rest) > 2 and (rest[0].text, rest[-1].text) == ("(", ")"):
        return _table_info(rest[1:-1], in_use)
    return None


def _call(words: Sequence[Word], text: str, _: InUse) -> str | None:
    """A call of a table function is a query of it. CHECKPOINT is one for the engine, too; there is nothing to write."""
    if [word.upper for word in words] == ["CHECKPOINT"]:
        return NOTHING
    if words[0].upper != "CALL" or len(words) == 1:
        return None
    return "FROM " + text.encode()[words[1].start : words[-1].end].decode()


_ANSWERS: Final[Mapping[str, Callable[[Sequence[Word], str, InUse], str | None]]] = {
    "CALL": _call,
    "PRAGMA": _pragma,
    "SET": _set,
    "TRANSACTION": _transaction,
}
_PRAGMAS: Final = {
    "show_databases": "SHOW DATABASES",
    "show_tables": "SHOW TABLES",
    "show_tables_expanded": "SHOW ALL TABLES",
    "version": "FROM pragma_version()",
}


def _table_info(words: Sequence[Word], in_use: InUse) -> str | None:
    parts = _parts(words)
    if len(parts) == 1 and words[0].text[0] == "'" and parts[0].lower() not in in_use.tables:
        # A text, which may be a name with its schema.
        parts = parts[0].split(".")
    *place, table = parts or [""]
    if table.lower() not in in_use.tables or (place and not _names_schema(_lower(place), in_use)):
        return None
    return f"FROM pragma_table_info({quoted(quoted_name(table))})"


def _sets_what_is(words: Sequence[Word], in_use: InUse) -> bool:
    """name {= | TO} value, or TIME ZONE value."""
    texts = [word.text.lower() for word in words]
    if texts[:2] == ["time", "zone"] and len(texts) == 3:
        texts = ["timezone", "=", texts[2]]
    if len(texts) < 3 or texts[1] not in ("=", "to"):
        return False
    name = unquoted(texts[0])
    if name in PATHS:
        return _names_schema(_name(words[2:]), in_use) or _names_schema(tuple(unquoted(texts[2]).split(".")), in_use)
    known = in_use.settings.get(name)
    return known is not None and (texts[2:] == ["default"] or _value(" ".join(map(unquoted, texts[2:]))) == known)


def setting_value(text: str) -> str:
    """A setting's value in the form that others are compared with."""
    return _value(text.lower())


def _value(text: str) -> str:
    return _SAME.get(text, text)


def _names_schema(name: tuple[str, ...], in_use: InUse) -> bool:
    catalog = in_use.catalog.lower()
    return name in {(catalog,), (_SCHEMA,), (catalog, _SCHEMA)}


def _name(words: Sequence[Word]) -> tuple[str, ...]:
    """The parts of a name with dots between them, in lower case; nothing where it is none."""
    return _lower(_parts(words))


def _parts(words: Sequence[Word]) -> list[str]:
    if len(words) % 2 == 0 or any(word.text != "." for word in words[1::2]):
        return []
    return [unquoted(word.text) for word in words[::2]]


def _lower(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.lower() for part in parts)
