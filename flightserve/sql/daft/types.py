"""Types of columns that travel between the two engines: DuckDB's, Daft's, Arrow's."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from flightserve.sql.daft.plans import refused

_INTEGERS: Final = {
    "TINYINT": "int8",
    "SMALLINT": "int16",
    "INTEGER": "int32",
    "BIGINT": "int64",
    "UTINYINT": "uint8",
    "USMALLINT": "uint16",
    "UINTEGER": "uint32",
    "UBIGINT": "uint64",
}
_OTHERS: Final = {"BOOLEAN": "bool", "FLOAT": "float32", "DOUBLE": "float64", "VARCHAR": "string", "DATE": "date"}
# Digits of the widest decimal, which 128-bit integers travel as.
DIGITS_MAX: Final = 38


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of DuckDB: its name, and of a decimal its digits and how many of them are behind the point."""

    name: str
    width: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"DECIMAL({self.width},{self.scale})" if self.name == "DECIMAL" else self.name

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers of up to 64 bits."""
        return self.name in _INTEGERS

    @property
    def floating(self) -> bool:
        return self.name in ("FLOAT", "DOUBLE")

    @property
    def daft(self) -> Any:
        """Daft's type for a column of it. Raises Unimplemented for one that does not travel."""
        from flightserve.sql.daft.library import daft

        kinds = daft().DataType
        if self.name in _INTEGERS or self.name in _OTHERS:
            return getattr(kinds, _INTEGERS.get(self.name) or _OTHERS[self.name])()
        if self.name == "TIMESTAMP":
            return kinds.timestamp("us")
        if self.name in ("DECIMAL", "HUGEINT"):
            return kinds.decimal128(self.width or DIGITS_MAX, self.scale)
        raise refused(f"columns of type {self}")

    @property
    def zero(self) -> Any:
        """Some value of it."""
        if self.name in ("DECIMAL", "HUGEINT"):
            return Decimal(0)
        values = {"BOOLEAN": False, "VARCHAR": "", "DATE": datetime.date(1970, 1, 1)}
        return datetime.datetime(1970, 1, 1) if self.name == "TIMESTAMP" else values.get(self.name, 0)


def kind_of(found: dict[str, Any]) -> Kind:
    """The type as a plan has it. Raises Unimplemented for one that has no plain name."""
    name, more = str(found["id"]), found.get("type_info") or {}
    if name == "DECIMAL":
        return Kind(name, more["width"], more["scale"])
    if more:
        what = "text with a collation" if more.get("collation") else f"values of type {name}"
        raise refused(what)
    return Kind(name)
