"""Joins and switches: what comes out of them, and what is refused, when they are made and when they run."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.declare.stages import DEPTH_MAX, STAGES_MAX
from flightserve.errors import ConfigError, InvalidArgument, MethodFailed, SchemaMismatch
from flightserve.pipelines.keys import case_of, keys_fit
from flightserve.pipelines.running import Combine
from flightserve.testing import LocalService
from tests.plane import plane

KIND = pa.schema([("kind", pa.string()), ("x", pa.int64())])


@fs.deployment
class Stages:
    """Each method says by its name what it answers."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def a(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen.append(batch["x"].to_pylist())
        return pa.record_batch({"p": pc.multiply(batch["x"], 10)})

    def b(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"p": pc.multiply(batch["x"], 100)})

    def fractions(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"p": pc.add(pc.cast(batch["x"], pa.float64()), 0.5)})

    def texts(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"p": ["text"] * batch.num_rows})

    def other(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"q": batch["x"]})

    @fs.method(row_aligned=False)
    def first(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"q": batch["x"].slice(0, 1)})

    @fs.method(row_aligned=False)
    def walk(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("bad value")

    @fs.method(input=KIND, output=pa.schema([("p", pa.int64())]))
    def typed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"p": batch["x"]})

    @fs.method(input=KIND, output=pa.schema([("p", pa.float64())]))
    def typed_double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"p": pc.cast(batch["x"], pa.float64())})

    @fs.method(output=pa.schema([("kind", pa.int64())]))
    def numbers(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"kind": batch["x"]})


stages = fs.bind(Stages)
ROWS = pa.record_batch({"kind": ["a", "b", None, "a", "z", "b"], "x": [1, 2, 3, 4, 5, 6]})


def together(one: pa.RecordBatch, other: pa.RecordBatch) -> dict[str, Any]:
    assert fs.context().request_id is not None
    return {"sum": pc.add(one["p"], other["q"])}


def counted(batches: list[pa.RecordBatch]) -> dict[str, Any]:
    return {"rows": [batch.num_rows for batch in batches]}


async def awaited(one: pa.RecordBatch, other: pa.RecordBatch) -> pa.RecordBatch:
    return other


def fails(*batches: pa.RecordBatch) -> pa.RecordBatch:
    raise KeyError("nothing there")


def refuses(*batches: pa.RecordBatch) -> pa.RecordBatch:
    raise fs.InvalidArgument("not these")


def one_row(one: pa.RecordBatch, other: pa.RecordBatch) -> pa.RecordBatch:
    return one.slice(0, 1)


def three(one: Any, two: Any, three: Any) -> Any:
    return one


