"""What the gRPC frontend says of itself: `ListDeployments`, `DescribeMethod`, `grpc.health.v1`, and reflection.

Health names are "" for the whole server, `flightserve.v1.FlightServe`, and every deployment; all of them follow
`Service.ready()`, and say NOT_SERVING as soon as the server drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from flightserve.config import EdgeLimits
from flightserve.contracts.service import Service
from flightserve.errors import FlightserveError, InvalidArgument, NotFound, ResourceExhausted, Unauthenticated
from flightserve.frontends.grpc.ending import abort, echo_request_id
from flightserve.frontends.grpc.guarding import Guard, head_of
from flightserve.frontends.seen import deployments_for, method_for
from flightserve.proto import flightserve_pb2 as pb
from flightserve.types import DeploymentSpec, MethodSpec

SERVICE: Final = "flightserve.v1.FlightServe"
# Names in health that are no deployment's, and one that no deployment can have.
_OF_ALL: Final = ("", SERVICE)
_NOBODYS: Final = "/"
WATCH_INTERVAL_S: Final = 0.25
_Health = health_pb2.HealthCheckResponse


class Catalogue:
    """Handlers of the unary descriptions. Requests come as bytes; what does not parse is INVALID_ARGUMENT."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list_deployments(self, message: bytes, context: Any) -> bytes:
        """The handler of `ListDeployments`."""
        echo_request_id(context)
        await parsed(pb.ListDeploymentsRequest, message, context)
        specs = sorted(deployments_for(head_of(context).principal, self._service), key=lambda spec: spec.name)
        return _bytes(pb.ListDeploymentsReply(deployments=[describe(spec) for spec in specs]))

    async def describe_method(self, message: bytes, context: Any) -> bytes:
        """The handler of `DescribeMethod`."""
        echo_request_id(context)
        asked = await parsed(pb.DescribeMethodRequest, message, context)
        try:
            principal = head_of(context).principal
            deployment, method = method_for(principal, self._service, asked.deployment, asked.method)
        except FlightserveError as error:
            await abort(context, error)
            raise
        return _bytes(describe_method(deployment.name, method))


class HealthServicer:
    """Handlers of `grpc.health.v1.Health`. Where there is a `guard`, strangers hear of the server alone, and not which
    deployments there are."""

    def __init__(self, service: Service, limits: EdgeLimits, guard: Guard | None = None) -> None:
        self._guard = guard
        self._service = service
        self._limits = limits
        self._watching = 0
        self.draining = False

    async def check(self, message: bytes, context: Any) -> bytes:
        """The handler of `Check`: NOT_FOUND for a name nobody knows, as the protocol wants."""
        asked = await parsed(health_pb2.HealthCheckRequest, message, context)
        status = self._status(await self._named(asked.service, context))
        if status == _Health.SERVICE_UNKNOWN:
            await abort(context, NotFound(f"no deployment {asked.service[:128]!r}"))
        return _bytes(_Health(status=status))

    async def watch(self, message: bytes, context: Any) -> None:
        """The handler of `Watch`: the state now, and each other one that it turns to."""
        asked = await parsed(health_pb2.HealthCheckRequest, message, context)
        name = await self._named(asked.service, context)
        if self._watching >= self._limits.streams_max:
            await abort(context, ResourceExhausted(f"{self._watching} watches are open; no more are taken"))
        self._watching += 1
        try:
            said = None
            while not (self.draining and said == _Health.NOT_SERVING):
                status = self._status(name)
                if status != said:
                    await context.write(_Health(status=status).SerializeToString())
                    said = status
                await asyncio.sleep(WATCH_INTERVAL_S)
        finally:
            self._watching -= 1

    async def _named(self, name: str, context: Any) -> str:
        """The name; one that nobody has, where it is not for who asks."""
        if self._guard is None or name in _OF_ALL:
            return name
        try:
            principal = await self._guard.recognised(context)
        except Unauthenticated:
            return _NOBODYS
        except FlightserveError as error:
            await abort(context, error)
            raise
        return name if any(spec.name == name for spec in deployments_for(principal, self._service)) else _NOBODYS

    def _status(self, name: str) -> int:
        known = name in _OF_ALL or any(spec.name == name for spec in self._service.deployments())
        if not known:
            return int(_Health.SERVICE_UNKNOWN)
        return int(_Health.SERVING if self._service.ready() and not self.draining else _Health.NOT_SERVING)


class Reflection:
    """The handler of gRPC's reflection, which does the work; it would answer what does not parse with UNKNOWN."""

    def __init__(self, services: Mapping[str, FileDescriptor]) -> None:
        """Of these services, by the files that say them."""
        # KServe's are in a pool of their own: clients in this process register the same names.
        pool = DescriptorPool()
        for file in (*services.values(), reflection_pb2.DESCRIPTOR):
            pool.AddSerializedFile(file.serialized_pb)
        self._servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME), pool)

    async def info(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """The handler of `ServerReflectionInfo`."""

        async def requests() -> AsyncIterator[Any]:
            async for message in messages:
                yield await parsed(reflection_pb2.ServerReflectionRequest, message, context)

        async for answer in self._servicer.ServerReflectionInfo(requests(), context):
            yield _bytes(answer)


def describe(spec: DeploymentSpec) -> pb.Deployment:
    """A deployment as a message."""
    options = spec.options
    return pb.Deployment(
        name=spec.name,
        version=spec.version,
        doc=spec.doc,
        options=pb.DeploymentOptions(
            replicas=options.replicas,
            max_batch_rows=options.max_batch_rows,
            max_batch_bytes=options.max_batch_bytes,
            linger_ms=options.linger_ms,
            router=options.router,
            max_queued_requests=options.max_queued_requests,
            max_queued_bytes=options.max_queued_bytes,
            default_timeout_ms=options.default_timeout_ms,
            max_timeout_ms=options.max_timeout_ms,
        ),
        methods=[describe_method(spec.name, method) for method in sorted(spec.methods, key=lambda m: m.name)],
        kind=spec.kind,
    )


def describe_method(deployment: str, method: MethodSpec) -> pb.MethodDescription:
    """A method as a message."""
    return pb.MethodDescription(
        deployment=deployment,
        name=method.name,
        doc=method.doc,
        input_schema=method.input_schema or b"",
        output_schema=method.output_schema or b"",
        options=pb.MethodOptions(
            form=method.form,
            row_aligned=method.row_aligned,
            idempotent=method.idempotent,
            streaming=method.streaming,
            delimited=method.delimited,
            strict=method.strict,
        ),
    )


def _bytes(message: Message) -> bytes:
    serialised: bytes = message.SerializeToString()
    return serialised


async def parsed(kind: type[Message], message: bytes, context: Any) -> Any:
    """The message; what does not parse ends the RPC."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        await abort(context, InvalidArgument(f"the message is not a {kind.DESCRIPTOR.full_name}: {error}"))
