"""Which replicas are slow enough that they get nothing for a while.

After Envoy's outlier detection (envoyproxy.io, "Outlier detection"; gRPC's A50 is the same): each replica is compared
with the others at intervals, an outlier is ejected for a time that grows with each ejection, and at most a
share of all is ejected at any time. Envoy compares success rates; here it is time. A micro-batch's time is set
against what one of its method and size (in powers of two of rows) usually takes, as the logarithm of the
ratio, because a slow replica is slow by a factor; a replica's score is the mean of its recent ratios, and the replica
is an outlier when its score is more than `SLOW_FACTOR` times the median of the others', and by more than chance can
explain (`SURE` standard errors, with the spread that the ratios of all have). Whatever all have in common (a busy
machine, a bad estimate of the usual time) shifts all scores and cancels.

When its time is over an ejected replica gets one micro-batch at a time, as probes: `PROBES` that are no slower than
`SLOW_FACTOR` bring it back, one that is sends it away for longer. Where too many would be ejected because others
left, the least slow one comes back at once: `EJECTED_SHARE_MAX` holds at every moment, and never are all ejected.
A replica that pauses counts as one that left, but what is known of it is kept: an ejection, its end, a probation.

What this guards against is a process that crawls. A replica that answers nothing at all is found by its
heartbeats, and one whose method never returns by its deadline.
"""

from __future__ import annotations

from math import exp, log, sqrt
from statistics import median
from typing import Final

from flightserve.clock import NEVER_NS, NS_PER_S

# Slower than the others by this factor is an outlier. Times that differ by less than its square root never are.
SLOW_FACTOR: Final = 4.0
# Of all replicas that are not draining, rounded down; so one alone is never ejected, and one of two may be.
EJECTED_SHARE_MAX: Final = 0.5
SAMPLES_MIN: Final = 8
# Standard errors of a difference of two scores. Times of 1 and 100 ms mixed at random gave a false ejection in 4 min
# without this bound.
SURE: Final = 5.0
PROBES: Final = 3
CHECK_NS: Final = NS_PER_S // 2
EJECTION_NS: Final = 5 * NS_PER_S
EJECTION_NS_MAX: Final = 60 * NS_PER_S
# Earlier ejections are forgotten after this long in good standing.
FORGET_NS: Final = 120 * NS_PER_S

_SLOW: Final = log(SLOW_FACTOR)
# Weight of the newest of a replica's ratios, and of a method's times; the first ones weigh as a plain mean.
_SCORE_WEIGHT: Final = 1 / 16
_USUAL_WEIGHT: Final = 1 / 64
# As many equal weights would make a mean as steady as the one that forgets with `_SCORE_WEIGHT`.
_STEADY: Final = 2 / _SCORE_WEIGHT - 1