GRAPHS: dict[str, Any] = {
    "columns": fs.join(stages.a, stages.other),
    "nested": stages.same >> fs.join(fs.join(stages.a, stages.other), stages.same),
    "summed": fs.join(stages.a, stages.other, combine=together),
    "summed-on": fs.join(stages.a, stages.other, combine=together) >> stages.same,
    "counted": fs.join(stages.a, stages.first, combine=counted),
    "awaited": fs.join(stages.a, stages.other, combine=awaited),
    "unequal": fs.join(stages.a, stages.first),
    "repeated": fs.join(stages.a, stages.b),
    "combine-fails": fs.join(stages.a, stages.other, combine=fails),
    "combine-refuses": fs.join(stages.a, stages.other, combine=refuses),
    "branch-fails": fs.join(stages.a, stages.boom),
    "kinds": fs.switch("kind", {"a": stages.a, "b": stages.b}, default=stages.fractions),
    "whole": fs.switch("kind", {"a": stages.a, "b": stages.b}, default=stages.a),
    "no-default": fs.switch("kind", {"a": stages.a, "b": stages.b}),
    "later": stages.same >> fs.switch("kind", {"a": stages.a}) >> stages.same,
    "texts": fs.switch("kind", {"a": stages.a, "b": stages.texts}, default=stages.a),
    "names": fs.switch("kind", {"a": stages.a, "b": stages.other}, default=stages.a),
    "case-fails": fs.switch("kind", {"a": stages.boom}, default=stages.a),
    "numbers": fs.switch("kind", {1: stages.a}, default=stages.b),
    "made-numbers": stages.same >> fs.switch("kind", {1: stages.a}, default=stages.b),
    "fewer": fs.switch("kind", {"a": fs.join(stages.a, stages.other, combine=one_row)}, default=stages.a),
    "in-branches": fs.join(fs.switch("kind", {"a": stages.a}, default=stages.b) >> stages.same, stages.other),
}


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    with LocalService(fs.App(*[fs.pipeline(name, graph) for name, graph in GRAPHS.items()])) as service:
        yield service


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("columns", {"p": [10, 20, 30, 40, 50, 60], "q": [1, 2, 3, 4, 5, 6]}),
        ("nested", {"p": [10, 20, 30, 40, 50, 60], "q": [1, 2, 3, 4, 5, 6], **ROWS.to_pydict()}),
        ("summed", {"sum": [11, 22, 33, 44, 55, 66]}),
        ("summed-on", {"sum": [11, 22, 33, 44, 55, 66]}),
        ("counted", {"rows": [6, 1]}),
        ("awaited", {"q": [1, 2, 3, 4, 5, 6]}),
        ("kinds", {"p": [10, 200, 3.5, 40, 5.5, 600]}),
        ("whole", {"p": [10, 200, 30, 40, 50, 600]}),
        ("in-branches", {"p": [10, 200, 300, 40, 500, 600], "q": [1, 2, 3, 4, 5, 6]}),
    ],
)
def test_what_comes_out(service: LocalService, name: str, answer: dict[str, Any]) -> None:
    assert service.run(name, "run", ROWS).to_pydict() == answer


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("unequal", MethodFailed, r"join\(Stages.a, Stages.first\): Stages.a answered 6 rows and Stages.first 1"),
        ("repeated", MethodFailed, r"join\(.*\): Stages.a and Stages.b both answered a column 'p'"),
        ("combine-fails", MethodFailed, r"fails, which combines join\(Stages.a, Stages.other\): KeyError: 'nothing"),
        ("combine-refuses", InvalidArgument, r"^not these"),
        ("branch-fails", MethodFailed, r"^Stages.boom: ValueError: bad value"),
        ("no-default", InvalidArgument, r"switch\('kind'\): row 2 of column 'kind' is null, which is no case"),
        ("later", InvalidArgument, r"row 1 of column 'kind' is 'b', .*; the cases: 'a'"),
        ("texts", MethodFailed, r"switch\('kind'\): Stages.a and Stages.texts answered differently"),
        ("names", MethodFailed, r"Stages.a answered the columns p, and Stages.other q"),
        ("case-fails", MethodFailed, r"^Stages.boom: ValueError"),
        ("numbers", SchemaMismatch, r"^switch\('kind'\): column 'kind' is string, and the cases are of int"),
        ("made-numbers", MethodFailed, r"^Stages.same >> switch\('kind'\): column 'kind' is string"),
        ("fewer", MethodFailed, r"switch\('kind'\): join\(.*\) got 2 rows and answered 1"),
    ],
)
def test_what_is_refused_when_it_runs(service: LocalService, name: str, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        service.run(name, "run", ROWS)
    assert type(caught.value) is kind


def test_a_switch_needs_its_column(service: LocalService) -> None:
    with pytest.raises(SchemaMismatch, match=r"switch\('kind'\): column 'kind' is missing; there are x"):
        service.run("kinds", "run", {"x": [1]})
    with pytest.raises(MethodFailed, match=r"Stages.same >> switch\('kind'\): column 'kind' is missing"):
        service.run("later", "run", {"x": [1]})
    twice = pa.RecordBatch.from_arrays([ROWS["kind"], ROWS["kind"]], names=["kind", "kind"])
    with pytest.raises(SchemaMismatch, match=r"switch\('kind'\): column 'kind' is there more than once"):
        service.run("kinds", "run", twice)


def test_types_follow_from_the_rows_that_there_are(service: LocalService) -> None:
    def kind_of(*kinds: str) -> pa.DataType:
        rows = pa.record_batch({"kind": pa.array(kinds, pa.string()), "x": pa.array(range(len(kinds)), pa.int64())})
        return service.run("kinds", "run", rows).schema.field("p").type

    assert kind_of("a", "b") == pa.int64()
    assert kind_of("z") == pa.float64()
    assert kind_of("a", "z") == pa.float64()
    assert kind_of() == pa.float64()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.join(stages.a), "two or more stages side by side"),
        (lambda: fs.join(stages.a, 3), "not int"),
        (lambda: fs.join(stages.a, stages.b, combine=3), "takes a function of batches, not int"),
        (lambda: fs.join(stages.a, stages.b, combine=three), r"three\(one: .* does not take 2 batches, nor one list"),
        (lambda: fs.switch("kind", {}), "a stage for each value"),
        (lambda: fs.switch("", {"a": stages.a}), "the name of a column"),
        (lambda: fs.switch("kind", {None: stages.a}), "null is no case"),
        (lambda: fs.switch("kind", {"a": stages.a, 1: stages.b}), "of one type, and these are str and int"),
        (lambda: fs.switch("kind", {True: stages.a, 2: stages.b}), "of one type, and these are bool and int"),
        (lambda: fs.switch("kind", {1.5: stages.a}), "the case '1.5' is float"),
        (lambda: fs.switch("kind", {"a": stages}), "Stages is a deployment; a stage is one of its methods"),
        (lambda: fs.pipeline("p", fs.join(stages.typed, stages.typed_double)), "both answer a column 'p'"),
        (
            lambda: fs.pipeline("p", fs.switch("kind", {"a": stages.typed, "b": stages.typed_double})),
            "Stages.typed and Stages.typed_double answer differently: column 'p' is int64 and double",
        ),
        (
            lambda: fs.pipeline("p", stages.numbers >> fs.switch("kind", {"a": stages.a})),
            r"Stages.numbers >> switch\('kind'\): column 'kind' is int64, and the cases are of str",
        ),
        (
            lambda: fs.pipeline("p", fs.switch("sort", {"a": stages.typed}, default=stages.typed)),
            r"switch\('sort'\) >> Stages.typed: cases get whole rows, with the column 'sort', which Stages.typed does",
        ),
        (
            lambda: fs.pipeline("p", stages.numbers >> fs.join(stages.same, stages.typed)),
            "Stages.numbers >> Stages.typed: column 'x' is missing; column 'kind' is int64, and string is taken",
        ),
        (lambda: fs.pipeline("p", fs.switch("kind", {"a": stages.first})), "Stages.first is not row-aligned"),
        (lambda: fs.pipeline("p", fs.join(stages.a, stages.walk)), "Stages.walk yields batches, which only the last"),
    ],
)
def test_what_is_refused_when_it_is_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_graph_is_bounded() -> None:
    graph = stages.same
    for _ in range(STAGES_MAX - 1):
        graph = graph >> stages.same
    fs.pipeline("p", graph)
    with pytest.raises(ConfigError, match=f"at most {STAGES_MAX} stages"):
        fs.pipeline("p", graph >> stages.same)
    deep: Any = stages.same
    for _ in range(DEPTH_MAX):
        deep = fs.switch("kind", {"a": deep})
    fs.pipeline("p", deep)
    with pytest.raises(ConfigError, match=f"at most {DEPTH_MAX} deep"):
        fs.pipeline("p", fs.switch("kind", {"a": deep}))


