"""Models, as KServe's clients call what is deployed.

`deployment.method` names a method; `deployment` alone its only one, or the one called `predict`. A warehouse's named
queries are models too; what the frontends themselves ask it is none. The version is the deployment's: clients that name
one get that one or NOT_FOUND.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import pyarrow as pa

from flightserve.contracts.service import Service
from flightserve.contracts.warehouse import is_internal
from flightserve.core.access.rights import ANYBODY, Principal
from flightserve.errors import NotFound, Unimplemented
from flightserve.frontends.json.columns import declared_schema
from flightserve.frontends.kserve.tensors import datatype_of, shape_of
from flightserve.frontends.seen import method_for
from flightserve.types import DeploymentSpec, MethodSpec

DEFAULT_METHOD: Final = "predict"
PLATFORM: Final = "flightserve"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
# In the metadata of a declared output of 32-bit floats: `BF16`.
DATATYPE_KEY: Final = b"kserve.datatype"
READY: Final = "READY"
UNAVAILABLE: Final = "UNAVAILABLE"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A method under the name that it was asked by."""

    name: str
    deployment: DeploymentSpec
    method: MethodSpec

    @property
    def version(self) -> str:
        """The deployment's."""
        return self.deployment.version


def find_model(service: Service, name: str, version: str = "", principal: Principal = ANYBODY) -> Model:
    """Raises NotFound that says what there is for him, Unavailable before that is known, and PermissionDenied for what
    he may not call, there or not."""
    model = _named(service, name, principal)
    if version not in ("", model.version):
        raise NotFound(f"model {name[:128]!r} has no version {version[:64]!r}; it has {model.version!r}")
    return model


def _named(service: Service, name: str, principal: Principal) -> Model:
    deployment, dot, method = name.partition(".")
    if dot:
        spec, found = method_for(principal, service, deployment, method)
        if not is_internal(spec, found):
            return Model(name, spec, found)
        raise NotFound(f"{name[:128]!r} is no model: frontends ask it")
    for spec in service.deployments():
        if spec.name == name:
            default = _default(spec)
            if default is not None:
                method_for(principal, service, name, default.name)
                return Model(name, spec, default)
            mine = [each for each in _methods(spec) if principal.rights.may_call(name, each.name)]
            if not mine:
                break
            names = ", ".join(f"{name}.{each.name}" for each in mine[:16])
            raise NotFound(f"{name!r} has several methods and none called {DEFAULT_METHOD}; its models: {names}")
    # Says which names there are.
    method_for(principal, service, name, DEFAULT_METHOD)
    raise NotFound(f"no model {name[:128]!r}")


def all_models(service: Service, principal: Principal = ANYBODY) -> Iterator[Model]:
    """Every model that he may call, once, by its shorter name."""
    for spec in sorted(service.deployments(), key=lambda each: each.name):
        default = _default(spec)
        for method in _methods(spec):
            if not principal.rights.may_call(spec.name, method.name):
                continue
            yield Model(spec.name if method is default else f"{spec.name}.{method.name}", spec, method)


def _methods(spec: DeploymentSpec) -> list[MethodSpec]:
    return [method for method in spec.methods if not is_internal(spec, method)]


def _default(spec: DeploymentSpec) -> MethodSpec | None:
    methods = _methods(spec)
    return methods[0] if len(methods) == 1 else spec.method(DEFAULT_METHOD)


# ---- what is said of one; the names are those of the protocol's messages


def metadata_of(model: Model) -> Json:
    """`ModelMetadataResponse`. Without tensors where the method declares none."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": _tensors(model.method.input_schema),
        "outputs": _tensors(model.method.output_schema),
    }


def config_of(model: Model) -> Json:
    """`ModelConfig`. The batch's dimension is among none of the `dims`, as `max_batch_size` is said."""
    options = model.deployment.options
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": min(options.max_batch_rows, 2**31 - 1),
        "input": _config_tensors(model.method.input_schema),
        "output": _config_tensors(model.method.output_schema),
        "model_transaction_policy": {"decoupled": model.method.streaming},
    }


def index_of(service: Service, only_ready: bool, principal: Principal = ANYBODY) -> list[Json]:
    """`RepositoryIndexResponse.models`."""
    ready = service.ready()
    if only_ready and not ready:
        return []
    state, reason = (READY, "") if ready else (UNAVAILABLE, "not every deployment has a replica that answers")
    return [
        {"name": model.name, "version": model.version, "state": state, "reason": reason}
        for model in all_models(service, principal)
    ]


def datatype_said(field: pa.Field) -> str | None:
    """The datatype that a declared output's metadata asks for."""
    said = (field.metadata or {}).get(DATATYPE_KEY)
    return None if said is None else str(said.decode("utf-8", "replace"))


def _tensors(serialised: bytes | None) -> list[Json]:
    """Columns that no tensor has have no datatype, and are named all the same."""
    if serialised is None:
        return []
    found = []
    for field in declared_schema(serialised):
        kind, dimensions = shape_of(field.type)
        datatype = datatype_of(kind) or ""
        if datatype == "FP32" and datatype_said(field) == "BF16":
            datatype = "BF16"
        found.append({"name": field.name, "datatype": datatype, "shape": [-1, *dimensions]})
    return found


def _config_tensors(serialised: bytes | None) -> list[Json]:
    return [
        {"name": each["name"], "data_type": data_type_of(each["datatype"]), "dims": each["shape"][1:] or [1]}
        for each in _tensors(serialised)
    ]


def data_type_of(datatype: str) -> str:
    """As configurations name it."""
    if not datatype:
        return "TYPE_INVALID"
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


@functools.cache
def server_metadata() -> Json:
    """`ServerMetadataResponse`."""
    return {"name": PLATFORM, "version": metadata.version(PLATFORM), "extensions": list(EXTENSIONS)}


# ---- shared memory with clients, which there is not: those that clean up before they begin find nothing


def check_no_region(name: str) -> None:
    """Raises NotFound for a region by name; all of them are none."""
    if name:
        raise NotFound(f"no shared memory region {name[:128]!r}; none is taken")


def refuse_region() -> None:
    """Raises Unimplemented."""
    raise Unimplemented("no memory is shared with clients; send the contents")
