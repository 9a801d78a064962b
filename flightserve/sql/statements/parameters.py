"""Parameters of statements: their types, and their values from Arrow columns.

A parameter has one type, the engine's, and stands in the text as `CAST($name AS TYPE)`: so a value bound one by one and
the same value in a column of that type (`sql.statements.merging`) mean the same. Types are declared, or those of the
columns that came, in plain layouts (`sql.engine.plain_layouts`).

Texts and untyped nulls stand as they are, and the engine reads them as it reads a literal: as a date where it wants
one, as an interval, a number, a format that it needs when it plans. In a column a text becomes of the type that the
engine took the parameter for, which is read off the bound plan; it reads the column's texts by the same rules.

A type that a function does not take may have one that it does (`NARROWER`): `round(x, ?)` wants an INTEGER, and clients
send 64 bits.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from flightserve.config import EdgeLimits
from flightserve.core.civil import FIRST_YEAR_DAY, LAST_DAY, clock, sql_date
from flightserve.errors import ConfigError, InvalidArgument, SchemaMismatch
from flightserve.fabric.memory.decode import decode_stream
from flightserve.sql.engine.columns import project
from flightserve.sql.engine.errors import translate
from flightserve.sql.engine.plain_layouts import plain_type, to_plain
from flightserve.sql.statements.parser import ParsedStatement, Tree, parameters_of, walk

_NO_LOCATION: Final = 1 << 63


# What to take a parameter for where the statement does not bind with its own type, best first. What is out of range is
# an error for the value.
NARROWER: Final[dict[str, tuple[str, ...]]] = {
    "BIGINT": ("INTEGER",),
    "UINTEGER": ("BIGINT", "INTEGER"),
    "UBIGINT": ("BIGINT", "INTEGER"),
    "HUGEINT": ("BIGINT", "INTEGER"),
    "TIMESTAMP_S": ("TIMESTAMP",),
    "TIMESTAMP_MS": ("TIMESTAMP",),
    "TIMESTAMP_NS": ("TIMESTAMP",),
    "TIMESTAMPTZ_NS": ("TIMESTAMP WITH TIME ZONE",),
    "TIME_NS": ("TIME",),
}


def is_text(field: pa.Field) -> bool:
    """Whether parameters of this type are read as literals."""
    return bool(pa.types.is_string(plain_type(field.type, field.metadata, True)))


class Types:
    """The engine's types and Arrow's, as the engine itself converts them. Any thread (each call is one statement)."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def arrow(self, kind: str) -> pa.DataType:
        """The Arrow type of an engine's type, dictionaries written out. Raises ConfigError for one that is none."""
        try:
            relation = project(self._connection.cursor().sql(f"SELECT CAST(NULL AS {kind}) AS v"))
            found = relation.to_arrow_table().schema.field(0).type
        except Exception as error:
            raise ConfigError(f"{kind!r} is no type of the engine: {translate(error).message}") from error
        return plain_type(found)

    def engine(self, field: pa.Field) -> str:
        """The engine's type of a field's Arrow type. Raises InvalidArgument for one that it does not take."""
        session = self._connection.cursor()
        try:
            schema = pa.schema([("v", plain_type(field.type, field.metadata, True))])
            session.register("__fs_type", pa.RecordBatchReader.from_batches(schema, []))
            kind = str(session.sql("FROM __fs_type").types[0])
            # A column may have a type that no statement can name, such as a struct with two fields of one name.
            session.sql(f"SELECT CAST(NULL AS {kind})")
            return kind
        except Exception as error:
            raise InvalidArgument(f"parameters of type {field.type} are not taken") from error
        finally:
            session.close()


def infer(connection: duckdb.DuckDBPyConnection, statement: ParsedStatement) -> dict[str, str | None]:
    """The type that the engine takes each parameter for; None where it could be several."""
    found: dict[str, set[str]] = {name: set() for name in statement.parameters}
    if not found or statement.explain:
        return dict.fromkeys(found)
    plan = _plan(connection, statement)
    called = {name.lower(): name for name in found} | {name: name for name in found}
    for node in walk(plan):
        given = str(node.get("identifier"))
        name = called.get(given, called.get(given.lower()))
        if node.get("expression_class") == "BOUND_PARAMETER" and name is not None:
            found[name].add(_spelled(node["return_type"]) or "")
    casts = _casts(statement)
    return {name: _common(kinds) or casts.get(name.lower()) for name, kinds in found.items()}


