"""This process as a peer of an app's routers, as the app's own frontends are: what both clients by memory are made of.

It follows the supervisor for the routing table, connects to the routers that it names, writes rows into memory of its
own and maps what replicas wrote. It has the rights of a frontend and no more, and is the app's own user's: sockets are
in a folder that no other can enter, and the kernel says who calls. When it dies, routers undo all that it held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from flightserve.caller.client import RouterClient
from flightserve.client.catalogue import find_deployment, find_method
from flightserve.client.finding import FoundApp
from flightserve.client.held import HeldMap, copied
from flightserve.client.retrying import Unreachable
from flightserve.config import EdgeLimits
from flightserve.contracts.service import Result
from flightserve.control.following import follow
from flightserve.control.messages import Followed
from flightserve.control.names import new_peer_id
from flightserve.errors import NotFound, TooLarge
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.loops import beside
from flightserve.types import DeploymentSpec, MethodSpec
from flightserve.wire.table import RoutingTable

log = logging.getLogger("flightserve.client")

# How long the first table, and the routers in it, may take.
READY_S: Final = 5.0


class ClientPeer:
    """See above. Its loop is whoever's makes it; other threads may use it."""

    def __init__(self, app: FoundApp) -> None:
        self.app = app
        self.lost = False
        # Why it is not taken in.
        self.refusal = "this process is not taken in"
        # These are there once it is ready.
        self.client: RouterClient
        self.edge: EdgeLimits
        self._following: asyncio.Task[None] | None = None
        self._known = False

    def __repr__(self) -> str:
        return f"<ClientPeer of app {self.app.app_id}{', lost' if self.lost else ''}>"

    # ---- life

    def start(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Begin to follow. `changed` is called on the loop when there is news. On the loop, or before it runs."""
        self._loop = loop
        self._notify = changed
        self._following = beside(loop, self._follow(), "following the app")

    async def _follow(self) -> None:
        try:
            await follow(self.app.path, self._followed, self._take_table)
        finally:
            self._lose("the app has ended")

    def _followed(self, message: Followed) -> None:
        if message.closed:
            # It is lost when it is followed no more.
            self.refusal = "callers of this app have to say who they are, which is done over Flight"
        elif not self._known:
            self.edge = message.edge
            self.client = RouterClient(new_peer_id(), message.fabric, message.edge, HeldMap)
            self.client.start(self._loop, self._lose)
            # Last: other threads look at it.
            self._known = True

    def _take_table(self, table: RoutingTable) -> None:
        self.client.apply_table(table)
        self._notify()

    def _lose(self, why: str) -> None:
        if not self.lost:
            log.info("%s: %s", self, why)
            self.lost = True
            self._notify()

    @property
    def is_ready(self) -> bool:
        """The routers of all deployments take requests."""
        if not self._known or self.lost:
            return False
        destinations = self.client.destinations
        return bool(destinations.table.version) and self.client.reaches(destinations.entries)

    def end(self) -> None:
        """Follow no more. On the loop."""
        self.lost = True
        if self._following is not None:
            self._following.cancel()

    def stop(self) -> None:
        """Let go of the routers and of all memory; answers that are looked at stay. Any thread but the loop's."""
        if self._known:
            self.client.stop()

    # ---- what is there

    def check(self) -> None:
        """Raises Unreachable where nothing is to be sent any more."""
        if self.lost:
            raise Unreachable("the app has ended, or this client is closed")
        if self.client.destinations.table.draining:
            raise Unreachable("the app is stopping")

    def deployments(self) -> list[DeploymentSpec]:
        """As `way.Way`."""
        return list(self.client.deployments())

    def known(self, deployment: str) -> DeploymentSpec:
        """As `way.Way`."""
        entry = self.client.destinations.entries.get(deployment)
        return entry.spec if entry is not None else find_deployment(self.client.deployments(), deployment)

    def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """As `way.Way`."""
        try:
            return self.client.method(deployment, method)
        except NotFound:
            spec = find_deployment(self.client.deployments(), deployment)
            return spec, find_method(spec, method)

    def check_size(self, batch: pa.RecordBatch) -> None:
        """What a frontend says of a request that is too large. Raises TooLarge."""
        most = self.edge.body_bytes_max
        # Of a slice the first is all that it is of.
        if batch.get_total_buffer_size() > most and (nbytes := nbytes_of(batch)) > most:
            raise TooLarge(f"a batch of {nbytes} bytes; at most {most} are taken")

    # ---- answers

    def rows_of(self, result: Result) -> pa.RecordBatch:
        """An answer's rows: where they lie, or copied where this process holds so much already."""
        batch, held = result.batch(), self.client.memory.mapped
        return copied(batch) if isinstance(held, HeldMap) and held.is_full else batch
