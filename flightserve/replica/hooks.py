"""What the user's object is told and asked beside its requests: to warm up, how it is, and that it is over.

Checks run on a thread of their own. One that does not return is a failure, too, again and again for as long as it
takes, and nobody waits for it: the replica's main thread looks at the clock (`look`).
"""

from __future__ import annotations

import atexit
import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from flightserve import threads
from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.declare import RECONFIGURE, Health, health_checks, stop_hooks, takes_config, warmups
from flightserve.errors import ConfigError
from flightserve.replica.faults import describe, report_failure

log = logging.getLogger(__name__)

# How long all that is called at the end may take.
END_S: Final = 5.0
# How long one coroutine that warms up may take. The supervisor bounds the whole start.
WARMUP_S: Final = 3600.0

# Runs a coroutine to its end where the object's coroutines run, for at most so many seconds: its result.
Await = Callable[[Coroutine[Any, Any, Any], float], Any]
Retire = Callable[[str], None]


class Hooks:
    """The warm-ups, checks and stop hooks of one object. Call `warm`, `start` and `end` once each. `retire` is called
    with the reason where there is nobody left to ask."""

    def __init__(self, target: object, name: str, await_: Await, retire: Retire) -> None:
        # Of the class: an object may answer to any name.
        cls = type(target)
        self._name = name
        self._await = await_
        self._retire = retire
        self._reconfigure = getattr(target, RECONFIGURE) if takes_config(cls) else None
        self._warmups = [getattr(target, method) for method in warmups(cls)]
        self._checks = [
            Check(getattr(target, method), health, self._call) for method, health in health_checks(cls).items()
        ]
        self._endings = [getattr(target, method) for method in stop_hooks(cls)]
        if hasattr(cls, "flightserve_stopped"):
            self._endings.append(target.flightserve_stopped)  # type: ignore[attr-defined]
        self._over = threading.Event()
        self._reconfiguring = threading.Lock()

    def warm(self) -> None:
        """What the object does before its first request. Raises what that raises."""
        for warmup in self._warmups:
            began_ns = monotonic_ns()
            self._call(warmup, WARMUP_S)
            took_s = (monotonic_ns() - began_ns) / NS_PER_S
            log.info("%s.%s took %.2f s", self._name, warmup.__name__, took_s)

    def reconfigure(self, config: bytes, timeout_s: float) -> None:
        """Another configuration, as JSON. Any thread; one at a time. Raises what the object raises, and ConfigError
        where it takes none."""
        if self._reconfigure is None:
            raise ConfigError(f"{self._name} has no method reconfigure(config)")
        reconfigure, value = self._reconfigure, msgspec.json.decode(config)
        with self._reconfiguring:
            self._call(lambda: reconfigure(value), timeout_s)

    def ailing(self) -> str:
        """Why the object says that it is not well; "" where it does not."""
        return next((check.ailing for check in self._checks if check.ailing), "")

    def start(self) -> None:
        """Ask from now on."""
        for check in self._checks:
            run = _until(self._over, check)
            threads.start(f"{self._name}-health", run, self._over.is_set, self._retire)

    def look(self) -> None:
        """Several times a second: see who takes too long."""
        for check in self._checks:
            check.look()

    def end(self) -> None:
        """Ask nothing any more, and say that it is over; within `END_S`, whatever is done about that."""
        self._over.set()
        if self._endings:
            _run_bounded(self._end)

    def _end(self) -> None:
        for ending in self._endings:
            try:
                self._call(ending, END_S)
            except BaseException as error:
                report_failure(error, f"{self._name}.{ending.__name__}", log)

    def _call(self, function: Callable[[], Any], timeout_s: float) -> Any:
        value = function()
        return self._await(value, timeout_s) if inspect.iscoroutine(value) else value


class Check:
    """One health check. `once` is for its own thread, `look` for another."""

    def __init__(
        self,
        function: Callable[[], Any],
        health: Health,
        call: Callable[[Callable[[], Any], float], Any],
        clock: Clock = monotonic_ns,
    ) -> None:
        self.health = health
        # Why it has failed too often, "" while it has not.
        self.ailing = ""
        self._function = function
        self._call = call
        self._clock = clock
        self._failures = 0
        self._late = False
        # When the call that is under way has taken too long once more; 0 between calls.
        self._due_ns = 0

    def once(self) -> None:
        """Ask, and count."""
        self._late = False
        self._due_ns = self._clock() + int(self.health.timeout_s * NS_PER_S)
        try:
            said = self._call(self._function, self.health.timeout_s)
            why = "it says that it is not well" if said is False else ""
        except BaseException as error:
            why = describe(error)
        self._due_ns = 0
        if why:
            self._count_failure(why)
        elif not self._late:
            self._failures, self.ailing = 0, ""

    def look(self) -> None:
        """Count a failure where the call takes too long, for each time that it may take."""
        due_ns = self._due_ns
        if due_ns and self._clock() > due_ns:
            self._late, self._due_ns = True, due_ns + int(self.health.timeout_s * NS_PER_S)
            self._count_failure(f"it did not return within {self.health.timeout_s:g} s")

    def _count_failure(self, why: str) -> None:
        self._failures += 1
        where = self._function.__qualname__
        log.warning("%s failed, %d in a row: %s", where, self._failures, why)
        if self._failures >= self.health.failures:
            self.ailing = f"{where} failed {self._failures} times in a row: {why}"


def begin_exit_functions() -> None:
    """From now on `atexit` is the user's: what libraries registered before never ran in a replica, which ends at once,
    and may wait for what is not there any more. Temporary folders are removed by finalisers, and logs flushed."""
    atexit._clear()
    atexit.register(logging.shutdown)
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]


def run_exit_functions() -> None:
    """What user code registered with `atexit`, within `END_S`."""
    _run_bounded(atexit._run_exitfuncs)


def _run_bounded(work: Callable[[], object]) -> None:
    thread = threads.start("flightserve-ending", work, lambda: True)
    thread.join(END_S)
    if thread.is_alive():
        log.warning("what the user's code does at its end takes longer than %g s; it ends without", END_S)


def _until(over: threading.Event, check: Check) -> Callable[[], None]:
    def run() -> None:
        while not over.wait(check.health.every_s):
            check.once()

    return run
