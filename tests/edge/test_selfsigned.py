"""Tests of L{mailgw.edge.selfsigned}."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.trial.unittest import SynchronousTestCase

from mailgw.edge.selfsigned import write_pair

NOW = datetime.now(UTC).replace(microsecond=0)


class WritePairTests(SynchronousTestCase):
    """L{write_pair}."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())

    def pair(self, *names: str, days: int = 10, rsa_bits: int | None = None) -> tuple[Path, Path]:
        return write_pair(names, self.folder, days, NOW, rsa_bits)

    def certificate(self, *names: str, days: int = 10, rsa_bits: int | None = None) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.pair(*names, days=days, rsa_bits=rsa_bits)[1].read_bytes())

    def alternatives(self, *names: str) -> x509.SubjectAlternativeName:
        return self.certificate(*names).extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    def test_ecdsa(self) -> None:
        """Without a length the key is ECDSA on P-256, and the certificate is for that key."""
        key_path, certificate_path = self.pair("mail.example.com")
        key = load_pem_private_key(key_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.assertEqual(key.curve.name, "secp256r1")
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        self.assertEqual(certificate.public_key(), key.public_key())

    def test_rsa(self) -> None:
        """With a length the key is RSA, and may also encipher keys."""
        certificate = self.certificate("a", rsa_bits=2048)
        key = certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        self.assertEqual(key.key_size, 2048)
        self.assertTrue(certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment)

    def test_private(self) -> None:
        """Only its owner may read the key, whatever the umask; the certificate is for everybody."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        key, certificate = self.pair("a")
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(certificate.stat().st_mode), 0o644)

    def test_names(self) -> None:
        """Names become DNS entries, addresses IP entries, files are called after the first name."""
        names = self.alternatives("Mail.Example.com", "*.example.org", "10.0.0.1", "fd00::1")
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["mail.example.com", "*.example.org"])
        expected = [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1")]
        self.assertEqual(names.get_values_for_type(x509.IPAddress), expected)
        self.assertEqual(sorted(os.listdir(self.folder)), ["mail.example.com.crt", "mail.example.com.key"])

    def test_localhost(self) -> None:
        """A certificate for localhost is one for both loopback addresses, too."""
        names = self.alternatives("localhost")
        self.assertEqual([str(one) for one in names.get_values_for_type(x509.IPAddress)], ["127.0.0.1", "::1"])

    def test_wildcard_file(self) -> None:
        """A wildcard does not get into a file's name."""
        self.assertEqual(self.pair("*.example.org")[0].name, "_.example.org.key")

    def test_days(self) -> None:
        """The certificate ends after so many days."""
        self.assertEqual(self.certificate("a", days=3).not_valid_after_utc, NOW + timedelta(days=3))

    def test_never_overwrites(self) -> None:
        """Where either file is there, nothing is written at all."""
        for suffix in ("key", "crt"):
            name = f"a-{suffix}"
            self.folder.mkdir(exist_ok=True)
            (self.folder / f"{name}.{suffix}").write_text("mine")
            error = self.assertRaises(FileExistsError, self.pair, name)
            self.assertIn(f"{name}.{suffix} exists already", str(error))
            self.assertEqual((self.folder / f"{name}.{suffix}").read_text(), "mine")
            self.assertEqual([one for one in os.listdir(self.folder) if one.startswith(name)], [f"{name}.{suffix}"])

    def test_bad_names(self) -> None:
        """What could leave the folder or is no host name is refused before anything is written."""
        for name in ("../a", "a/b", "", "a b", "a..b", "*", "a\n"):
            self.assertRaises(ValueError, self.pair, name)
        self.assertRaises(ValueError, self.pair)
        self.assertFalse(self.folder.exists())

    def test_bad_numbers(self) -> None:
        """Lengths and lifetimes out of range are refused."""
        self.assertRaises(ValueError, self.pair, "a", rsa_bits=1024)
        self.assertRaises(ValueError, self.pair, "a", days=0)
        self.assertRaises(ValueError, self.pair, "a", days=99999999)

    def test_strict_verification(self) -> None:
        """A client that has the certificate as its CA file completes a handshake under OpenSSL's strict rules."""
        for bits in (None, 2048):
            self.folder = Path(self.mktemp())
            key, certificate = self.pair("localhost", rsa_bits=bits)
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(certificate, key)
            client = ssl.create_default_context(cafile=str(certificate))
            client.verify_flags |= ssl.VERIFY_X509_STRICT
            for name in ("localhost", "127.0.0.1", "::1"):
                self.assertTrue(_handshake(server, client, name))


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """Shake hands over a socket pair; the version agreed on."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.settimeout(10)

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secure:
            return secure.version()
    finally:
        thread.join()
