"""Slower machines, for processes that are started meanwhile.

A cgroup's quota (`slowed`) takes cores away for whole slices, between which all is as fast as ever. On a slower
machine each step takes longer, which is what fixed waits do not meet. So by `slower` every call and every return of a
function takes longer, of C functions as well (`sys.setprofile`), by as much as makes a piece of plain Python so many
times slower. The kernel is as fast as before, wake-ups too, and so is what C code does between two calls.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from benchmarks.slower.sitecustomize import LOOPS, profile
from flightserve.fabric.transport.surroundings import groups

FOLDER: Final = Path(__file__).with_name("slower")
# Enough of them to tell what one costs.
_PROBE_LOOPS: Final = 64
_TRIES: Final = 50
# What is added may be over what was asked by so much.
_NEAR: Final = 1.3


# Short enough that a slowed process is slower, and not now and then stopped.
_PERIOD_US: Final = 5_000


class SlowingFailed(Exception):
    """Processes cannot be given a share of the cores here, or Python cannot be made slower by so little."""


def machine_of(share: float | None, times: float | None) -> tuple[str, AbstractContextManager[None]]:
    """What the machine is called and what makes it, for `--slowed` and `--slower`. Raises SlowingFailed for both."""
    if share and times:
        raise SlowingFailed("--slowed and --slower are two machines: one at a time")
    if share:
        return f"slowed to {share:g}", slowed(share)
    if times:
        return f"slower {times:g} times", slower(times)
    return "as it is", contextlib.nullcontext()


@contextlib.contextmanager
def slowed(share: float) -> Iterator[None]:
    """This process and those that it starts get that share of each core. Raises SlowingFailed where no cgroup can be
    made."""
    own = own_group()
    group = own / f"flightserve-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise SlowingFailed(f"--slowed takes a cgroup that this user may make, as root may: {error}") from error
    try:
        try:
            _limit(group, int(share * len(os.sched_getaffinity(0)) * _PERIOD_US))
        except OSError as error:
            raise SlowingFailed(f"--slowed {share:g}: this cgroup does not share out cores so: {error}") from error
        yield
    finally:
        _leave(group, own)


def _limit(group: Path, quota_us: int) -> None:
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _leave(group: Path, own: Path) -> None:
    """Everything in the group goes back to where this process was: it may still hold some that are about to end."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (own / "cgroup.procs").write_text(pid)
    group.rmdir()


def own_group() -> Path:
    """The folder of the cgroup that shares out cores among those of this process, or the next above that is there.
    Raises SlowingFailed where there is none."""
    found = next(filter(Path.is_dir, groups(Path("/proc/self/cgroup").read_text())), None)
    if found is None:
        raise SlowingFailed("--slowed takes cgroups, and none are mounted")
    return found


@contextlib.contextmanager
def slower(times: float) -> Iterator[None]:
    """Pythons that are started meanwhile are so many times slower, at least about twice. Raises
    SlowingFailed below."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", LOOPS)}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(FOLDER), before["PYTHONPATH"])))
    os.environ[LOOPS] = str(loops_for(times))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def loops_for(times: float) -> int:
    """How many loops each call and return has to take. What they cost is measured now, on this machine."""
    plain_ns, none_ns, some_ns = _took_ns(None, 0, _PROBE_LOOPS)
    if none_ns > _NEAR * times * plain_ns:
        least = f"{none_ns / plain_ns:.2g}"
        raise SlowingFailed(f"--slower {times:g}: the least that can be added makes Python {least} times slower")
    return max(0, round((times * plain_ns - none_ns) * _PROBE_LOOPS / (some_ns - none_ns)))


def _took_ns(*loops: int | None) -> list[int]:
    """What the piece of Python takes, at its best of some times, so many loops slower each, or (None) as it is."""
    before, least = sys.getprofile(), [sys.maxsize] * len(loops)
    for _ in range(_TRIES):
        for place, each in enumerate(loops):
            if each is not None:
                sys.setprofile(profile(each))
            begun_ns = time.perf_counter_ns()
            _piece()
            least[place] = min(least[place], time.perf_counter_ns() - begun_ns)
            sys.setprofile(before)
    return least


def _piece() -> float:
    """A method a third of a microsecond, and what stands between: as this code's hot path is."""
    total, counts = 0.0, dict.fromkeys(range(8), 0)
    point = _Point()
    for number in range(1000):
        total += point.moved(number)
        key = number & 7
        counts[key] = counts[key] + 1 if number % 3 else number ^ key
        pair = (total, counts[key], [key, number])
        if pair[1] > number and total < pair[0]:
            total -= pair[1]
        name = f"{key}.{number}"
        if name > "7.5":
            total += 1.0
    return total


class _Point:
    def __init__(self) -> None:
        self.place = 0.0

    def moved(self, by: int) -> float:
        self.place = self.place * 0.5 + by
        return self.place
