"""Tests of the TLS contexts, by handshakes in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import SkipTest
from unittest.mock import patch

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.edge.selfsigned import write_pair
from mailgw.edge.tls import Identities, PoolTls, ServerTls
from mailgw.errors import SettingsError
from mailgw.settings import Pool, Tls, TlsName
from tests.integration.ports import needs


def shake(client: SSL.Connection, server: SSL.Connection) -> None:
    """Carry both sides' bytes until both are done.

    @raise SSL.Error: one side refuses; its alert is delivered first.
    """
    undone = [client, server]
    client.set_connect_state()
    server.set_accept_state()
    trouble: SSL.Error | None = None
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            if one in undone and trouble is None:
                try:
                    one.do_handshake()
                    undone.remove(one)
                except SSL.WantReadError:
                    pass
                except SSL.Error as error:
                    trouble = error
            carry(one, other)
        if trouble is not None:
            try:
                client.do_handshake()
            except SSL.Error as error:
                raise error from trouble
        if not undone:
            return
    raise AssertionError("no end of the handshake")


def carry(one: SSL.Connection, other: SSL.Connection) -> None:
    """Give C{other} what C{one} has to say."""
    with contextlib.suppress(SSL.WantReadError):
        while True:
            other.bio_write(one.bio_read(1 << 15))


class TlsCase(SynchronousTestCase):
    """Keys in a temporary folder, made once."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def pair(self, name: str, rsa: int | None = None) -> tuple[str, str]:
        folder = self.folder / ("rsa" if rsa else "ec")
        folder.mkdir(exist_ok=True)
        write_pair([name], folder, 30, datetime.now(UTC), rsa)
        return str(folder / f"{name}.crt"), str(folder / f"{name}.key")

    def identities(self, *pairs: tuple[str, str], name: tuple[TlsName, ...] = (), minimum: Any = "1.2") -> Identities:
        return Identities(
            Tls(certificate=tuple(p[0] for p in pairs), key=tuple(p[1] for p in pairs), name=name, minimum=minimum)
        )

    def client(self, sni: bytes = b"", **versions: Any) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_METHOD)
        if "most" in versions:
            context.set_max_proto_version(versions["most"])
        if "ciphers" in versions:
            context.set_cipher_list(versions["ciphers"])
        connection = SSL.Connection(context, None)
        if sni:
            connection.set_tlsext_host_name(sni)
        return connection

    def server(self, identities: Identities, protocol: str = "imap") -> SSL.Connection:
        return ServerTls(identities, protocol).serverConnectionForTLS(None)  # type: ignore[arg-type]

    def shown(self, identities: Identities, client: SSL.Connection) -> str:
        """The common name of the certificate that the server shows."""
        shake(client, self.server(identities))
        certificate = client.get_peer_certificate()
        assert certificate is not None
        return str(certificate.get_subject().CN)


