"""EXPLAIN and EXPLAIN ANALYZE: how a statement asks for them, and what a profile tells strangers.

EXPLAIN ANALYZE runs the query and says how long each part took. The engine's own drawing has the files' paths in it,
cut into lines of any length; so its profile is asked for as JSON, and what is known to be harmless is taken out of
that: operators, their rows and times, and what they do to columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from flightserve.errors import InvalidArgument
from flightserve.sql.statements.words import Word, read_words

ExplainForm = Literal["", "plan", "profile", "profile as json"]

# What is sent to the engine in place of what was typed.
ANALYZE: Final = "EXPLAIN (ANALYZE, FORMAT json) "
_TYPED: Final = "EXPLAIN ANALYZE "
# Of `SELECT count(*)` and of VALUES the engine has no profile.
NOTHING_RAN: Final = "nothing had to run: the engine knew the rows when the query was planned"
# Levels of a profile that are told: a plan is as deep as its query is long.
DEPTH_MAX: Final = 200

# What an operator says of itself, none of which names a file.
_SAID: Final = (
    "Table",
    "Function",
    "Type",
    "Join Type",
    "Conditions",
    "Expression",
    "Filters",
    "Groups",
    "Aggregates",
    "Projections",
    "Order By",
    "Top",
    "Estimated Cardinality",
    "Total Files Read",
)
# The engine's own, around the query's.
_AROUND: Final = frozenset({"RESULT_COLLECTOR", "EXPLAIN_ANALYZE"})


@dataclass(frozen=True, slots=True)
class Explain:
    """What is explained, how, and the text that the engine gets: the query is its end."""

    query: str
    form: ExplainForm
    text: str


def read_explain(text: str) -> Explain:
    """EXPLAIN [ANALYZE] query, also as EXPLAIN ([ANALYZE], [FORMAT text | json]) query. Raises InvalidArgument."""
    words = read_words(text)
    if len(words) < 2:
        raise InvalidArgument("EXPLAIN of what?")
    options, rest = _options(words)
    if not rest:
        raise InvalidArgument("EXPLAIN of what?")
    query = text.encode()[rest[0].start :].decode()
    as_json = "JSON" in options
    if "ANALYZE" in options:
        return Explain(query, "profile as json" if as_json else "profile", ANALYZE + query)
    return Explain(query, "plan", f"EXPLAIN (FORMAT json) {query}" if as_json else text)


def _options(words: list[Word]) -> tuple[set[str], list[Word]]:
    """What is asked for, and the words of the query."""
    if words[1].upper == "ANALYZE":
        return {"ANALYZE"}, words[2:]
    close = next((n for n, word in enumerate(words) if word.text == ")"), 0)
    if words[1].text != "(" or words[2].upper not in ("ANALYZE", "FORMAT"):
        return set(), words[1:]
    asked = " ".join(word.upper for word in words[2:close])
    options = {part.strip() for part in asked.replace("FORMAT ", "").split(",")}
    if unknown := options - {"ANALYZE", "JSON", "TEXT"}:
        raise InvalidArgument(f"EXPLAIN takes ANALYZE and FORMAT text or json here, not {sorted(unknown)[0][:64]}")
    return options, words[close + 1 :]


def told(profile: str, form: ExplainForm) -> str:
    """What of the engine's profile is for strangers, as text or as JSON. Raises InvalidArgument."""
    try:
        whole = json.loads(profile)
    except RecursionError as error:
        raise InvalidArgument("the statement's plan is nested too deeply to be told") from error
    query = whole.get("query") or {}
    operators = [_operator(each) for each in _inner(whole.get("operator") or [])]
    seconds = float(query.get("total_time") or 0.0)
    if form == "profile as json":
        return json.dumps({"seconds": seconds, "operators": operators}, indent=2)
    lines = [f"total: {_time(seconds)}", *(_lines(operators) if operators else [NOTHING_RAN])]
    return "\n".join(lines) + "\n"


def as_typed(message: str) -> str:
    """An error's text with the statement's beginning as it was typed, and the mark below it at its place."""
    if ANALYZE not in message:
        return message
    shift = len(ANALYZE) - len(_TYPED)
    return re.sub(rf"\n {{{shift}}}( *\^)", r"\n\1", message.replace(ANALYZE, _TYPED))


def _inner(operators: list[Any]) -> list[Any]:
    """The query's own operators."""
    while len(operators) == 1 and operators[0].get("type") in _AROUND:
        operators = operators[0].get("children") or []
    return operators


def _operator(node: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    info = node.get("extra_info") or {}
    children = node.get("children") or [] if depth < DEPTH_MAX else []
    return {
        "operator": str(node.get("type")),
        "rows": int(node.get("intermediate_rows") or 0),
        "seconds": float(node.get("timing") or 0.0),
        "about": {name: info[name] for name in _SAID if name in info},
        "children": [_operator(child, depth + 1) for child in children],
    }


def _lines(operators: list[dict[str, Any]], indent: str = "") -> Iterator[str]:
    for each in operators:
        yield f"{indent}{each['operator']}: {each['rows']} rows, {_time(each['seconds'])}"
        for name, value in each["about"].items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{indent}    {name}: {shown}"
        yield from _lines(each["children"], indent + "  ")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"
