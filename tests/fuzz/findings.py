"""What makes an answer a finding, for all protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flightserve.wire.status import Code

ROOT: Final = str(Path(__file__).parents[2])
# What bad input may get. INTERNAL is a fault of ours, or of the user's code, which nothing here makes raise.
CODES: Final = frozenset(code.name for code in Code) - {Code.INTERNAL.name}
# What the log says where we did not foresee something.
UNFORESEEN: Final = ("unexpected error", "Traceback (most recent call last)", "Unhandled exception", "never retrieved")


class Finding(AssertionError):
    """Something answered as it must not, or not at all."""


def check_code(code: str, message: str, codes: frozenset[str] = CODES) -> str:
    """The code, where it and its message are such as a stranger may get. Raises Finding."""
    if code not in codes:
        raise Finding(f"{code}: {message[:500]}")
    for secret in ("Traceback", ROOT, "/site-packages/", 'File "'):
        if secret in message:
            raise Finding(f"{code} tells {secret!r}: {message[:500]}")
    return code
