"""A simulated world around a real router without its sockets: pipelines whose stages die, stream, refuse and move.

What is real is all of the router but its loop: its handlers, machines, connections and holds. Callers and replicas are
made of frames. Every region has its rows on record (which request, which row, how many stages), so that the world knows
whether a region that is named may still be read, and whether an answer is the caller's own. Time and chance are the
seed's.
"""

from __future__ import annotations

import collections
import os
import random
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from flightserve import errors
from flightserve.config import FabricLimits
from flightserve.core.routing.events import Tick
from flightserve.fabric.memory.segments import OwnedSegment
from flightserve.router import service as service_module
from flightserve.router.links import PeerLink
from flightserve.router.service import _HANDLERS, RouterService
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from flightserve.wire import frames
from flightserve.wire.table import Entry, RoutingTable
from tests.sim.fake_channel import FakeChannel

MS = 1_000_000
HERE, ELSEWHERE = 1, 2
SEGMENT_BYTES = 1 << 24
FAILED = errors.KINDS.index(errors.MethodFailed)
UNAVAILABLE = errors.KINDS.index(errors.Unavailable)
KNOWN_SCHEMAS = (5, 6)
METHODS = (
    MethodSpec("plain"),
    MethodSpec("once", idempotent=False),
    MethodSpec("filter", row_aligned=False),
    MethodSpec("same"),
    MethodSpec("stream", row_aligned=False, streaming=True),
)

# Request, row, stages gone through.
Row = tuple[int, int, int]
Key = tuple[int, int, int]


class Broken(AssertionError):
    """The router did what it must not."""


class Asked(NamedTuple):
    """A request as its caller sent it last."""

    rows: list[Row]
    then: list[frames.NextCall]
    stage: int
    part: frames.Part
    method: str
    key: Key


class Process:
    """A peer: its segment, what it wrote there, and what it was sent."""

    def __init__(self, world: ChainWorld, tier: str, deployment: str = "", lanes: int = 0) -> None:
        self.id = world.next_id()
        self.world = world
        self.alive = True
        self.deployment = deployment
        self.memory = OwnedSegment(1, SEGMENT_BYTES)
        self.offset = 0
        self.links = [world.connect(self, tier, deployment, main) for main in [True] + [False] * lanes]
        self.main = self.links[0]
        for lane in self.links[1:]:
            world.service._deployments.house(lane, world.now_ns)

    def write(self, rows: list[Row], schema_id: int) -> frames.Region:
        """A region of its own; no offset is used twice, so that a release can be of one thing only."""
        region = frames.Region(self.id, 1, self.offset, 64 + 8 * len(rows), schema_id)
        self.offset += 1 << 12
        self.world.regions[key_of(region)] = list(rows)
        self.world.out[key_of(region)] += 1
        self.world.came.update({number: stages for number, _, stages in rows})
        return region


def key_of(region: frames.Region) -> Key:
    return region.owner, region.segment, region.offset


