"""A child process of `test_decode.py`: decode mutated streams and read every value of what is taken.

`python -m tests.fabric.memory.mutated_streams SEED COUNT` prints `taken refused`. It is a process of its own, so that a
crash inside Arrow is a failed test and not the end of the tests.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random
import sys

import pyarrow as pa

from flightserve.config import MIB, EdgeLimits
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.memory.decode import decode_stream
from tests.columns import columns, encoded

LIMITS = EdgeLimits(body_bytes_max=64 * MIB)
TOUCHED_ROWS_MAX = 5000


def streams() -> list[bytes]:
    """Each type alone: one batch, two batches, compressed; and all together."""
    found = []
    for name, column in columns().items():
        batch = pa.record_batch({name: column})
        found += [encoded(batch), encoded(batch, batch.slice(2)), encoded(batch, compression="lz4")]
    everything = pa.record_batch(columns())
    return [*found, encoded(everything), encoded(everything, compression="zstd")]


def mutated(stream: bytes, dice: random.Random) -> bytes:
    """Bits flipped, bytes and integers overwritten, cut short, with garbage behind."""
    out = bytearray(stream)
    how = dice.random()
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(out))
        if how < 0.35:
            out[at] ^= 1 << dice.randrange(8)
        elif how < 0.6:
            out[at] = dice.choice((0, 1, 8, 16, 127, 128, 255))
        elif how < 0.93:
            width = dice.choice((4, 8))
            at = min(at & -width, len(out) - width)
            big = 2 ** (8 * width - 1)
            value = dice.choice((0, 1, -1, 8, 64, len(out), big - 1, -big, big >> 1))
            out[at : at + width] = value.to_bytes(width, "little", signed=True)
        else:
            return bytes(out[:at]) + dice.randbytes(dice.choice((0, 0, 3, 16)))
    return bytes(out)


def touch(batch: pa.RecordBatch) -> None:
    """Use the rows as the tiers and users do. Errors are fine here; a crash is not."""
    for column in batch.columns:
        with contextlib.suppress(pa.ArrowException, ValueError, ArithmeticError):
            column.to_pylist()
    batch.slice(1).validate(full=True)
    with contextlib.suppress(pa.ArrowException):
        pa.concat_batches([batch, batch])
    with contextlib.suppress(pa.ArrowException):
        encoded(batch)


def main(seed: int, count: int) -> None:
    """Print how many of `count` mutated streams were taken and refused; anything else raises."""
    faulthandler.enable()
    dice = random.Random(seed)
    originals = streams()
    taken = refused = 0
    for _ in range(count):
        try:
            batch = decode_stream(pa.py_buffer(mutated(dice.choice(originals), dice)), LIMITS)
        except (InvalidArgument, TooLarge):
            refused += 1
            continue
        taken += 1
        if batch.num_rows <= TOUCHED_ROWS_MAX:
            touch(batch)
    print(taken, refused)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
