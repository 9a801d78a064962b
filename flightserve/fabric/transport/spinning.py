"""Staying awake for what comes soon.

A thread that blocks lets its core halt, and to wake a halted core costs a virtual machine more than the whole work
of a small call: with three processes on two quiet cores a call of 16 rows took 160 us where its four messages were
slept for, and 111 us where the router and the caller looked for theirs. So who waits for the only thing in flight looks
for it a while, and lets others have the core between two looks, before it blocks. For how long, and when not at all, is
learnt from its waits, from what a wake-up costs here, and from what else goes on (`core.overload.staying_awake`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.core.overload.staying_awake import StayingAwake, Surroundings
from flightserve.fabric.transport.surroundings import look_around, wake_up_ns

T = TypeVar("T")

# How often a thread that looks measures what it would cost it to be woken.
WAKE_UP_AGAIN_NS: Final = 10 * NS_PER_S


class Spinner:
    """Of one thread that waits: `look`, and where that gave nothing, block and then say so (`slept`)."""

    __slots__ = ("_around", "_awake", "_begun_ns", "_clock", "_measure", "_measure_ns")

    def __init__(
        self,
        awake: StayingAwake,
        clock: Clock = monotonic_ns,
        around: Callable[[], Surroundings] = look_around,
        measure: Callable[[], int] = wake_up_ns,
    ) -> None:
        self._awake = awake
        self._clock = clock
        self._around = around
        self._measure = measure
        self._measure_ns = 0
        self._begun_ns = 0

    @classmethod
    def of_percent(cls, vain_percent: int) -> Spinner:
        """Whose looks in vain take so much of a core at most."""
        cores, machine_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
        return cls(StayingAwake(vain_percent / 100, cores, machine_cores))

    def __repr__(self) -> str:
        return f"<Spinner {self._awake!r}>"

    def look(self, poll: Callable[[], Sequence[T]]) -> Sequence[T]:
        """What `poll` gives as soon as that is not empty; empty when it stayed so for too long, or would."""
        awake = self._awake
        self._begun_ns = begun_ns = now_ns = self._clock()
        limit_ns = awake.limit_ns
        if not limit_ns:
            return ()
        until_ns = begun_ns + limit_ns
        while now_ns < until_ns:
            found = poll()
            if found:
                if now_ns >= awake.noted_ns and awake.found(now_ns - begun_ns, now_ns):
                    self._look_around(now_ns)
                return found
            os.sched_yield()
            now_ns = self._clock()
        awake.missed(now_ns - begun_ns, now_ns)
        self._measure_wake_up(now_ns)
        return ()

    def slept(self) -> None:
        """What `look` did not give has come, or the wait was over."""
        now_ns = self._clock()
        if self._awake.slept(now_ns - self._begun_ns, now_ns):
            self._look_around(now_ns)

    def _look_around(self, now_ns: int) -> None:
        self._awake.surrounded(self._around(), now_ns)
        self._measure_wake_up(now_ns)

    def _measure_wake_up(self, now_ns: int) -> None:
        if now_ns >= self._measure_ns:
            self._measure_ns = now_ns + WAKE_UP_AGAIN_NS
            self._awake.woken(self._measure())
