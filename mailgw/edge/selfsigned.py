"""Self-signed keys and certificates for C{mailgw cert}: good enough to begin with, and to test with.

Makes no certificate authority and asks none; a certificate that clients trust comes from elsewhere (certs/README.md).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_pair(
    names: Sequence[str], folder: str | Path, days: int, now: datetime, rsa_bits: int | None = None
) -> tuple[Path, Path]:
    """Make C{NAME.key} (mode 0600) and C{NAME.crt} for all names, called after the first; overwrite nothing.

    @param names: host names, wildcards such as C{*.example.org}, and literal addresses.
    @param days: from C{now} on.
    @param rsa_bits: an RSA key of that length; ECDSA on P-256 when left out.
    @return: the paths of key and certificate.
    @raise FileExistsError: one of the two is there already.
    @raise OSError: the folder cannot be made or written.
    @raise ValueError: a name is none, or the numbers are out of range.
    """
    alternatives = _alternative_names(names)
    stem = names[0].replace("*", "_").lower()
    folder = Path(folder)
    key_path, certificate_path = folder / f"{stem}.key", folder / f"{stem}.crt"
    for path in (key_path, certificate_path):
        if path.exists():
            raise FileExistsError(f"{path} exists already, and is never overwritten; move it away first")
    key = _private_key(rsa_bits)
    certificate = _certificate(key, alternatives, now, days)
    folder.mkdir(parents=True, exist_ok=True)
    _create(key_path, _key_text(key), 0o600)
    _create(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return key_path, certificate_path


def _alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        raise ValueError("a certificate needs a name")
    wanted = list(names)
    if "localhost" in wanted:
        wanted += ["127.0.0.1", "::1"]
    return [_alternative_name(name) for name in dict.fromkeys(wanted)]


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    if not all(label.replace("-", "").replace("_", "").isalnum() and len(label) < 64 for label in labels):
        raise ValueError(f"{name!r} is neither a host name nor an address")
    return x509.DNSName(name.lower().encode("idna").decode("ascii") if not name.isascii() else name.lower())


def _private_key(rsa_bits: int | None) -> PrivateKey:
    if rsa_bits is None:
        return ec.generate_private_key(ec.SECP256R1())
    if not 2048 <= rsa_bits <= 16384:
        raise ValueError("an RSA key has 2048 to 16384 bits")
    return rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)


def _certificate(
    key: PrivateKey, alternatives: Sequence[x509.GeneralName], now: datetime, days: int
) -> x509.Certificate:
    if days < 1:
        raise ValueError("a certificate is valid for at least one day")
    common = str(alternatives[0].value)[:64]  # what X.520 allows
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    try:
        end = now + timedelta(days=days)
    except OverflowError:
        raise ValueError("that many days end after the year 9999") from None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # clocks of clients may be a little behind ours
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(key), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        # Python 3.13 verifies strictly (VERIFY_X509_STRICT) and wants to see this one, too
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _usage(key: PrivateKey) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=isinstance(key, rsa.RSAPrivateKey),
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a file that was not there, with its mode from the first moment on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
        file.write(data)
