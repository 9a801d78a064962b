"""A region that is passed on, through any number of stages that end in any way, is freed once and never while read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from flightserve.core.memory.leases import Hold, Leases


class Region(Hold):
    """Knows who reads it, by other means than counting."""

    def __init__(self, number: int) -> None:
        super().__init__(1)
        self.number = number
        self.readers: Counter[Any] = Counter()
        self.times_freed = 0

    def freed(self) -> None:
        assert not self.readers, f"region {self.number} is freed and read by {self.readers}"
        self.times_freed += 1

    def reads(self, who: Any) -> None:
        self.readers[who] += 1

    def ends(self, who: Any) -> None:
        self.readers -= Counter([who])


class Process:
    """What a router keeps of one: micro-batches that it runs, and what it was granted."""

    def __init__(self) -> None:
        self.running: list[Region] = []
        self.leases: Leases[int, Region] = Leases()
        self.granted: list[Region] = []


class Stages(RuleBasedStateMachine):
    """Requests are lists of one region; processes take them, pass their regions on, answer, keep, release, die."""

    def __init__(self) -> None:
        super().__init__()
        self.regions: list[Region] = []
        self.requests: list[Region] = []
        self.processes = [Process() for _ in range(3)]

    def new(self) -> Region:
        self.regions.append(Region(len(self.regions)))
        return self.regions[-1]

    def begin(self, region: Region) -> None:
        region.reads("request")
        self.requests.append(region)

    def end(self, region: Region) -> None:
        """As `Dispatcher._settle`."""
        self.requests.remove(region)
        region.ends("request")
        region.drop()

    def grant(self, process: Process, region: Region) -> None:
        region.reads(process)
        process.granted.append(region)
        process.leases.grant(region.number, region)

    @rule()
    def a_caller_submits(self) -> None:
        self.begin(self.new())

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def a_request_is_dispatched(self, data: st.DataObject) -> None:
        process, region = data.draw(st.sampled_from(self.processes)), data.draw(st.sampled_from(self.requests))
        region.refs += 1
        region.reads(process)
        process.running.append(region)

    @rule(data=st.data())
    def what_a_process_was_given_is_passed_on(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.processes))
        found = [process.leases.find(region.number) for region in self.regions]
        given = [*process.running, *(region for region in found if region is not None)]
        if given:
            region = data.draw(st.sampled_from(given))
            assert not region.times_freed
            region.refs += 1
            self.begin(region)

    @rule(data=st.data(), handed_back=st.booleans(), keeps=st.booleans())
    def a_micro_batch_ends(self, data: st.DataObject, handed_back: bool, keeps: bool) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.running] or [None]))
        if process is None:
            return
        if handed_back and process.granted:
            answer = data.draw(st.sampled_from(process.granted))
            answer.refs += 1
        else:
            answer = self.new()
        answer.reads("answer")
        self.grant(data.draw(st.sampled_from(self.processes)), answer)
        answer.ends("answer")
        answer.drop()
        region = process.running.pop(0)
        if keeps:
            process.granted.append(region)
            process.leases.take_over(region.number, region)
        else:
            region.ends(process)
            region.drop()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def a_request_has_its_outcome(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.requests)))

    @rule(data=st.data())
    def a_process_lets_go(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.granted] or [None]))
        if process is not None:
            region = process.granted.pop()
            region.ends(process)
            process.leases.release(region.number)

    @rule(data=st.data())
    def a_process_dies(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.processes))
        self.die(process)

    def die(self, process: Process) -> None:
        ended = [*process.running, *process.granted]
        for region in ended:
            region.ends(process)
        for region in process.running:
            region.lose()
        process.leases.end()
        process.running, process.granted = [], []
        assert all(region.lost for region in ended)

    def teardown(self) -> None:
        for process in self.processes:
            self.die(process)
        while self.requests:
            self.end(self.requests[0])
        assert [region.times_freed for region in self.regions] == [1] * len(self.regions)


TestStages = Stages.TestCase
