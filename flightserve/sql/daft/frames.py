"""Daft's frames with columns that are numbered as in DuckDB's plan, and the expressions that are put upon them.

Every column of every frame has a name of its own, so that joins never have two of one. What is only a column, and
what compares columns or a column with a constant, is Daft's to see: by that it finds joins and leaves out parts of
files. Anything else is a program of DuckDB's (`programs`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from flightserve.sql.daft.library import daft
from flightserve.sql.daft.plans import Node
from flightserve.sql.daft.programs import Program, constant
from flightserve.sql.daft.spelling import calls, conjuncts, references, result_kind, spell
from flightserve.sql.daft.types import Kind


@dataclass(frozen=True, slots=True)
class FrameColumn:
    """A column: its name in Daft, and DuckDB's type."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows that Daft has or will have."""

    rows: Any
    columns: tuple[FrameColumn, ...]

    def column(self, number: int) -> Any:
        """The column, as Daft's expressions name it."""
        return daft().col(self.columns[number].name)

    def select(self, numbers: Iterable[int]) -> Frame:
        """Some of the columns, in that order."""
        return Frame(self.rows, tuple(self.columns[number] for number in numbers))

    def narrow(self) -> Frame:
        """Rows of these columns and no others."""
        return Frame(self.rows.select(*[column.name for column in self.columns]), self.columns)


class Composer:
    """Puts expressions of one plan upon frames. `connection` is where they are bound and constants are found."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count()

    def new_name(self) -> str:
        """A name that no column has."""
        return f"c{next(self._numbers)}"

    def spelled(self, frame: Frame, expression: Node) -> str:
        """The expression's text. Raises Unimplemented where a part of it would be bound to another type by itself."""
        text = spell(expression, mark)
        inner = [(f"p{n}", spell(each, mark), result_kind(each)) for n, each in enumerate(calls(expression))]
        if len(inner) > 1:
            self._program(frame, inner)
        return text

    # ---- columns

    def project(self, frame: Frame, expressions: Sequence[Node]) -> Frame:
        """The rows with these columns instead."""
        texts = [(self.spelled(frame, each), result_kind(each)) for each in expressions]
        return self.compute(frame, texts)

    def extend(self, frame: Frame, expressions: Sequence[Node]) -> tuple[Frame, list[int]]:
        """The rows with these columns behind their own, and the numbers that they have then."""
        texts = [(self.spelled(frame, each), result_kind(each)) for each in expressions]
        own = [(mark(number), column.kind) for number, column in enumerate(frame.columns)]
        count = len(own)
        return self.compute(frame, [*own, *texts]), list(range(count, count + len(texts)))

    def compute(self, frame: Frame, texts: Sequence[tuple[str, Kind]]) -> Frame:
        """As `project`, of spelled expressions, in which \\0 stands around a column's number."""
        library = daft()
        columns = tuple(FrameColumn(self.new_name(), kind) for _, kind in texts)
        given, later = [], []
        for (text, kind), column in zip(texts, columns, strict=True):
            numbers = _numbers_in(text)
            if numbers == [text.strip("\0")] and frame.columns[int(numbers[0])].kind == kind:
                given.append(frame.column(int(numbers[0])).alias(column.name))
            elif not numbers:
                given.append(self.literal(text, kind).alias(column.name))
            else:
                later.append((column.name, text, kind))
        if not later:
            return Frame(frame.rows.select(*given), columns)
        program, used = self._program(frame, later)
        fields = library.DataType.struct({name: kind.daft for name, _, kind in later})
        made = self.new_name()
        call = library.func.batch(return_dtype=fields, use_process=False)(_calling(program.structs))
        rows = frame.rows.select(*given, call(*used).alias(made))
        computed = {name for name, _, _ in later}
        plain = [library.col(column.name) for column in columns if column.name not in computed]
        # Names of fields are of one place only: Daft's optimizer mixes up what is called alike.
        parts = [library.col(made).get(name).alias(name) for name, _, _ in later]
        return Frame(rows.select(*plain, *parts), columns)

    def literal(self, text: str, kind: Kind) -> Any:
        """The constant as Daft's expressions have it. Raises Unimplemented for a type that does not travel."""
        value = constant(self._connection, f"CAST({text} AS {kind})" if kind.name != "NULL" else text)
        return daft().lit(value).cast(kind.daft)

    def _program(self, frame: Frame, wanted: Sequence[tuple[str, str, Kind]]) -> tuple[Program, list[Any]]:
        """A program for all of these, and the columns that it is called with."""
        used = sorted({int(number) for _, text, _ in wanted for number in _numbers_in(text)})
        places = {number: f"c{n}" for n, number in enumerate(used)}
        outputs = tuple((name, _named(text, places.__getitem__), kind) for name, text, kind in wanted)
        program = Program(tuple(frame.columns[number].kind for number in used), outputs)
        program.check(self._connection)
        return program, [frame.column(number) for number in used]

    # ---- rows

    def filter(self, frame: Frame, expressions: Sequence[Node]) -> Frame:
        """The rows for which all of these are true."""
        library, rows, programs = daft(), frame.rows, []
        for each in conjuncts(expressions):
            plain = self.plain(frame, each)
            if plain is None:
                programs.append(each)
            else:
                rows = rows.where(plain)
        for each in programs:
            text, made = self.spelled(frame, each), self.new_name()
            if not _numbers_in(text):
                rows = rows.where(self.literal(text, Kind("BOOLEAN")))
                continue
            program, used = self._program(frame, [(made, text, Kind("BOOLEAN"))])
            truth = library.func.batch(return_dtype=library.DataType.bool(), use_process=False)
            # A column first: of functions in several filters Daft's optimizer loses some.
            kept = [library.col(column.name) for column in frame.columns]
            rows = rows.select(*kept, truth(_calling(program.values))(*used).alias(made)).where(library.col(made))
        return Frame(rows, frame.columns)

    def plain(self, frame: Frame, expression: Node) -> Any | None:
        """A comparison that means the same to Daft, for Daft; None for anything else."""
        ways = {
            "COMPARE_EQUAL": lambda a, b: a == b,
            "COMPARE_LESSTHAN": lambda a, b: a < b,
            "COMPARE_LESSTHANOREQUALTO": lambda a, b: a <= b,
            "COMPARE_GREATERTHAN": lambda a, b: a > b,
            "COMPARE_GREATERTHANOREQUALTO": lambda a, b: a >= b,
        }
        if expression["expression_class"] == "BOUND_REF":
            return frame.column(expression["index"])
        if expression["type"] not in ways:
            return None
        sides = [self._side(frame, each) for each in expression["children"]]
        kinds = {result_kind(each) for each in expression["children"]}
        if any(side is None for side in sides) or len(kinds) > 1 or next(iter(kinds)).floating:
            return None
        return ways[expression["type"]](*sides)

    def _side(self, frame: Frame, expression: Node) -> Any | None:
        if expression["expression_class"] == "BOUND_REF":
            return frame.column(expression["index"])
        if references(expression):
            return None
        return self.literal(spell(expression, str), result_kind(expression))


def _calling(run: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, as Daft wants it; what it calls travels by name."""

    def flightserve_program(*columns: Any) -> Any:
        return run(*columns)

    return flightserve_program


def _numbers_in(text: str) -> list[str]:
    return text.split("\0")[1::2]


def _named(text: str, name: Callable[[int], str]) -> str:
    parts = text.split("\0")
    return "".join(name(int(part)) if n % 2 else part for n, part in enumerate(parts))


def mark(number: int) -> str:
    """What stands for a column in a spelled expression."""
    return f"\0{number}\0"
