"""Refresh and reconfigure as commands of the control plane: whoever asks the supervisor, it tells every replica once.

One replica after another, so that they do not all read their files at the same time; one that takes more than its
share of the time does not keep the next from beginning. What takes a dead replica's place opens the files as they are,
and has the configuration that was taken last. The first replica that refuses a configuration is the last that is asked.
A command is answered once, when all have said something, or with what is known when its time is up. Configurations of
one deployment are taken one after another: two at once would reach its replicas in different orders.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.refreshing import Refreshed, RefreshOutcome
from flightserve.control.messages import CommandResult, Reconfigure, Refresh, RefreshAnswer, RefreshReport
from flightserve.control.observer import ask, connect
from flightserve.errors import FlightserveError, NotFound, ProtocolError, ResourceExhausted, Unavailable, kind_of
from flightserve.errors import from_kind as error_of

# Commands under way at a time, and how long one may take whatever its caller allows.
REFRESHES_MAX: Final = 16
REFRESH_S_MAX: Final = 3600.0
CONNECT_TIMEOUT_S: Final = 5.0
# The supervisor answers by the deadline; so much later its word is not waited for any more.
ANSWER_GRACE_S: Final = 2.0

Reply = Callable[[CommandResult | RefreshAnswer], None]
ReplicaCommand: TypeAlias = Refresh | Reconfigure


@dataclass(slots=True)
class _Command:
    """One command. Replicas by id, with their names: those that are to be told, and those that have not answered.
    At `next_ns` the next is told, answered or not. `asked` are all that are told at some time."""

    message: ReplicaCommand
    deadline_ns: int
    reply: Reply
    waiting: dict[int, str]
    told: dict[int, str] = field(default_factory=dict)
    said: list[Refreshed] = field(default_factory=list)
    asked: frozenset[int] = frozenset()
    next_ns: int = 0


class Refreshes:
    """The commands under way, as the supervisor sees them through. `tell` sends a message to a child, and says whether
    that is connected; `taken` hears which replica took which configuration, and which are told by this command. Time
    is given, in monotonic ns."""

    def __init__(
        self,
        tell: Callable[[int, ReplicaCommand], bool],
        taken: Callable[[int, Reconfigure, frozenset[int]], None] = lambda *_: None,
    ) -> None:
        self._tell = tell
        self._taken = taken
        self._commands: dict[str, _Command] = {}

    def __repr__(self) -> str:
        return f"<Refreshes {len(self._commands)} under way>"

    def ask(
        self, message: ReplicaCommand, serving: Mapping[int, str], starting: Iterable[int], reply: Reply, now_ns: int
    ) -> None:
        """Begin; `reply` is called once. `serving` are the deployment's replicas by id, with their names. Those that
        are `starting` may have opened the files before they were changed: they are told to look as well, and nobody
        waits. The configuration that is taken they get by `taken`."""
        if len(self._commands) >= REFRESHES_MAX or message.id in self._commands:
            reply(_refusal(message, ResourceExhausted(f"{len(self._commands)} commands are under way; try again")))
            return
        if not serving:
            reply(_refusal(message, Unavailable(f"no replica of {message.deployment!r} serves now; ask again")))
            return
        deadline_ns = now_ns + int(min(message.timeout_s, REFRESH_S_MAX) * NS_PER_S)
        command = _Command(message, deadline_ns, reply, dict(serving), asked=frozenset(serving))
        self._commands[message.id] = command
        if isinstance(message, Refresh):
            for peer_id in starting:
                self._tell(peer_id, message)
        self._advance(command, serving, now_ns)

    def looked(self, peer_id: int, message: RefreshReport, alive: Container[int], now_ns: int) -> None:
        """A replica answered. What nobody waits for any more is passed over."""
        command = self._commands.get(message.id)
        name = None if command is None else command.told.pop(peer_id, None)
        if command is not None and name is not None:
            # It is called what it is called where it does not answer.
            command.said.append(msgspec.structs.replace(message.said, replica=name))
            if isinstance(command.message, Reconfigure) and message.said.outcome is RefreshOutcome.RECONFIGURED:
                self._taken(peer_id, command.message, command.asked)
            self._advance(command, alive, now_ns)

    def step(self, alive: Container[int], now_ns: int) -> None:
        """Time passed, or somebody left."""
        for command in list(self._commands.values()):
            # One that ends lets others go on, which may end as well.
            if command.message.id in self._commands:
                self._advance(command, alive, now_ns)

    def _advance(self, command: _Command, alive: Container[int], now_ns: int) -> None:
        for peers in (command.told, command.waiting):
            for peer_id in [peer_id for peer_id in peers if peer_id not in alive]:
                problem = "it ended; what takes its place starts anew"
                command.said.append(Refreshed(peers.pop(peer_id), RefreshOutcome.FAILED, 0, problem))
        if now_ns >= command.deadline_ns:
            late = [*command.told.values(), *command.waiting.values()]
            command.said += [Refreshed(name, RefreshOutcome.LATE, 0, "it did not answer in time") for name in late]
            command.told, command.waiting = {}, {}
        elif isinstance(command.message, Reconfigure) and (refused := _refused(command.said)):
            problem = f"it was not told, because {refused} refused"
            command.said += [Refreshed(name, RefreshOutcome.FAILED, 0, problem) for name in command.waiting.values()]
            command.waiting = {}
        elif command.waiting and (not command.told or now_ns >= command.next_ns) and self._is_its_turn(command):
            self._tell_next(command, now_ns)
        if not command.told and not command.waiting:
            del self._commands[command.message.id]
            command.reply(RefreshAnswer(command.message.id, tuple(command.said)))
            if isinstance(command.message, Reconfigure):
                self.step(alive, now_ns)

    def _is_its_turn(self, command: _Command) -> bool:
        message = command.message
        if not isinstance(message, Reconfigure):
            return True
        all_of_them = (each.message for each in self._commands.values() if isinstance(each.message, Reconfigure))
        return message is next(each for each in all_of_them if each.deployment == message.deployment)

    def _tell_next(self, command: _Command, now_ns: int) -> None:
        left_ns = command.deadline_ns - now_ns
        message = msgspec.structs.replace(command.message, timeout_s=left_ns / NS_PER_S)
        # One whose connection broke makes another soon.
        peer_id = next((peer_id for peer_id in command.waiting if self._tell(peer_id, message)), None)
        if peer_id is not None:
            command.told[peer_id] = command.waiting.pop(peer_id)
            command.next_ns = now_ns + left_ns // (len(command.waiting) + 1)


def _refused(said: Iterable[Refreshed]) -> str:
    """The first that refused, by its name; "" where none did."""
    return next((each.replica for each in said if each.outcome is RefreshOutcome.FAILED), "")


def _refusal(message: ReplicaCommand, error: FlightserveError) -> CommandResult:
    return CommandResult(message.id, kind_of(error), error.message)


def ask_refresh(path: str, deployment: str, deadline_ns: int) -> tuple[Refreshed, ...]:
    """Have every replica of the deployment look at its files (`contracts.refreshing.Refresh`); `path` is the
    supervisor's socket."""
    left_s = min(REFRESH_S_MAX, max(0.0, (deadline_ns - monotonic_ns()) / NS_PER_S))
    message = Refresh(secrets.token_hex(8), deployment, left_s)
    until = time.monotonic() + left_s + ANSWER_GRACE_S
    try:
        sock, _ = connect(path, CONNECT_TIMEOUT_S)
        with sock:
            answer = ask(sock, message, (CommandResult, RefreshAnswer), until)
    except (OSError, NotFound, ProtocolError) as error:
        raise Unavailable("the app's supervisor gave no answer; some replicas may have looked; ask again") from error
    if isinstance(answer, CommandResult):
        raise error_of(answer.kind, answer.message)
    assert isinstance(answer, RefreshAnswer)
    return answer.said