def waits_for_types(connection: duckdb.DuckDBPyConnection, statement: ParsedStatement) -> bool:
    """True where the engine binds the statement only once its parameters have types, as it does `abs(?)`, or values.
    For want of the former it has no plan, and asked for it fails inside; of a statement that is wrong it says what
    is."""
    if not statement.parameters or statement.explain:
        return False
    return bool(_plan(connection, statement).get("error_type", "internal") == "internal")


def _plan(connection: duckdb.DuckDBPyConnection, statement: ParsedStatement) -> Tree:
    """The statement's plan, not optimized; or what is wrong, as `error_type` and `error_message`. Empty where the
    engine has no text for it, as for constants of type BIGNUM."""
    sql = "SELECT json_serialize_plan($1::VARCHAR)"
    try:
        row = connection.cursor().execute(sql, [statement.text]).fetchone()
    except Exception as error:
        raise translate(error) from error
    try:
        plan: Tree = json.loads(row[0]) if row else {}
    except ValueError:
        return {}
    return plan


# From the narrowest on: each holds the values of those before it.
_INTEGERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")


def _common(kinds: set[str]) -> str | None:
    """The one type, or the widest of whole numbers."""
    if len(kinds) == 1:
        return next(iter(kinds)) or None
    return max(kinds, key=_INTEGERS.index) if kinds and kinds <= set(_INTEGERS) else None


def _casts(statement: ParsedStatement) -> dict[str, str]:
    """Types that the text itself casts parameters to, where they agree, by the names in lower case; for parts that the
    plan does not show."""
    raw = statement.text.encode()[statement.begins :]
    found: dict[str, set[str]] = {}
    for node in walk(statement.tree):
        child = node.get("child") or {}
        if node.get("class") == "CAST" and isinstance(child, dict) and child.get("class") == "PARAMETER":
            kind = node["type_expr"]
            start, length = kind["query_location"], kind["query_location_length"]
            if start < _NO_LOCATION:
                text = raw[start : start + length].decode()
                # Names of fields are as they are written.
                found.setdefault(child["identifier"].lower(), set()).add(text if "(" in text else text.upper())
    return {name: next(iter(kinds)) for name, kinds in found.items() if len(kinds) == 1}


def patterned(statement: ParsedStatement) -> bool:
    """Whether parameters say which columns there are, as in `COLUMNS(?)`."""
    return any(node.get("class") == "STAR" and parameters_of(node) for node in walk(statement.tree))


def tried(statement: ParsedStatement) -> set[str]:
    """Names, in lower case, of parameters that the text casts by TRY_CAST: any text may come."""
    nodes = (node for node in walk(statement.tree) if node.get("class") == "CAST" and node.get("try_cast"))
    children = (node.get("child") or {} for node in nodes)
    return {child["identifier"].lower() for child in children if child.get("class") == "PARAMETER"}


def _spelled(kind: Tree) -> str | None:
    """A type of a serialised plan as SQL spells it; None for one that is open, or of no simple spelling."""
    info = kind.get("type_info") or {}
    name = kind["id"]
    if name in ("UNKNOWN", "INVALID", "ANY", "NULL", "SQLNULL", '"NULL"', "INTEGER_LITERAL", "STRING_LITERAL", "ENUM"):
        return None
    if name == "DECIMAL":
        return f"DECIMAL({info['width']}, {info['scale']})" if info.get("width") else None
    if name == "LIST":
        inner = _spelled(info["child_type"])
        return None if inner is None else f"{inner}[]"
    if name in ("STRUCT", "MAP", "ARRAY", "UNION", "USER", "VARIANT"):
        return None
    return str(name)


def cast_text(statement: ParsedStatement, replacements: Mapping[str, str]) -> str | None:
    """The statement's text with each parameter replaced, all else as it was written; None where the parser did not
    say where each of them stands."""
    raw = statement.text.encode()
    # $a and $A are one parameter, and called by the first.
    texts = {name.lower(): text for name, text in replacements.items()} | dict(replacements)
    places: dict[int, tuple[int, str]] = {}
    for node in walk(statement.tree):
        if node.get("class") == "PARAMETER":
            start, length, name = node["query_location"], node["query_location_length"], node["identifier"]
            start += statement.begins
            if start >= _NO_LOCATION or raw[start : start + length] not in (f"${name}".encode(), b"?"):
                return None
            places[start] = (length, name)
    for start in sorted(places, reverse=True):
        length, name = places[start]
        raw = raw[:start] + (texts[name] if name in texts else texts[name.lower()]).encode() + raw[start + length :]
    return raw.decode()


