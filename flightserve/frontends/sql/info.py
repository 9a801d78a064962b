"""What the server says it can do: Flight SQL's `GetSqlInfo`, and `GetXdbcTypeInfo` for ODBC and JDBC bridges.

Codes and types are the specification's (format/FlightSql.proto, enums SqlInfo and XdbcDataType). ADBC reads codes 0, 1,
2 and 8 when it connects; ibis chooses its dialect by code 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from flightserve.contracts.warehouse import SQL_BYTES_MAX
from flightserve.frontends.sql.metadata import ESCAPE, required
from flightserve.frontends.sql.tickets import LIFETIME_S

_VALUE: Final = pa.dense_union(
    [
        pa.field("string_value", pa.utf8()),
        pa.field("bool_value", pa.bool_()),
        pa.field("bigint_value", pa.int64()),
        pa.field("int32_bitmask", pa.int32()),
        pa.field("string_list", pa.list_(pa.utf8())),
        pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
    ]
)
SQL_INFO: Final = pa.schema([required("info_name", pa.uint32()), required("value", _VALUE)])


class Bitmask(int):
    """An int that goes into the union's int32 child; a plain one goes into the int64 child."""


# SQL_CASE_SENSITIVITY_CASE_INSENSITIVE, SQL_NULLS_SORTED_AT_END
_CASE_INSENSITIVE: Final = 1
_NULLS_AT_END: Final = 3
# SQL_SUPPORTED_TRANSACTION_TRANSACTION, SQL_TRANSACTION_READ_COMMITTED
_TRANSACTION: Final = 1
_READ_COMMITTED: Final = 2
# 541 to 555 and 557 to 561: the greatest lengths and counts; 0 stands for no limit that is known. Names of catalogs and
# of tables, and a statement, have one.
_MAXIMA: Final = {
    **dict.fromkeys((*range(541, 556), *range(557, 562)), 0),
    554: 128,
    557: SQL_BYTES_MAX,
    559: 128,
}

# SqlSupportsConvert, by the engine's type; and what it casts to what.
CONVERTED: Final = {
    "BIGINT": (0,),
    "BLOB": (1, 10, 18),
    "BOOLEAN": (2,),
    "VARCHAR": (3, 11, 19),
    "DATE": (4,),
    "DECIMAL": (5, 12),
    "DOUBLE": (6,),
    "INTEGER": (7,),
    "INTERVAL": (8, 9),
    "REAL": (13,),
    "SMALLINT": (14,),
    "TIME": (15,),
    "TIMESTAMP": (16,),
    "TINYINT": (17,),
}
_NUMBERS: Final = ("BIGINT", "BOOLEAN", "DECIMAL", "DOUBLE", "INTEGER", "REAL", "SMALLINT", "TINYINT")
CASTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(_NUMBERS, (*_NUMBERS, "VARCHAR")),
    "BLOB": ("BLOB", "VARCHAR"),
    "VARCHAR": tuple(CONVERTED),
    "DATE": ("DATE", "TIMESTAMP", "VARCHAR"),
    "INTERVAL": ("INTERVAL", "VARCHAR"),
    "TIME": ("TIME", "VARCHAR"),
    "TIMESTAMP": ("DATE", "TIME", "TIMESTAMP", "VARCHAR"),
}


def _server(engine_version: str) -> dict[int, Any]:
    """0-101: names and versions, read only, SQL but no Substrait; transactions; cancel; no ingestion;
    how long a prepared statement that is not used is kept, in ms."""
    return {
        0: "flightserve",
        1: f"duckdb v{engine_version}",
        2: pa.__version__,
        3: True,
        4: True,
        5: False,
        8: Bitmask(_TRANSACTION),
        9: True,
        10: False,
        11: False,
        100: Bitmask(LIFETIME_S * 1000),
        101: Bitmask(0),
    }


