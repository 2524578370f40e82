"""A certificate authority of the tests' own, and services' certificates by it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shipoff.common.tls import IDENTITY_SUFFIX

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """Where a service's PEM files lie."""

    certificate: Path
    key: Path
    ca: Path


class Authority:
    """Signs certificates for addresses of this machine."""

    def __init__(self, name: str = "tests") -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256())

    def issue(self, folder: Path, *services: str, days: int = 1) -> Files:
        """A certificate with these services' names, over whatever was there: each file is replaced at once."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        names += [x509.DNSName(service + IDENTITY_SUFFIX) for service in services]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "-".join(services) or "nobody")])
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(subject, self._name, key, days=days).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        certificate = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False).sign(self._key, hashes.SHA256())
        folder.mkdir(exist_ok=True)
        files = Files(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        plain = serialization.NoEncryption()
        _replace(files.ca, self.certificate.public_bytes(serialization.Encoding.PEM))
        _replace(files.key, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        _replace(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int = 1
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + days * _DAY)
    )


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(content)
    fresh.replace(path)
