"""`python -m tests.fuzz`: hostile bytes for a served app, and for readers without one, for as long as it is told to.

After each batch the same processes live, nothing is in flight or leased, memory and descriptors are where they were,
and good requests work. Exit status 1 where something was found.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Final

from tests.fuzz import parsers
from tests.fuzz.guided import guide
from tests.fuzz.kinds import EVERY, KINDS, SECURED
from tests.fuzz.openapi import PROGRAM, check_openapi
from tests.fuzz.running import Batch, read_log, run_batch
from tests.fuzz.secured import serve_plain, serve_secured
from tests.fuzz.targets import Target
from tests.served.resting import Resting

BATCH_CASES: Final = 1_000_000
PARSERS: Final = "parsers"
OPENAPI: Final = "openapi"
OPENAPI_EXAMPLES: Final = 50


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    option = parser.add_argument
    option("--minutes", type=float, default=5.0, help="how long, all kinds together (default: %(default)s)")
    option("--batch", type=float, default=5.0, metavar="SECONDS", help="between two looks (default: %(default)s)")
    option("--seed", type=int, default=0, help="of all cases (default: the time)")
    option(
        "--only",
        default="",
        metavar="KIND,...",
        help=f"of {', '.join((PARSERS, OPENAPI, *EVERY))} (default: all); or a reader's name",
    )
    option("--case", type=int, default=None, metavar="NUMBER", help="this one alone, of the one kind or reader")
    option(
        "--atheris", action="store_true", help=f"the readers of {PARSERS} alone, guided by which lines a case came to"
    )
    arguments = parser.parse_args()
    seed = arguments.seed or int(time.time())
    kinds = arguments.only.split(",") if arguments.only else [PARSERS, OPENAPI, *EVERY]
    if unknown := set(kinds) - {PARSERS, OPENAPI, *EVERY, *parsers.PARSERS}:
        parser.error(f"there is no kind or reader {', '.join(sorted(unknown))}")
    print(f"seed {seed}")
    found = list(_found(arguments, kinds, seed))
    print(f"{len(found)} findings")
    return 1 if found else 0


def _found(arguments: argparse.Namespace, kinds: list[str], seed: int) -> Iterator[str]:
    readers = [name for name in parsers.PARSERS if PARSERS in kinds or name in kinds]
    if readers and arguments.atheris:
        yield from _printed(guide_all(readers, seed, 60 * arguments.minutes))
        return
    if readers:
        yield from _printed(read_all(readers, seed, arguments.batch, arguments.case))
    plain = [kind for kind in kinds if kind in KINDS]
    secured = [kind for kind in kinds if kind in SECURED]
    minutes = arguments.minutes / ((bool(plain) + bool(secured)) or 1)
    if plain or OPENAPI in kinds:
        with serve_plain() as (target, resting):
            if OPENAPI in kinds and PROGRAM.exists():
                yield from _checked(check_openapi(target, seed, OPENAPI_EXAMPLES), target, resting)
            yield from _sent(arguments, plain, seed, minutes, target, resting)
    if secured:
        with serve_secured() as (target, resting):
            yield from _sent(arguments, secured, seed, minutes, target, resting)


def _sent(
    arguments: argparse.Namespace, kinds: list[str], seed: int, minutes: float, target: Target, resting: Resting
) -> Iterator[str]:
    """Batches of these kinds in turn."""
    if arguments.case is not None:
        for kind in kinds:
            yield from _checked(run_batch(target, kind, seed, arguments.case, 1, threads=1), target, resting)
        return
    until = time.monotonic() + 60 * minutes
    for number in itertools.count():
        if not kinds or (now := time.monotonic()) > until:
            return
        turn, place = divmod(number, len(kinds))
        batch = run_batch(target, kinds[place], seed, turn * BATCH_CASES, BATCH_CASES, now + arguments.batch)
        yield from _checked(batch, target, resting)


def _checked(batch: Batch, target: Target, resting: Resting) -> Iterator[str]:
    try:
        resting.check()
    except Exception as error:
        batch.findings.append(f"{batch.kind}: {error}")
    read_log(batch, target)
    yield from _printed(batch)


def _printed(batch: Batch) -> Iterator[str]:
    codes = ", ".join(f"{code} {count}" for code, count in batch.codes.most_common())
    print(f"{batch.kind:10} {batch.cases:8} cases: {codes}", flush=True)
    for finding in batch.findings:
        print(f"FOUND {finding}", flush=True)
        yield finding


def read_all(readers: Sequence[str], seed: int, seconds: float, only: int | None) -> Batch:
    """Each reader for its share of that time, or the one case."""
    batch = Batch(PARSERS)
    for name in readers:
        until = time.monotonic() + seconds / len(readers)
        for number in itertools.count() if only is None else (only,):
            data = parsers.case(name, seed, number)
            try:
                batch.codes["taken" if parsers.check(parsers.PARSERS[name], data) else "refused"] += 1
            except Exception:
                again = parsers.told(name, seed, number)
                batch.findings.append(f"{again}\n{data!r}\n{traceback.format_exc()}")
                break
            if time.monotonic() > until:
                break
    return batch


def guide_all(readers: Sequence[str], seed: int, seconds: float) -> Batch:
    """Each reader for its share of that time, by atheris."""
    batch = Batch("atheris")
    for name in readers:
        batch.codes["readers"] += 1
        if found := guide(name, seed, seconds / len(readers)):
            batch.findings.append(f"{name}, seed {seed}: {found}")
    return batch


if __name__ == "__main__":
    sys.exit(main())
