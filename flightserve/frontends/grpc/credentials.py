"""TLS for gRPC's server: the core asks for the certificate at each handshake."""

from __future__ import annotations

import threading

import grpc

from flightserve.frontends.certificates import Certificate, CertificateFiles


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """With the newest certificate, for ever; TLS 1.2 and 1.3 are all that gRPC speaks."""
    shown = files.newest
    lock = threading.Lock()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Called by threads of the core; None: the one from before."""
        nonlocal shown
        newest = files.newest
        with lock:
            if newest is shown:
                return None
            shown = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(_configuration(shown), fetch, bool(shown.client_ca))


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key, certificate.chain)], certificate.client_ca or None
    )