class ChainWorld:
    """Runs one seed."""

    def __init__(self, seed: int, router: str = "fifo", monkey: Any = None) -> None:
        self.random = random.Random(seed)
        self.now_ns = 1_000 * MS
        monkey.setattr(service_module, "monotonic_ns", lambda: self.now_ns)
        self._ids = 100
        self.service = RouterService(HERE, "", FabricLimits())
        self.service._acceptor = _Doorman()  # type: ignore[assignment]
        self.regions: dict[Key, list[Row]] = {}
        # Regions that their owner keeps for the router, and how often.
        self.out: collections.Counter[Key] = collections.Counter()
        self.kept: collections.Counter[tuple[PeerLink, Key]] = collections.Counter()
        self.leased: collections.Counter[tuple[PeerLink, Key]] = collections.Counter()
        self.asked: dict[tuple[int, int], Asked] = {}
        # Of those, the ones that go on and have not been sent.
        self.unsent: set[int] = set()
        # How many stages a request has been through.
        self.came: dict[int, int] = {}
        self.received: dict[tuple[int, int], list[Row]] = {}
        self.running: list[tuple[Process, PeerLink, frames.Execute]] = []
        self.streams: set[tuple[PeerLink, int]] = set()
        self.endings: collections.Counter[str] = collections.Counter()
        self.processes: list[Process] = []
        self.callers: list[Process] = []
        self.deferred: list[Callable[[], None]] = []
        options = DeploymentOptions(router=router, max_batch_rows=8, max_queued_requests=6)
        self.versions = dict.fromkeys("ABC", 1)
        self.specs = {name: DeploymentSpec(name, "1", options, METHODS) for name in "ABCD"}
        self.table_version = 0
        self.publish()
        self.callers = [Process(self, "frontend") for _ in range(2)]
        self.processes += self.callers
        for name in "ABC":
            self.start_replica(name)

    # ---- the shell that is not there

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def connect(self, process: Process, tier: str, deployment: str, main: bool) -> PeerLink:
        sock, other = socket.socketpair()
        other.close()
        link = self.service._connections.add(sock, process.id)
        link.channel = FakeChannel(sock)  # type: ignore[assignment]
        hello = frames.Hello(1, process.id, tier, main, deployment, 0 if main else 2, process.id, self.table_version, 1)
        self.service._peers.greet(link, hello)
        link._add_segment(frames.Segment(process.id, 1, SEGMENT_BYTES), os.dup(process.memory.fd))
        return link

    def publish(self) -> None:
        self.table_version += 1
        entries = [Entry(spec, HERE if spec.name != "D" else ELSEWHERE, 1, 1, 1) for spec in self.specs.values()]
        self.service._apply(RoutingTable(self.table_version, deployments=tuple(entries)))
        self.settle()

    def handle(self, link: PeerLink, frame: frames.Frame) -> None:
        if not link.channel.closed:
            _HANDLERS[type(frame)](self.service, link, frame, self.now_ns)
        self.settle()

    def settle(self) -> None:
        """Ticks that are due, then all frames to those they are for."""
        for dispatcher in list(self.service._deployments):
            if dispatcher.machine.next_wake_ns <= self.now_ns:
                dispatcher.handle(Tick(), self.now_ns)
            dispatcher.machine.check_invariants()
        self.service._deployments.see_off(self.now_ns)
        live = sum(dispatcher.machine.live for dispatcher in self.service._deployments)
        known = sum(len(link.requests) for link in self.service._connections)
        if live != known or self.service._deployments.through:
            raise Broken(f"{live} requests are in machines, {known} with their callers")
        for link in self.service._connections:
            self.service._flush(link, lazily=True)
        self.service._deployments.dirty.clear()
        # Outcomes first: what is released with them may be written again.
        for process in sorted(self.processes, key=lambda each: each not in self.callers):
            for link in process.links:
                sent, link.channel.sent = link.channel.sent, []  # type: ignore[attr-defined]
                for frame in sent:
                    self.receive(process, link, frame)

    def kill(self, process: Process) -> None:
        process.alive = False
        self.processes.remove(process)
        self.running = [each for each in self.running if each[0] is not process]
        self.service._drop(process.main, None, why="its process died")
        for link in process.links:
            for key in [key for key in self.leased if key[0] is link]:
                del self.leased[key]
        for key in [key for key in self.out if key[0] == process.id]:
            del self.out[key]
        for asked in [asked for asked in self.asked if asked[0] == process.id]:
            del self.asked[asked]
        self.settle()

    # ---- what peers are sent

    def receive(self, process: Process, link: PeerLink, frame: Any) -> None:
        if isinstance(frame, frames.Release):
            for key in frame.regions:
                self.release(process, key)
        elif isinstance(frame, frames.Execute):
            for region in frame.regions:
                self.check_readable(region, "a micro-batch")
            self.running.append((process, link, frame))
        elif isinstance(frame, (frames.Results, frames.Partway)):
            self.take(process, link, frame)
        elif isinstance(frame, frames.Outcome):
            asked = self.asked.pop((process.id, frame.request_id))
            self.received.pop((process.id, frame.request_id), None)
            kind = errors.KINDS[frame.kind]
            self.endings[kind.__name__] += 1
            if asked.stage and not frame.message.startswith(("stage ", "the rows that were passed on")):
                raise Broken(f"an error that names no stage: {frame.message}")
        elif isinstance(frame, frames.Moved):
            for request_id in frame.request_ids:
                asked = self.asked.pop((process.id, request_id))
                if asked.rows and self.came.get(request_id, 0) > asked.rows[0][2]:
                    raise Broken(f"{asked} is to be asked anew, and went through a stage")
                self.endings["moved"] += 1
        for key in getattr(frame, "released", ()):
            self.release(process, key)

    def release(self, process: Process, key: Key) -> None:
        if key[0] != process.id or self.out[key] <= 0:
            raise Broken(f"region {key} was released, which {process.id} does not keep")
        if self.out[key] == 1 and any(asked.key == key for asked in self.asked.values()):
            raise Broken(f"region {key} was released before the request that was sent with it has its outcome")
        self.out[key] -= 1

    def check_readable(self, region: frames.Region, what: str) -> None:
        key = key_of(region)
        owner = next((each for each in self.processes if each.id == region.owner), None)
        if owner is not None and self.out[key] <= 0:
            raise Broken(f"{what} names region {key}, which its owner may have written again")

    def take(self, process: Process, link: PeerLink, frame: frames.Results | frames.Partway) -> None:
        ended: list[tuple[int, Asked]] = []
        if frame.region is not None:
            self.check_readable(frame.region, "an answer")
            self.leased[link, key_of(frame.region)] += 1
        for item in frame.items:
            number = process.id, item.request_id
            rows = self.regions[key_of(frame.region)] if frame.region is not None else []
            got = self.received.setdefault(number, [])
            got += rows[item.row_offset : item.row_offset + item.rows]
            if item.last:
                ended.append((item.request_id, self.asked.pop(number)))
        ahead = frame.ahead if isinstance(frame, frames.Partway) else 0
        for request_id, asked in ended:
            rows = self.received.pop((process.id, request_id))
            self.check_answer(asked, rows, len(asked.then) - ahead)
            self.endings["partway" if ahead else "ok"] += 1
            if ahead and self.random.random() < 0.7:
                mine = [item for item in frame.items if item.request_id == request_id]
                assert frame.region is not None
                self.go_on(process, link, asked, rows, ahead, frame.region, mine[0])
        if frame.region is not None and self.random.random() < 0.8:
            self.give_back(link, key_of(frame.region))

    def check_answer(self, asked: Asked, got: list[Row], calls: int) -> None:
        """Its own rows, in order, each through so many more stages than it had been."""
        made = [asked.method, *[call.method for call in asked.then[:calls]]]
        hops = len(made) - made.count("same")
        wanted = [(number, row, before + hops) for number, row, before in asked.rows]
        if "filter" in made:
            wanted = [row for row in wanted if row in got]
        if got != wanted:
            raise Broken(f"{asked} was answered by {got}")

    def give_back(self, link: PeerLink, key: Key) -> None:
        if self.leased[link, key] > self.kept[link, key] and not link.channel.closed:
            self.leased[link, key] -= 1
            self.deferred.append(lambda: self.handle(link, frames.Release([key])))

    # ---- what peers do

    def start_replica(self, name: str) -> None:
        self.processes.append(Process(self, "replica", self.specs[name].key, lanes=2))
        self.settle()

    def submit(self) -> None:
        rng = self.random
        caller = rng.choice(self.callers)
        length = rng.choice([0, 1, 1, 2, 3])
        calls = [self.next_call(rng.choice("AABBCCD"), last=at == length) for at in range(length + 1)]
        first, *then = calls
        if first.deployment.startswith("D"):
            first.deployment = self.specs["A"].key
        count = rng.choice([1, 1, 1, 3])
        numbers = [self.next_id() for _ in range(count)]
        sizes = [rng.choice([0, 1, 1, 3, 20]) for _ in numbers]
        rows = [(number, row, 0) for number, size in zip(numbers, sizes, strict=True) for row in range(size)]
        region = caller.write(rows, rng.choice(KNOWN_SCHEMAS))
        parts, offset = [], 0
        for number, size in zip(numbers, sizes, strict=True):
            deadline_ns = self.now_ns + rng.choice([20, 500, 5_000, 60_000]) * MS
            part = frames.Part(number, offset, size, deadline_ns, rng.choice([0, 0, 3]))
            parts.append(part)
            own = rows[offset : offset + size]
            self.asked[caller.id, number] = Asked(own, then, 1 if then else 0, part, first.method, key_of(region))
            offset += size
        frame = frames.Submit(first.deployment, first.method, region, parts, 1, then=then, stage=1 if then else 0)
        self.handle(caller.main, frame)

    def next_call(self, name: str, last: bool) -> frames.NextCall:
        method = self.random.choice(["plain", "same", "once", "filter", "stream" if last else "plain"])
        if self.random.random() < 0.03:
            method = "stream"
        taken = self.random.choice([[], [], [KNOWN_SCHEMAS[0]]])
        return frames.NextCall(self.specs[name].key, method, taken)

    def go_on(
        self,
        process: Process,
        link: PeerLink,
        asked: Asked,
        rows: list[Row],
        ahead: int,
        region: frames.Region,
        item: frames.Item,
    ) -> None:
        """From where it came: the region is passed on, or the rows are written again."""
        call, *then = asked.then[-ahead:]
        name = call.deployment[0].replace("D", "A")
        stage = asked.stage + len(asked.then) - ahead + 1
        old = asked.part
        part = frames.Part(item.request_id, 0, len(rows), old.deadline_ns, old.priority)
        frame = frames.Submit(self.specs[name].key, call.method, region, [part], 1, then=then, stage=stage)
        whole = self.regions[key_of(region)]
        passed = bool(rows) and item.rows == len(rows) and self.random.random() < 0.5
        if passed:
            part.row_offset, frame.rows = item.row_offset, len(whole)
            # Kept until the router has seen that it is passed on, whatever else is given back.
            self.kept[link, key_of(region)] += 1
        else:
            frame.region = process.write(rows, KNOWN_SCHEMAS[0])
        self.asked[process.id, item.request_id] = Asked(rows, then, stage, part, call.method, key_of(frame.region))

        def send() -> None:
            self.unsent.discard(item.request_id)
            if process.alive:
                self.handle(process.main, frame)
                if passed:
                    self.kept[link, key_of(region)] -= 1
                    self.give_back(link, key_of(region))

        self.unsent.add(item.request_id)
        self.deferred.append(send)

    def cancel(self) -> None:
        if self.asked:
            owner, number = self.random.choice(sorted(self.asked))
            caller = next(each for each in self.callers if each.id == owner)
            self.handle(caller.main, frames.Cancel([number]))
            if (owner, number) in self.asked and number not in self.unsent:
                raise Broken(f"request {number} was given up, and lives on")

    def answer(self) -> None:
        """One micro-batch that runs is answered in one of many ways."""
        if not self.running:
            return
        rng = self.random
        place = rng.randrange(len(self.running))
        process, lane, frame = self.running[place]
        rows = self.input_of(frame)
        dead = [part for part in frame.parts if part.deadline_ns <= self.now_ns]
        streaming = frame.method == "stream"
        chance = rng.random()
        if streaming and rows[0] and chance > 0.1:
            self.stream_part(process, lane, frame, rows[0])
            return
        del self.running[place]
        kept = [at for at in range(len(frame.regions)) if rng.random() < 0.1]
        done = frames.Done(frame.batch_id, None, 0, True, kept, rng.randrange(1, 30) * MS)
        if chance < 0.06:
            self.handle(lane, frames.Failed(frame.batch_id, FAILED, "ValueError: no", True, kept))
        elif chance < 0.09 or (streaming and rows[0]):
            self.handle(lane, frames.Failed(frame.batch_id, UNAVAILABLE, "not now", streaming, kept))
        elif chance < 0.13 and not streaming and len(frame.parts) > 1 and not dead:
            done.faults = [frames.PartFault([0], FAILED, "ValueError: its own")]
            rest = list(range(1, len(frame.parts)))
            answers = [row for at in rest for row in self.apply(frame.method, rows[at])]
            region = process.write(answers, rng.choice(KNOWN_SCHEMAS))
            done.shares = [frames.Share(region, len(answers), rest)]
            self.handle(lane, done)
        elif streaming and not rows[0]:
            self.handle(lane, done)
        elif frame.method == "same" and len(frame.regions) == 1 and rng.random() < 0.8:
            self.give_back_own(process, frame, done)
            self.handle(lane, done)
        else:
            answers = [row for own in rows for row in self.apply(frame.method, own)]
            done.region, done.rows = process.write(answers, rng.choice(KNOWN_SCHEMAS)), len(answers)
            self.handle(lane, done)
        for at in kept:
            key = key_of(frame.regions[at])
            self.deferred.append(lambda key=key: process.alive and self.handle(lane, frames.Release([key])))  # type: ignore[misc]

    def give_back_own(self, process: Process, frame: frames.Execute, done: frames.Done) -> None:
        """The rows that it got, where they lie: of others, or its own from before."""
        region, counts = frame.regions[0], [part.rows for part in frame.parts]
        if region.owner == process.id:
            self.out[key_of(region)] += 1
        offsets = [part.row_offset for part in frame.parts]
        done.shares = [frames.Share(region, sum(counts), list(range(len(counts))), counts, offsets)]

    def stream_part(self, process: Process, lane: PeerLink, frame: frames.Execute, rows: list[Row]) -> None:
        """The first row that is left; with the last one the stream ends by itself, later."""
        region = process.write([(number, row, hops + 1) for number, row, hops in rows[:1]], 5)
        frame.parts[0].row_offset += 1
        frame.parts[0].rows -= 1
        self.handle(lane, frames.Done(frame.batch_id, region, 1, False))

    def input_of(self, frame: frames.Execute) -> list[list[Row]]:
        out = []
        for part in frame.parts:
            whole = self.regions[key_of(frame.regions[part.request_id])]
            own = whole[part.row_offset : part.row_offset + part.rows]
            if len(own) != part.rows:
                raise Broken(f"{part} is not within its region")
            out.append(own)
        return out

    def apply(self, method: str, rows: list[Row]) -> list[Row]:
        if method == "same":
            return rows
        kept = rows[: len(rows) // 2] if method == "filter" else rows
        return [(number, row, hops + 1) for number, row, hops in kept]

    def replace(self) -> None:
        """A deployment's next version: what waits for the one before is given back."""
        name = self.random.choice("ABC")
        self.versions[name] += 1
        before = self.specs[name]
        self.specs[name] = DeploymentSpec(name, str(self.versions[name]), before.options, METHODS)
        self.publish()
        self.start_replica(name)

    def replica_dies(self) -> None:
        process = self.random.choice([each for each in self.processes if each not in self.callers])
        name = process.deployment[0]
        self.kill(process)
        if not any(each.deployment == self.specs[name].key for each in self.processes):
            self.start_replica(name)

    def caller_dies(self) -> None:
        caller = self.random.choice(self.callers)
        self.callers.remove(caller)
        self.kill(caller)
        self.callers.append(Process(self, "frontend"))
        self.processes.append(self.callers[-1])

    def run(self, steps: int) -> None:
        acts: list[Callable[[], None]] = [self.submit] * 30 + [self.answer] * 50 + [self.cancel] * 3
        acts += [self.replica_dies, self.replace] if self.random.random() < 0.7 else []
        for step in range(steps):
            self.now_ns += self.random.choice([0, 1, 3, 30]) * MS
            self.random.choice(acts)()
            if step % 97 == 96:
                self.caller_dies()
            self.catch_up(0.5)
        self.end()

    def catch_up(self, share: float) -> None:
        waiting, self.deferred = self.deferred, []
        for act in waiting:
            if self.random.random() < share:
                act()
            else:
                self.deferred.append(act)

    def end(self) -> None:
        """All that runs is answered, what waits expires; then nothing is held."""
        for _ in range(10_000):
            self.catch_up(1.0)
            self.answer()
            if not (self.running or self.deferred):
                break
        self.now_ns += 100_000 * MS
        self.settle()
        self.catch_up(1.0)
        while self.running:
            self.answer()
            self.catch_up(1.0)
        for (link, key), count in list(self.leased.items()):
            for _ in range(count):
                self.handle(link, frames.Release([key]))
        self.settle()
        if self.asked:
            raise Broken(f"{len(self.asked)} requests have no outcome: {list(self.asked.values())[:3]}")
        held = {key: count for key, count in self.out.items() if count}
        if held:
            raise Broken(f"{len(held)} regions were not given back: {list(held)[:5]}")

    def close(self) -> None:
        self.service._connections.close()
        self.service._epoll.close()
        self.service._mailbox.close()


class _Doorman:
    def stop_waiting_for(self, link: PeerLink) -> None:
        """Everybody has greeted."""
