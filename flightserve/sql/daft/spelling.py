"""Bound expressions as SQL, to be run by DuckDB over the rows that lie in one of Daft's processes.

Functions are called by their names with arguments that have the types they were bound to, so that they are bound the
same way again; what the spelled expression gives is compared with what the plan says (`programs.check`). A function
that keeps something from when it was bound, beside its arguments, may mean something else then, and is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from flightserve.sql.daft.plans import Node, function_name, refused
from flightserve.sql.daft.types import Kind, kind_of
from flightserve.sql.sources.spelling import quoted, quoted_name

COMPARISONS: Final = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM",
    "COMPARE_NOT_DISTINCT_FROM": "IS NOT DISTINCT FROM",
}
# What decimals keep from when they were bound, and are bound to again by their types.
_REDONE: Final = frozenset({"check_overflow", "return_type", "arguments"})
_TESTS: Final = {"OPERATOR_IS_NULL": "IS NULL", "OPERATOR_IS_NOT_NULL": "IS NOT NULL"}
# Around 1970, well within the years that Python has.
_DAYS_MAX: Final = 700_000
_LISTS: Final = {"COMPARE_IN": "IN", "COMPARE_NOT_IN": "NOT IN"}


def result_kind(expression: Node) -> Kind:
    """The type of what the expression gives."""
    sort = expression["expression_class"]
    if sort == "BOUND_CONSTANT":
        return kind_of(expression["value"]["type"])
    if sort in ("BOUND_CONJUNCTION", "BOUND_BETWEEN", "BOUND_COMPARISON"):
        return Kind("BOOLEAN")
    return kind_of(expression["return_type"])


def references(expression: Node) -> set[int]:
    """The numbers of the columns that the expression reads."""
    return {node["index"] for node in all_nodes(expression) if node.get("expression_class") == "BOUND_REF"}


def all_nodes(value: object) -> Iterator[Node]:
    """Every object in a tree of JSON."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from all_nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from all_nodes(each)


def calls(expression: Node) -> list[Node]:
    """The functions that the expression calls, by name."""
    return [node for node in all_nodes(expression) if node.get("type") == "BOUND_FUNCTION"]


def shifted(expression: Node, by: int) -> Node:
    """The expression over columns with other numbers."""
    return _shifted(expression, by) if by else expression


def _shifted(value: Any, by: int) -> Any:
    if isinstance(value, list):
        return [_shifted(each, by) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("expression_class") == "BOUND_REF":
        return {**value, "index": value["index"] + by}
    return {key: _shifted(each, by) for key, each in value.items()}


def conjuncts(expressions: Sequence[Node]) -> Iterator[Node]:
    """What all has to be true, one by one."""
    for each in expressions:
        if each["type"] == "CONJUNCTION_AND":
            yield from conjuncts(each["children"])
        else:
            yield each


def spell(expression: Node, name: Callable[[int], str]) -> str:
    """The expression as SQL; `name` gives a column's. Raises Unimplemented."""
    spellings = {
        "BOUND_REF": _reference,
        "BOUND_CONSTANT": _constant,
        "BOUND_FUNCTION": _function,
        "BOUND_CASE": _case,
        "BOUND_CONJUNCTION": _conjunction,
        "BOUND_OPERATOR": _operator,
        "BOUND_BETWEEN": _between,
    }
    sort = expression["expression_class"]
    if sort not in spellings:
        raise refused(sort.removeprefix("BOUND_").replace("_", " ").lower() + " expressions")
    return spellings[sort](expression, name)


def _spelled(expressions: Sequence[Node], name: Callable[[int], str]) -> list[str]:
    return [spell(each, name) for each in expressions]


def _reference(expression: Node, name: Callable[[int], str]) -> str:
    return name(expression["index"])


def _constant(expression: Node, name: Callable[[int], str]) -> str:
    found, kind = expression["value"], kind_of(expression["value"]["type"])
    if found["is_null"]:
        return "NULL" if kind.name == "NULL" else f"CAST(NULL AS {kind})"
    return f"CAST({_literal(found['value'], kind)} AS {kind})"


def _literal(value: object, kind: Kind) -> str:
    if kind.name == "VARCHAR" and isinstance(value, str):
        return quoted(value)
    if kind.name == "DECIMAL" and isinstance(value, int):
        return quoted(f"{Decimal(value).scaleb(-kind.scale):f}")
    if kind.name == "INTERVAL" and isinstance(value, dict):
        return quoted(f"{value['months']} months {value['days']} days {value['micros']} microseconds")
    if kind.name == "BOOLEAN" or (isinstance(value, int) and (kind.whole or kind.name == "HUGEINT")):
        return quoted(str(value).lower())
    if kind.name == "HUGEINT" and isinstance(value, dict):
        return quoted(str((value["upper"] << 64) + value["lower"]))
    if kind.name == "DATE" and isinstance(value, int) and abs(value) <= _DAYS_MAX:
        return quoted(str(datetime.date(1970, 1, 1) + datetime.timedelta(days=value)))
    if kind.floating and isinstance(value, float):
        return quoted(repr(value))
    raise refused(f"constants of type {kind}")


def _function(expression: Node, name: Callable[[int], str]) -> str:
    sort, called = expression["type"], function_name(expression)
    arguments = _spelled(expression.get("children", []), name)
    if sort == "OPERATOR_CAST":
        how = "TRY_CAST" if expression["function_data"]["try_cast"] else "CAST"
        return f"{how}({arguments[0]} AS {kind_of(expression['return_type'])})"
    if sort in COMPARISONS:
        return f"({arguments[0]} {COMPARISONS[sort]} {arguments[1]})"
    kept = set(expression.get("function_data") or {}) - _REDONE
    if sort != "BOUND_FUNCTION" or kept or (expression.get("has_serialize") and not expression.get("function_data")):
        raise refused(f"the function {called}()")
    text, kind = f"{quoted_name(called)}({', '.join(arguments)})", result_kind(expression)
    # Of sums the binder has widened the sides already, and would make them wider again.
    return f"CAST({text} AS {kind})" if kind.name == "DECIMAL" else text


def _case(expression: Node, name: Callable[[int], str]) -> str:
    whens = (
        f"WHEN {spell(each['when_expr'], name)} THEN {spell(each['then_expr'], name)}"
        for each in expression["case_checks"]
    )
    return f"CASE {' '.join(whens)} ELSE {spell(expression['else_expr'], name)} END"


def _conjunction(expression: Node, name: Callable[[int], str]) -> str:
    word = " AND " if expression["type"] == "CONJUNCTION_AND" else " OR "
    return f"({word.join(_spelled(expression['children'], name))})"


def _operator(expression: Node, name: Callable[[int], str]) -> str:
    sort, (first, *others) = expression["type"], _spelled(expression["children"], name)
    if sort in _TESTS:
        return f"({first} {_TESTS[sort]})"
    if sort == "OPERATOR_NOT":
        return f"(NOT {first})"
    if sort in _LISTS:
        return f"({first} {_LISTS[sort]} ({', '.join(others)}))"
    if sort == "OPERATOR_COALESCE":
        return f"COALESCE({', '.join([first, *others])})"
    raise refused(f"the operator {sort.removeprefix('OPERATOR_').replace('_', ' ')}")


def _between(expression: Node, name: Callable[[int], str]) -> str:
    value, low, high = _spelled([expression["input"], expression["lower"], expression["upper"]], name)
    least = ">=" if expression["lower_inclusive"] else ">"
    most = "<=" if expression["upper_inclusive"] else "<"
    return f"({value} {least} {low} AND {value} {most} {high})"