class Parameters:
    """The parameters of one statement: names, engine's types, Arrow's types, all in the order of their numbers. The
    Arrow type is the column's that holds the values: of `literals`, texts and untyped nulls, whatever the engine's is.
    `untyped` are those of the latter."""

    __slots__ = ("literals", "names", "schema", "types", "untyped")

    def __init__(
        self,
        names: tuple[str, ...],
        types: tuple[str, ...],
        arrow: tuple[pa.DataType, ...],
        literals: frozenset[str] = frozenset(),
        untyped: frozenset[str] = frozenset(),
    ) -> None:
        self.names = names
        self.types = types
        self.schema = pa.schema(list(zip(names, arrow, strict=True)))
        self.literals = literals
        self.untyped = untyped

    @property
    def typed_all(self) -> bool:
        """Whether it is known what each of them is read as."""
        pairs = zip(self.names, self.types, strict=True)
        return not self.untyped and not any(name in self.literals and kind == "VARCHAR" for name, kind in pairs)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells them from others of the same names: a literal may give another result than a value of its type."""
        marks = ("?" if name in self.untyped else "'" if name in self.literals else "" for name in self.names)
        return tuple(kind + mark for kind, mark in zip(self.types, marks, strict=True))

    def typed(self, nulls: Collection[str] = ()) -> dict[str, str]:
        """What stands for each parameter in a text that is run one by one. `nulls` are texts that have no value: the
        engine knows no literal of that kind."""
        literals = self.literals.difference(nulls)
        pairs = zip(self.names, self.types, strict=True)
        return {name: f"${name}" if name in literals else f"CAST(${name} AS {kind})" for name, kind in pairs}

    def shapes(self) -> dict[str, str]:
        """What stands for each parameter in a text that is bound for its types alone, without values: a literal has the
        type that it is read as, where that is known."""
        found = self.typed()
        for name, kind in zip(self.names, self.types, strict=True):
            if name in self.untyped:
                found[name] = "NULL"
            elif name in self.literals:
                found[name] = "''" if kind == "VARCHAR" else f"CAST(NULL AS {kind})"
        return found

    def taken_for(self, types: tuple[str, ...]) -> Parameters:
        """The same, taken for other types."""
        return Parameters(self.names, types, tuple(self.schema.types), self.literals, self.untyped)

    def columns(self, rows: pa.RecordBatch) -> list[pa.Array]:
        """The rows' columns in the parameters' order and types. Columns are found by name; those of numbered
        parameters may be called "0", "1", ... (as ADBC does), "1", "2", ..., or stand in order under any names.
        Raises SchemaMismatch for others, InvalidArgument for values that the type cannot hold."""
        arrays = []
        for name, place, kind in zip(self.names, self._places(rows.schema.names), self.schema.types, strict=True):
            column = rows.column(place)
            if column.type == kind:
                arrays.append(column)
                continue
            try:
                arrays.append(to_plain(column, rows.schema.field(place)).cast(kind))
            except (pa.ArrowException, OverflowError) as error:
                raise InvalidArgument(f"parameter {name!r} is {kind}; {column.type} does not fit: {error}") from error
        return arrays

    def _places(self, given: list[str]) -> Sequence[int]:
        """Where among the columns of these names each parameter is."""
        if len(given) != len(self.names):
            wanted = ", ".join(self.names) or "none"
            raise SchemaMismatch(f"the statement has {len(self.names)} parameters ({wanted}); {len(given)} came")
        if set(given) == set(self.names):
            return [given.index(name) for name in self.names]
        if not self.names[0].isdigit():
            raise SchemaMismatch(
                f"the statement's parameters are {', '.join(self.names)}; these came: {', '.join(given)[:512]}"
            )
        return range(len(given))

    def values(self, columns: Sequence[pa.Array], row: int) -> dict[str, Any]:
        """One row's values by name, as the engine's binding takes them."""
        return {name: _value(column[row]) for name, column in zip(self.names, columns, strict=True)}


def _value(scalar: pa.Scalar) -> Any:
    """The value as the binding takes it. It knows no intervals of three parts, no nanoseconds, no years that Python
    does not have, and no maps as lists of pairs: the cast around the parameter reads the text of the former, and a map
    from its keys and values."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_interval(kind):
        months, days, nanoseconds = scalar.as_py()
        # Toward zero, as the engine does it with a column.
        microseconds = nanoseconds // 1000 if nanoseconds >= 0 else -(-nanoseconds // 1000)
        return f"{months} months {days} days {microseconds} microseconds"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _instant(scalar)
    if kind == pa.time64("ns"):
        return scalar.cast(pa.string()).as_py()
    if pa.types.is_map(kind):
        keys, values = scalar.values.flatten()
        return {"key": _values(keys), "value": _values(values)}
    if pa.types.is_struct(kind):
        return {kind.field(n).name: _value(scalar[n]) for n in range(kind.num_fields)}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return _values(scalar.values)
    return scalar.as_py()


