"""The processes connected to a router: which connections are whose, and whether they live.

**Sessions.** A replica's main connection begins a session, its lanes belong to one, and sessions of a process are
numbered. Lanes are given work only while the main connection of their session is there, because only that is watched.
All connections of a session end together: a replica that was silent comes back with a new session, and what it still
says of an earlier one finds its connection closed (the number is the fence; a lane of an earlier session is turned
away).

**Heartbeats.** A process that leaves one ping unanswered is looked at in /proc: if it is stopped (SIGSTOP) or gone, it
is ejected at once. One that lives and leaves `heartbeats_missed_max` unanswered is paused: it gets nothing new until it
answers. A call of C code may let none of its threads run, and what it runs is better answered late than run again or
refused; such a call may work or sleep. So silence alone ejects only who was idle for `busy_s_max` of it. Who works is
never ejected: its callers' deadlines bound what waits for it, and the supervisor puts another beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flightserve.config import FabricLimits
from flightserve.core.routing.events import Ejected, Readmitted
from flightserve.errors import ProtocolError
from flightserve.fabric.transport.processes import Industry, ProcessLook, look_at
from flightserve.wire.frames import Hello

if TYPE_CHECKING:
    from flightserve.router.links import PeerLink

log = logging.getLogger(__name__)

REPLICA = "replica"


@dataclass(slots=True, eq=False)
class PeerProcess:
    """One process: its main connection and its lanes. `paused`: it is silent, and gets nothing new."""

    id: int
    tier: str
    pid: int = 0
    node: str = ""
    session: int = 0
    main: PeerLink | None = None
    lanes: list[PeerLink] = field(default_factory=list)
    pings_open: int = 0
    industry: Industry = field(default_factory=Industry)
    paused: bool = False
    # What another node's carrier said of it last, since it answered.
    look: ProcessLook | None = None

    def __str__(self) -> str:
        return f"{self.tier} {self.id:x}"

    @property
    def links(self) -> list[PeerLink]:
        """All its connections, lanes first."""
        return self.lanes if self.main is None else [*self.lanes, self.main]


class Peers:
    """All processes connected now, by id. `unanswered` is for the loop's heartbeat."""

    def __init__(self, limits: FabricLimits) -> None:
        self._peers: dict[int, PeerProcess] = {}
        self._missed_max = limits.heartbeats_missed_max
        self._idle_beats_max = max(int(limits.busy_s_max / limits.heartbeat_s), limits.heartbeats_missed_max)

    def __iter__(self) -> Iterator[PeerProcess]:
        return iter(list(self._peers.values()))

    def __repr__(self) -> str:
        return f"<Peers: {len(self._peers)}, {sum(peer.paused for peer in self)} paused>"

    def of_process(self, node: str, pid: int) -> Iterator[PeerLink]:
        """The connections of a process, under whatever ids it has."""
        peers = (peer for peer in self._peers.values() if (peer.node, peer.pid) == (node, pid))
        return (link for peer in peers for link in peer.links)

    def superseded(self, hello: Hello) -> list[PeerLink]:
        """Connections that a Hello makes void: those of an earlier session of its process. Raises ProtocolError for a
        Hello that comes too late itself."""
        peer = self._peers.get(hello.peer_id)
        if peer is None or hello.tier != REPLICA or hello.session == peer.session:
            return []
        if hello.session < peer.session:
            raise ProtocolError(f"session {hello.session} of {peer} is over; it has begun session {peer.session}")
        return list(peer.links)

    def greet(self, link: PeerLink, hello: Hello) -> PeerProcess:
        """The connection takes its place in its process. Raises ProtocolError for one that is another's."""
        peer = self._peers.get(hello.peer_id)
        if peer is None:
            peer = self._peers[hello.peer_id] = PeerProcess(
                hello.peer_id, hello.tier, link.pid, link.node, hello.session
            )
        elif (peer.node, peer.pid) != (link.node, link.pid):
            raise ProtocolError(f"process {link.pid} says that it is {peer}, which is another")
        link.greet(hello, peer)
        return peer

    def take_out_with(self, link: PeerLink, serving: bool) -> list[PeerLink]:
        """The connections that end when this one does, itself included, no longer their process's: with a main
        connection all, and with a lane that was `serving` too, because it is its process that died. A lane that was
        sent to another router, or one of a frontend's, ends by itself."""
        peer = link.peer
        if peer is None:
            return [link]
        if peer.main is link or serving:
            ending = list(peer.links)
            peer.main = None
            peer.lanes.clear()
            return ending
        if link in peer.lanes:
            peer.lanes.remove(link)
        return [link]

    def forget_if_gone(self, peer: PeerProcess | None) -> bool:
        """True where that was the process's last connection."""
        if peer is None or peer.links or self._peers.get(peer.id) is not peer:
            return False
        del self._peers[peer.id]
        return True

    def judge(self, peer: PeerProcess, now_ns: int) -> str:
        """Once a heartbeat: why the process has to be ejected, "" where it has not. May set `paused`."""
        if not peer.pings_open:
            return ""
        look = peer.look if peer.node else look_at(peer.pid)
        if look is None and not peer.node:
            return "its process is gone"
        if look is not None and look.stopped:
            return "its process is stopped"
        busy = look is not None and peer.industry.busy(look.ticks, now_ns)
        if peer.pings_open < self._missed_max:
            return ""
        if peer.pings_open >= self._idle_beats_max and not busy:
            return f"it left {peer.pings_open} heartbeats unanswered and was idle"
        if not peer.paused:
            peer.paused = True
            log.warning("%s left %d heartbeats unanswered: it gets nothing new until it answers", peer, peer.pings_open)
        return ""

    def note_answer(self, peer: PeerProcess) -> bool:
        """A heartbeat is answered; True where the process was paused until now."""
        was_paused, peer.paused = peer.paused, False
        peer.pings_open = 0
        peer.look = None
        peer.industry.rest()
        return was_paused


def log_standing(deployment: str, effect: Ejected | Readmitted) -> None:
    """A replica gets nothing for a while, or serves again."""
    if isinstance(effect, Readmitted):
        log.info("replica %x of %s serves again", effect.process, deployment)
        return
    slower = "replica %x of %s is %.1f times slower than the others; it gets nothing for a while"
    log.warning(slower, effect.process, deployment, effect.factor)
