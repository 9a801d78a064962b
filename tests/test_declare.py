"""What users write: options, names, forms, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flightserve.app import App
from flightserve.config import FrontendOptions, ServingOptions
from flightserve.declare import Bound, bind, deployment, left_out, method, single_input, spec_of
from flightserve.declare.options import Options
from flightserve.errors import ConfigError
from flightserve.running import serve
from flightserve.types import DeploymentOptions, MethodSpec

if TYPE_CHECKING:
    import polars as unknown
PRICES = pa.schema([("price", pa.float64())])


@deployment(replicas=2, linger_ms=1.5, resources={"tpu": 0.5})
class Pricing:
    """Prices things.

    In some detail.
    """

    rate = 0.5

    def __init__(self, tax: float, *, extra: int = 0) -> None:
        self.tax = tax
        self.extra = extra

    @method(input=PRICES, output=PRICES, idempotent=False)
    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Adds
        the tax."""
        return batch

    @single_input
    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        return row

    @property
    def doubled(self) -> float:
        return 2 * self.tax

    def close(self) -> None:
        self.tax = 0.0

    def _private(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def bound(cls: Any, *args: Any, **kwargs: Any) -> Bound:
    made: Bound = cls.bind(*args, **kwargs)
    return made


def methods(cls: Any) -> dict[str, MethodSpec]:
    return {m.name: m for m in spec_of(bound(cls)).methods}


def serving(function: Callable[..., Any]) -> MethodSpec:
    """The spec of a function as the one method of a deployment."""
    return methods(deployment(type("Served", (), {"served": function})))["served"]


# ---- classes


def test_the_class_stays_a_plain_class() -> None:
    assert isinstance(Pricing, type)
    assert Pricing(0.1).doubled == 0.2
    batch = pa.record_batch({"price": [1.0]})
    assert Pricing(0.1).charge(batch) is batch
    assert pickle.loads(pickle.dumps(Pricing)) is Pricing


def test_bind_notes_arguments_options_and_name() -> None:
    made = bound(Pricing, 0.08, extra=3)
    assert (made.cls, made.args, made.kwargs, made.name) == (Pricing, (0.08,), {"extra": 3}, "Pricing")
    assert made.settings == DeploymentOptions(replicas=2, linger_ms=1.5, resources={"tpu": 0.5})
    assert made.make().extra == 3


def test_options_override_what_the_decorator_said() -> None:
    made = bound(Pricing, 0.08).options(replicas=5, name="other")
    assert (made.name, made.settings.replicas, made.settings.linger_ms) == ("other", 5, 1.5)


def test_bind_refuses_arguments_that_init_does_not_take() -> None:
    with pytest.raises(ConfigError, match=r"Pricing\.bind\(\): missing a required argument: 'tax'"):
        bound(Pricing)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'tex'"):
        bound(Pricing, 0.1, tex=1.0)


def test_a_class_may_be_decorated_bare() -> None:
    @deployment
    class Plain:
        def echo(self, batch):  # type: ignore[no-untyped-def]
            return batch

    assert bound(Plain).settings == DeploymentOptions()


def test_a_subclass_is_served_by_its_own_name() -> None:
    class Cheaper(Pricing):  # type: ignore[misc, valid-type]
        def rebate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    made = bound(Cheaper, 0.1)
    assert (made.name, made.cls, made.settings.replicas) == ("Cheaper", Cheaper, 2)
    assert [m.name for m in spec_of(made).methods] == ["charge", "explain", "rebate"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replica": 2}, "unknown deployment option 'replica'; did you mean 'replicas'"),
        ({"replicas": 0}, "replicas is 0; it must be greater than 0"),
        ({"replicas": 1.5}, "replicas is 1.5; it is a whole number"),
        ({"replicas": True}, "replicas is True"),
        ({"replicas": "2"}, "replicas is '2'"),
        ({"max_batch_rows": -1}, "max_batch_rows is -1"),
        ({"max_batch_bytes": 0}, "max_batch_bytes is 0"),
        ({"max_queued_requests": 0}, "max_queued_requests is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"linger_ms": -0.1}, "linger_ms is -0.1; it must be at least 0"),
        ({"linger_ms": float("nan")}, "linger_ms is nan"),
        ({"linger_ms": float("inf")}, "linger_ms is inf; it must be finite"),
        ({"max_queue_wait_ms": -1}, "max_queue_wait_ms is -1; it must be at least 0"),
        ({"adaptive_limit": 1}, "adaptive_limit is 1; it is True or False"),
        ({"reentrant": "no"}, "reentrant is 'no'; it is True or False"),
        ({"num_cpus": float("inf")}, "num_cpus is inf"),
        ({"num_gpus": None}, "num_gpus is None; it is a number"),
        ({"resources": ["gpu"]}, "resources is"),
        ({"resources": {"gpu": 0}}, r"resources\['gpu'\] is 0"),
        ({"placement": "Spread"}, "placement is 'Spread'; it is one of 'pack', 'spread'"),
        ({"placement": None}, "placement is None; it is one of"),
        ({"labels": ["zone"]}, r"labels is \['zone'\]; it is a dict of names and values, texts both"),
        ({"labels": {"zone": 1}}, "it is a dict of names and values, texts both"),
        ({"labels": {"a b": "x"}}, "labels: 'a b' is no label's name: letters"),
        ({"labels": {"example.com/": "x"}}, "is no label's name"),
        ({"labels": {"zone": "!!a"}}, r"labels\['zone'\] is '!!a'; it is a value"),
        ({"labels": {"zone": "in()"}}, "it is a value"),
        ({"labels": {"zone": ""}}, "it is a value"),
        ({"router": "lifo"}, "router is 'lifo'; it is one of 'fifo', 'deadline'"),
        ({"router": ["fifo"]}, r"router is \['fifo'\]; it is one of"),
        ({"default_timeout_ms": 10, "max_timeout_ms": 5}, "more than max_timeout_ms, 5"),
        ({"name": "a b"}, "cannot name a deployment"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        deployment(**options)


def test_only_classes_are_deployments() -> None:
    with pytest.raises(ConfigError, match="decorates classes"):
        deployment(len)


def test_a_method_called_bind_is_refused() -> None:
    with pytest.raises(ConfigError, match="has a method `bind`"):
        deployment(type("Binder", (), {"bind": lambda self, batch: batch}))


# ---- apps


def test_an_app_names_its_deployments() -> None:
    app = App(bound(Pricing, 0.1), dear=bound(Pricing, 0.9))
    assert [spec.name for spec in app.specs] == ["Pricing", "dear"]
    assert [made.args for made in app] == [(0.1,), (0.9,)]
    assert len(app) == 2
    assert repr(app) == "App(Pricing, dear)"


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match="two deployments are called 'Pricing'"):
        App(bound(Pricing, 0.1), bound(Pricing, 0.2))


def test_an_app_takes_what_is_bound() -> None:
    with pytest.raises(ConfigError, match="not the class Pricing"):
        App(Pricing)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not int"):
        App(x=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "_a", "A.b-c_9", "a" * 128])
def test_names_within_bounds(name: str) -> None:
    assert App(**{name: bound(Pricing, 0.1)}).bound[0].name == name


@pytest.mark.parametrize("name", ["", "9a", "-a", "a/b", "é", "a\n", "a" * 129])
def test_names_past_bounds(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a deployment"):
        App(**{name: bound(Pricing, 0.1)})


# ---- methods


def test_specs_say_what_is_served() -> None:
    spec = spec_of(bound(Pricing, 0.1))
    assert spec.doc == "Prices things."
    assert [m.name for m in spec.methods] == ["charge", "explain"]
    charge = spec.methods[0]
    assert (charge.doc, charge.idempotent, charge.row_aligned) == ("Adds the tax.", False, True)
    assert charge.input_schema == PRICES.serialize().to_pybytes()
    assert spec.methods[1].form == "row"


def unannotated(self, batch):  # type: ignore[no-untyped-def]
    return batch


def forms() -> dict[str, tuple[Callable[..., Any], str]]:
    def batch(self: Any, it: pa.RecordBatch) -> Any: ...
    def table(self: Any, it: pa.Table) -> Any: ...
    def numpy(self: Any, it: dict[str, np.ndarray[Any, Any]]) -> Any: ...
    def bare_dict(self: Any, it: dict) -> Any: ...  # type: ignore[type-arg]
    def polars(self: Any, it: pl.DataFrame) -> Any: ...
    def pandas(self: Any, it: pd.DataFrame) -> Any: ...
    def anything(self: Any, it: Any) -> Any: ...
    def annotated(self: Any, it: Annotated[pa.Table, "rows"]) -> Any: ...
    def quoted(self: Any, it: "polars.DataFrame") -> Any: ...  # type: ignore[name-defined]  # noqa: UP037
    def missing_return(self: Any, it: pa.Table) -> nowhere.Type: ...  # type: ignore[name-defined]  # noqa: F821
    def missing_value(self: Any, it: dict[str, npt.NDArray]) -> Any: ...  # type: ignore[name-defined]  # noqa: F821
    def with_default(self: Any, it: pa.Table, more: int = 0) -> Any: ...
    def variadic(self: Any, *it: Any, **more: Any) -> Any: ...

    return {
        "batch": (batch, "record_batch"),
        "table": (table, "table"),
        "numpy": (numpy, "numpy"),
        "bare_dict": (bare_dict, "numpy"),
        "polars": (polars, "polars"),
        "pandas": (pandas, "pandas"),
        "anything": (anything, "record_batch"),
        "quoted": (quoted, "polars"),
        "annotated": (annotated, "table"),
        "missing_return": (missing_return, "table"),
        "missing_value": (missing_value, "numpy"),
        "with_default": (with_default, "table"),
        "variadic": (variadic, "record_batch"),
        "unannotated": (unannotated, "record_batch"),
    }


@pytest.mark.parametrize("name", list(forms()))
def test_the_annotation_picks_the_form(name: str) -> None:
    function, form = forms()[name]
    assert serving(function).form == form


def test_a_type_that_is_no_form_is_refused() -> None:
    def rate(self: Any, it: int) -> int:
        return it

    with pytest.raises(ConfigError, match=r"Served\.rate is annotated with int; a method takes pa\.RecordBatch"):
        spec_of(bound(deployment(type("Served", (), {"rate": rate}))))


def test_a_name_that_only_type_checkers_know_is_refused_unless_it_is_spelled_as_usual() -> None:
    def rate(self: Any, it: unknown.Series) -> Any: ...

    with pytest.raises(ConfigError, match=r"annotated with unknown\.Series"):
        serving(rate)


def test_rows_are_dicts() -> None:
    @single_input
    def explain(self: Any, row: pa.RecordBatch) -> Any: ...

    with pytest.raises(ConfigError, match="takes a row as a dict but is annotated with RecordBatch"):
        serving(explain)


@pytest.mark.parametrize("outer_first", [True, False])
def test_decorators_go_in_either_order(outer_first: bool) -> None:
    def explain(self: Any, row: dict[str, Any]) -> Any: ...

    both = (
        method(idempotent=False)(single_input(explain))
        if outer_first
        else single_input(method(idempotent=False)(explain))
    )
    spec = serving(both)
    assert (spec.form, spec.idempotent) == ("row", False)


def test_method_may_be_bare() -> None:
    assert serving(method(unannotated)) == MethodSpec("served")


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_static_and_class_methods_are_served(kind: Any) -> None:
    inner = (lambda row: row) if kind is staticmethod else (lambda cls, row: row)
    assert serving(single_input(kind(inner))).form == "row"
    assert serving(kind(single_input(inner))).form == "row"


def test_generators_and_coroutines_are_seen_through_wrappers() -> None:
    def generator(self: Any, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch

    async def coroutine(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    async def both(self: Any, batch: pa.RecordBatch) -> Any:
        yield batch

    @functools.wraps(generator)
    def wrapped(*args: Any) -> Any:
        return generator(*args)

    found = [serving(f) for f in (generator, coroutine, both, wrapped)]
    assert [(m.streaming, m.is_async, m.row_aligned) for m in found] == [
        (True, False, False),
        (False, True, True),
        (True, True, False),
        (True, False, False),
    ]


def test_a_row_method_gives_one_result() -> None:
    @single_input
    def several(self: Any, row: dict[str, Any]) -> Any:
        yield row

    with pytest.raises(ConfigError, match="a row gives one result"):
        serving(several)
    with pytest.raises(ConfigError, match="a row gives one result"):
        serving(method(row_aligned=False)(single_input(unannotated)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input": {"a": 1}}, r"@method\(input=...\) takes a pyarrow.Schema, not dict"),
        ({"output": "x"}, "takes a pyarrow.Schema, not str"),
        ({"input": pa.schema([])}, "has no columns; leave it out"),
        ({"row_aligned": 1}, "takes True or False, not 1"),
        ({"idempotent": None}, "takes True or False, not None"),
        ({"strict": "yes"}, "takes True or False, not 'yes'"),
    ],
)
def test_arguments_of_method_are_checked(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method(**arguments)


def test_a_method_of_two_arguments_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Served\.served needs the arguments batch, rate"):
        serving(lambda self, batch, rate: batch)


def test_inherited_helpers_that_take_no_batch_are_left_out() -> None:
    class Base:
        def add(self, name: str, value: int) -> None: ...
        def count(self, start: int) -> int:
            return start

    @deployment
    class Served(Base):
        def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    assert list(methods(Served)) == ["echo"]


def test_public_helpers_are_not_served_unasked() -> None:
    @deployment
    class Served:
        def predict(self, rows: pa.RecordBatch) -> pa.RecordBatch:
            return rows

        def again(self, rows):  # type: ignore[no-untyped-def]
            return rows

        def usual(self, batch):  # type: ignore[no-untyped-def]
            return batch

        @method(idempotent=False)
        def asked(self, anything):  # type: ignore[no-untyped-def]
            return anything

        def reload(self, force=False) -> None: ...  # type: ignore[no-untyped-def]
        def normalise(self, value):  # type: ignore[no-untyped-def]
            return value / 2

        @staticmethod
        def clip(value):  # type: ignore[no-untyped-def]
            return value

    assert list(methods(Served)) == ["predict", "again", "usual", "asked"]
    assert left_out(cast(type, Served)) == ["reload", "normalise", "clip"]


def test_a_class_without_annotations_serves_whatever_takes_one_argument() -> None:
    @deployment
    class Served:
        def one(self, b):  # type: ignore[no-untyped-def]
            return b

        def other(self, rows):  # type: ignore[no-untyped-def]
            return rows

        def reload(self, force=False) -> None: ...  # type: ignore[no-untyped-def]

    assert list(methods(Served)) == ["one", "other"]
    assert left_out(cast(type, Served)) == ["reload"]


class Typed(TypedDict):
    x: int


@dataclass
class Made:
    x: int


@pytest.mark.parametrize(
    "row", [dict, dict[str, Any], Mapping[str, Any], Typed, Any, None, "Unknown", "dict[str, int]"]
)
def test_rows_may_be_annotated_as_what_a_dict_is(row: Any) -> None:
    def explain(self: Any, row: Any) -> Any: ...

    explain.__annotations__["row"] = row
    assert serving(single_input(explain)).form == "row"


@pytest.mark.parametrize("row", [Made, int, str, list, tuple[int, int], "Made", pa.Table, "pl.DataFrame"])
def test_a_row_is_no_object_of_a_class(row: Any) -> None:
    def explain(self: Any, row: Any) -> Any: ...

    explain.__annotations__["row"] = row
    with pytest.raises(ConfigError, match="takes a row as a dict but is annotated with"):
        serving(single_input(explain))


def test_a_class_with_nothing_to_serve_is_refused() -> None:
    with pytest.raises(ConfigError, match="no public method that takes a batch"):
        App(bound(deployment(type("Empty", (), {"close": lambda self: None, "limit": 3}))))


def test_versions_follow_what_is_served() -> None:
    first = spec_of(bound(Pricing, 0.1)).version
    assert first == spec_of(bound(Pricing, 0.1)).version
    others = {
        spec_of(bound(Pricing, 0.2)).version,
        spec_of(bound(Pricing, 0.1).options(replicas=9)).version,
        spec_of(bound(Pricing, 0.1), version="mine").version,
    }
    assert first not in others
    assert "mine" in others


@pytest.mark.parametrize(
    ("values", "typed"), [(DeploymentOptions, Options), (FrontendOptions, ServingOptions)], ids=["deployment", "serve"]
)
def test_type_checkers_know_every_option(values: Any, typed: Any) -> None:
    # `autoscale` is said as `replicas`.
    assert {field.name for field in dataclasses.fields(values)} - {"autoscale"} == set(typed.__annotations__)


def test_serve_names_an_option_that_it_has_not() -> None:
    with pytest.raises(ConfigError, match=r"serve\(\) has no option 'http_prt'; there are: .*http_port"):
        serve(App(bound(Pricing, 0.1)), http_prt=0)  # type: ignore[call-arg]


def test_bind_takes_decorated_classes_and_others() -> None:
    assert bind(Pricing, 0.1, extra=2) == cast(Any, Pricing).bind(0.1, extra=2)

    class Plain:
        def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    assert bind(Plain).settings == DeploymentOptions()
    assert App(bind(Plain)).specs[0].name == "Plain"
    with pytest.raises(ConfigError, match=r"Pricing\.bind\(\): missing a required argument: 'tax'"):
        bind(Pricing)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="is no class"):
        bind(len, "abc")
