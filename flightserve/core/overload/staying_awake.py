"""How long a thread looks for what it waits for before it blocks: learnt where it runs.

A thread that blocks lets its core halt, and to be woken then costs it more than the whole work of a small call; one
that looks instead costs a core. What fits differs from machine to machine, so nothing here is a time of one:

- It looks for as long as its waits take, by the mean and `DEVIATIONS` mean deviations of those that were short (as TCP
  finds its timeout: Jacobson, "Congestion avoidance and control", 1988), half longer than the mean at least.
- It looks for waits of at most `WAKE_UPS_MAX` wake-ups: of what takes longer, a wake-up is not much.
- After a look that was in vain it blocks, until a wait was short again.
- Looks in vain take at most `vain_share` of a core over time, and at once as much as that is of `BURST_NS`.
- It does not look while the cores are wanted: more threads run than there are cores, not counting those of a lone
  request's own way, twice that somebody looked; or a cgroup that this process is in was throttled. It rests for
  `REST_NS_MIN`, and for twice as long each time that they are wanted again, up to `REST_NS_MAX`. With a single core
  whoever looks is in the way.

Who finds what it waits for is asked nothing but now and then (`noted_ns`), because that way is hot.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from flightserve.clock import NEVER_NS, NS_PER_MS, NS_PER_S

DEVIATIONS: Final = 4
LIMIT_MEANS_MIN: Final = 1.5
WAKE_UPS_MAX: Final = 20
# What a wake-up costs until it is measured, and the most that is believed of a measurement: more is a busy machine.
WAKE_UP_NS_FIRST: Final = 15_000
WAKE_UP_NS_MAX: Final = NS_PER_MS
# Of what is found, one wait in so long is noted: enough to learn from, and nothing beside the others.
NOTE_NS: Final = NS_PER_MS
# How often one who looks asks whether the cores are wanted.
SURROUNDINGS_NS: Final = 250 * NS_PER_MS
REST_NS_MIN: Final = NS_PER_S
REST_NS_MAX: Final = 32 * NS_PER_S
BURST_NS: Final = 100 * NS_PER_MS
# Caller, router and replica: as many threads may run for a lone request, all of them awake.
OWN_WAY: Final = 3
# Weights of a new wait: in the mean, in the mean deviation, and of a new measurement of a wake-up.
_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_WAKE_UP_GAIN: Final = 1 / 2


class Surroundings(NamedTuple):
    """The machine at one moment: threads that run or could, and how often cgroups of this process were throttled since
    it began."""

    runnable: int
    throttled: int


class StayingAwake:
    """Of one thread that waits. `limit_ns` is how long it is to look now, 0 not at all. `noted_ns` is when it is to
    say how long a wait was that it found the end of. All operations are O(1)."""

    __slots__ = (
        "_burst_ns",
        "_crowded",
        "_deviation_ns",
        "_machine_cores",
        "_mean_ns",
        "_measured",
        "_rest_ns",
        "_resting_until_ns",
        "_surroundings_ns",
        "_throttled",
        "_vain_ns",
        "_vain_seen_ns",
        "_vain_share",
        "_wake_up_ns",
        "limit_ns",
        "noted_ns",
    )

    def __init__(self, vain_share: float, cores: int, machine_cores: int) -> None:
        """`cores` that this process may use, of those of the machine."""
        self._vain_share = vain_share
        self._burst_ns = vain_share * BURST_NS
        self._machine_cores = machine_cores
        self._wake_up_ns = float(WAKE_UP_NS_FIRST)
        self._measured = False
        # Nothing is known of waits: any that is worth it.
        self._mean_ns, self._deviation_ns = self.longest_ns / 2, self.longest_ns / 8
        self._rest_ns = 0
        self._resting_until_ns = NEVER_NS if cores < 2 or not vain_share else 0
        self._surroundings_ns = 0
        # Nothing seen yet.
        self._throttled = -1
        self._crowded = False
        # What was looked in vain and is not made up for by time, at the last one.
        self._vain_ns = 0.0
        self._vain_seen_ns = 0
        self.noted_ns = 0
        self.limit_ns = self._allowed_ns(0)

    def __repr__(self) -> str:
        return (
            f"<StayingAwake {self.limit_ns / 1e3:.0f} us: waits {self._mean_ns / 1e3:.0f} +- "
            f"{self._deviation_ns / 1e3:.0f} us, a wake-up {self._wake_up_ns / 1e3:.1f} us>"
        )

    @property
    def longest_ns(self) -> int:
        """The longest wait that is looked for."""
        return int(WAKE_UPS_MAX * self._wake_up_ns)

    def found(self, waited_ns: int, now_ns: int) -> bool:
        """What a look was for came so long after it began; from `noted_ns` on. Whether the surroundings are to be
        looked at."""
        self._learn(waited_ns)
        self.limit_ns = self._allowed_ns(now_ns)
        self.noted_ns = now_ns + NOTE_NS
        return now_ns >= self._surroundings_ns

    def missed(self, spent_ns: int, now_ns: int) -> None:
        """A look was in vain, and took so long."""
        self._vain_ns = self._owed_ns(now_ns) + spent_ns
        self._vain_seen_ns = now_ns
        self.limit_ns = 0

    def slept(self, waited_ns: int, now_ns: int) -> bool:
        """What no look found came so long after the wait began. Whether the surroundings are to be looked at."""
        if now_ns < self._resting_until_ns:
            return False
        short = waited_ns <= self.longest_ns
        if short:
            # It was woken, which takes what a look would not have taken.
            self._learn(max(0, waited_ns - int(self._wake_up_ns)))
        self.limit_ns = self._allowed_ns(now_ns) if short else 0
        return short and now_ns >= self._surroundings_ns

    def surrounded(self, seen: Surroundings, now_ns: int) -> None:
        """What the surroundings are."""
        throttled = seen.throttled > self._throttled >= 0
        crowded = seen.runnable > self._machine_cores + OWN_WAY - 1
        wanted = throttled or (crowded and self._crowded)
        self._throttled, self._crowded = seen.throttled, crowded
        self._surroundings_ns = now_ns + SURROUNDINGS_NS
        if wanted:
            self._rest_ns = min(max(2 * self._rest_ns, REST_NS_MIN), REST_NS_MAX)
            self._resting_until_ns = self._surroundings_ns = now_ns + self._rest_ns
            self.limit_ns = 0
        elif self._resting_until_ns:
            # Nobody looked meanwhile. What becomes of it when one does, the next time shows.
            self._resting_until_ns = 0
        else:
            self._rest_ns //= 2

    def woken(self, cost_ns: int) -> None:
        """A wake-up was measured."""
        off_ns = min(max(cost_ns, 0), WAKE_UP_NS_MAX) - self._wake_up_ns
        self._wake_up_ns += off_ns * _WAKE_UP_GAIN if self._measured else off_ns
        self._measured = True
        self.limit_ns = min(self.limit_ns, self.longest_ns)

    def _learn(self, waited_ns: int) -> None:
        off_ns = waited_ns - self._mean_ns
        self._mean_ns += off_ns * _MEAN_GAIN
        self._deviation_ns += (abs(off_ns) - self._deviation_ns) * _DEVIATION_GAIN

    def _owed_ns(self, now_ns: int) -> float:
        return max(0.0, self._vain_ns - self._vain_share * (now_ns - self._vain_seen_ns))

    def _allowed_ns(self, now_ns: int) -> int:
        if now_ns < self._resting_until_ns:
            return 0
        usual_ns = max(LIMIT_MEANS_MIN * self._mean_ns, self._mean_ns + DEVIATIONS * self._deviation_ns)
        limit_ns = int(min(usual_ns, self.longest_ns, self._burst_ns))
        return limit_ns if self._owed_ns(now_ns) + limit_ns <= self._burst_ns else 0