class _Mean:
    """A mean that forgets: of all values at first, later of the recent ones."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, value: float, weight_min: float) -> None:
        self.count = count = self.count + 1
        self.value += (value - self.value) * max(1.0 / count, weight_min)


class _Replica:
    """One replica: its score, and where it is between good, ejected (`until_ns`) and on probation."""

    __slots__ = ("back_ns", "ejections", "probes_good", "probing", "score", "until_ns")

    def __init__(self) -> None:
        self.score = _Mean()
        self.until_ns = 0
        self.probing = False
        self.probes_good = 0
        self.ejections = 0
        self.back_ns = 0

    @property
    def out(self) -> bool:
        return self.probing or self.until_ns > 0

    def begin_probation(self) -> None:
        self.until_ns = 0
        self.probing = True
        self.probes_good = 0


class Verdict:
    """A change: how many micro-batches the replica may hold from now on (None: as many as it offers). `factor` is how
    much slower than the others it was found, `until_ns` when an ejection ends."""

    __slots__ = ("credits_max", "factor", "replica", "until_ns")

    def __init__(self, replica: int, credits_max: int | None, factor: float = 1.0, until_ns: int = 0) -> None:
        self.replica = replica
        self.credits_max = credits_max
        self.factor = factor
        self.until_ns = until_ns

    def __repr__(self) -> str:
        return f"<Verdict: replica {self.replica} may hold {self.credits_max}, {self.factor:.1f} times slower>"


class SlowReplicas:
    """Judges the replicas of one deployment by their micro-batches' times. A replica is a process, whatever number of
    lanes it has. `judge` is O(1), and O(n log n) in the replicas twice a second."""

    def __init__(self) -> None:
        self._replicas: dict[int, _Replica] = {}
        self._paused: dict[int, _Replica] = {}
        self._usual: dict[tuple[str, int], _Mean] = {}
        # The mean square of the ratios of all in good standing.
        self._spread = _Mean()
        self._next_check_ns = 0
        # When the next ejection ends, or NEVER_NS.
        self.wake_ns = NEVER_NS

    def __repr__(self) -> str:
        return f"<SlowReplicas: {self.out} of {len(self._replicas)} out>"

    @property
    def out(self) -> int:
        """Replicas ejected or on probation."""
        return sum(replica.out for replica in self._replicas.values())

    def credits_max(self, replica_id: int) -> int | None:
        """How many micro-batches the replica may hold; None: as many as it offers."""
        replica = self._replicas.get(replica_id)
        if replica is None or not replica.out:
            return None
        return 1 if replica.probing else 0

    def add(self, replica_id: int) -> None:
        """A replica came, in good standing; nothing for one that is there or paused."""
        if replica_id not in self._paused:
            self._replicas.setdefault(replica_id, _Replica())

    def pause(self, replica_id: int, now_ns: int) -> list[Verdict]:
        """A replica is not there for a while."""
        replica = self._replicas.pop(replica_id, None)
        if replica is None:
            return []
        self._paused[replica_id] = replica
        return self._hold_floor(now_ns)

    def resume(self, replica_id: int, now_ns: int) -> list[Verdict]:
        """It is there again: ejected for what is left of its time, or on probation, if it was."""
        replica = self._paused.pop(replica_id, None)
        if replica is None:
            return []
        self._replicas[replica_id] = replica
        if 0 < replica.until_ns <= now_ns:
            replica.begin_probation()
        return self._hold_floor(now_ns)

    def remove(self, replica_id: int, now_ns: int) -> list[Verdict]:
        """A replica is gone, or drains."""
        self._replicas.pop(replica_id, None)
        self._paused.pop(replica_id, None)
        return self._hold_floor(now_ns)

    def judge(self, replica_id: int, method: str, rows: int, busy_ns: int, now_ns: int) -> list[Verdict]:
        """A replica ran a micro-batch of `rows` rows in `busy_ns`."""
        replica = self._replicas.get(replica_id)
        if replica is None or busy_ns <= 0 or len(self._replicas) == 1:
            # One that is alone is compared with nobody.
            return []
        key = (method, rows.bit_length())
        usual = self._usual.get(key)
        if usual is None:
            usual = self._usual[key] = _Mean()
        time = log(busy_ns)
        if replica.out:
            # It neither sets the measure nor is judged by its past.
            return self._probed(replica_id, replica, time - usual.value, now_ns) if usual.count else []
        if usual.count:
            ratio = time - usual.value
            replica.score.add(ratio, _SCORE_WEIGHT)
            self._spread.add(ratio * ratio, _USUAL_WEIGHT)
        usual.add(time, _USUAL_WEIGHT)
        if now_ns < self._next_check_ns:
            return []
        self._next_check_ns = now_ns + CHECK_NS
        return self._check(now_ns)

    def tick(self, now_ns: int) -> list[Verdict]:
        """Replicas whose ejection is over: they may take one micro-batch."""
        if now_ns < self.wake_ns:
            return []
        verdicts = []
        for replica_id, replica in self._replicas.items():
            if 0 < replica.until_ns <= now_ns:
                replica.begin_probation()
                verdicts.append(Verdict(replica_id, 1))
        self._set_wake()
        return verdicts

    def check_invariants(self) -> None:
        """AssertionError where the floor does not hold. For tests."""
        assert self.out <= self._out_max(), self
        assert self.wake_ns == min((r.until_ns for r in self._replicas.values() if r.until_ns), default=NEVER_NS)

    # ---- judgement

    def _out_max(self) -> int:
        return int(len(self._replicas) * EJECTED_SHARE_MAX)

    def _others(self, replica_id: int) -> float | None:
        """The median score of the others in good standing; None where nobody is known well enough."""
        scores = [
            other.score.value
            for other_id, other in self._replicas.items()
            if other_id != replica_id and not other.out and other.score.count >= SAMPLES_MIN
        ]
        return median(scores) if scores else None

    def _check(self, now_ns: int) -> list[Verdict]:
        """Eject the slowest where it is an outlier: one at a time, because the others' standing changes with it."""
        if self.out >= self._out_max():
            return []
        known = [(r.score.value, i) for i, r in self._replicas.items() if not r.out and r.score.count >= SAMPLES_MIN]
        if len(known) < 2:
            return []
        score, replica_id = max(known)
        others = self._others(replica_id)
        replica = self._replicas[replica_id]
        count = min(replica.score.count, _STEADY)
        chance = SURE * sqrt(self._spread.value * (1 / count + 1 / _STEADY))
        if others is None or score - others <= max(_SLOW, chance):
            return []
        if now_ns - replica.back_ns > FORGET_NS:
            replica.ejections = 0
        return [self._eject(replica_id, replica, score - others, now_ns)]

    def _eject(self, replica_id: int, replica: _Replica, excess: float, now_ns: int) -> Verdict:
        time_ns = min(EJECTION_NS_MAX, EJECTION_NS << min(replica.ejections, 10))
        replica.ejections += 1
        replica.probing = False
        replica.until_ns = now_ns + time_ns
        replica.score.value = excess
        self._set_wake()
        return Verdict(replica_id, 0, exp(excess), replica.until_ns)

    def _probed(self, replica_id: int, replica: _Replica, ratio: float, now_ns: int) -> list[Verdict]:
        if not replica.probing:
            return []
        others = self._others(replica_id)
        if others is not None and ratio - others > _SLOW:
            return [self._eject(replica_id, replica, ratio - others, now_ns)]
        replica.probes_good += 1
        return [self._readmit(replica_id, replica, now_ns)] if replica.probes_good >= PROBES else []

    def _readmit(self, replica_id: int, replica: _Replica, now_ns: int) -> Verdict:
        """Back in good standing, to be judged by what it does from now on."""
        replica.back_ns = now_ns
        replica.probing = False
        replica.until_ns = 0
        replica.score = _Mean()
        self._set_wake()
        return Verdict(replica_id, None)

    def _hold_floor(self, now_ns: int) -> list[Verdict]:
        verdicts = []
        while self.out > self._out_max():
            out = [(replica.score.value, i) for i, replica in self._replicas.items() if replica.out]
            _, replica_id = min(out)
            verdicts.append(self._readmit(replica_id, self._replicas[replica_id], now_ns))
        self._set_wake()
        return verdicts

    def _set_wake(self) -> None:
        self.wake_ns = min((r.until_ns for r in self._replicas.values() if r.until_ns), default=NEVER_NS)