def _language() -> dict[int, Any]:
    """500-540: no DDL, identifiers without case, and what SELECT can do."""
    return {
        500: False,
        501: False,
        502: False,
        503: _CASE_INSENSITIVE,
        504: '"',
        505: _CASE_INSENSITIVE,
        506: True,
        507: _NULLS_AT_END,
        508: ["ANTI", "ASOF", "PIVOT", "QUALIFY", "SEMI", "UNPIVOT"],
        509: ["abs", "ceil", "floor", "greatest", "least", "ln", "log", "mod", "power", "round", "sqrt"],
        510: ["concat", "contains", "length", "lower", "replace", "substr", "trim", "upper"],
        511: ["version"],
        512: ["date_diff", "date_part", "date_trunc", "epoch", "strftime", "strptime"],
        513: ESCAPE,
        514: "$",
        515: True,
        516: True,
        517: {n: sorted(m for to in CASTS[kind] for m in CONVERTED[to]) for kind, ns in CONVERTED.items() for n in ns},
        518: True,
        519: False,
        520: True,
        521: True,
        522: Bitmask(0b11),
        523: True,
        524: True,
        525: Bitmask(0b111),
        526: Bitmask(0b001),
        527: False,
        528: Bitmask(0b110),
        529: "schema",
        530: "procedure",
        531: "catalog",
        532: True,
        533: Bitmask(0),
        534: Bitmask(0),
        535: Bitmask(0),
        536: False,
        537: False,
        538: Bitmask(0b1111),
        539: True,
        540: Bitmask(0b11),
    }


def _transactions() -> dict[int, Any]:
    """562-576: each statement sees the tables as they are when it runs; no updates; results are read forwards;
    parameters may be named."""
    return {
        556: False,
        562: _READ_COMMITTED,
        563: True,
        564: Bitmask(1 << _READ_COMMITTED),
        565: False,
        566: False,
        567: Bitmask(0b10),
        568: Bitmask(0),
        569: Bitmask(0b10),
        570: Bitmask(0),
        571: Bitmask(0),
        572: False,
        573: False,
        574: True,
        575: False,
        576: False,
    }


def sql_info(asked: Sequence[int], engine_version: str) -> pa.Table:
    """Rows for the codes asked for, or for all where none is; codes without an answer have no row."""
    values = {**_server(engine_version), **_language(), **_MAXIMA, **_transactions()}
    codes = [code for code in (asked or sorted(values)) if code in values]
    type_codes: list[int] = []
    offsets: list[int] = []
    children: list[list[Any]] = [[] for _ in range(_VALUE.num_fields)]
    for code in codes:
        child = _child_of(values[code])
        type_codes.append(child)
        offsets.append(len(children[child]))
        value = values[code]
        children[child].append(list(value.items()) if isinstance(value, dict) else value)
    union = pa.UnionArray.from_dense(
        pa.array(type_codes, pa.int8()),
        pa.array(offsets, pa.int32()),
        [pa.array(child, _VALUE.field(i).type) for i, child in enumerate(children)],
        [_VALUE.field(i).name for i in range(_VALUE.num_fields)],
    )
    return pa.table([pa.array(codes, pa.uint32()), union], schema=SQL_INFO)


def _child_of(value: Any) -> int:
    if isinstance(value, str):
        return 0
    if isinstance(value, bool):
        return 1
    if isinstance(value, Bitmask):
        return 3
    if isinstance(value, dict):
        return 5
    return 4 if isinstance(value, list) else 2


# ---- XDBC

XDBC: Final = pa.schema(
    [
        required("type_name", pa.utf8()),
        required("data_type", pa.int32()),
        pa.field("column_size", pa.int32()),
        pa.field("literal_prefix", pa.utf8()),
        pa.field("literal_suffix", pa.utf8()),
        pa.field("create_params", pa.list_(required("item", pa.utf8()))),
        required("nullable", pa.int32()),
        required("case_sensitive", pa.bool_()),
        required("searchable", pa.int32()),
        pa.field("unsigned_attribute", pa.bool_()),
        required("fixed_prec_scale", pa.bool_()),
        pa.field("auto_increment", pa.bool_()),
        pa.field("local_type_name", pa.utf8()),
        pa.field("minimum_scale", pa.int32()),
        pa.field("maximum_scale", pa.int32()),
        required("sql_data_type", pa.int32()),
        pa.field("datetime_subcode", pa.int32()),
        pa.field("num_prec_radix", pa.int32()),
        pa.field("interval_precision", pa.int32()),
    ]
)


