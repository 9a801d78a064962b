"""Flight SQL's messages as bytes: each travels in an Any, and a plain text as a command is SQL."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from flightserve.errors import InvalidArgument, Unimplemented
from flightserve.proto import sql_pb2 as pb

ANY_PREFIX: Final = "type.googleapis.com/"
SQL_PREFIX: Final = ANY_PREFIX + "arrow.flight.protocol.sql."


def read_command(data: bytes) -> Message:
    """The Flight SQL message in a command; one of plain text is a CommandStatementQuery. Raises InvalidArgument,
    Unimplemented for a message that this server does not know."""
    wrapped = any_pb2.Any()
    try:
        wrapped.ParseFromString(data)
    except DecodeError:
        wrapped.type_url = ""
    if wrapped.type_url.startswith(ANY_PREFIX):
        return unpack(wrapped)
    try:
        return pb.CommandStatementQuery(query=data.decode())
    except UnicodeDecodeError as error:
        raise InvalidArgument("the command is neither a Flight SQL message nor text") from error


def unpack(wrapped: any_pb2.Any) -> Message:
    """The Flight SQL message inside. Raises InvalidArgument, Unimplemented."""
    name = wrapped.type_url.removeprefix(SQL_PREFIX)
    # The module has more names than those of its messages.
    known = name in pb.DESCRIPTOR.message_types_by_name and wrapped.type_url.startswith(SQL_PREFIX)
    if not known:
        raise Unimplemented(f"{wrapped.type_url[:256]!r} is no Flight SQL message that this server knows")
    kind: Any = getattr(pb, name)
    try:
        message: Message = kind.FromString(wrapped.value)
    except DecodeError as error:
        raise InvalidArgument(f"the {name} cannot be read") from error
    return message


def pack(message: Message) -> bytes:
    """The message in an Any."""
    name = type(message).DESCRIPTOR.full_name
    wrapped = any_pb2.Any(type_url=ANY_PREFIX + name, value=message.SerializeToString())
    return bytes(wrapped.SerializeToString())


def optional(command: Any, name: str) -> str | None:
    """A text that the command may leave out."""
    return str(getattr(command, name)) if command.HasField(name) else None
