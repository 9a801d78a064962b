"""Deployments in the place of several: each request goes one way, the same for one key, and copies harm nobody."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flightserve as fs
from flightserve import measures
from flightserve.app import App
from flightserve.declare import spec_of
from flightserve.errors import ConfigError, InvalidArgument
from flightserve.pipelines.splitting import SplitReplica
from flightserve.pipelines.versions import ways_of
from flightserve.testing import LocalService
from tests.plane import Plane, meta, plane
from tests.support import eventually

SCHEMA = pa.schema([("x", pa.int64())])


@fs.deployment
class Model:
    """Says who it is. Refuses rows below 0, where it is told to."""

    gate = threading.Event()

    def __init__(self, tag: str, refuses: bool = False, waits: bool = False) -> None:
        self.tag, self.refuses, self.waits = tag, refuses, waits
        self.got: list[int] = []

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.waits:
            self.gate.wait(60)
        self.got += batch["x"].to_pylist()
        if self.refuses and min(batch["x"].to_pylist()) < 0:
            raise InvalidArgument("no negative rows")
        return pa.record_batch({"x": batch["x"], "by": [self.tag] * batch.num_rows})

    def walk(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for value in batch["x"].to_pylist():
            yield pa.record_batch({"x": [value], "by": [self.tag]})


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_metrics", {})


def versions(**of_second: Any) -> tuple[Any, Any]:
    return Model.bind("a").options(name="v1"), Model.bind("b", **of_second).options(name="v2")  # type: ignore[attr-defined]


def counted(name: str) -> dict[tuple[str, ...], float]:
    return {values: numbers[0] for values, numbers in measures._metrics[name].family().samples}


def together(running: Plane, values: list[int], keys: list[str]) -> list[dict[str, Any] | Exception]:
    """One micro-batch of requests of a row each."""
    answers: dict[int, Any] = {}
    done = threading.Event()

    def receive(index: int, result: Any, error: Exception | None, last: bool) -> None:
        answers[index] = error if error is not None else result.batch().to_pylist()[0]
        if len(answers) == len(values):
            done.set()

    async def begin() -> None:
        parts = [(1, replace_key(meta(request_id=f"r{value}"), key)) for value, key in zip(values, keys, strict=True)]
        running.client.call_parts(running.spec.name, "predict", pa.record_batch({"x": values}), parts, receive)

    running.run(begin())
    assert done.wait(30)
    return [answers[index] for index in range(len(values))]


def replace_key(one: Any, key: str) -> Any:
    import msgspec

    return msgspec.structs.replace(one, key=key)


# ---- weights


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda each: sum(each) > 0.01), st.text(max_size=20))
def test_every_key_has_one_way_and_never_one_of_no_weight(weights: list[float], key: str) -> None:
    total = sum(weights)
    ways = ways_of({f"v{place}": weight / total for place, weight in enumerate(weights)})
    chosen = ways.choose(key, "split")
    assert weights[chosen] > 0
    assert chosen == ways.choose(key, "split")


def test_as_many_go_each_way_as_the_weights_say_and_differently_for_each_split() -> None:
    ways = ways_of({"a": 0.9, "b": 0.1})
    keys = [f"key-{number}" for number in range(20_000)]
    chosen = [ways.choose(key, "one") for key in keys]
    assert 0.09 < sum(chosen) / len(keys) < 0.11
    # Who is sent elsewhere by one split is not by another: no more than chance.
    both = sum(here and ways.choose(key, "other") for key, here in zip(keys, chosen, strict=True))
    assert both < 400


def test_a_greater_weight_moves_nobody_back() -> None:
    before, after = ways_of({"a": 0.1, "b": 0.9}), ways_of({"a": 0.3, "b": 0.7})
    keys = [str(number) for number in range(1000)]
    assert all(after.choose(key, "s") == 0 for key in keys if before.choose(key, "s") == 0)


@pytest.mark.parametrize(
    "weights",
    [{}, {"a": 0.5}, {"a": 0.9, "b": 0.2}, {"a": -0.1, "b": 1.1}, {"a": float("nan")}, {"a": "1"}, {"a": True}],
)
def test_weights_are_parts_of_a_whole(weights: Any) -> None:
    with pytest.raises(ConfigError):
        fs.split(weights)


# ---- what may be split


def test_names_models_and_bound_deployments_may_be_split_and_others_may_not() -> None:
    first, second = versions()
    assert [each.name for each in App(fs.split({first: 0.5, second: 0.5}))] == ["split", "v1", "v2"]
    assert [each.name for each in App(first, second, both=fs.split({"v1": 0.5, "v2": 0.5}))] == ["v1", "v2", "both"]
    assert [each.name for each in App(fs.shadow(first, "v2"), second)] == ["shadow", "v1", "v2"]
    behind = fs.pipeline("behind", first.predict >> second.predict)
    by_name = App(fs.split({"v1": 0.5, "v2": 0.5}), behind)
    assert sorted(each.name for each in by_name) == ["behind", "split", "v1", "v2"]
    assert sorted(each.name for each in App(behind, fs.shadow("v1", "v2"))) == ["behind", "shadow", "v1", "v2"]
    with pytest.raises(ConfigError, match="split calls 'v3', which this app does not serve; it serves split, v1"):
        App(fs.split({"v1": 0.5, "v3": 0.5}), first)
    with pytest.raises(ConfigError, match="circle"):
        App(fs.split({"split": 1.0}))
    with pytest.raises(ConfigError, match="int is no deployment"):
        fs.split({3: 1.0})
    with pytest.raises(ConfigError, match="two deployments of the split are called 'v1'"):
        fs.split({first: 0.5, "v1": 0.5})
    with pytest.raises(ConfigError, match="both called 'v1'"):
        fs.shadow(first, first)


class Other:
    def foresee(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Narrow:
    @fs.method(input=pa.schema([("y", pa.string())]), output=SCHEMA)
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Wide:
    @fs.method(input=SCHEMA, output=pa.schema([("z", pa.string())]))
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Same(Wide):
    @fs.method(input=SCHEMA, output=SCHEMA)
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def test_what_is_not_alike_is_refused_when_the_app_is_planned() -> None:
    def specs(bound: Any) -> Any:
        return [spec_of(each) for each in App(bound)]

    same, wide, narrow = fs.bind(Same), fs.bind(Wide), fs.bind(Narrow)
    assert (
        spec_of(next(iter(App(fs.split({same: 1.0}))))).methods[0].output_schema
        == spec_of(same).methods[0].output_schema
    )
    with pytest.raises(ConfigError, match="v1, Other have no method of one name"):
        specs(fs.split({versions()[0]: 0.5, fs.bind(Other): 0.5}))
    with pytest.raises(
        ConfigError, match=r"Narrow\.predict does not take the columns that Same\.predict takes: x: int64"
    ):
        specs(fs.split({same: 0.5, narrow: 0.5}))
    with pytest.raises(ConfigError, match=r"Wide\.predict answers z: string, and Same\.predict x: int64"):
        specs(fs.split({same: 0.5, wide: 0.5}))
    specs(fs.shadow(same, wide))
    with pytest.raises(ConfigError, match=r"Other serves no method 'predict'"):
        specs(fs.shadow(same, fs.bind(Other)))


# ---- requests


def test_requests_of_one_micro_batch_go_their_ways_and_come_back_in_order() -> None:
    first, second = versions()
    with plane(fs.split({first: 0.5, second: 0.5})) as running:
        values, keys = list(range(40)), [f"user-{number % 7}" for number in range(40)]
        answers = together(running, values, keys)
        assert [answer["x"] for answer in answers if isinstance(answer, dict)] == values
        by = collections.defaultdict(set)
        for key, answer in zip(keys, answers, strict=True):
            assert isinstance(answer, dict)
            by[key].add(answer["by"])
        assert all(len(each) == 1 for each in by.values())
        assert {tag for each in by.values() for tag in each} == {"a", "b"}
        sent = counted("flightserve_split_requests")
        assert sent["v1", "OK"] + sent["v2", "OK"] == 40


def test_without_a_key_the_requests_id_decides_and_weights_may_change() -> None:
    first, second = versions()
    with plane(fs.split({first: 0.5, second: 0.5})) as running:
        answers = together(running, list(range(40)), [""] * 40)
        assert {answer["by"] for answer in answers if isinstance(answer, dict)} == {"a", "b"}
        split = running.targets[0]
        split.reconfigure({"v2": 1.0})
        assert {
            answer["by"] for answer in together(running, list(range(40)), [""] * 40) if isinstance(answer, dict)
        } == {"b"}
        for config in ({"v3": 1.0}, {"v1": 0.5}):
            with pytest.raises(ConfigError):
                split.reconfigure(config)


def test_the_same_weights_in_another_order_move_nobody() -> None:
    first, second = versions()
    with plane(fs.split({first: 0.5, second: 0.5})) as running:
        split, keys = running.targets[0], [f"key-{number}" for number in range(40)]
        before = together(running, list(range(40)), keys)
        split.reconfigure({"v2": 0.5, "v1": 0.5})
        assert together(running, list(range(40)), keys) == before


def test_a_version_that_fails_fails_its_own_requests_alone() -> None:
    first, second = versions(refuses=True)
    with plane(fs.split({first: 0.5, second: 0.5})) as running:
        values = [-number for number in range(1, 21)]
        answers = together(running, values, [""] * 20)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        assert 0 < len(failed) < 20
        assert all(isinstance(each, InvalidArgument) and "v2.predict" in str(each) for each in failed)
        assert {answer["by"] for answer in answers if isinstance(answer, dict)} == {"a"}
        assert counted("flightserve_split_requests")["v2", "INVALID_ARGUMENT"] >= len(failed)


class Hanging:
    """A version whose answers never come, and whose streams are never over."""

    def __init__(self, streaming: bool) -> None:
        self.streaming = streaming
        self.ended = False

    def chain(self, _: object) -> Hanging:
        return self

    async def aio(self, *_: object) -> None:
        await asyncio.Event().wait()

    async def iterate(self, *_: object) -> AsyncIterator[int]:
        try:
            for part in range(10):
                yield part
        finally:
            self.ended = True


def test_requests_that_are_given_up_are_counted_as_that() -> None:
    measures._metrics.pop("flightserve_split_requests", None)
    way, stream = Hanging(False), Hanging(True)
    split = SplitReplica([SimpleNamespace(predict=way, walk=stream)], [1.0], named="s", names=["v1"])

    async def main() -> None:
        asking = asyncio.ensure_future(split.predict(SCHEMA.empty_table()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        parts = split.walk(SCHEMA.empty_table())
        assert await anext(parts) == 0
        await parts.aclose()

    asyncio.run(main())
    assert stream.ended
    assert counted("flightserve_split_requests") == {("v1", "CANCELLED"): 2}


def test_streams_and_stages_of_pipelines() -> None:
    first, second = versions()
    split = fs.split({first: 0.5, second: 0.5})
    with plane(split) as running:
        batches = running.call("walk", pa.record_batch({"x": [1, 2, 3]}))
        assert [batch.to_pydict()["x"] for batch in batches] == [[1], [2], [3]]
        del batches
    with LocalService(
        App(fs.pipeline("twice", split.predict >> fs.shadow("v1", "v2").predict), first, second)
    ) as service:
        assert service.run("twice", "run", {"x": [1, 2]})["x"].to_pylist() == [1, 2]


# ---- shadows


def test_a_candidate_gets_what_the_primary_gets_and_fails_nobody() -> None:
    first, second = versions(refuses=True)
    with plane(fs.shadow(first, second)) as running:
        _, primary, candidate = running.targets
        answers = together(running, [-1, 2, 3], [""] * 3)
        assert [answer["by"] for answer in answers if isinstance(answer, dict)] == ["a"] * 3
        eventually(lambda: sum(counted("flightserve_shadow_requests").values()) == 3)
        assert set(candidate.got) == set(primary.got) == {-1, 2, 3}
        assert counted("flightserve_shadow_requests") == {("INVALID_ARGUMENT",): 3}


def test_a_candidate_that_hangs_delays_nobody_and_gets_no_more_than_it_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flightserve.pipelines.splitting.COPIES_MAX", 3)
    monkeypatch.setattr(Model, "gate", threading.Event())
    first, second = versions(waits=True)
    with plane(fs.shadow(first, second)) as running:
        for value in range(10):
            assert running.call("predict", pa.record_batch({"x": [value]}))[0].to_pydict()["by"] == ["a"]
        assert counted("flightserve_shadow_requests") == {("DROPPED",): 7}
        Model.gate.set()
        eventually(lambda: counted("flightserve_shadow_requests").get(("OK",)) == 3)
        assert running.targets[2].got == [0, 1, 2]


def test_copies_are_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flightserve.pipelines.splitting.COPIES_BYTES_MAX", 100)
    first, second = versions()
    with plane(fs.shadow(first, second)) as running:
        running.call("predict", pa.record_batch({"x": list(range(100))}))
        assert counted("flightserve_shadow_requests") == {("DROPPED",): 1}
        assert running.targets[2].got == []
