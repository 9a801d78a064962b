"""The files of a certificate: what is wrong with them is said in one line, and what changes is taken up."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flightserve.cli.main import main
from flightserve.errors import ConfigError
from flightserve.frontends import certificates
from flightserve.frontends.certificates import DAY_S, CertificateFiles, TlsFiles, read
from tests.tls_support import Pems, ca_pem, issued, written

GARBAGE = b"-----BEGIN %b-----\nTm90aGluZw==\n-----END %b-----\n"


def at(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


def folder_at(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def protect(path: str) -> None:
    """With a password."""
    done = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", path, "-out", path + "2", "-passout", "pass:abc"], check=False
    )
    assert done.returncode == 0
    os.rename(path + "2", path)


# Of files that were good: what is done to them, and what is said then.
WRONG: list[tuple[Callable[[TlsFiles], object], str]] = [
    (lambda files: os.unlink(files.cert), "tls_cert .*cert.pem: No such file or directory; it names a PEM file"),
    (lambda files: os.unlink(files.key), "tls_key .*key.pem: No such file or directory"),
    (lambda files: os.unlink(files.client_ca), "tls_client_ca .*ca.pem: No such file or directory"),
    (lambda files: folder_at(files.key), "tls_key .*key.pem: Is a directory"),
    (lambda files: (os.unlink(files.cert), os.mkfifo(files.cert)), "tls_cert .* is no file that can be read again"),
    (lambda files: at(files.cert, b""), "tls_cert .* holds no certificate; it is a PEM file with a line -----BEGIN"),
    (lambda files: at(files.key, issued().chain), "tls_key .* holds no private key"),
    (lambda files: at(files.client_ca, issued().key), "tls_client_ca .* holds no certificate"),
    (lambda files: at(files.client_ca, issued().chain.partition(b"-----END")[0]), "tls_client_ca .* cannot be read"),
    (lambda files: at(files.client_ca, issued().chain), "tls_client_ca .* holds no certificate of a CA"),
    (lambda files: at(files.cert, GARBAGE % (b"CERTIFICATE", b"CERTIFICATE")), "tls_cert .* cannot be read"),
    (lambda files: at(files.key, GARBAGE % (b"PRIVATE KEY", b"PRIVATE KEY")), "tls_key .*it is damaged, or no such"),
    (lambda files: at(files.key, issued().key), "tls_key .* is not the key of the certificate in"),
    (lambda files: at(files.cert, ca_pem()), "tls_key .* is not the key of the certificate in"),
    (lambda files: protect(files.key), "tls_key .* is protected by a password, which nobody is here to give"),
    (lambda files: at(files.key, b"x" * (certificates.FILE_BYTES_MAX + 1)), "tls_key .* has more than 8,388,608 bytes"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_said(spoil: Callable[[TlsFiles], object], said: str, tmp_path: Path) -> None:
    files = written(tmp_path, issued(), ca_pem())
    read(files, time.time())
    spoil(files)
    with pytest.raises(ConfigError, match=f"^{said}"):
        read(files, time.time())


@pytest.mark.parametrize(
    ("pems", "said"),
    [
        (issued(ends_days=-0.1), "tls_cert .* expired at .*; renew it"),
        (issued(begins_days=1), "tls_cert .* is not valid yet, but from .* on; is the clock right"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_said(pems: Pems, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read(written(tmp_path, pems), time.time())


def test_a_ca_that_has_expired_is_said(tmp_path: Path) -> None:
    files = written(tmp_path, issued(ends_days=10), ca_pem())
    with pytest.raises(ConfigError, match=r"^tls_client_ca .* every CA in it has expired; renew it"):
        certificates._check_ca(files.client_ca, certificates._certificates("", "", ca_pem()), 1e11)


def test_the_command_says_it_before_anything_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = written(tmp_path, issued())
    os.unlink(files.key)
    tls = ["--tls-cert", files.cert, "--tls-key", files.key]
    free = [f"--{each}-port=0" for each in ("http", "grpc", "flight")]
    assert main(["run", "nothing.like:this", *free, "--no-zmq", *tls]) == 2
    out, err = capfd.readouterr()
    assert (out, err.splitlines()) == (
        "",
        [f"flightserve: --tls-key {files.key}: No such file or directory; it names a PEM file that this user may read"],
    )


def test_a_key_that_everybody_can_read_is_a_warning(tmp_path: Path) -> None:
    files = written(tmp_path, issued())
    assert certificates.check(files) == []
    os.chmod(files.key, 0o644)
    (told,) = certificates.check(files)
    assert told == f"tls_key {files.key} can be read by every user of this machine; chmod 600 it"


def test_what_changes_is_taken_up_when_all_of_it_is_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = issued(), issued()
    files = written(tmp_path, first)
    held = CertificateFiles(files)
    told: list[bytes] = []
    held.on_change.append(lambda newest: told.append(newest.chain))
    held.look()
    assert (held.newest.chain, told) == (first.chain, [])
    # A tool has written one of the two.
    at(files.cert, second.chain)
    held.look()
    held.look()
    assert (held.newest.chain, told) == (first.chain, [])
    assert caplog.text.count("the certificate stays the one from before: tls_key") == 1
    at(files.key, second.key)
    held.look()
    assert (held.newest.chain, held.newest.key, told) == (second.chain, second.key, [second.chain])
    assert "the certificate was renewed; it expires in 10.0 days" in caplog.text
    os.unlink(files.key)
    held.look()
    assert held.newest.key == second.key
    # Written again as it was: nobody is told.
    written(tmp_path, second)
    held.look()
    assert told == [second.chain]
    assert second.key.decode().split("\n")[1] not in repr(held.newest)


def test_what_was_wrong_is_tried_again_though_the_files_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [time.time()]
    files = written(tmp_path, issued())
    held = CertificateFiles(files, lambda: now_s[0])
    # As of a CA whose clock is ahead of ours.
    early = issued(begins_days=1)
    written(tmp_path, early)
    for _ in range(2):
        held.look()
    assert held.newest.chain != early.chain
    assert caplog.text.count("is not valid yet") == 1
    now_s[0] += 1.5 * DAY_S
    held.look()
    assert held.newest.chain == early.chain


def test_a_certificate_that_expires_soon_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = time.time()
    held = CertificateFiles(written(tmp_path, issued(ends_days=10)), lambda: now_s)
    held.look()
    assert not caplog.records
    now_s += 4 * DAY_S
    held.look()
    held.look()
    (record,) = caplog.records
    assert "expires in 6.0 days; renew it" in record.getMessage()
