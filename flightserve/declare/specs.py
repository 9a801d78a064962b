"""A class that is bound as the `DeploymentSpec` that the tiers share: which of its methods are served, and how."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from flightserve.declare.annotations import form_of_parameter, names_a_form, says_nothing
from flightserve.declare.bound import Bound
from flightserve.declare.decorators import Marks, bind_class, plain
from flightserve.declare.examples import example_stream
from flightserve.declare.hooks import MARKS, RECONFIGURE, is_hook, takes_config
from flightserve.declare.sources import pickled, source_of_class
from flightserve.errors import ConfigError
from flightserve.types import RID, DeploymentSpec, MethodSpec

DOC_CHARACTERS_MAX: Final = 2048


def spec_of(bound: Bound[Any], version: str = "") -> DeploymentSpec:
    """The deployment as the tiers know it. `version` changes when what it runs does; by default it is a hash
    of the class's source, arguments, options and methods. Raises ConfigError for a class that cannot be served.

    A class whose methods are not written down in it says itself what it serves, by a class method
    `flightserve_spec(bound, version)`.
    """
    if says_itself(bound.cls):
        spec: DeploymentSpec = bound.cls.flightserve_spec(bound, version)  # type: ignore[attr-defined]
        return spec
    methods = tuple(_method_specs(bound.cls, bound.settings.strict))
    concurrency = bound.settings.concurrency
    if concurrency is not None and all(method.is_async for method in methods):
        for method in methods:
            if method.max_concurrent > concurrency:
                raise ConfigError(
                    f"{bound.cls.__name__}.{method.name} has max_concurrent={method.max_concurrent}, more than "
                    f"concurrency={concurrency} of the deployment, which holds for all its methods together"
                )
    if not methods:
        raise ConfigError(f"{bound.cls.__name__} has no public method that takes a batch; there is nothing to serve")
    if not version:
        version = _version(bound, methods)
    return DeploymentSpec(bound.name, version, bound.settings, methods, first_paragraph(vars(bound.cls).get("__doc__")))


def says_itself(cls: type) -> bool:
    """Whether the class says what it serves."""
    return hasattr(cls, "flightserve_spec")


def _version(bound: Bound[Any], methods: tuple[MethodSpec, ...]) -> str:
    cls = bound.cls
    source, arguments = source_of_class(cls), pickled((bound.args, dict(bound.kwargs)))
    text = repr((cls.__module__, cls.__qualname__, source, bound.settings, methods)).encode()
    return hashlib.blake2b(text + arguments, digest_size=8).hexdigest()


def _method_specs(cls: type, strict: bool) -> Iterator[MethodSpec]:
    """One spec a served method, in the order they were written, parents first."""
    public = dict(_public(cls))
    words = _batch_words(public)
    for name, raw in public.items():
        if not _is_helper(raw, words):
            spec = _method_spec(cls, name, raw, own=name in vars(cls), strict=strict)
            if spec is not None:
                yield spec


def left_out(cls: type) -> list[str]:
    """Public methods that look like helpers and are not served, by name, for people."""
    if says_itself(cls):
        return []
    public = dict(_public(cls))
    words = _batch_words(public)
    return [name for name, raw in public.items() if _is_helper(raw, words)]


def _public(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods, as they stand in the class or a parent."""
    for name in dict.fromkeys(name for parent in reversed(cls.__mro__) for name in vars(parent)):
        raw = inspect.getattr_static(cls, name)
        function = plain(raw)
        ours = function is bind_class or is_hook(function) or (name == RECONFIGURE and takes_config(cls))
        if not name.startswith("_") and not ours and _is_function(function):
            yield name, raw


def _batch_words(public: Mapping[str, Any]) -> frozenset[str]:
    """What a class whose methods are annotated calls a batch; empty for one whose methods are not."""
    words = set()
    for raw in public.values():
        parameter = _first_parameter(raw)
        if parameter is not None and names_a_form(plain(raw), parameter):
            words |= {parameter.name, "batch"}
    return frozenset(words)


def _is_helper(raw: Any, words: frozenset[str]) -> bool:
    """Nobody said that it takes a batch: it is not decorated, its parameter is not annotated, and either may be left
    out, or is called something else than a batch is in the `words` of a class that does annotate."""
    function = plain(raw)
    parameter = _first_parameter(raw)
    if hasattr(function, MARKS) or parameter is None or not says_nothing(function, parameter):
        return False
    return parameter.default is not parameter.empty or (bool(words) and parameter.name not in words)


