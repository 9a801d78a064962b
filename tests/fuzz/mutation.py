"""Good bytes made bad. All of it is drawn from the `random.Random` that is passed in, so that a case comes again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Final

# Integers at which sizes, counts and signs go wrong.
INTEGERS: Final = (
    -(1 << 63), -(1 << 31), -65_536, -64, -8, -2, -1, 0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 4095, 4096, 65_535,
    65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, (1 << 63) - 1,
)  # fmt: skip
TEXTS: Final = (
    "", " ", "\0", "a\0b", "a\r\nx: y", "..", "../x", "%2e%2e%2f", "\u202e", "\U0001f600", "é" * 40, "x" * 300,
    "x" * 5000, "'; DROP TABLE people; --", "${jndi:x}", "{{7*7}}", "%s%n", "nan", "-0", "1e999", "null", "true",
    "[]", "{}", "type.googleapis.com/", "\ufffe", "a b", "a/b", "*", "?", "#", "@", "Probe", "identity", "people",
    "lake",
)  # fmt: skip


def mutated(stream: bytes, dice: random.Random) -> bytes:
    """Bits flipped, bytes and integers overwritten, cut short, with garbage behind."""
    if not stream:
        return dice.randbytes(dice.choice((0, 1, 16)))
    out = bytearray(stream)
    how = dice.random()
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(out))
        if how < 0.35:
            out[at] ^= 1 << dice.randrange(8)
        elif how < 0.6:
            out[at] = dice.choice((0, 1, 8, 16, 127, 128, 255))
        elif how < 0.93:
            width = min(dice.choice((4, 8)), len(out))
            at = min(at & -width, len(out) - width)
            big = 2 ** (8 * width - 1)
            value = dice.choice((0, 1, -1, 8, 64, min(len(out), big - 1), big - 1, -big, big >> 1))
            out[at : at + width] = value.to_bytes(width, "little", signed=True)
        else:
            return bytes(out[:at]) + dice.randbytes(dice.choice((0, 0, 3, 16)))
    return bytes(out)


def spliced(data: bytes, dice: random.Random, tokens: Sequence[bytes] = ()) -> bytes:
    """A piece left out, doubled, moved, or a token put in: what keeps more of a text's form than `mutated` does."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        start = dice.randrange(len(data) + 1)
        stop = min(len(data), start + dice.choice((0, 1, 2, 4, 8, 32)))
        piece = data[start:stop]
        how = dice.randrange(4)
        if how == 0:
            data = data[:start] + data[stop:]
        elif how == 1:
            data = data[:stop] + piece * dice.choice((1, 1, 2, 50)) + data[stop:]
        elif how == 2:
            data = data[:start] + dice.choice(tokens or (b"\0", b"\xff", b'"', b"\r\n")) + data[stop:]
        else:
            at = dice.randrange(len(data) + 1)
            data = data[:at] + piece + data[at:]
    return data


def any_bytes(dice: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of the seeds as it is, mutated or spliced; seldom plain noise."""
    how = dice.random()
    if how < 0.05:
        return dice.randbytes(dice.choice((0, 1, 4, 64, 1000)))
    seed = dice.choice(seeds)
    if how < 0.15:
        return seed
    return mutated(seed, dice) if how < 0.6 else spliced(seed, dice, tokens)


def pieces(data: bytes, dice: random.Random) -> list[bytes]:
    """The data, cut in up to five places."""
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.choice((0, 0, 1, 2, 5))))
    edges = [0, *cuts, len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]
