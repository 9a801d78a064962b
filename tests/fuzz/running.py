"""Batches of cases of one kind against a running app, and what they found.

A case follows from the seed, its kind and its number, so that one that found something can be made again by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.fuzz import envelopes, http, plane, rpc
from tests.fuzz.findings import UNFORESEEN, Finding
from tests.fuzz.hostile import endpoint_of, versioned
from tests.fuzz.http_requests import shapes

# What one batch says of as many findings; the others are counted.
SHOWN_MAX: Final = 20
LINE_CHARS_MAX: Final = 4000
Case = Callable[[random.Random], Counter[str]]


@dataclass(frozen=True)
class Target:
    """An app that serves `tests.served.app`. `errors` is what it wrote to standard error so far."""

    addresses: Mapping[str, str]
    app_id: str
    errors: Callable[[], str]


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


# ---- the kinds: each gives what makes one case, for one thread


@contextmanager
def _http(target: Target) -> Iterator[Case]:
    yield lambda dice: http.any_case(target.addresses["http"], dice)


@contextmanager
def _shapes(target: Target) -> Iterator[Case]:
    every = list(shapes())
    yield lambda dice: http.shape_case(target.addresses["http"], dice.choice(every))


@contextmanager
def _h2(target: Target) -> Iterator[Case]:
    yield lambda dice: http.any_h2(target.addresses[dice.choice(("http", "grpc", "flight"))], dice)


@contextmanager
def _grpc(target: Target) -> Iterator[Case]:
    with rpc.Rpc(target.addresses["grpc"]) as calls:
        yield lambda dice: rpc.any_grpc(calls, dice)


@contextmanager
def _flight(target: Target) -> Iterator[Case]:
    with rpc.Rpc(target.addresses["flight"]) as calls:
        yield lambda dice: rpc.any_flight(calls, dice)


@contextmanager
def _zmq(target: Target) -> Iterator[Case]:
    with envelopes.Dealer(target.addresses["zmq"]) as dealer:
        yield lambda dice: envelopes.any_case(dealer, dice)


@contextmanager
def _zmtp(target: Target) -> Iterator[Case]:
    yield lambda dice: envelopes.any_bytes_case(target.addresses["zmq"], dice)


@contextmanager
def _frames(target: Target) -> Iterator[Case]:
    path, deployment = endpoint_of(target.app_id, "-router-0"), versioned(target.addresses["http"], "Probe")
    yield lambda dice: plane.any_case(path, deployment, dice)


@contextmanager
def _control(target: Target) -> Iterator[Case]:
    path = endpoint_of(target.app_id, "-supervisor")
    yield lambda dice: plane.any_control_case(path, dice)


KINDS: Final[dict[str, Callable[[Target], contextlib.AbstractContextManager[Case]]]] = {
    "http": _http,
    "smuggling": _shapes,
    "h2": _h2,
    "grpc": _grpc,
    "flight": _flight,
    "zmq": _zmq,
    "zmtp": _zmtp,
    "frames": _frames,
    "control": _control,
}


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
            with KINDS[kind](target) as case:
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


def _one(case: Case, kind: str, seed: int, number: int, batch: Batch, lock: threading.Lock) -> Counter[str]:
    try:
        return case(dice_of(seed, kind, number))
    except Exception as error:  # a refused connection, too: the server must be there
        with lock:
            if len(batch.findings) < SHOWN_MAX:
                what = str(error) if isinstance(error, Finding) else repr(error)
                batch.findings.append(f"{kind}, seed {seed}, case {number}: {what}")
        return Counter(("found",))