class _Type(NamedTuple):
    """One of the engine's types: XDBC number, size in digits, characters or bits, how a literal is quoted; of times and
    intervals the XdbcDatetimeSubcode."""

    name: str
    number: int
    size: int | None = None
    quote: str | None = None
    unsigned: bool | None = None
    radix: int | None = None
    params: tuple[str, ...] | None = None
    scales: tuple[int | None, int | None] = (None, None)
    subcode: int | None = None

    @property
    def generic(self) -> int:
        """The number without the kind of date or time."""
        return _DATETIME if self.number in _DATES_AND_TIMES else self.number

    @property
    def searchable(self) -> int:
        """LIKE is for text."""
        return _SEARCHABLE if self.name in _TEXTS else _SEARCHABLE_BUT_FOR_LIKE


# XDBC_DATETIME, and what it stands for: XDBC_DATE, XDBC_TIME, XDBC_TIMESTAMP.
_DATETIME: Final = 9
_DATES_AND_TIMES: Final = (91, 92, 93)
_TEXTS: Final = ("JSON", "VARCHAR")
# SQL_NULLABLE, SQL_SEARCHABLE, SQL_ALL_EXCEPT_LIKE
_NULLABLE: Final = 1
_SEARCHABLE: Final = 3
_SEARCHABLE_BUT_FOR_LIKE: Final = 2

# By number, then by name.
_TYPES: Final = (
    _Type("BOOLEAN", -7, 1),
    _Type("TINYINT", -6, 3, unsigned=False, radix=10),
    _Type("UTINYINT", -6, 3, unsigned=True, radix=10),
    _Type("BIGINT", -5, 19, unsigned=False, radix=10),
    _Type("UBIGINT", -5, 20, unsigned=True, radix=10),
    _Type("BLOB", -3, None, "'"),
    _Type("BIT", -2, None, "'"),
    _Type("JSON", -1, None, "'"),
    _Type("HUGEINT", 2, 38, unsigned=False, radix=10),
    _Type("UHUGEINT", 2, 38, unsigned=True, radix=10),
    _Type("DECIMAL", 3, 38, unsigned=False, radix=10, params=("precision", "scale"), scales=(0, 38)),
    _Type("INTEGER", 4, 10, unsigned=False, radix=10),
    _Type("UINTEGER", 4, 10, unsigned=True, radix=10),
    _Type("SMALLINT", 5, 5, unsigned=False, radix=10),
    _Type("USMALLINT", 5, 5, unsigned=True, radix=10),
    _Type("REAL", 7, 24, unsigned=False, radix=2),
    _Type("DOUBLE", 8, 53, unsigned=False, radix=2),
    _Type("INTERVAL", 10, None, "'", subcode=0),
    _Type("UUID", 12, 36, "'"),
    _Type("VARCHAR", 12, None, "'"),
    _Type("DATE", 91, 10, "'", subcode=1),
    _Type("TIME", 92, 15, "'", scales=(0, 6), subcode=2),
    _Type("TIME WITH TIME ZONE", 92, 21, "'", scales=(0, 6), subcode=4),
    _Type("TIMESTAMP", 93, 26, "'", scales=(0, 6), subcode=3),
    _Type("TIMESTAMP WITH TIME ZONE", 93, 32, "'", scales=(0, 6), subcode=5),
    _Type("TIMESTAMP_MS", 93, 23, "'", scales=(0, 3), subcode=3),
    _Type("TIMESTAMP_NS", 93, 29, "'", scales=(0, 9), subcode=3),
    _Type("TIMESTAMP_S", 93, 19, "'", scales=(0, 0), subcode=3),
)


def xdbc_types(data_type: int | None) -> pa.Table:
    """The engine's types, by XDBC number; of one number only where it is given."""
    rows = [
        {
            "type_name": t.name,
            "data_type": t.number,
            "column_size": t.size,
            "literal_prefix": t.quote,
            "literal_suffix": t.quote,
            "create_params": None if t.params is None else list(t.params),
            "nullable": _NULLABLE,
            "case_sensitive": t.name in _TEXTS,
            "searchable": t.searchable,
            "unsigned_attribute": t.unsigned,
            "fixed_prec_scale": False,
            "auto_increment": None if t.unsigned is None else False,
            "local_type_name": t.name,
            "minimum_scale": t.scales[0],
            "maximum_scale": t.scales[1],
            "sql_data_type": t.generic,
            "datetime_subcode": t.subcode,
            "num_prec_radix": t.radix,
            "interval_precision": None,
        }
        for t in _TYPES
        if data_type in (None, t.number)
    ]
    return pa.Table.from_pylist(rows, schema=XDBC)
