"""Tests of the relay with TLS, on one side or on both. On Twisted's transports, with real handshakes."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Protocol

from mailgw.edge.relay import Half, Relay
from mailgw.edge.selfsigned import write_pair
from mailgw.edge.tls import Identities, PoolTls, ServerTls
from mailgw.settings import Pool, Tls
from tests.edge.test_relay import BACKEND, MEGABYTES, RelayCase
from tests.network import Near


class Securing(Protocol):
    """Starts TLS, then lets a stage go on."""

    def __init__(self, tls: ServerTls, stage: Half) -> None:
        self._tls, self._stage = tls, stage

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.startTLS(self._tls)
        self._stage.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._stage.dataReceived(data)

    def connectionLost(self, reason: Any = None) -> None:
        self._stage.connectionLost(reason)


class TlsCase(RelayCase):
    """A relay whose client is in TLS, and whose backend is too."""

    member = replace(BACKEND, tls="implicit")

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        write_pair(["localhost", "10.0.0.1"], folder, 30, datetime.now(UTC))
        self.certificate = folder / "localhost.crt"
        files = {"certificate": (str(self.certificate),), "key": (str(folder / "localhost.key"),)}
        self.server_tls = ServerTls(Identities(Tls(**files)), "imap")
        self.as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.as_server.load_cert_chain(self.certificate, folder / "localhost.key")

    def tls_to_backend(self) -> Any:
        return PoolTls(Pool(ca=str(self.certificate)), "1.2").creator("10.0.0.1")

    def secure_client(self, relay: Relay) -> None:
        self.client = self.loop.join(Securing(self.server_tls, relay.client), Near, "198.51.100.7")
        self.client.secure(ssl.create_default_context(cafile=str(self.certificate)))

    def secure_backend(self) -> None:
        self.backend.secure(self.as_server, server=True)

    def both(self) -> Relay:
        relay = self.relay()
        self.secure_client(relay)
        return relay


class BothTests(TlsCase):
    """With TLS on both sides."""

    def test_both_ways(self) -> None:
        """Bytes pass."""
        self.both()
        self.client.send(b"a NOOP\r\n")
        self.assertEqual(self.backend.read(), b"a NOOP\r\n")
        self.backend.send(b"a OK\r\n")
        self.assertEqual(self.client.read(), b"a OK\r\n")

    def test_backend_ends(self) -> None:
        """The last words of a backend arrive before the end."""
        self.both()
        self.backend.send(b"* BYE\r\n")
        self.backend.close()
        self.assertEqual(self.client.read(), b"* BYE\r\n")
        self.assertTrue(self.client.gone)
        self.client.close()
        self.assertEqual(self.over, 1)

    def test_client_ends(self) -> None:
        """The end of the client ends the backend's side too."""
        self.both()
        self.client.close()
        self.assertTrue(self.backend.gone)
        self.backend.close()
        self.assertEqual(self.over, 1)

    def test_half_close_towards_tls(self) -> None:
        """A plain client that stops sending cannot be told to a backend in TLS: both are closed, the client too."""
        relay = self.relay()
        self.client = self.loop.join(relay.client, Near, "198.51.100.7")
        self.client.send(b"z LOGOUT\r\n")
        self.client.finish()
        self.assertEqual(self.backend.read(), b"z LOGOUT\r\n")
        self.assertTrue(self.backend.gone)
        self.backend.close()
        self.assertTrue(self.client.gone)
        self.assertEqual(self.over, 1)

    def test_dead_transports(self) -> None:
        """Dead transports in TLS have lost their protocol; no call of ours to them raises."""
        relay = self.both()
        self.client.near.abortConnection()
        self.backend.near.abortConnection()
        self.loop.turn()
        relay.client.dataReceived(b"x")
        relay.client.peer.dataReceived(b"x")
        relay.client.readConnectionLost()
        relay.sweep(1e9)
        self.assertEqual(self.over, 1)


class ClientTests(TlsCase):
    """With TLS towards the client only."""

    member = BACKEND

    def secure_backend(self) -> None:
        """Nothing to do."""

    def test_slow_client(self) -> None:
        """A client in TLS that does not read stops the reading from the backend; then it gets everything."""
        self.both()
        taken = self.backend.pour(MEGABYTES)
        self.assertLess(taken, len(MEGABYTES) // 2)
        self.assertNotIn(self.backend.near, self.loop.readers)
        self.assertLess(self.client.near.waiting, 512 << 10)
        received = self.client.read()
        while taken < len(MEGABYTES):
            taken += self.backend.pour(MEGABYTES[taken:])
            received += self.client.read()
        self.assertTrue(received == MEGABYTES, f"{len(received)} of {len(MEGABYTES)} octets, or others")

    def test_backend_is_faster(self) -> None:
        """A backend that says much and hangs up: a slow client in TLS still gets everything."""
        self.both()
        taken = self.backend.pour(MEGABYTES)
        self.backend.close()
        received = b""
        while not self.client.closed:
            received += self.client.read()
        self.assertTrue(received == MEGABYTES[:taken], f"{len(received)} of {taken}")
        self.client.unwrap()
        self.assertEqual(self.over, 1)

    def test_last_words(self) -> None:
        """A backend that hangs up while much of its last words waits: likewise, and the client is closed in TLS."""
        self.both()
        self.backend.send(MEGABYTES[:50_000])
        self.backend.close()
        self.assertEqual(self.client.read(), MEGABYTES[:50_000])
        self.assertTrue(self.client.closed)
