"""The example's methods, called directly, against plain pyarrow; and the comparison, which must be able to fail."""

from __future__ import annotations

import pyarrow as pa
import pytest

from examples.flights import app, data, demo, reference
from examples.flights.demo import CASES, Case


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return data.read("flights")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_every_method_answers_as_plain_pyarrow_does(case: Case, flights: pa.Table) -> None:
    direct = demo.call_directly(case.method, demo.requests_for(case, flights))
    plain = case.reference(flights)
    assert demo.compare(case, direct, direct, plain) == ""


def test_distance_knows_a_distance_and_leaves_out_what_it_does_not_know() -> None:
    # BQN is not in the airports table; the second flight has no air time.
    batch = pa.RecordBatch.from_pydict(
        {"origin": ["JFK", "JFK", "JFK", None], "dest": ["LAX", "LAX", "BQN", "LAX"], "air_time": [330, None, 200, 1]},
        schema=app.DISTANCE_INPUT,
    )
    answer = app.Flights().distance(batch).to_pylist()
    assert answer[0]["distance_km"] == pytest.approx(3974, abs=15)
    assert answer[0]["speed_kmh"] == pytest.approx(answer[0]["distance_km"] / 5.5)
    assert answer[1] == {"distance_km": answer[0]["distance_km"], "speed_kmh": None}
    assert answer[2] == answer[3] == {"distance_km": None, "speed_kmh": None}


@pytest.mark.parametrize(
    ("dep_delay", "arr_delay", "verdict", "text"),
    [
        (2, 16, "late", "B67 JFK-SFO left 2 min late and arrived 16 min late."),
        (0, 15, "on time", "B67 JFK-SFO left on time and arrived 15 min late."),
        (-3, 0, "on time", "B67 JFK-SFO left 3 min early and arrived on time."),
        (-3, -1, "early", "B67 JFK-SFO left 3 min early and arrived 1 min early."),
        (5, None, "lost", "B67 JFK-SFO left 5 min late and did not arrive as planned."),
        (None, None, "cancelled", "B67 JFK-SFO never left."),
    ],
)
def test_explain(dep_delay: int | None, arr_delay: int | None, verdict: str, text: str) -> None:
    row = {"carrier": "B6", "flight": 7, "origin": "JFK", "dest": "SFO", "dep_delay": dep_delay, "arr_delay": arr_delay}
    assert app.Flights().explain(row) == {"verdict": verdict, "text": text}
    plain = reference.explain(pa.table({name: pa.array([value]) for name, value in _typed(row)}))
    assert plain.to_pylist() == [{"verdict": verdict, "text": text}]


def _typed(row: dict[str, object]) -> list[tuple[str, pa.Scalar]]:
    ints = ("flight", "dep_delay", "arr_delay")
    return [(name, pa.scalar(value, pa.int32() if name in ints else pa.string())) for name, value in row.items()]


def test_worst_streams_a_batch_for_each_month(flights: pa.Table) -> None:
    batches = list(app.Flights().worst(flights))
    assert [batch.num_rows for batch in batches] == [10] * 12
    assert [batch.column("month")[0].as_py() for batch in batches] == list(range(1, 13))


def test_a_month_without_arrivals_streams_no_rows(flights: pa.Table) -> None:
    cancelled = flights.filter(pa.compute.is_null(flights["arr_delay"])).slice(0, 5)
    assert [batch.num_rows for batch in app.Flights().worst(cancelled)] == [0]


def test_no_flights_at_all(flights: pa.Table) -> None:
    none = flights.slice(0, 0)
    assert app.Flights().carriers(none).num_rows == 0
    assert list(app.Flights().worst(none)) == []


WANTED = pa.table({"a": [1, 2, None], "x": [1.0, None, 3.0]})


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (WANTED.rename_columns(["a", "y"]), "schema"),
        (WANTED.set_column(0, "a", pa.array([1, 2, None], pa.int32())), "schema"),
        (WANTED.slice(0, 2), "2 rows instead of 3"),
        (WANTED.set_column(0, "a", pa.array([1, 2, 3])), "column a differs first at row 2: 3 instead of None"),
        (WANTED.take([1, 0, 2]), "column a differs first at row 0: 2 instead of 1"),
        (WANTED.set_column(1, "x", pa.array([1.0, 2.0, 3.0])), "column x differs first at row 1"),
        (WANTED.set_column(1, "x", pa.array([1.0, None, 3.001])), "column x differs first at row 2"),
        (WANTED.set_column(1, "x", pa.array([1.0, None, float("nan")])), "column x differs first at row 2"),
    ],
)
@pytest.mark.parametrize("relative", [0.0, 1e-6])
def test_every_kind_of_difference_is_found(got: pa.Table, said: str, relative: float) -> None:
    assert said in reference.difference(WANTED, got, relative)


def test_no_difference_within_the_tolerance() -> None:
    near = WANTED.set_column(1, "x", pa.array([1.0, None, 3.0 + 1e-9]))
    assert reference.difference(WANTED, near, 1e-6) == ""
    assert reference.difference(WANTED, near) != ""
    assert reference.difference(WANTED, WANTED.replace_schema_metadata({"made by": "somebody"})) == ""


class Planted:
    """A client that answers as the class does, but for one fault."""

    def __init__(self, spoil: object = None, error: Exception | None = None) -> None:
        self._spoil = spoil
        self._error = error

    def call(self, deployment: str, method: str, requests: list[pa.RecordBatch]) -> list[pa.Table]:
        if self._error is not None:
            raise self._error
        answer = demo.call_directly(method, requests)
        return [self._spoil(answer) if callable(self._spoil) else answer]

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("planted", "status", "printed"),
    [
        (Planted(), 0, "All 4 answers agree"),
        (Planted(spoil=lambda table: table.slice(1)), 1, "NO: not what the class answers"),
        (Planted(spoil=lambda table: table.take(list(reversed(range(table.num_rows))))), 1, "differs first at row 0"),
        (Planted(error=RuntimeError("13: it broke")), 1, "NO: RuntimeError: 13: it broke"),
    ],
)
def test_the_demo_fails_on_any_disagreement(
    planted: Planted,
    status: int,
    printed: str,
    flights: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo.clients, "CLIENTS", {"flight": lambda address: planted})
    lines = demo.run_all({"flight": "grpc://nowhere"}, flights.slice(100_000, 2_000))
    assert demo.report(lines, {}) == status
    assert printed in capsys.readouterr().out


def test_the_demo_fails_where_nothing_was_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.report([], {}) == 1
    assert "No protocol" in capsys.readouterr().out
