"""How long a thread looks for what it waits for before it blocks: learnt where it runs.

A thread that blocks lets its core halt, and to be woken then costs it more than the whole work of a small call; one
that looks instead costs a core. What fits differs from machine to machine, so nothing here is a time of one:

- It looks for as long as its waits take, by the mean and `DEVIATIONS` mean deviations of those that were short (as TCP
  finds its timeout: Jacobson, "Congestion avoidance and control", 1988), half longer than the mean at least.
- It looks for waits of at most `WAKE_UPS_MAX` wake-ups: of what takes longer, a wake-up is not much.
- After a look that was in vain it blocks, until a wait was short again.
- It looks where that gains something. Where others want the cores it may not: who is awake then is in the way of who
  has the work, and finds out later than it would be woken. So both ways are tried: after each `TRIAL_EVERY` waits that
  were noted the next few, `TRIAL`, are met the other way, and it sleeps where that ends waits clearly sooner: what
  one thread gains by it the others of a call's way lose, which a trial of one cannot see.
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
TRIAL_EVERY: Final = 64
TRIAL: Final = 4
# Looking may make waits longer by this share: less is as likely a trial's noise, which would change the way for
# nothing. Judged from so many trials on; no trial says more than that it is two wake-ups, because what makes more of a
# difference is something else.
LOSS_MAX: Final = 0.1
TRIALS_MIN: Final = 8
TRIAL_WAKE_UPS_MAX: Final = 2
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
_TRIAL_GAIN: Final = 1 / 16


class Surroundings(NamedTuple):
    """The machine at one moment: threads that run or could, and how often cgroups of this process were throttled since
    it began."""

    runnable: int
    throttled: int


class StayingAwake:
    """Of one thread that waits. `limit_ns` is how long it is to look now, 0 not at all. `noted_ns` is when it is to
    say how long a wait was that it found the end of. All operations are O(1)."""

    __slots__ = (
        "_asleep",
        "_burst_ns",
        "_crowded",
        "_deviation_ns",
        "_gain_ns",
        "_looked",
        "_machine_cores",
        "_mean_ns",
        "_measured",
        "_rest_ns",
        "_resting_until_ns",
        "_surroundings_ns",
        "_throttled",
        "_trial",
        "_trial_ns",
        "_trials",
        "_until_trial",
        "_usual_ns",
        "_usually_awake",
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
        self._usually_awake = True
        # Waits until it is tried how the other way does, and how many of the trial are left; what all of both took.
        self._until_trial, self._trial = TRIAL_EVERY, 0
        self._usual_ns = self._trial_ns = 0
        # By how much looking makes waits shorter, from so many trials.
        self._gain_ns, self._trials = 0.0, 0
        # It looked for what it waits for, in vain so far; and it blocks because it chose to.
        self._looked = self._asleep = False
        self.limit_ns = self._allowed_ns(0)

    def __repr__(self) -> str:
        return (
            f"<StayingAwake {self.limit_ns / 1e3:.0f} us: waits {self._mean_ns / 1e3:.0f} +- "
            f"{self._deviation_ns / 1e3:.0f} us, a wake-up {self._wake_up_ns / 1e3:.1f} us, "
            f"gain {self._gain_ns / 1e3:.1f} us>"
        )

    @property
    def longest_ns(self) -> int:
        """The longest wait that is looked for."""
        return int(WAKE_UPS_MAX * self._wake_up_ns)

    def found(self, waited_ns: int, now_ns: int) -> bool:
        """What a look was for came so long after it began; from `noted_ns` on. Whether the surroundings are to be
        looked at."""
        self._learn(waited_ns)
        self._note(waited_ns, now_ns)
        self.limit_ns = self._allowed_ns(now_ns)
        return now_ns >= self._surroundings_ns

    def missed(self, spent_ns: int, now_ns: int) -> None:
        """A look was in vain, and took so long."""
        self._vain_ns = self._owed_ns(now_ns) + spent_ns
        self._vain_seen_ns = now_ns
        self._looked, self.limit_ns = True, 0

    def slept(self, waited_ns: int, now_ns: int) -> bool:
        """What no look found came so long after the wait began. Whether the surroundings are to be looked at."""
        if now_ns < self._resting_until_ns:
            return False
        if self._asleep and now_ns < self.noted_ns:
            return False
        short = waited_ns <= self.longest_ns
        if short:
            # It was woken, which takes what a look would not have taken.
            self._learn(max(0, waited_ns - int(self._wake_up_ns)))
        if (self._looked or self._asleep) and now_ns >= self.noted_ns:
            self._note(waited_ns, now_ns)
        self._looked = False
        self.limit_ns = self._allowed_ns(now_ns) if short else 0
        # What would be short if a wake-up cost what was guessed is reason enough to measure it again: where it is
        # believed to cost too little, no wait may ever be short.
        worth_ns = WAKE_UPS_MAX * max(self._wake_up_ns, WAKE_UP_NS_FIRST)
        return waited_ns <= worth_ns and now_ns >= self._surroundings_ns

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

    def _note(self, waited_ns: int, now_ns: int) -> None:
        """A wait that was met in the way that is usual, or in a trial the other way."""
        waited_ns = min(waited_ns, self.longest_ns)
        if self._trial:
            self._trial_ns += waited_ns
            self._trial -= 1
            if not self._trial:
                self._judge()
        else:
            self._usual_ns += waited_ns
            self._until_trial -= 1
            if not self._until_trial:
                self._trial = TRIAL
        self.noted_ns = 0 if self._trial else now_ns + NOTE_NS

    def _judge(self) -> None:
        """A trial is over: what it says, beside the waits just before it."""
        longer_ns = self._trial_ns / TRIAL - self._usual_ns / TRIAL_EVERY
        most_ns = TRIAL_WAKE_UPS_MAX * self._wake_up_ns
        gain_ns = min(max(longer_ns if self._usually_awake else -longer_ns, -most_ns), most_ns)
        self._trials += 1
        self._gain_ns += (gain_ns - self._gain_ns) * max(1 / self._trials, _TRIAL_GAIN)
        if self._trials >= TRIALS_MIN:
            self._usually_awake = self._gain_ns > -LOSS_MAX * self._mean_ns
        self._until_trial, self._usual_ns, self._trial_ns = TRIAL_EVERY, 0, 0

    def _owed_ns(self, now_ns: int) -> float:
        return max(0.0, self._vain_ns - self._vain_share * (now_ns - self._vain_seen_ns))

    def _allowed_ns(self, now_ns: int) -> int:
        if now_ns < self._resting_until_ns:
            return 0
        # In a trial it is the other way.
        self._asleep = self._usually_awake == (self._trial > 0)
        if self._asleep:
            return 0
        usual_ns = max(LIMIT_MEANS_MIN * self._mean_ns, self._mean_ns + DEVIATIONS * self._deviation_ns)
        limit_ns = int(min(usual_ns, self.longest_ns, self._burst_ns))
        return limit_ns if self._owed_ns(now_ns) + limit_ns <= self._burst_ns else 0
