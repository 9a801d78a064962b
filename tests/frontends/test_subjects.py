"""How subjects of certificates are written: as OpenSSL and gRPC do."""

from __future__ import annotations

import datetime
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Name, NameAttribute, ObjectIdentifier, RelativeDistinguishedName
from cryptography.x509.oid import NameOID

from flightserve.frontends.subjects import subject_of


def rdn(*pairs: tuple[ObjectIdentifier, str]) -> RelativeDistinguishedName:
    return RelativeDistinguishedName([NameAttribute(*pair) for pair in pairs])


NAMES = [
    Name([rdn((NameOID.COUNTRY_NAME, "DE")), rdn((NameOID.ORGANIZATION_NAME, "Ümläut, Inc.")),
          rdn((NameOID.ORGANIZATIONAL_UNIT_NAME, 'a+b "c" <d>;\\e')), rdn((NameOID.COMMON_NAME, " #vera "))]),
    Name([rdn((NameOID.COMMON_NAME, "x"), (NameOID.USER_ID, "u1")), rdn((NameOID.DOMAIN_COMPONENT, "example")),
          rdn((NameOID.EMAIL_ADDRESS, "a@b.c")), rdn((NameOID.SERIAL_NUMBER, "77")), rdn((NameOID.SURNAME, "S"))]),
    Name([rdn((ObjectIdentifier("1.2.3.4.5"), "odd")), rdn((ObjectIdentifier("1.2.3.4.6"), "ö" * 300))]),
    Name([rdn((NameOID.COMMON_NAME, "#vera"))]),
    Name([rdn((NameOID.COMMON_NAME, "a\nb\x00c\x7f 🦆"))]),
    Name([rdn((NameOID.COMMON_NAME, " "))]),
    Name([]),
]  # fmt: skip


def certificate(folder: Path, name: Name) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 5, begins, begins + datetime.timedelta(days=5))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_as_openssl_writes_it(tmp_path: Path, name: Name) -> None:
    path = certificate(tmp_path, name)
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", str(path)]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    context = ssl.create_default_context(cafile=str(path))
    [decoded] = context.get_ca_certs()
    assert f"subject={subject_of(decoded)}" == said.removesuffix("\n")


def test_without_a_certificate_there_is_none() -> None:
    assert subject_of(None) == subject_of({}) == ""