class IdentitiesTests(TlsCase):
    """What the server shows."""

    def test_interface(self) -> None:
        """Twisted takes our creators."""
        identities = self.identities(self.pair("a.example"))
        verifyObject(IOpenSSLServerConnectionCreator, ServerTls(identities, "imap"))

    def test_sni(self) -> None:
        """Exact name, wildcard of one label, else the default; names without regard to case."""
        one, other = self.pair("one.example"), self.pair("other.example")
        wild = self.pair("wild.example")
        identities = self.identities(
            one,
            name=(
                TlsName(names=("Other.example",), certificate=other[:1], key=other[1:]),
                TlsName(names=("*.wild.example",), certificate=wild[:1], key=wild[1:]),
            ),
        )
        for sni, common_name in (
            (b"", "one.example"),
            (b"unknown.example", "one.example"),
            (b"OTHER.example", "other.example"),
            (b"mail.wild.example", "wild.example"),
            (b"a.b.wild.example", "one.example"),
            (b"wild.example", "one.example"),
        ):
            self.assertEqual(self.shown(identities, self.client(sni)), common_name, sni)

    def test_ecdsa_beside_rsa(self) -> None:
        """A client gets the certificate of the type that it can check."""
        identities = self.identities(self.pair("mail.example"), self.pair("mail.example", rsa=2048))
        for ciphers, kind in ((b"ECDHE-ECDSA-AES128-GCM-SHA256", 408), (b"ECDHE-RSA-AES128-GCM-SHA256", 6)):
            client = self.client(most=SSL.TLS1_2_VERSION, ciphers=ciphers)
            shake(client, self.server(identities))
            certificate = client.get_peer_certificate()
            assert certificate is not None
            self.assertEqual(certificate.get_pubkey().type(), kind)

    def test_old_versions(self) -> None:
        """TLS 1.1 is refused; with minimum = 1.3, TLS 1.2 too."""
        pair = self.pair("a.example")
        ancient = self.client(most=SSL.TLS1_1_VERSION, ciphers=b"ALL:@SECLEVEL=0")
        self.assertRaises(SSL.Error, shake, ancient, self.server(self.identities(pair)))
        shake(self.client(most=SSL.TLS1_2_VERSION), self.server(self.identities(pair)))
        newest = self.identities(pair, minimum="1.3")
        self.assertRaises(SSL.Error, shake, self.client(most=SSL.TLS1_2_VERSION), self.server(newest))

    def test_alpn(self) -> None:
        """The listener's own protocol is chosen, none offered is fine, a foreign one ends in its own alert."""
        identities = self.identities(self.pair("a.example"))
        shake(self.client(), self.server(identities))
        client = self.client()
        client.set_alpn_protos([b"h2", b"imap"])
        shake(client, self.server(identities))
        self.assertEqual(client.get_alpn_proto_negotiated(), b"imap")
        for protocol, offer in (("imap", b"h2"), ("imap", b"pop3"), ("pop3", b"imap"), ("mx", b"http/1.1")):
            client = self.client()
            client.set_alpn_protos([offer])
            error = self.assertRaises(SSL.Error, shake, client, self.server(identities, protocol))
            self.assertIn("no application protocol", str(error))

    def test_tickets(self) -> None:
        """A client with a ticket resumes its session."""
        identities = self.identities(self.pair("a.example"))
        client, server = self.client(), self.server(identities)
        shake(client, server)
        server.send(b"x")
        carry(server, client)
        self.assertEqual(client.recv(1), b"x")
        again = SSL.Connection(client.get_context(), None)
        session = client.get_session()
        assert session is not None
        again.set_session(session)
        server = self.server(identities)
        shake(again, server)
        self.assertTrue(SSL._lib.SSL_session_reused(again._ssl))

    def test_renegotiation_refused(self) -> None:
        """A TLS 1.2 client that renegotiates is not served a second handshake."""
        identities = self.identities(self.pair("a.example"))
        client, server = self.client(most=SSL.TLS1_2_VERSION), self.server(identities)
        shake(client, server)
        self.assertTrue(client.renegotiate())
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        carry(client, server)
        self.assertRaises(SSL.Error, server.recv, 10)
        self.assertEqual(server.total_renegotiations(), 0)

    def test_faults(self) -> None:
        """A missing file, a file that is no certificate and another certificate's key are told with their path."""
        good, other = self.pair("a.example"), self.pair("b.example")
        junk = str(self.folder / "junk")
        Path(junk).write_text("no PEM\n")
        for pair, path in (
            ((good[0], junk + "1"), junk + "1"),
            ((junk, good[1]), junk),
            ((good[0], junk), junk),
            ((good[0], other[1]), other[1]),
        ):
            error = self.assertRaises(SettingsError, self.identities, pair)
            self.assertIn(path, error.faults[0])

    def test_unreadable(self) -> None:
        """A key that we may not read, as after we gave up being root, is told so in the system's words."""
        good = self.pair("a.example")
        with patch("os.open", side_effect=PermissionError(errno.EACCES, "Permission denied")):
            error = self.assertRaises(SettingsError, self.identities, good)
        self.assertEqual(error.faults, (f"{good[0]}: Permission denied",))

    def test_reload(self) -> None:
        """A changed pair is taken up; one whose halves do not fit is not, and the old one stays."""
        good, other = self.pair("a.example"), self.pair("b.example")
        identities = self.identities(good)
        self.assertFalse(identities.reload(only_changed=True))
        Path(good[0]).write_bytes(Path(other[0]).read_bytes())
        self.assertFalse(identities.reload(only_changed=True))
        self.assertEqual(self.shown(identities, self.client()), "a.example")
        Path(good[1]).write_bytes(Path(other[1]).read_bytes())
        self.assertTrue(identities.reload(only_changed=True))
        self.assertEqual(self.shown(identities, self.client()), "b.example")
        os.remove(good[1])
        self.assertFalse(identities.reload())
        self.assertEqual(self.shown(identities, self.client()), "b.example")


class PoolTlsTests(TlsCase):
    """What we accept of a backend."""

    def against(self, host: str, **pool: Any) -> SSL.Connection:
        """Shake hands with a server for be.example, 10.0.0.7 included."""
        folder = self.folder / "be"
        folder.mkdir()
        write_pair(["be.example", "10.0.0.7"], folder, 30, datetime.now(UTC))
        pool.setdefault("ca", str(folder / "be.example.crt"))
        identities = self.identities((str(folder / "be.example.crt"), str(folder / "be.example.key")))
        creator = PoolTls(Pool(**pool), "1.2").creator(host)
        verifyObject(IOpenSSLClientConnectionCreator, creator)
        verdict: list[Any] = []

        class Watcher:
            """Stands where Twisted's TLS protocol does."""

            factory = TLSMemoryBIOFactory(creator, True, Factory())

            def failVerification(self, reason: Any) -> None:
                verdict.append(reason.value)

        client = creator.clientConnectionForTLS(Watcher())  # type: ignore[arg-type]
        try:
            shake(client, self.server(identities))
        finally:
            if verdict:
                raise verdict[0]
        return client

    def test_right_name(self) -> None:
        """The CA and the name fit; the name was asked for by SNI."""
        client = self.against("be.example")
        self.assertEqual(client.get_servername(), b"be.example")

    def test_right_address(self) -> None:
        """A backend named by its address is checked against the certificate's addresses."""
        self.against("10.0.0.7")

    def test_wrong_name(self) -> None:
        """Another name, or another address, is refused."""
        for host in ("evil.example", "10.0.0.8"):
            self.setUp()
            self.assertRaises(VerificationError, self.against, host)

    def test_unknown_ca(self) -> None:
        """A certificate of nobody we know is refused."""
        other = self.pair("ca.example")
        self.assertRaises(SSL.Error, self.against, "be.example", ca=other[0])

    def test_unverified(self) -> None:
        """verify = false takes anything."""
        self.against("evil.example", verify=False, ca=None)

    def test_bad_ca(self) -> None:
        """A CA file that is missing or holds no certificate is told with its path."""
        junk = str(self.folder / "junk")
        error = self.assertRaises(SettingsError, PoolTls, Pool(ca=junk), "1.2")
        self.assertIn(junk, error.faults[0])
        Path(junk).write_text("no PEM\n")
        error = self.assertRaises(SettingsError, PoolTls, Pool(ca=junk), "1.2")
        self.assertIn(junk, error.faults[0])


