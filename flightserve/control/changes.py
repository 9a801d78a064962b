"""Changes of a running app, as the supervisor sees them through: `flightserve scale`, `flightserve deploy`.

One at a time. What it takes is `core.lifecycle.updating`; here is who asked for it, what stands in its way, and how it
ended. A change that does not come to its switch in time, or whose new replicas cannot be placed or do not start, is
taken back, and whoever asked is told why. A command that went away changes nothing about that.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flightserve.control.desired import Desired, with_replicas
from flightserve.control.messages import CommandResult, Deploy, Scale
from flightserve.control.plan import PlannedDeployment
from flightserve.control.roster import Roster
from flightserve.core.cache import LRUCache
from flightserve.core.lifecycle.reconciling import NS_PER_S
from flightserve.core.lifecycle.updating import advance, dismiss
from flightserve.declare import autoscale
from flightserve.errors import ConfigError, FlightserveError, InvalidArgument, NotFound, Unavailable, kind_of
from flightserve.types import REPLICAS_MAX, Autoscale

log = logging.getLogger("flightserve.control.changes")

# Answers kept for commands that lost the supervisor they asked and come back.
ANSWERS_MAX = 16
OK: Final = -1
WITHDRAWN: Final = "whoever asked for it does not want it any more"
IN_PLACE_HINT: Final = ". A deploy in place (--in-place) needs no room beside what is served"
UNAVAILABLE: Final = kind_of(Unavailable(""))

Reply = Callable[[CommandResult], None]


@dataclass(slots=True)
class Change:
    """One change under way. Times are monotonic ns; `switched_ns` is 0 until the switch."""

    id: str
    summary: str
    began_ns: int
    timeout_s: float
    in_place: bool = False
    switched_ns: int = 0
    withdrawn: bool = False

    def late(self, now_ns: int) -> bool:
        """More time has passed than the change was given."""
        return now_ns - self.began_ns > self.timeout_s * NS_PER_S


class Changes:
    """The change that is under way, if any. `changed` is called whenever there is another layout."""

    def __init__(self, desired: Desired, roster: Roster, drain_timeout_s: float, changed: Callable[[], None]) -> None:
        self._desired = desired
        self._roster = roster
        self._drain_timeout_s = drain_timeout_s
        self._changed = changed
        self._change: Change | None = None
        self._waiting: list[Reply] = []
        self._answers: LRUCache[str, CommandResult] = LRUCache(ANSWERS_MAX)

    def __repr__(self) -> str:
        return f"<Changes {self.progress() or 'none'}>"

    def progress(self) -> str:
        """What is being changed and how far that is, for people; "" when nothing is."""
        change, layout = self._change, self._desired.layout
        if change is None:
            return ""
        if layout.target is None:
            return f"{change.summary}: switched; what is not served any more finishes"
        ready = len(layout.fresh & self._roster.places().ready)
        return f"{change.summary}: {ready} of {len(layout.fresh)} new replicas ready"

    # ---- what is asked

    def ask(self, message: Scale | Deploy, reply: Reply, now_ns: int) -> None:
        """Begin the change; `reply` is called once, when it has ended or at once when it cannot begin. The same
        change asked for again is not another one."""
        if (answer := self._answers.get(message.id)) is not None:
            reply(answer)
            return
        if self._change is None or self._change.id != message.id:
            try:
                if not self._begin(message, now_ns):
                    reply(CommandResult(message.id, OK, "nothing to change"))
                    return
            except FlightserveError as error:
                reply(CommandResult(message.id, kind_of(error), error.message))
                return
        self._waiting.append(reply)

    def _begin(self, message: Scale | Deploy, now_ns: int) -> bool:
        """False when all is as it is asked for."""
        if self._change is not None:
            raise Unavailable(f"another change is under way ({self._change.summary}); try again when it has ended")
        if self._roster.draining or not self._roster.was_ready:
            raise Unavailable("the app is not ready yet, or not any more; try again when `flightserve status` says so")
        before = self._desired.served()
        target = _scaled(before, message) if isinstance(message, Scale) else _deployed(before, message)
        summary = "; ".join(_summary(before, target))
        if not summary:
            return False
        log.info("changing: %s", summary)
        in_place = isinstance(message, Deploy) and message.in_place
        self._desired.begin(target, in_place)
        self._change = Change(message.id, summary, now_ns, message.timeout_s, in_place)
        self._roster.change_began()
        self._changed()
        return True

    def withdraw(self, change: str, reply: Reply) -> None:
        """Take the change of that id back where it has not come to its switch. `reply` is called once, when it has
        ended in either way; at once where it is not under way. One that comes only after this does not begin."""
        if self._change is None or self._change.id != change:
            if (answer := self._answers.get(change)) is None:
                answer = CommandResult(change, UNAVAILABLE, f"not made: {WITHDRAWN}")
                self._answers.put(change, answer)
            reply(answer)
            return
        self._change.withdrawn = True
        self._waiting.append(reply)

    # ---- how it goes on

    def step(self, now_ns: int) -> None:
        """Go as far as what the supervisor sees allows."""
        change, before = self._change, self._desired.layout
        if change is None:
            return
        after = advance(before, self._roster.seen(now_ns))
        if before.target is not None and after.target is None:
            change.switched_ns = now_ns
            self._roster.switched(now_ns)
            log.info("switched: %s", change.summary)
        elif before.target is not None and (problem := self._problem(change, now_ns)):
            self._desired.take_back()
            self._end(CommandResult(change.id, UNAVAILABLE, f"taken back: {problem[0]}", problem[1]))
            return
        elif after.going and now_ns - change.switched_ns > self._drain_timeout_s * NS_PER_S:
            log.warning("requests of a version before still run after %g s; they are cut off", self._drain_timeout_s)
            after = dismiss(after)
        if after is not before:
            self._desired.move(after)
            self._changed()
        elif after.target is None and not after.going and self._complete(change, now_ns):
            self._end(CommandResult(change.id, OK, change.summary))

    def _complete(self, change: Change, now_ns: int) -> bool:
        """What was to go has gone, and what was to come is there: in place most of that starts after the switch."""
        if self._roster.surplus():
            return False
        whole = self._desired.serving().keys() <= self._roster.places().ready
        return whole or not change.in_place or change.late(now_ns)

    def stop(self) -> None:
        """The app stops, and with it what is changed: whoever waits for that need not. It is no alarm."""
        if self._change is not None:
            self._change.withdrawn = True
            self._end(CommandResult(self._change.id, UNAVAILABLE, "not made: the app stops"))

    def _problem(self, change: Change, now_ns: int) -> tuple[str, str] | None:
        """Why the change cannot be: a message and a traceback, or None."""
        if change.withdrawn:
            return WITHDRAWN, ""
        roster = self._roster
        missing = self._desired.layout.fresh - roster.places().ready
        if roster.change_failure is not None:
            return roster.change_failure
        if missing and roster.placement_problem:
            layout = self._desired.layout
            hint = "" if layout.in_place or not layout.coming else IN_PLACE_HINT
            return roster.placement_problem + hint, ""
        if change.late(now_ns):
            names = ", ".join(sorted(slot.name for slot in missing)) or "every process to hear of it"
            return f"not ready after {change.timeout_s:g} s: waiting for {names}", ""
        return None

    def _end(self, answer: CommandResult) -> None:
        if answer.kind == OK:
            log.info("changed: %s", answer.message)
        elif self._change is not None and self._change.withdrawn:
            log.info("the change was %s", answer.message)
        else:
            # The traceback, where there is one, was logged when the replica said it.
            log.error("the change was %s", answer.message)
        self._change = None
        self._roster.change_failure = None
        self._answers.put(answer.id, answer)
        waiting, self._waiting = self._waiting, []
        for reply in waiting:
            reply(answer)
        self._changed()

    # ---- for the supervisor after this one

    def state(self) -> bytes:
        """What `restore` takes."""
        return pickle.dumps((self._desired.state(), self._change, self._answers))

    def restore(self, state: bytes) -> None:
        """Go on where the supervisor before this one stopped. Only for bytes that came back from our own launcher."""
        desired, self._change, self._answers = pickle.loads(state)
        self._desired.restore(desired)


def _scaled(before: list[PlannedDeployment], message: Scale) -> list[PlannedDeployment]:
    counts = {name: asked for name, asked in message.replicas.items() if isinstance(asked, int)}
    bounds = {name: asked for name, asked in message.replicas.items() if not isinstance(asked, int)}
    _check_names(bounds, before)
    _check_counts(counts, before)
    return [_bounded(each, bounds) if each.spec.name in bounds else _counted(each, counts) for each in before]


def _counted(planned: PlannedDeployment, counts: Mapping[str, int]) -> PlannedDeployment:
    options = planned.spec.options
    return with_replicas(planned, counts.get(planned.spec.name, options.replicas), options.autoscale)


def _bounded(planned: PlannedDeployment, bounds: Mapping[str, tuple[int, int]]) -> PlannedDeployment:
    """With other bounds, and the number of now as far as these let it be. What else it follows stays as it is."""
    options = planned.spec.options
    declared, (low, high) = options.autoscale or Autoscale(1, 1), bounds[planned.spec.name]
    try:
        follows = autoscale(low, high, target_queue_ms=declared.target_queue_ms, down_after_s=declared.down_after_s)
    except ConfigError as error:
        raise InvalidArgument(f"{planned.spec.name}: {error.message}") from error
    return with_replicas(planned, min(max(low, options.replicas), high), follows)


def _deployed(before: list[PlannedDeployment], message: Deploy) -> list[PlannedDeployment]:
    target: tuple[PlannedDeployment, ...] = pickle.loads(message.deployments)
    _check_counts(message.replicas, target)
    served = {each.spec.name: each for each in before}
    return [_merged(served.get(each.spec.name), each, message.replicas) for each in target]


def _merged(before: PlannedDeployment | None, after: PlannedDeployment, replicas: Any) -> PlannedDeployment:
    """As many replicas as are asked for; else as the class newly declares; else as there are. Where their number
    follows the load, it goes on from what there are."""
    name = after.spec.name
    planned = after if before is None else _continued(before, after)
    return with_replicas(planned, replicas[name], planned.spec.options.autoscale) if name in replicas else planned


def _continued(before: PlannedDeployment, after: PlannedDeployment) -> PlannedDeployment:
    had, same = before.spec.options, before.spec.version == after.spec.version
    settings = had if before.declared == after.declared else after.spec.options
    count, follows = settings.replicas, settings.autoscale
    if follows is not None:
        # Of a new version one shows that it can start.
        count = max(follows.low if same else follows.start, min(had.replicas, follows.high))
    return with_replicas(before if same else after, count, follows)


def _check_names(names: Iterable[str], deployments: Iterable[PlannedDeployment]) -> None:
    known = sorted(each.spec.name for each in deployments)
    for name in names:
        if name not in known:
            raise NotFound(f"no deployment {name!r}; there are: {', '.join(known)}")


def _check_counts(replicas: Mapping[str, int], deployments: Sequence[PlannedDeployment]) -> None:
    known = {each.spec.name: each.spec.options.autoscale for each in deployments}
    _check_names(replicas, deployments)
    for name, count in replicas.items():
        if (follows := known[name]) is not None:
            if not follows.low <= count <= follows.high:
                wider = f"{name}={min(count, follows.low)}-{max(count, follows.high)}"
                other = f"Other bounds are set by a scale to LOW-HIGH, as in {wider}"
                raise InvalidArgument(
                    f"{count} replicas of {name}: their number follows the load, from {follows}. {other}"
                )
        elif not 1 <= count <= REPLICAS_MAX:
            raise InvalidArgument(
                f"{count} replicas of {name}: it must be 1 to {REPLICAS_MAX}. A deployment goes by a deploy without it"
            )


def _summary(before: list[PlannedDeployment], after: list[PlannedDeployment]) -> Iterator[str]:
    old = {each.spec.name: each.spec for each in before}
    new = {each.spec.name: each.spec for each in after}
    for name in dict.fromkeys([*new, *old]):
        if name not in old:
            yield f"{name} comes, version {new[name].version} with {_replicas(new[name])}"
        elif name not in new:
            yield f"{name} goes"
        elif old[name].version != new[name].version:
            yield f"{name} from version {old[name].version} to {new[name].version} with {_replicas(new[name])}"
        elif old[name].options.autoscale != new[name].options.autoscale:
            follows = new[name].options.autoscale
            yield f"{name} to {follows} replicas, by the load" if follows else f"{name} to {_replicas(new[name])}"
        elif old[name].options.replicas != new[name].options.replicas:
            yield f"{name} from {old[name].options.replicas} to {_replicas(new[name])}"


def _replicas(spec: Any) -> str:
    count = spec.options.replicas
    return f"{count} replica{'s' * (count != 1)}"
