"""Files at addresses: fetched, followed, and told of without secrets."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flightserve.cli.arguments import table
from flightserve.sql.sources import find_sources
from tests.sql.sources.files import make_database, refusal, rows, write


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths are as an operator types them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class _Site(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/private/") and not self.headers["authorization"]:
            self.send_error(401)
        elif self.path.startswith("/short"):
            self._answer({"content-length": "1000"})
        elif self.path.startswith("/typed"):
            self._answer({"content-type": "text/csv; charset=utf-8"})
        elif self.path.startswith("/elsewhere"):
            self._answer({"location": "http://127.0.0.1:1/a.csv?sig=SECRET"}, 302)
        else:
            super().do_GET()

    def _answer(self, headers: Mapping[str, str], code: int = 200) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"a\n1\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of this folder over TLS, by a certificate that this process trusts."""
    about = "-x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    names = "-addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", "req", *about.split(), *names.split()], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def test_an_address_is_copied_and_followed(site: str) -> None:
    write({"people.csv": "name,age\nada,36\n", "private/x.json": '{"a":1}'})
    make_database("shop.duckdb", "CREATE TABLE orders AS SELECT 1 AS a")
    for load in ("memory", "view"):
        assert rows({"p": f"{site}/people.csv?sig=SECRET"}, "FROM p", load=load) == [{"name": "ada", "age": 36}]
        assert rows({"s": f"{site}/shop.duckdb"}, "FROM orders", load=load) == [{"a": 1}]
    assert rows({"t": f"{site}/typed"}, "FROM t") == [{"a": 1}]
    assert rows({"x": f"{site.replace('//', '//me:SECRET@')}/private/x.json"}, "FROM x") == [{"a": 1}]
    (first,) = find_sources({"p": f"{site}/people.csv"})
    (again,) = find_sources({"p": f"{site}/people.csv"})
    assert first.fingerprint() == again.fingerprint() and first.files == again.files
    write({"people.csv": "name,age\nada,36\nbo,7\n"})
    (changed,) = find_sources({"p": f"{site}/people.csv"})
    assert first.fingerprint() != changed.fingerprint()
    copy = Path(first.files[0])
    assert copy.exists()
    del first, again
    assert not copy.exists() and Path(changed.files[0]).exists()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nope.csv?sig=SECRET", "/nope.csv cannot be fetched: HTTP 404"),
        ("private/a.csv", "HTTP 401"),
        ("short.csv", "the connection ended after 4 of 1000 bytes"),
        ("elsewhere.csv", "HTTP 302, which leads to no https address"),
    ],
)
def test_an_address_that_gives_no_file_is_said_without_secrets(site: str, path: str, why: str) -> None:
    refused = refusal({"t": f"{site}/{path}"})
    assert why in refused.message and "SECRET" not in refused.message


def test_addresses_without_a_file_are_refused() -> None:
    assert "none of https, http, s3, gs, file" in refusal({"t": "ftp://h/a.csv"}).message
    assert "Connection refused" in refusal({"t": "https://me:SECRET@127.0.0.1:1/a.csv"}).message
    bad = refusal({"t": "s3://KEY:SECRET@bucket/a.csv?regin=x"}).message
    assert "s3://bucket/a.csv cannot be fetched" in bad and "SECRET" not in bad and "KEY" not in bad


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://h/a/people.csv?x=1", "people"),
        ("n=https://h/people.csv", "n"),
        ("s3://bucket/lake/", "lake"),
        ("s3://bucket", "bucket"),
    ],
)
def test_the_command_calls_tables_as_addresses_end(text: str, name: str) -> None:
    assert table(text) == (name, text.removeprefix("n="))