def _first_parameter(raw: Any) -> inspect.Parameter | None:
    """The parameter that a batch could be passed for; None where there is none, or it does not say."""
    try:
        return _batch_parameter(plain(raw), skip_first=not isinstance(raw, staticmethod), where="")
    except ConfigError:
        return None


def _is_function(value: Any) -> bool:
    if isinstance(value, functools.partialmethod | functools.singledispatchmethod):
        return True
    # Whatever has `__get__` is a routine to `inspect`: a cached property, too, which is no method.
    return callable(value) and (inspect.isroutine(value) or hasattr(value, "__wrapped__"))


def _method_spec(cls: type, name: str, raw: Any, *, own: bool, strict: bool) -> MethodSpec | None:
    """The spec, or None for a helper: no parameter for a batch, or inherited and not made for one."""
    function = plain(raw)
    marks: Marks | None = getattr(function, MARKS, None)
    where = f"{cls.__name__}.{name}"
    try:
        parameter = _batch_parameter(function, skip_first=not isinstance(raw, staticmethod), where=where)
        if parameter is None:
            if marks is not None:
                raise ConfigError(f"{where} takes no argument; a served method takes a batch (or a row)")
            return None
        return _spec_of_function(function, name, where, parameter, marks or Marks(), strict)
    except ConfigError:
        if own or marks is not None:
            raise
        return None


def _spec_of_function(
    function: Any, name: str, where: str, parameter: inspect.Parameter, marks: Marks, strict: bool
) -> MethodSpec:
    code = inspect.unwrap(function)
    streaming = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
    if marks.single_input and streaming:
        raise ConfigError(f"{where} is @single_input and a generator; a row gives one result")
    if marks.delimited:
        _check_delimited(marks, where)
    if marks.single_input and not marks.row_aligned:
        raise ConfigError(f"{where} is @single_input and row_aligned=False; a row gives one result")
    is_async = inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code)
    if marks.max_concurrent and not is_async:
        raise ConfigError(
            f"{where} has max_concurrent and is no async def; of plain methods a replica runs as many at a time as "
            "@fs.deployment(concurrency=...) says"
        )
    return MethodSpec(
        name=name,
        form=form_of_parameter(function, parameter, where, marks.single_input),
        row_aligned=marks.row_aligned and not streaming and not marks.delimited,
        delimited=marks.delimited,
        idempotent=marks.idempotent,
        streaming=streaming,
        is_async=is_async,
        input_schema=None if marks.input is None else marks.input.serialize().to_pybytes(),
        output_schema=None if marks.output is None else marks.output.serialize().to_pybytes(),
        doc=first_paragraph(getattr(function, "__doc__", None)),
        strict=strict if marks.strict is None else marks.strict,
        max_concurrent=marks.max_concurrent,
        example=None if marks.example is None else example_stream(marks.example, marks.input, where),
    )


def _check_delimited(marks: Marks, where: str) -> None:
    if marks.single_input:
        raise ConfigError(f"{where} is @single_input and delimited; a row gives one result")
    output = marks.output
    if output is not None and (not output.names or output.field(0).name != RID or output.field(0).type != pa.int64()):
        raise ConfigError(f"{where} is delimited, and its output does not begin with a column {RID!r} of int64")


def _batch_parameter(function: Any, *, skip_first: bool, where: str) -> inspect.Parameter | None:
    """The parameter that takes the batch, None when there is none."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return inspect.Parameter("batch", inspect.Parameter.POSITIONAL_ONLY)
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if skip_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    takers = [p for p in parameters if p.kind in positional]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if len(required) > 1 or (required and (not takers or takers[0].name != required[0])):
        raise ConfigError(
            f"{where} needs the arguments {', '.join(required)}; a served method takes one, the batch (a helper's "
            "name begins with an underscore)"
        )
    return takers[0] if takers else None


def first_paragraph(doc: str | None) -> str:
    """A docstring's first paragraph on one line, bounded."""
    if not doc:
        return ""
    return " ".join(inspect.cleandoc(doc).partition("\n\n")[0].split())[:DOC_CHARACTERS_MAX]
