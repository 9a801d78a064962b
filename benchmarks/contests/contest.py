"""Systems that take turns at one measure, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.contests.cost import Cost
from benchmarks.figures import Sample
from benchmarks.load.orders import WrongAnswer
from benchmarks.processes import ProcessFailed

OURS = "flightserve"
REASON_CHARACTERS_MAX = 200
# What a system that fails raises.
FAILURES = (ProcessFailed, WrongAnswer, OSError)


@dataclass(frozen=True, slots=True)
class Side:
    """A system: its name, what measures it once, the processes whose cost is counted (each with all that came from
    it; none: no cost is told), and why it is left out, "" where it is not."""

    system: str
    measure: Callable[[], Sample]
    roots: Callable[[], Sequence[int]] = tuple
    left_out: str = ""


@dataclass(slots=True)
class Contest:
    """One measure: the samples of each system, by its name, and why others have none."""

    measure: str
    unit: str
    sides: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Nothing that was measured counts."""
        self.skipped |= dict.fromkeys(self.sides or (OURS,), reason_of(RuntimeError(reason)))
        self.sides = {}

    def take(self, side: Side, counts: bool = True) -> None:
        """Measure one side once more. One that fails is out of it from then on, with its reason."""
        if side.system in self.skipped:
            return
        try:
            sample = costed(side)
        except FAILURES as error:
            self.skipped[side.system] = reason_of(error)
            self.sides.pop(side.system, None)
        else:
            if counts:
                self.sides[side.system] = (*self.sides.get(side.system, ()), sample)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        sides = {
            system: [{"value": s.value, "answered": s.answered, "verified": s.verified, **s.extra} for s in samples]
            for system, samples in self.sides.items()
        }
        return {"measure": self.measure, "unit": self.unit, "sides": sides, "skipped": self.skipped}

    @classmethod
    def of_dict(cls, document: Mapping[str, Any]) -> Contest:
        """As `as_dict` gave it."""
        sides = {system: tuple(map(_sample, samples)) for system, samples in document["sides"].items()}
        return cls(document["measure"], document["unit"], sides, dict(document["skipped"]))


def _sample(document: Mapping[str, Any]) -> Sample:
    extra = dict(document)
    value, answered, verified = (extra.pop(name) for name in ("value", "answered", "verified"))
    return Sample(value, answered, verified, extra)


def take_turns(measure: str, unit: str, sides: Sequence[Side], rounds: int, warm: bool = True) -> Contest:
    """Each side once in every round; another one begins each time, so that nobody always comes behind the same. Of a
    `warm` contest the first round does not count. A side that fails is out of it from then on, with its reason."""
    contest = Contest(measure, unit, {}, {side.system: side.left_out for side in sides if side.left_out})
    for number in range(rounds + warm):
        begins = number % len(sides)
        for side in (*sides[begins:], *sides[:begins]):
            contest.take(side, counts=number >= warm)
    contest.sides = {side.system: contest.sides[side.system] for side in sides if side.system in contest.sides}
    return contest


def costed(side: Side) -> Sample:
    """The side's sample with what its processes took for it: `cpu_s_per_1000` requests, and `pss_mb` after them."""
    before = Cost.of(side.roots())
    sample = side.measure()
    roots = side.roots()
    if not roots or not sample.answered:
        return sample
    # Its server may only now have been started.
    after = Cost.of(roots)
    extra = dict(sample.extra) | {"pss_mb": after.pss_mb()}
    if before.cpu_s:
        extra["cpu_s_per_1000"] = after.since(before) / sample.answered * 1000
    return replace(sample, extra=extra)


def reason_of(error: Exception) -> str:
    """An error in a line: the last one that it has."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = [line for line in lines[1:] if "Error" in line] or lines[-1:] or [type(error).__name__]
    return words[-1][:REASON_CHARACTERS_MAX]