class PoolKeysTests(TlsCase):
    """Names, keys and certificates that a pool's settings give."""

    def setUp(self) -> None:
        super().setUp()
        self.backend, self.own = self.pair("be.example"), self.pair("gw.example")

    def meet(self, host: str = "be.example", asks: bool = False, **pool: Any) -> list[Any]:
        """Shake hands as both kinds of transport do.

        @param asks: the server wants a certificate of us.
        @return: the names on those certificates.
        """
        shown: list[Any] = []
        creator: Any = PoolTls(Pool.model_validate({"ca": self.backend[0]} | pool), "1.2").creator(host)
        stock = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(Protocol)).buildProtocol(None)
        for client in (creator.clientConnectionForTLS(stock), creator.connection_on(None)):
            server = self.server(self.identities(self.backend))
            if asks:
                server.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
            shake(client, server)
            self.assertEqual(client.get_servername(), (pool.get("tls_name") or host).encode())
            certificate = server.get_peer_certificate()
            shown.append(certificate and certificate.get_subject().CN)
        return shown

    def pin(self, path: str) -> str:
        """As openssl makes it of a certificate.

        @raise SkipTest: there is none here.
        """
        if (missing := needs("openssl")) is not None:
            raise SkipTest(missing)
        command = (
            f"openssl x509 -in {path} -pubkey -noout | openssl pkey -pubin -outform der"
            " | openssl dgst -sha256 -binary | openssl enc -base64"
        )
        return (
            "sha256/" + subprocess.run(command, shell=True, capture_output=True, check=True, text=True).stdout.strip()
        )

    def test_name(self) -> None:
        """The name in the certificate may be another one than the host's."""
        self.meet("10.9.9.9", tls_name="be.example")
        creator: Any = PoolTls(Pool(ca=self.backend[0], tls_name="evil.example"), "1.2").creator("be.example")
        self.assertRaises(
            VerificationError, shake, creator.connection_on(None), self.server(self.identities(self.backend))
        )

    def test_pin(self) -> None:
        """The key has to be one of the pinned ones, on top of all else; or nothing else counts."""
        right, wrong = self.pin(self.backend[0]), self.pin(self.own[0])
        self.meet(pin=[wrong, right])
        self.meet("10.9.9.9", tls_name="evil.example", verify=False, ca=None, pin=right)
        for pool in ({"pin": wrong, "ca": self.backend[0]}, {"pin": wrong, "verify": False}):
            self.assertRaises(SSL.Error, self.meet, **pool)
            creator: Any = PoolTls(Pool.model_validate(pool), "1.2").creator("be.example")
            server = self.server(self.identities(self.backend))
            error = self.assertRaises(SSL.Error, shake, creator.connection_on(None), server)
            self.assertIn("pinned", str(error.__cause__))
        self.assertRaises(SSL.Error, self.meet, pin=right, ca=self.own[0])
        for bad in ("sha256/x", "md5/" + "A" * 43 + "=", right.removesuffix("=")):
            self.assertRaises(ValueError, Pool.model_validate, {"pin": bad})

    def test_certificate(self) -> None:
        """We show ours to who asks, whether we check theirs or not."""
        own = {"certificate": self.own[0], "key": self.own[1]}
        self.assertEqual(self.meet(asks=True, **own), ["gw.example"] * 2)
        self.assertEqual(self.meet(asks=True, verify=False, ca=None, **own), ["gw.example"] * 2)
        self.assertRaises((SSL.Error, AssertionError), self.meet, asks=True)  # TLS 1.3 refuses after the handshake

    def test_certificate_faults(self) -> None:
        """A pair that does not fit is told before anything starts."""
        pool = Pool(certificate=self.own[0], key=self.backend[1])
        error = self.assertRaises(SettingsError, PoolTls, pool, "1.2")
        self.assertIn("not the private key", error.faults[0])
