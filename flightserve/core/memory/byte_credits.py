"""How many bytes may be on their way at a time: credits that who asks for bytes takes first.

What is larger than all credits together goes alone, when nothing else is on its way: it could never go otherwise.
"""

from __future__ import annotations


class ByteCredits:
    """Within `bytes_max`, but for one request alone. O(1)."""

    __slots__ = ("bytes_max", "taken")

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 1:
            raise ValueError(f"bytes_max is {bytes_max}; it is 1 or more")
        self.bytes_max = bytes_max
        self.taken = 0

    def __repr__(self) -> str:
        return f"<ByteCredits {self.taken} of {self.bytes_max} taken>"

    def take(self, nbytes: int) -> bool:
        """False where others have to give theirs back first."""
        if self.taken and self.taken + nbytes > self.bytes_max:
            return False
        self.taken += nbytes
        return True

    def give_back(self, nbytes: int) -> None:
        """They have arrived, or never will."""
        if nbytes > self.taken:
            raise ValueError(f"{nbytes} bytes come back of {self.taken} that were taken")
        self.taken -= nbytes
