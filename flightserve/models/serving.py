"""What all models have in common in a replica: what they take and give, warm-up, threads, and errors.

A model is described when the app is planned: what it takes is read off it, and what it gives is seen by running it on a
sample. So a file that cannot be served is one line before anything starts. The description travels with the
deployment.
"""

from __future__ import annotations

import hashlib
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

import pyarrow as pa

from flightserve.contracts.hosting import Host
from flightserve.declare import Bound, warmup
from flightserve.declare.examples import example_stream
from flightserve.declare.sources import source_of
from flightserve.errors import ConfigError, FlightserveError
from flightserve.models.files import ModelFile
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec

log = logging.getLogger("flightserve.models")

# Rows of the sample on which a model is run when it is described: two tell whether it gives a row for each.
SAMPLE_ROWS: Final = 2
# Of what a library says of a file, in a message.
REASON_CHARACTERS_MAX: Final = 300


class ModelDescription(NamedTuple):
    """What a model takes, and what its methods give, by their names; a sample of rows that it takes. `layout` is what
    its kind knows beside that."""

    input: pa.Schema
    methods: Mapping[str, pa.Schema]
    sample: pa.RecordBatch
    doc: str
    layout: Any = None


@dataclass(slots=True)
class Served:
    """What a model's replicas are made with. `warmup`: before the first request, on rows of its own or on those given
    (a stream, once the app is planned). `description` is there when the app is planned."""

    file: ModelFile
    warmup: Any = True
    features: Mapping[str, Any] | None = None
    trusted: Any = False
    any_version: bool = False
    # Of PyTorch: the types of its inputs, names of its outputs, and what makes the module that the weights are of.
    inputs: Mapping[str, pa.DataType] = field(default_factory=dict)
    outputs: Sequence[str] | None = None
    module: Callable[[], Any] | None = None
    description: ModelDescription | None = None
    planned: tuple[str, DeploymentSpec] | None = None

    def stamp(self, of_others: str) -> str:
        """What all replicas of one version have in common, as that version."""
        made_by = "" if self.module is None else source_of(self.module)
        taken = None if self.description is None else self.description.input
        warmed = self.warmup if isinstance(self.warmup, bool) else example_stream(self.warmup, taken, "warmup")
        text = repr((of_others, self.features, self.inputs, self.any_version, made_by, warmed))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class ModelReplica:
    """One model in one replica. Raises ConfigError for a file that cannot be served."""

    # The argument that `Bound.make` gives the deployment's options by.
    flightserve_options: ClassVar = "options"

    def __init__(self, served: Served, options: DeploymentOptions) -> None:
        self.served = served
        self.name = served.file.name
        self.threads = threads_of(options)
        self.options = options
        self._load()
        served.file.check()
        self.description = served.description or self._describe()

    @classmethod
    def flightserve_spec(cls, bound: Bound[Any], version: str) -> DeploymentSpec:
        """The deployment as the tiers know it: the file is read and run on a sample. Raises ConfigError."""
        served: Served = bound.args[0]
        digest = served.file.read()
        asked = repr((digest, bound.name, bound.settings))
        if served.planned is not None and served.planned[0] == asked:
            # It is asked again for each split and pipeline that it is in.
            return served.planned[1]
        served.description = None
        replica = cls(served, bound.settings)
        replica.tell()
        about = served.description = replica.description
        sample = example_stream(about.sample.slice(0, 1), about.input, bound.name)
        methods = tuple(
            MethodSpec(
                name,
                input_schema=about.input.serialize().to_pybytes(),
                output_schema=schema.serialize().to_pybytes(),
                doc=about.doc,
                strict=bound.settings.strict,
                example=sample,
                rounds=True,
            )
            for name, schema in about.methods.items()
        )
        if not isinstance(served.warmup, bool):
            replica.warm()
        version = version or served.stamp(repr((cls.__name__, digest, bound.settings, methods)))
        spec = DeploymentSpec(bound.name, version, bound.settings, methods, about.doc)
        served.planned = (asked, spec)
        return spec

    def flightserve_hosted(self, host: Host) -> None:
        """In a process of its own the libraries get their threads. Where others run as well (a test, the program that
        plans), theirs are left alone."""
        if host.own_process:
            limit_threads(self.threads)

    def tell(self) -> None:
        """Whoever plans hears what is worth a warning."""

    @abstractmethod
    def _load(self) -> None:
        """Read the model. Raises ConfigError."""

    @abstractmethod
    def _describe(self) -> ModelDescription:
        """What it takes and gives. Raises ConfigError."""

    @warmup
    def warm(self) -> None:
        """Run each method once, on the sample or on the rows that were given."""
        given = self.served.warmup
        if given is False:
            return
        about = self.description
        rows = about.sample if given is True else _rows(example_stream(given, about.input, f"{self.name}, warmup"))
        for name in about.methods:
            self.attempt(f"{name} fails on the rows to warm up with", getattr(self, name), rows)

    def attempt(self, what: str, run: Any, *args: Any) -> Any:
        """The result. Raises ConfigError, which says what fails and why, for whatever the library raises."""
        try:
            return run(*args)
        except ConfigError:
            raise
        except Exception as error:  # whatever a stranger's model raises
            raise ConfigError(f"{self.name}: {what}: {reason_of(error)}") from error


def threads_of(options: DeploymentOptions) -> int:
    """How many threads the numerical libraries of a replica get: the processors that it has reserved, or, where it has
    none, as many as Arrow has, which follows what the deployer says for OpenMP."""
    return math.ceil(options.num_cpus) or int(pa.cpu_count())


def limit_threads(threads: int) -> None:
    """The same to the libraries that this process has loaded (BLAS, OpenMP)."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(limits=threads)


def reason_of(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, FlightserveError):
        return error.message
    text = " ".join(str(error).split())[:REASON_CHARACTERS_MAX]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def missing(library: str, extra: str, error: ImportError) -> ConfigError:
    """A library that an extra has is not installed, or cannot be imported."""
    said = f"{library} is not installed" if isinstance(error, ModuleNotFoundError) else reason_of(error)
    return ConfigError(f"{said}; to serve such models: pip install 'flightserve[{extra}]'")


def _rows(stream: bytes) -> pa.RecordBatch:
    table = pa.ipc.open_stream(stream).read_all().combine_chunks()
    return table.to_batches()[0]