def test_only_what_keeps_rows_is_row_aligned() -> None:
    def aligned(graph: Any) -> bool:
        return spec_of(fs.pipeline("p", graph)).methods[0].row_aligned

    assert aligned(GRAPHS["columns"])
    assert aligned(GRAPHS["kinds"])
    # Its errors name rows of the request, which are not to be mixed with others'.
    assert not aligned(GRAPHS["no-default"])
    assert not aligned(GRAPHS["summed"])
    assert not aligned(GRAPHS["unequal"])


# ---- the cases' keys


@pytest.mark.parametrize(
    ("values", "kind", "keys", "places"),
    [
        (["a", None, "b"], pa.string(), ["b", "a"], [1, None, 0]),
        (["a", None, "b"], pa.large_string(), ["b"], [None, None, 0]),
        (["a", None, "b"], pa.string_view(), ["b"], [None, None, 0]),
        (["a", None, "b"], pa.dictionary(pa.int8(), pa.string()), ["b"], [None, None, 0]),
        ([1, 2, 3], pa.int8(), [300, 3], [None, None, 1]),
        ([1, 2, 3], pa.uint64(), [-1, 2], [None, 1, None]),
        ([True, False, None], pa.bool_(), [False], [None, 0, None]),
        ([b"a", b"b", None], pa.binary(), [b"b"], [None, 0, None]),
        ([b"a", b"b", None], pa.binary(1), [b"b", b"too long"], [None, 0, None]),
        ([b"a", b"b", None], pa.binary_view(), [b"b"], [None, 0, None]),
        ([datetime.date(2020, 1, 1), None], pa.date32(), [datetime.date(2020, 1, 1)], [0, None]),
        ([datetime.datetime(2020, 1, 1)], pa.timestamp("ns"), [datetime.datetime(2020, 1, 1)], [0]),
        ([decimal.Decimal("1.50")], pa.decimal128(5, 2), [decimal.Decimal("1.5"), decimal.Decimal("1.555")], [0]),
        ([None, None], pa.null(), ["a"], [None, None]),
        ([], pa.string(), ["a"], []),
    ],
)
def test_rows_find_their_case(values: list[Any], kind: pa.DataType, keys: list[Any], places: list[Any]) -> None:
    column = pa.array(values, kind) if not pa.types.is_dictionary(kind) else pa.array(values).dictionary_encode()
    assert keys_fit(keys, column.type)
    assert case_of(column, keys).to_pylist() == places


