"""`flightserve scale`, `deploy`, `reconfigure`: which app is meant, and a change that is asked for until it is made."""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from flightserve.contracts.refreshing import RefreshOutcome
from flightserve.control.changes import OK, UNAVAILABLE
from flightserve.control.messages import (
    CONFIG_BYTES_MAX,
    CommandResult,
    Deploy,
    Reconfigure,
    RefreshAnswer,
    Scale,
    Withdraw,
)
from flightserve.control.names import running_apps
from flightserve.control.observer import ask, connect, connect_to
from flightserve.control.plan import PlannedDeployment
from flightserve.errors import (
    ConfigError,
    FlightserveError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    Unavailable,
    from_kind,
)

log = logging.getLogger("flightserve.control.commands")

CONNECT_TIMEOUT_S = 5.0
# The supervisor itself ends a change that takes too long; this much later we stop waiting for its word.
ANSWER_GRACE_S = 90.0
RETRY_S = 0.2
# As for a refresh.
REFRESH_GRACE_S: Final = 2.0
TAKEN: Final = RefreshOutcome.RECONFIGURED
# Who gives a change longer gives it so long.
CHANGE_S_MAX: Final = 1e9
# A supervisor that died is back sooner.
GONE_S = 15.0


class ChangeFailed(FlightserveError):
    """The app could not be changed, and serves what it served before. `detail` is the traceback, where there is one."""

    code = 14

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def find_app(app_id: str | None = None) -> str:
    """The running app of that id, or the only one of this user. Raises NotFound where there is none, and ConfigError
    where it takes an id to say which."""
    mine = []
    for each, path in running_apps().items():
        if app_id in (None, each):
            try:
                connect(path, CONNECT_TIMEOUT_S)[0].close()
            except (NotFound, PermissionDenied):
                if app_id is not None:
                    raise
                continue
            mine.append(each)
    if not mine:
        raise NotFound(f"no app {app_id} runs on this machine" if app_id else "no flightserve app runs on this machine")
    if len(mine) > 1:
        raise ConfigError(f"several apps run on this machine; say which one: --app {' or --app '.join(mine)}")
    return mine[0]


def scale(app_id: str, replicas: Mapping[str, int | tuple[int, int]], timeout_s: float) -> str:
    """That many replicas of each of these deployments, or between two bounds, by the load; returns what changed, once
    they serve. Raises NotFound and InvalidArgument for what cannot be asked, and ChangeFailed where it cannot be done:
    then all is as before."""
    return make_change(app_id, Scale(secrets.token_hex(8), dict(replicas), _checked(timeout_s)))


def deploy(
    app_id: str,
    deployments: Sequence[PlannedDeployment],
    replicas: Mapping[str, int],
    timeout_s: float,
    in_place: bool = False,
) -> str:
    """Serve these deployments instead of those there are, beside them first or `in_place`; otherwise as `scale`."""
    timeout_s, body = _checked(timeout_s), pickle.dumps(tuple(deployments))
    return make_change(app_id, Deploy(secrets.token_hex(8), body, dict(replicas), timeout_s, in_place))


def reconfigure(app_id: str, deployment: str, config: object, timeout_s: float) -> str:
    """Have each replica of the deployment take this configuration; returns what was done. Raises ConfigError for what
    is no JSON, NotFound for a name that is not deployed, Unavailable where nobody can be asked, and ChangeFailed
    where a replica refuses it or does not answer."""
    try:
        body = msgspec.json.encode(config)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"the configuration is no JSON: {error}") from error
    if len(body) > CONFIG_BYTES_MAX:
        raise ConfigError(f"the configuration has {len(body):,} bytes; at most {CONFIG_BYTES_MAX:,} are taken")
    message = Reconfigure(secrets.token_hex(8), deployment, body, _checked(timeout_s))
    until = time.monotonic() + message.timeout_s + REFRESH_GRACE_S
    sock, _ = connect_to(app_id, CONNECT_TIMEOUT_S)
    try:
        with sock:
            answer = ask(sock, message, (CommandResult, RefreshAnswer), until)
    except (OSError, ProtocolError) as error:
        raise Unavailable("the app's supervisor gave no answer; some replicas may have it; ask again") from error
    if isinstance(answer, CommandResult):
        raise from_kind(answer.kind, answer.message)
    assert isinstance(answer, RefreshAnswer)
    wrong = [f"{each.replica}: {each.problem}" for each in answer.said if each.outcome is not TAKEN]
    if wrong:
        done = len(answer.said) - len(wrong)
        raise ChangeFailed(f"{done} of {len(answer.said)} replicas took it; {'; '.join(wrong)}")
    return f"{deployment}: {len(answer.said)} replica{'s' * (len(answer.said) != 1)} reconfigured"


def _checked(timeout_s: float) -> float:
    """Raises ConfigError for what is no time."""
    if not 0 < timeout_s < math.inf:
        raise ConfigError(f"the timeout is {timeout_s!r}; it is a number of seconds, more than 0")
    return min(float(timeout_s), CHANGE_S_MAX)


def withdraw(app_id: str, change: str, timeout_s: float) -> None:
    """Take the change of that id back, unless it has come to its switch; returns when it has ended. Raises
    Unavailable where the app does not answer."""
    with contextlib.suppress(ChangeFailed):
        # That it was taken back is what was asked for.
        _ask_until_answered(app_id, Withdraw(change), timeout_s)


def make_change(app_id: str, message: Scale | Deploy) -> str:
    """Ask for the change; returns what it was when it is made. Otherwise as `scale`."""
    return _ask_until_answered(app_id, message, message.timeout_s)


def _ask_until_answered(app_id: str, message: Scale | Deploy | Withdraw, timeout_s: float) -> str:
    """A supervisor that comes back knows the change by its id."""
    until = time.monotonic() + timeout_s + ANSWER_GRACE_S
    gone_s = 0.0
    while True:
        try:
            answer = _ask(app_id, message, until)
        except (OSError, ProtocolError, NotFound) as error:
            gone_s = gone_s + RETRY_S if isinstance(error, NotFound) else 0.0
            if time.monotonic() > until or gone_s > GONE_S:
                raise Unavailable(f"app {app_id} gave no answer; look at: flightserve status --app {app_id}") from error
            log.debug("the supervisor did not answer: %s", error)
            time.sleep(RETRY_S)
            continue
        if answer.kind == OK:
            return answer.message
        if answer.kind == UNAVAILABLE:
            raise ChangeFailed(answer.message, answer.detail)
        raise from_kind(answer.kind, answer.message)


def _ask(app_id: str, message: Scale | Deploy | Withdraw, until: float) -> CommandResult:
    sock, _ = connect_to(app_id, CONNECT_TIMEOUT_S)
    with sock:
        return ask(sock, message, (CommandResult,), until)
