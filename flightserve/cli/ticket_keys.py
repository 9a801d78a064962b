"""`--ticket-key FILE`: the secret by which tickets are signed, for apps that stand in for each other."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from flightserve.errors import ConfigError
from flightserve.identity.reading import warn_of_readers

# Shorter ones can be guessed.
KEY_BYTES_MIN: Final = 32
KEY_BYTES_MAX: Final = 4096
# The file may sign other things of its owner's as well.
_PERSON: Final = b"flightserve"


def ticket_key(path: str | None) -> dict[str, Any]:
    """`FrontendOptions.ticket_key` from the file, nothing where none is named. Raises ConfigError, which says nothing
    of what is in it."""
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            secret = file.read(KEY_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"ticket_key {path} cannot be read: {why}") from error
    if not KEY_BYTES_MIN <= len(secret) <= KEY_BYTES_MAX:
        raise ConfigError(
            f"ticket_key {path} has {'more than ' * (len(secret) > KEY_BYTES_MAX)}{min(len(secret), KEY_BYTES_MAX):,} "
            f"bytes; a key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX:,}: head -c 32 /dev/urandom > {path} makes one"
        )
    warn_of_readers(path)
    return {"ticket_key": blake2b(secret, digest_size=32, person=_PERSON).digest()}