def _values(array: pa.Array) -> list[Any]:
    return [_value(scalar) for scalar in array]


_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _instant(scalar: pa.Scalar) -> Any:
    """The date or instant as the engine reads it; one that is infinite, or that Python does not have, as its text."""
    kind = scalar.type
    is_date = pa.types.is_date(kind)
    count, end = (scalar.value, 2**31 - 1) if is_date else (scalar.value, 2**63 - 1)
    if abs(count) == end:
        return "infinity" if count > 0 else "-infinity"
    days, time = (count, "") if is_date else clock(count, _PER_SECOND[kind.unit])
    if FIRST_YEAR_DAY <= days <= LAST_DAY and not (not is_date and kind.unit == "ns"):
        return scalar.as_py()
    day, era = sql_date(days)
    zone = "+00" if not is_date and kind.tz is not None else ""
    return f"{day}{era}{' ' + time if time else ''}{zone}"


def check_texts(connection: duckdb.DuckDBPyConnection, parameters: Parameters, columns: Sequence[pa.Array]) -> None:
    """Raise InvalidArgument for texts that are not what they are read as, before anything of many executions has been
    answered."""
    for name, kind, column in zip(parameters.names, parameters.types, columns, strict=True):
        if name not in parameters.literals or name in parameters.untyped or kind == "VARCHAR":
            continue
        session = connection.cursor()
        try:
            session.register("__fs_texts", pa.RecordBatch.from_arrays([column], names=["v"]))
            session.execute(f"SELECT count(CAST(v AS {kind})) FROM __fs_texts").fetchall()
        except duckdb.Error as error:
            raise InvalidArgument(f"parameter {name!r}: {translate(error).message}") from error
        finally:
            session.close()


def resolve(
    statement: ParsedStatement, inferred: Mapping[str, str | None], declared: Mapping[str, str], types: Types
) -> Parameters:
    """The parameters with a type each: the declared one, else the inferred. Raises ConfigError that names those that
    have neither, and declarations of parameters that there are not."""
    unknown = sorted(set(declared) - set(statement.parameters))
    if unknown:
        raise ConfigError(f"the query has no parameter {', '.join(unknown)}")
    chosen = {name: declared.get(name) or inferred.get(name) for name in statement.parameters}
    open_ones = [name for name, kind in chosen.items() if not kind]
    if open_ones:
        raise ConfigError(
            f"the type of parameter {', '.join(open_ones)} does not follow from the query; declare it, as in "
            f"types={{{open_ones[0]!r}: 'BIGINT'}}, or write CAST(${open_ones[0]} AS BIGINT)"
        )
    kinds = tuple(str(kind) for kind in chosen.values())
    return Parameters(statement.parameters, kinds, tuple(types.arrow(kind) for kind in kinds))


def decode_rows(stream: bytes | None) -> pa.RecordBatch | None:
    """Parameter rows out of an Arrow IPC stream, as one batch; None where there are none. Raises InvalidArgument,
    TooLarge."""
    if not stream:
        return None
    # The replica is the first to decode it: for the frontends it is a value like any other.
    try:
        return decode_stream(pa.py_buffer(stream), EdgeLimits())
    except InvalidArgument as error:
        raise InvalidArgument(f"parameters: {error.message}") from error


def names_as_written(session: duckdb.DuckDBPyConnection, text: str, nulls: dict[str, None]) -> list[str] | None:
    """The columns' names in the text as it was written; None where it does not bind without types."""
    try:
        return list(session.sql(text, params=nulls or None).columns)
    except duckdb.Error:
        return None
