"""How splits and shadows are declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Unpack

from flightserve.declare import Bound, ByName, Options, Servable, check_name, describe_value, make_options
from flightserve.errors import ConfigError
from flightserve.pipelines.declaring import TOGETHER_BYTES_MAX
from flightserve.pipelines.splitting import ShadowReplica, SplitReplica
from flightserve.pipelines.versions import ways_of
from flightserve.types import DeploymentOptions

TARGETS_MAX: Final = 64


def split(weights: Mapping[Any, float], /, *, name: str = "split", **options: Unpack[Options]) -> Bound[Any]:
    """A deployment in the place of several, which sends each request to one of them: `fs.split({v1: 0.9, v2: 0.1})`.

    The keys are bound deployments, models, or names that the app serves deployments by; the weights add up to 1. It
    serves the methods that all of them have, and its methods are stages of pipelines. Requests with one
    `x-request-key` go the same way for as long as the weights are the same; others by their id. Other weights are set
    without a restart: `running.reconfigure("split", {"v1": 0.5, "v2": 0.5})`. `options` are those of `@fs.deployment`.
    Raises ConfigError for weights that are no parts of a whole, and for what is no deployment."""
    targets = [_target(each) for each in weights]
    if not 1 <= len(targets) <= TARGETS_MAX:
        raise ConfigError(f"a split has 1 to {TARGETS_MAX} deployments, not {len(targets)}")
    names = [target.name for target in targets]
    if twice := [each for each in names if names.count(each) > 1]:
        raise ConfigError(f"two deployments of the split are called {twice[0]!r}; name one: bind().options(name=...)")
    ways_of(dict(zip(names, weights.values(), strict=True)))
    return Bound(SplitReplica, (tuple(targets), tuple(weights.values())), {}, _settings(options), check_name(name))


def shadow(primary: Any, candidate: Any, /, *, name: str = "shadow", **options: Unpack[Options]) -> Bound[Any]:
    """A deployment that answers as `primary` does, and sends a copy of each request to `candidate`, whose answers
    nobody sees: `fs.shadow(v1, v2)`. Both are bound deployments, models, or names that the app serves deployments by.

    The candidate neither delays nor fails a request. At most 64 copies and 64 MiB are on their way to it; what comes
    beyond is not copied, and counted (`flightserve_shadow_requests_total`). `options` are those of `@fs.deployment`.
    Raises ConfigError for what is no deployment."""
    targets = (_target(primary), _target(candidate))
    if targets[0].name == targets[1].name:
        raise ConfigError(f"primary and candidate are both called {targets[0].name!r}; they are two deployments")
    return Bound(ShadowReplica, targets, {}, _settings(options), check_name(name))


def _settings(options: Options) -> DeploymentOptions:
    return make_options(options, DeploymentOptions(max_batch_bytes=TOGETHER_BYTES_MAX))


def _target(value: Any) -> Bound[Any] | ByName:
    if isinstance(value, str):
        return ByName(check_name(value))
    if isinstance(value, Servable):
        value = value.flightserve_bound()
    if not isinstance(value, Bound):
        raise ConfigError(
            f"{describe_value(value)} is no deployment; it takes what bind() returns, or the name of a deployment"
        )
    return value
