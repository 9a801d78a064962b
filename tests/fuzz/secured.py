"""The app of `tests.served` behind TLS, CURVE and `--auth`: its files, and what comes with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq.auth

from flightserve.frontends.zmq.curve import make_keys
from tests.control.served import Served
from tests.fuzz import who
from tests.fuzz.credentials import AUDIENCE, ISSUER, KEYS
from tests.fuzz.targets import Target, Written
from tests.identity.books import cheap_hash, token_of
from tests.served.callers import all_callers
from tests.served.conftest import good_requests, warm_up
from tests.served.entrance import Entrance, Keys
from tests.served.resting import Resting
from tests.tls_support import ca_pem, issued, written

CLIENT = "fuzz"
# The folder of the audit log, which is looked at for secrets.
AUDIT = "audit"


@contextmanager
def serve_plain() -> Iterator[tuple[Target, Resting]]:
    """Without."""
    with _served(None) as served, _at_rest(served, None) as resting:
        yield Target(served.addresses, served.app_id, served.errors), resting


@contextmanager
def serve_secured() -> Iterator[tuple[Target, Resting]]:
    """With all of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entrance = make_files(folder)
        with _served(folder) as served, _at_rest(served, entrance) as resting:
            written = Written(who.secrets(), served.directory, folder / AUDIT)
            yield Target(served.addresses, served.app_id, served.errors, entrance, written), resting


def make_files(folder: Path) -> Entrance:
    """What `tests.served.serve FOLDER` reads; the entrance is an administrator's."""
    written(folder, issued())
    made = make_keys(str(folder / "keys"), [CLIENT])
    public, secret = zmq.auth.load_certificate(next(each for each in made if each.name == f"{CLIENT}.key_secret"))
    server, _ = zmq.auth.load_certificate(folder / "keys" / "server.key")
    (folder / "jwks.json").write_bytes(KEYS)
    (folder / AUDIT).mkdir()
    (folder / "auth.toml").touch(mode=0o600)
    (folder / "auth.toml").write_text(_auth_file())
    assert secret is not None
    return Entrance(ca_pem(), Keys(server, public, secret), who.GOOD_TEXTS[0])


def _auth_file() -> str:
    shown = f'token = "{cheap_hash(token_of(who.NAME))}"\npassword = "{cheap_hash(who.PASSWORD)}"'
    rules = f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks = "jwks.json"\n'
    return f'[[principals]]\nname = "{who.NAME}"\nroles = ["admin"]\n{shown}\n{rules}'


@contextmanager
def _served(folder: Path | None) -> Iterator[Served]:
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="z", dir="/tmp", ignore_cleanup_errors=True) as directory:
        command = ("tests.served.serve", *([str(folder)] if folder else []))
        with Served(Path(directory), command=command) as served:
            yield served.wait_ready()


@contextmanager
def _at_rest(served: Served, entrance: Entrance | None) -> Iterator[Resting]:
    with all_callers(served.addresses, entrance) as callers:
        warm_up(callers)
        yield Resting(served, lambda: good_requests(callers))
