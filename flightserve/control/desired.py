"""What the supervisor is to keep running: the plan's routers and frontends, and deployments that may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable
from typing import TypeAlias

from flightserve.control.nodes import Nodes
from flightserve.control.plan import Plan, PlannedDeployment
from flightserve.core.lifecycle.placement import Want
from flightserve.core.lifecycle.reconciling import FRONTEND, NS_PER_S, ROUTER, STANDBY, Slot
from flightserve.core.lifecycle.updating import Deployed, Layout, Observed, begin, resize, undo, wanted
from flightserve.types import Autoscale, DeploymentSpec

DesiredState: TypeAlias = tuple[Layout, dict[tuple[str, str], PlannedDeployment], dict[tuple[str, str], bytes]]


class Desired:
    """The layout of `core.lifecycle.updating`, with the code of each version in it."""

    def __init__(self, plan: Plan) -> None:
        self._tiers = {Slot(ROUTER, "", index): "1" for index in range(plan.routers)}
        self._tiers |= {Slot(FRONTEND, "", index): "1" for index in range(plan.options.frontends_here)}
        # One process that waits to take the place of a router or a frontend, where there is a factory for it.
        self.standby = {Slot(STANDBY, "", 0): "1"} if STANDBY in plan.factories else {}
        self.nodes = Nodes(plan.options.on_each_node, int(plan.options.drain_timeout_s * NS_PER_S))
        self._first = {_key(planned): planned for planned in plan.deployments}
        self._planned = dict(self._first)
        # As it was when the change began that is under way.
        self._before = self._planned
        # What replicas were told since they started, as JSON, by name and version.
        self._configs: dict[tuple[str, str], bytes] = {}
        self.layout = Layout(tuple(Deployed(*_wish(planned)) for planned in plan.deployments))

    def __repr__(self) -> str:
        return f"<Desired {self.layout}>"

    # ---- places

    def wanted(self, seen: Observed) -> dict[Slot, str]:
        """Every place there should be a child in now, with the version it is to run."""
        return self._fixed() | wanted(self.layout, seen)

    def _fixed(self) -> dict[Slot, str]:
        """What there is of routers and frontends, on the nodes of now."""
        return self._tiers | self.nodes.frontends()

    def serving(self, started: bool = False, listened: Container[str] = ()) -> dict[Slot, str]:
        """The places that must be ready for the app to be: what is going, or only coming, is not among them. Nor are,
        where the number follows the load, those beyond the least; an app that has not `started` shows that one can. Of
        one that has, the frontend of a node that came later is among them once it has `listened`."""
        later = {slot for slot in self.nodes.frontends() if started and slot.name not in listened}
        fixed = {slot: version for slot, version in self._fixed().items() if slot not in later}
        return fixed | {
            slot: each.version for each in self.layout.served for slot in each.slots(self._least(each, started))
        }

    def _least(self, served: Deployed, started: bool) -> int:
        follows = self._planned[served.key].spec.options.autoscale
        if follows is None:
            return served.replicas
        return min(served.replicas, follows.low if started else follows.start)

    def following(self) -> dict[str, Autoscale]:
        """Deployments that are served and whose number of replicas follows the load, by name."""
        options = {each.name: self._planned[each.key].spec.options for each in self.layout.served}
        return {name: each.autoscale for name, each in options.items() if each.autoscale is not None}

    def everything(self) -> dict[Slot, str]:
        """All places of the layout, also those whose turn has not come yet."""
        layout = self.layout
        deployed = (*layout.served, *layout.going, *(layout.target or ()))
        others = self._fixed() | self.nodes.carriers(begun=True) | self.standby
        return others | {slot: each.version for each in deployed for slot in each.slots()}

    def together(self) -> list[dict[Slot, str]]:
        """Places that have to fit beside each other: all of the layout, or in place those of each step."""
        layout = self.layout
        if not layout.in_place:
            return [self.everything()]
        after = {slot: each.version for each in layout.target or layout.served for slot in each.slots()}
        return [wanted(layout, Observed()), after]

    def want(self, slot: Slot, version: str) -> Want:
        """What a child in this place takes of Ray; routers and frontends take nothing."""
        planned = self._planned.get((slot.deployment, version))
        return planned.want() if planned is not None else Want(slot.name, {})

    # ---- deployments

    def planned(self, name: str, version: str) -> PlannedDeployment | None:
        """That version with its code, or None (routers and frontends have "")."""
        return self._planned.get((name, version))

    def names(self) -> list[str]:
        """Of what is served."""
        return sorted(each.name for each in self.layout.served)

    def configure(self, name: str, version: str, config: bytes) -> None:
        """What new replicas of that version start with."""
        if (name, version) in self._planned:
            self._configs[name, version] = config

    def config(self, name: str, version: str) -> bytes:
        """What they were told last, b"" where they were told nothing."""
        return self._configs.get((name, version), b"")

    def specs(self, deployed: Iterable[Deployed]) -> list[DeploymentSpec]:
        """As the tiers know them, with the number of replicas of now."""
        return [_counted(self._planned[each.key], each.replicas).spec for each in deployed]

    def served(self) -> list[PlannedDeployment]:
        """What clients are sent to, with the number of replicas of now."""
        return [_counted(self._planned[each.key], each.replicas) for each in self.layout.served]

    def begin(self, target: Iterable[PlannedDeployment], in_place: bool = False) -> None:
        """From now on these are what all leads to. There must be no change under way."""
        target = tuple(target)
        self.layout = begin(self.layout, [_wish(planned) for planned in target], in_place)
        self._before = self._planned
        self._planned = self._planned | {_key(planned): planned for planned in target}

    def take_back(self) -> None:
        """The change that is under way is none."""
        self._planned = self._before
        self.move(undo(self.layout))

    def move(self, layout: Layout) -> None:
        """Go on to this layout, and forget the code that it has no more use for, and what that was told."""
        self.layout = layout
        used = {each.key for each in (*layout.served, *layout.going, *(layout.target or ()))}
        self._planned = {key: planned for key, planned in self._planned.items() if key in used}
        self._configs = {key: config for key, config in self._configs.items() if key in used}

    def resize(self, name: str, replicas: int) -> bool:
        """Have that many replicas of what is served by that name. False, and nothing is done, where a change is about
        it, or it has as many."""
        before, self.layout = self.layout, resize(self.layout, name, replicas)
        return self.layout is not before

    # ---- for the supervisor after this one

    def state(self) -> DesiredState:
        """All that the plan does not say."""
        changed = {key: planned for key, planned in self._planned.items() if key not in self._first}
        return self.layout, changed, self._configs

    def restore(self, state: DesiredState) -> None:
        """Go on where the supervisor before this one stopped."""
        self.layout, changed, self._configs = state
        self._planned = self._before = self._first | changed


def _key(planned: PlannedDeployment) -> tuple[str, str]:
    return planned.spec.name, planned.spec.version


def _wish(planned: PlannedDeployment) -> tuple[str, str, int]:
    return planned.spec.name, planned.spec.version, planned.spec.options.replicas


def with_replicas(planned: PlannedDeployment, replicas: int, follows: Autoscale | None = None) -> PlannedDeployment:
    """The same with that number of replicas, of now where it `follows` the load, else fixed."""
    options = planned.spec.options
    if (options.replicas, options.autoscale) == (replicas, follows):
        return planned
    options = dataclasses.replace(options, replicas=replicas, autoscale=follows)
    return dataclasses.replace(planned, spec=dataclasses.replace(planned.spec, options=options))


def _counted(planned: PlannedDeployment, replicas: int) -> PlannedDeployment:
    return with_replicas(planned, replicas, planned.spec.options.autoscale)
