"""`flightserve run --auth`, with real processes: who is let in, who is not any more, and that nothing of what was shown
or sent is found in anything that the app writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flightserve.cli.main import main
from tests.control.served import Served
from tests.identity.books import basic
from tests.identity.web_signing import AUDIENCE, ISSUER, claims, jwks, sign
from tests.support import eventually

pytestmark = pytest.mark.ray

PASSWORD = "planted-password-5f1c"
WRONG = "planted-wrong-5f1c"
VALUE = "planted-value-5f1c"
LITERAL = "planted-literal-5f1c"
ROLES = '[roles.caller]\ncall = ["Echo.same"]\n[roles.querier]\nquery = ["trips"]\n[roles.watcher]\nmetrics = true\n'
RULES = f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks = "keys.json"\n'


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="i", dir="/tmp", ignore_cleanup_errors=True) as directory:
        (Path(directory) / "keys.json").write_text(jwks("rsa"))
        (Path(directory) / "auth.toml").write_text(ROLES + RULES)
        (Path(directory) / "auth.toml").chmod(0o600)
        yield Path(directory)


def add(folder: Path, capsys: pytest.CaptureFixture[str], name: str, *roles: str) -> str:
    """A principal, as people add it; its token."""
    given = [argument for role in roles for argument in ("--role", role)]
    assert main(["auth", "add", name, "--auth", str(folder / "auth.toml"), *given]) == 0
    return capsys.readouterr().out.strip()


class App:
    """One that is served, and every answer that it gave."""

    def __init__(self, served: Served, folder: Path, client: httpx.Client) -> None:
        self.served = served
        self.folder = folder
        self.told: list[str] = []
        self._client = client

    def ask(self, path: str, shown: str | None, body: Any = None) -> int:
        headers = {} if shown is None else {"authorization": shown}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        json_type = {"content-type": "application/json"}
        method = "GET" if body is None else "POST"
        answer = self._client.request(method, path, headers=headers | json_type, content=content)
        self.told.append(f"{answer.headers}\n{answer.text}")
        return answer.status_code

    def call(self, shown: str | None, method: str = "same") -> int:
        return self.ask(f"/v1/Echo/{method}", shown, {"rows": [{"a": VALUE}]})

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]


def test_who_is_let_in_and_what_is_told_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alice = add(folder, capsys, "alice", "admin")
    bob = add(folder, capsys, "bob", "caller")
    adding = [sys.executable, "-m", "flightserve", "auth", "add", "pat", "--auth", str(folder / "auth.toml")]
    subprocess.run([*adding, "--role", "querier", "--password"], input=PASSWORD, text=True, check=True)
    web = sign(claims(time.time(), sub="carol", roles=["caller", "watcher"]))
    command = ("flightserve", "run", "tests.identity.secrets_app:app", "--log-level", "debug", "--no-zmq")
    options = ("--auth", str(folder / "auth.toml"), "--audit-log", str(folder / "audit.jsonl"))
    ports = [argument for each in ("http", "grpc", "flight") for argument in (f"--{each}-port", "0")]
    with Served(folder, command=(*command, *options, *ports)) as served:
        with httpx.Client(base_url=served.wait_ready().addresses["http"], trust_env=False) as client:
            app = App(served, folder, client)
            check_rights(app, alice, bob, web)
            check_wrong(app, bob)
            check_changes(app, bob, capsys)
            check_audit(app)
        seen = {f"/proc/{pid}": surroundings(pid) for pid in served.processes()}
        status = [sys.executable, "-m", "flightserve", "status", "--json"]
        environment = {**os.environ, "TMPDIR": str(folder)}
        seen["status"] = subprocess.run(status, capture_output=True, check=True, env=environment).stdout
        # Ray's folder goes with the app, and what is written when it ends comes to standard error.
        seen |= files(folder)
        assert any("/worker-" in path for path in seen), "Ray's logs are not where they are looked for"
    seen |= files(folder)
    seen["answers"] = "\n".join(app.told).replace(VALUE, "").encode()
    for planted in (alice, bob, web, PASSWORD, WRONG, VALUE, LITERAL, web.split(".")[2], alice[-43:]):
        found = [where for where, data in seen.items() if planted.encode() in data]
        # Who asks is told of his own statement why it is wrong, and nobody else is.
        assert [where for where in found if (where, planted) != ("answers", LITERAL)] == [], planted[:16]


def files(folder: Path) -> dict[str, bytes]:
    """All that is written below the folder, but for what a test put there."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("auth.toml", "keys.json")]
    return {str(path): path.read_bytes() for path in found}


def surroundings(pid: int) -> bytes:
    try:
        return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return b""


def check_rights(app: App, alice: str, bob: str, web: str) -> None:
    sql = {"query": f"SELECT count(*) AS n FROM trips WHERE city <> '{LITERAL}'"}
    for shown in (f"Bearer {alice}", f"Bearer {bob}", f"Bearer {web}", basic("bob", bob), basic("carol", web)):
        assert app.call(shown) == 200
    assert app.call(f"Bearer {alice}", "other") == 200
    assert app.call(f"Bearer {bob}", "other") == 403
    pat = basic("pat", PASSWORD)
    assert app.call(pat) == 403
    for shown in (pat, f"Bearer {alice}"):
        assert app.ask("/v1/sql", shown, sql) == 200
        assert app.ask("/v1/sql", shown, {"query": f"SELECT CAST('{LITERAL}' AS INTEGER) FROM trips"}) == 400
        assert app.ask("/v1/sql", shown, {"query": f"SELEC '{LITERAL}'"}) == 400
    assert app.ask("/v1/sql", pat, {"query": "SELECT * FROM secrets"}) == 404
    assert app.ask("/v1/sql", f"Bearer {alice}", {"query": "SELECT * FROM secrets"}) == 200
    assert app.ask("/metrics", f"Bearer {web}") == 200
    assert app.ask("/metrics", f"Bearer {bob}") == 403
    assert app.ask("/healthz", None) == 200


def check_wrong(app: App, bob: str) -> None:
    for shown in (None, "", f"Bearer {WRONG}", f"Basic {WRONG}", basic("bob", WRONG), f"Bearer {bob[:-9]}{WRONG[-9:]}"):
        assert app.call(shown) == 401
    assert app.ask("/v1/Echo/same", f"Bearer {bob}", f'{{"rows": [{{"a": {VALUE}}}]'.encode()) == 400


def check_changes(app: App, bob: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(app.folder / "auth.toml")
    assert main(["auth", "revoke", "bob", "--auth", file]) == 0
    eventually(lambda: app.call(f"Bearer {bob}") == 401)
    new = add(app.folder, capsys, "dora", "caller")
    eventually(lambda: app.call(f"Bearer {new}") == 200)


def check_audit(app: App) -> None:
    eventually(lambda: any(line["principal"] == "dora" for line in app.audited()))
    lines = app.audited()
    calls = [line for line in lines if line["principal"] == "bob" and line["code"] == "OK"]
    assert {(line["protocol"], line["what"], line["rows"]) for line in calls} == {("http", "Echo.same", 1)}
    assert any(line["principal"] == "carol" and line["what"] == "Echo.same" for line in lines)
    assert any(line["principal"] == "pat" and line["what"] == "sql" and line["code"] == "OK" for line in lines)
    refused = [line for line in lines if line["code"] == "PERMISSION_DENIED"]
    assert {("bob", "Echo.other"), ("pat", "Echo.same"), ("bob", "metrics")} <= {
        (line["principal"], line["what"]) for line in refused
    }
    assert any(line["what"] == "authentication" and line["code"] == "UNAUTHENTICATED" for line in lines)
