"""Connecting to a Ray that is there already (`--address`): each way in which that fails is one sentence for people.

Ray itself tries for minutes whatever answers there, and where it wants a token, deaf to signals; then it says that it
failed. So it is asked once, with a time limit, before it is joined.
"""

from __future__ import annotations

import logging
import re
import socket
from typing import Final

from flightserve.errors import Unavailable

log = logging.getLogger("flightserve.control.addresses")

ANSWER_TIMEOUT_S: Final = 5.0
AUTO: Final = "auto"
_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]*:[0-9a-fA-F:.%\w]*\]|[^\s:/\[\]@?#,]+):(?P<port>[0-9]{1,5})")
# A call that every Ray answers.
_QUESTION: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"
VERSION: Final = "Run this with the versions of Python and Ray that the cluster has, or leave --address out"
TOKEN: Final = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token that it was started with (without "
    "them: ~/.ray/auth_token); `ray start` of Ray 2.60 has one unless RAY_AUTH_MODE=disabled"
)


def connect(address: str) -> None:
    """`ray.init` there. Raises Unavailable for what is no address, and where there is no Ray for us."""
    import ray

    from flightserve.control.local_ray import keeping_sigterm

    found = found_by_ray() if address == AUTO else address
    check_form(found)
    check_answers(found)
    try:
        with keeping_sigterm():
            ray.init(address=address, logging_level="ERROR")
    except Exception as error:  # whatever Ray raises
        log.debug("ray.init raised", exc_info=True)
        ray.shutdown()
        said = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
        advice = VERSION if "ersion mismatch" in said else f"If it wants a token, {TOKEN}"
        raise Unavailable(f"the Ray at {found} cannot be used: {said}. {advice}") from error


def found_by_ray() -> str:
    """The address that `auto` stands for, with the token that Ray takes up for that. Raises Unavailable."""
    from ray._private import services
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    try:
        found = services.canonicalize_bootstrap_address(AUTO)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    except ConnectionError as error:
        told = "no Ray runs on this machine; start one (ray start --head), or leave --address out for the app's own"
        raise Unavailable(told) from error
    except Exception as error:  # whatever Ray raises of RAY_ADDRESS, or of a token
        raise Unavailable(f"--address auto: {' '.join(str(error).split())}") from error
    if found is None:
        raise Unavailable("RAY_ADDRESS says that there is no Ray to join; leave --address out for the app's own")
    return str(found)


def check_form(address: str) -> None:
    """Raises Unavailable where it is not host:port."""
    if address.startswith("ray://"):
        raise Unavailable(
            f"--address {address}: Ray's client protocol is not enough, an app has to start on a node of the Ray: "
            "run this there, with the host:port that `ray start` said, or with auto"
        )
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise Unavailable(
            f"--address {address[:200]!r} is neither host:port, e.g. 127.0.0.1:6379 or [::1]:6379, nor auto"
        )


def check_answers(address: str) -> None:
    """Raises Unavailable where no Ray answers at `host:port`, or not us."""
    import ray

    host, _, port = address.rpartition(":")
    # Ray takes a loopback address for its node's own.
    hosts = [host, ray.util.get_node_ip_address()] if host in ("127.0.0.1", "localhost", "[::1]") else [host]
    problem = ""
    for each in hosts:
        try:
            socket.create_connection((each.strip("[]"), int(port)), ANSWER_TIMEOUT_S).close()
        except (OSError, UnicodeError) as error:
            problem = problem or str(error)
        else:
            problem = _asked(f"{each}:{port}")
            if not problem:
                return
    raise Unavailable(f"no Ray answers at {address}: {problem}")


def _asked(address: str) -> str:
    """Why what listens there is no Ray for us; "" where it may be one."""
    try:
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:
        log.debug("this Ray has no channels of its own: it is joined unasked")
        return ""
    channel = None
    try:
        channel = init_grpc_channel(address, [("grpc.enable_http_proxy", 0)])
        channel.unary_unary(_QUESTION)(b"", timeout=ANSWER_TIMEOUT_S)
    except Exception as error:  # gRPC's, which only its frontend knows, and Ray's own where there is no token
        log.debug("asked whether a Ray answers at %s", address, exc_info=True)
        code = error.code().name if hasattr(error, "code") else ""
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    else:
        return ""
    finally:
        if channel is not None:
            channel.close()
    problems = {
        "": said,
        "UNAUTHENTICATED": f"it wants a token that it was not given, or another one; {TOKEN}",
        "DEADLINE_EXCEEDED": f"what listens there says nothing within {ANSWER_TIMEOUT_S:g} s",
        "UNAVAILABLE": "what listens there is no Ray",
        "UNIMPLEMENTED": "what listens there is no Ray",
    }
    return problems.get(code, "")
