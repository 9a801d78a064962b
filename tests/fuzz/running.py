"""Batches of cases of one kind against a running app, and what they found.

A case follows from the seed, its kind and its number, so that one that found something can be made again by itself.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.fuzz.findings import UNFORESEEN, Finding
from tests.fuzz.kinds import EVERY, Case
from tests.fuzz.targets import Target

# What one batch says of as many findings; the others are counted.
SHOWN_MAX: Final = 20
LINE_CHARS_MAX: Final = 4000


@dataclass
class Batch:
    """What a batch came to. `log_read`: so much of the app's log was looked at."""

    kind: str
    codes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    log_read: int = 0

    @property
    def cases(self) -> int:
        return sum(self.codes.values())


def dice_of(seed: int, kind: str, number: int) -> random.Random:
    """What all of a case is drawn from."""
    return random.Random(f"{seed}/{kind}/{number}")


def run_batch(
    target: Target, kind: str, seed: int, first: int, cases: int, until: float | None = None, threads: int = 4
) -> Batch:
    """Cases `first` to `first + cases`, or fewer where `until` (`time.monotonic`) comes before."""
    batch = Batch(kind, log_read=len(target.errors()))
    numbers, lock = itertools.count(first), threading.Lock()

    def work() -> None:
        try:
            with EVERY[kind](target) as case:
                while (number := next(numbers)) < first + cases and not (until and time.monotonic() > until):
                    codes = _one(case, kind, seed, number, batch, lock)
                    with lock:
                        batch.codes += codes
        except Exception as error:  # no case was made, or not the last
            with lock:
                batch.findings.append(f"{kind}, seed {seed}: {error!r}")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    read_log(batch, target)
    return batch


def read_log(batch: Batch, target: Target) -> None:
    """Add what the app wrote since the last look. Lines come a moment later than what they tell of: look again when the
    app is at rest."""
    text = target.errors()
    text = text[: text.rfind("\n") + 1]
    lines = [line for line in text[batch.log_read :].splitlines() if any(each in line for each in UNFORESEEN)]
    batch.findings += [f"{batch.kind}: the log has {line[:LINE_CHARS_MAX]}" for line in lines[:SHOWN_MAX]]
    batch.log_read = len(text)
    if target.written is not None:
        new = target.written.new()
        batch.findings += [f"{batch.kind}: {name} has {line[:LINE_CHARS_MAX]}" for name, line in new][:SHOWN_MAX]


def _one(case: Case, kind: str, seed: int, number: int, batch: Batch, lock: threading.Lock) -> Counter[str]:
    try:
        return case(dice_of(seed, kind, number))
    except Exception as error:  # a refused connection, too: the server must be there
        with lock:
            if len(batch.findings) < SHOWN_MAX:
                what = str(error) if isinstance(error, Finding) else repr(error)
                again = f"make fuzz ARGS='--seed {seed} --only {kind} --case {number}'"
                batch.findings.append(f"{kind}, seed {seed}, case {number}: {what}\n{again}")
        return Counter(("found",))
