"""Flight SQL's messages with odd values in each field, made from their descriptors."""

from __future__ import annotations

import random
from typing import Any, Final

from flightserve.frontends.flight.sql_messages import pack
from flightserve.proto import sql_pb2
from tests.fuzz.mutation import INTEGERS, TEXTS, mutated

_KINDS: Final = sorted(sql_pb2.DESCRIPTOR.message_types_by_name)
_STATEMENTS: Final = (
    "SELECT 1", "SELECT * FROM people", "SELECT * FROM people WHERE id = ?", "SELECT $a", "SELECT", "DROP TABLE people",
    "SELECT * FROM nothing", "WITH x AS (SELECT 1) SELECT * FROM x", "SELECT '\0'", "SELECT 1; SELECT 2", "VALUES (1)",
    "SELECT error('no')", "EXPLAIN SELECT 1", "SELECT id FROM people ORDER BY id LIMIT 2",
)  # fmt: skip
REPEATED_MAX: Final = 3


def samples() -> list[bytes]:
    """Each message as it is when nothing is said, and with a value in each field."""
    dice = random.Random(1)
    return [pack(filled(name, dice, odd=False)) for name in _KINDS]


def any_command(dice: random.Random) -> bytes:
    """A command in its Any; seldom damaged, or of a type that there is not."""
    data = pack(filled(dice.choice(_KINDS), dice))
    if dice.random() < 0.1:
        data = data.replace(b"Command", dice.choice((b"Kommand", b"command", b"")))
    return mutated(data, dice) if dice.random() < 0.2 else data


def filled(name: str, dice: random.Random, odd: bool = True) -> Any:
    """A message of that name, some of its fields set."""
    made = getattr(sql_pb2, name)()
    for field in made.DESCRIPTOR.fields:
        if dice.random() < 0.8:
            _fill(made, field, dice, odd)
    return made


def _fill(made: Any, field: Any, dice: random.Random, odd: bool) -> None:
    if field.message_type is not None:
        return
    value = _value(field, dice, odd)
    if field.is_repeated:
        getattr(made, field.name).extend([value] * dice.randrange(REPEATED_MAX))
    else:
        setattr(made, field.name, value)


def _value(field: Any, dice: random.Random, odd: bool) -> Any:
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        texts = _STATEMENTS if field.name == "query" or not odd else TEXTS
        text = dice.choice(texts)
        return text if field.type == field.TYPE_STRING else text.encode()
    if kind == field.CPPTYPE_BOOL:
        return dice.random() < 0.5
    if kind == field.CPPTYPE_ENUM:
        return dice.choice((0, 1, 2))
    if kind in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32):
        low = 0 if kind == field.CPPTYPE_UINT32 else -(1 << 31)
        return dice.choice([each for each in INTEGERS if low <= each < 1 << 31])
    return dice.choice([each for each in INTEGERS if each >= 0])