def test_values_of_runs_are_found_as_well() -> None:
    column = pc.run_end_encode(pa.array(["a", "a", "b", None]))
    assert keys_fit(["b"], column.type)
    assert case_of(column, ["b"]).to_pylist() == [None, None, 0, None]


def test_keys_of_another_sort_do_not_fit() -> None:
    for key, kind in ((1, pa.string()), ("a", pa.int64()), (True, pa.int8()), (1, pa.bool_()), (1, pa.float64())):
        assert not keys_fit([key], kind)


# ---- over the data plane


def test_rows_that_all_go_one_way_stay_where_they_lie() -> None:
    with plane(fs.pipeline("p", fs.switch("kind", {"a": stages.a}, default=stages.b))) as running:
        for kinds, answer in ((["a"] * 4, [0, 10, 20, 30]), (["a", "z", "a", "z"], [0, 100, 20, 300])):
            (got,) = running.call("run", pa.record_batch({"kind": kinds, "x": range(4)}))
            assert got["p"].to_pylist() == answer
            del got


def test_branches_side_by_side_over_the_data_plane() -> None:
    with plane(fs.pipeline("p", stages.same >> fs.join(stages.a, stages.other))) as running:
        (got,) = running.call("run", pa.record_batch({"x": range(4)}))
        assert got.to_pydict() == {"p": [0, 10, 20, 30], "q": [0, 1, 2, 3]}
        del got


def ends(one: pa.RecordBatch, other: pa.RecordBatch) -> Any:
    return next(iter([]))


def leaves(one: pa.RecordBatch, other: pa.RecordBatch) -> Any:
    raise SystemExit(3)


async def leaves_the_loop(one: pa.RecordBatch, other: pa.RecordBatch) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("combine", "raised"), [(ends, "StopIteration"), (leaves, "SystemExit: 3"), (leaves_the_loop, "SystemExit: 3")]
)
def test_what_combines_may_raise_what_is_no_error(combine: Callable[..., Any], raised: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        work = Combine(combine, False, threads).run([ROWS, ROWS], "join(a, b)")
        message = rf"{combine.__name__}, which combines join\(a, b\): {raised}"
        with pytest.raises(RuntimeError, match=message):
            asyncio.run(asyncio.wait_for(work, 10))


@pytest.mark.parametrize("name", ["branch-fails", "case-fails", "combine-fails", "texts"])
def test_what_fails_keeps_no_rows(name: str) -> None:
    gc.collect()
    gc.disable()
    try:
        # At its end the plane looks whether anything is leased.
        with plane(fs.pipeline("p", GRAPHS[name])) as running:
            with pytest.raises(MethodFailed) as caught:
                running.call("run", ROWS)
            caught.value.__traceback__ = None
            del caught
    finally:
        gc.enable()
