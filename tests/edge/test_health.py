"""Tests of the health checks, over connections in memory."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.edge.dialer import Dialer
from mailgw.edge.health import FAREWELL, FIRST, SOON, HealthChecks
from mailgw.edge.selfsigned import write_pair
from mailgw.edge.tls import PoolTls
from mailgw.interfaces import IChecked
from mailgw.model import Backend
from mailgw.ops.board import Board
from mailgw.settings import Limits, Pool
from tests.network import Far, NetworkTestCase

IMAP = Backend("main", "be1", "10.0.0.1", 143, "none")
GREETING = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\r\n"


@implementer(IChecked)
class FakePool:
    """Has what a test gives it, and a list of what it is told."""

    def __init__(self, *services: tuple[Backend, str], **options: Any) -> None:
        self.options = Pool.model_validate(options)
        self._services = list(services)
        self.told: list[tuple[str, str, frozenset[str] | None]] = []
        self.settled = True

    def services(self) -> list[tuple[Backend, str]]:
        return self._services

    def key(self, backend: Backend, protocol: str) -> str:
        return f"{backend.name} {protocol}"

    def checked(self, backend: Backend, protocol: str, fault: str, capabilities: frozenset[str] | None) -> bool:
        self.told.append((self.key(backend, protocol), fault, capabilities))
        return self.settled


class HealthCase(NetworkTestCase):
    """Checks of one pool."""

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        write_pair(["localhost", "10.0.0.1"], folder, 30, datetime.now(UTC))
        self.as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.as_server.load_cert_chain(folder / "localhost.crt", folder / "localhost.key")
        self.ca = str(folder / "localhost.crt")
        self.board = Board()
        self.first = True

    def begin(self, *services: tuple[Backend, str], ca: str | None = None, **options: Any) -> FakePool:
        """Check these, be1's IMAP if there are none; trial ends it."""
        pool = FakePool(*(services or ((IMAP, "imap"),)), **options)
        tls = {"main": PoolTls(Pool(ca=ca or self.ca), "1.2")}
        dialer = Dialer(self.loop, tls, Limits())
        self.checks = HealthChecks(self.loop, [pool], dialer, self.board, lambda: self.first, "gw.example", Random(1))
        self.checks.startService()
        self.addCleanup(lambda: self.checks.running and self.checks.stopService())
        return pool

    def accept(self, seconds: float = FIRST) -> Far:
        """Let so much time pass at most, and be there for one check."""
        end = self.loop.seconds() + seconds
        while not self.loop.dials and self.loop.seconds() < end:
            self.loop.advance(0.0625)
        (dial,) = self.loop.dials
        return dial.accept()

    def tell(self, greeting: bytes = GREETING, seconds: float = FIRST) -> Far:
        """Be there, and say this."""
        far = self.accept(seconds)
        far.send(greeting)
        return far


class CheckTests(HealthCase):
    def test_pool(self) -> None:
        """The double is what the checks ask for."""
        self.assertTrue(verifyObject(IChecked, FakePool()))

    def test_good(self) -> None:
        """A good check is told with what was announced; it parts politely and comes again in its time."""
        pool = self.begin(health="10s")
        far = self.tell()
        self.assertEqual(pool.told, [("be1 imap", "", frozenset({"IMAP4rev1", "AUTH=PLAIN", "SASL-IR"}))])
        self.assertEqual(far.read(), b"Z LOGOUT\r\n")
        far.send(b"* BYE\r\nZ OK bye\r\n")
        far.close()
        self.loop.wait(8.9)
        self.assertEqual(self.loop.dials, [])
        self.tell(seconds=2.2)
        self.assertEqual(len(pool.told), 2)

    def test_does_not_hang_up(self) -> None:
        """A backend that does not part is left, and nobody waited for it."""
        self.begin()
        far = self.tell()
        self.assertFalse(far.gone)
        self.loop.wait(FAREWELL)
        self.assertTrue(far.gone)

    def test_refused(self) -> None:
        """Nobody is there; while this is news the next check comes soon."""
        pool = self.begin()
        pool.settled = False
        self.loop.wait(FIRST)
        self.loop.dials[0].refuse()
        self.assertIn("main/be1 (10.0.0.1:143): ", pool.told[0][1])
        self.loop.wait(SOON * 1.2)
        self.loop.dials[0].refuse()
        self.assertEqual(len(pool.told), 2)
        pool.settled = True
        self.loop.wait(SOON * 1.2)
        self.loop.dials[0].refuse()
        self.loop.wait(SOON * 5)
        self.assertEqual(self.loop.dials, [])

    def test_silent(self) -> None:
        """A server that says nothing, before or behind the connection, is not waited for."""
        pool = self.begin(health_timeout="2s")
        self.loop.wait(FIRST + 2.1)
        self.assertEqual([fault for _, fault, _ in pool.told], ["main/be1 (10.0.0.1:143): checked for 2 s in vain"])
        self.assertEqual(self.loop.dials, [])
        far = self.accept(12.0)
        self.loop.wait(2.1)
        self.assertEqual(len(pool.told), 2)
        self.assertTrue(far.gone)

    def test_hangs_up(self) -> None:
        """A server that accepts and hangs up, or is another one, is not well."""
        pool = self.begin(health="1s")
        self.accept().close()
        self.assertIn("connection lost", pool.told[0][1])
        self.tell(b"220 smtp\r\n", 1.2)
        self.assertIn("not an IMAP greeting", pool.told[1][1])

    def test_tls(self) -> None:
        """Implicit TLS and STARTTLS are spoken, and the certificate is looked at as for users."""
        for mode, ca in (("implicit", self.ca), ("starttls", self.ca), ("implicit", "other"), ("starttls", "other")):
            if ca == "other":
                other = Path(self.mktemp())
                other.mkdir()
                write_pair(["10.0.0.1"], other, 30, datetime.now(UTC))
                ca = str(other / "10.0.0.1.crt")
            pool = self.begin((Backend("main", "be1", "10.0.0.1", 993, mode), "imap"), ca=ca)
            far = self.accept()
            if mode == "starttls":
                far.send(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n")
                self.assertEqual(far.read(), b"S STARTTLS\r\n")
                far.send(b"S OK\r\n")
            try:
                far.secure(self.as_server, server=True)
                if mode == "starttls":
                    self.assertEqual(far.read(), b"C CAPABILITY\r\n")
                    far.send(b"* CAPABILITY IMAP4rev1 IDLE\r\nC OK\r\n")
                else:
                    far.send(GREETING)
                far.read()
            except ssl.SSLError:
                pass
            self.assertEqual(pool.told[0][1] == "", ca == self.ca, (mode, pool.told))
            self.checks.stopService()

    def test_every_protocol(self) -> None:
        """Each service is spoken to in its own protocol."""
        ports = ((143, ""), (110, ""), (25, "smtp"), (24, "lmtp"), (4190, ""))
        backends = [Backend("main", f"be{port}", "10.0.0.1", port, "none", speak) for port, speak in ports]
        spoken = ["imap", "pop3", "smtp", "smtp", "managesieve"]
        pool = self.begin(*zip(backends, spoken, strict=True))
        self.loop.wait(FIRST)
        fars = {dial.port: dial.accept() for dial in list(self.loop.dials)}
        fars[143].send(GREETING)
        fars[110].send(b"+OK hi\r\n", b"+OK\r\nUIDL\r\n.\r\n")
        fars[25].send(b"220 hi\r\n", b"250-me\r\n250 SIZE 10\r\n")
        fars[24].send(b"220 hi\r\n", b"250 me\r\n")
        fars[4190].send(b'"SIEVE" "x"\r\nOK\r\n')
        self.assertEqual({fault for _, fault, _ in pool.told}, {""})
        said = {port: far.read() for port, far in fars.items()}
        self.assertEqual(said[110], b"CAPA\r\nQUIT\r\n")
        self.assertEqual(said[25], b"EHLO gw.example\r\nQUIT\r\n")
        self.assertEqual(said[24], b"LHLO gw.example\r\nQUIT\r\n")
        self.assertEqual(said[4190], b"LOGOUT\r\n")


class ProbeTests(HealthCase):
    def probe(self, answer: bytes) -> FakePool:
        """Have a probe account answered."""
        pool = self.begin(probe_user="probe", probe_password="secret")
        far = self.tell()
        self.assertIn(b"L AUTHENTICATE PLAIN ", far.read())
        far.send(answer)
        return pool

    def test_good(self) -> None:
        """It is logged in, and its capabilities count."""
        pool = self.probe(b"L OK [CAPABILITY IMAP4rev1 SORT] in\r\n")
        self.assertEqual(pool.told, [("be1 imap", "", frozenset({"IMAP4rev1", "SORT"}))])

    def test_trouble(self) -> None:
        """A server that cannot log anybody in is not well."""
        [(_, fault, _)] = self.probe(b"L NO [UNAVAILABLE] later\r\n").told
        self.assertIn("login failed", fault)

    def test_rejected(self) -> None:
        """A wrong password in the settings takes no server down; it is in the log."""
        pool = self.probe(b"L NO [AUTHENTICATIONFAILED] no\r\n")
        self.assertEqual([fault for _, fault, _ in pool.told], [""])


class ServiceTests(HealthCase):
    def test_not_the_first(self) -> None:
        """Of several workers one checks; when it is our turn we do."""
        self.first = False
        pool = self.begin(health="5s")
        self.loop.wait(20.0)
        self.assertEqual(self.loop.dials, [])
        self.first = True
        self.tell(seconds=5.0)
        self.assertEqual(len(pool.told), 1)

    def test_clears_up(self) -> None:
        """What the board has of servers that nobody checks any more goes; the others' words stay."""
        for name in ("be1 imap", "be9 imap"):
            self.board.put("health", name, "word")
            self.board.put("backend", name, "drain")
        self.first = False
        self.begin()
        self.assertEqual(len(self.board.words("health")), 2)
        self.checks.stopService()
        self.first = True
        self.begin()
        self.assertEqual(list(self.board.words("health")), ["be1 imap"])
        self.assertEqual(len(self.board.words("backend")), 2)

    def test_no_checks(self) -> None:
        """A pool with health = "0s" is not checked."""
        self.begin(health="0s")
        self.loop.wait(60.0)
        self.assertEqual((self.loop.dials, self.loop.getDelayedCalls()), ([], []))

    def test_asked(self) -> None:
        """A login that failed has its server checked at once, and not ten times."""
        pool = self.begin(health="60s")
        self.tell()
        self.loop.wait(5.0)
        for when in ("1", "2", "3"):
            self.board.post("suspect", "be1 imap", when)
            self.board.post("suspect", "be9 imap", when)
        self.tell(seconds=0.1)
        self.assertEqual(len(pool.told), 2)
        self.board.post("suspect", "be1 imap", "4")
        self.loop.wait(SOON * 0.8)
        self.assertEqual(self.loop.dials, [])
        self.tell(seconds=SOON * 0.3)

    def test_stop(self) -> None:
        """Nothing goes on after the end, in whatever state it was."""
        for seconds in (0.0, FIRST):
            pool = self.begin()
            self.loop.wait(seconds)
            self.checks.stopService()
            self.board.post("suspect", "be1 imap", str(seconds))
            self.assertEqual((self.loop.dials, self.loop.getDelayedCalls(), pool.told), ([], [], []))
        pool = self.begin()
        far = self.accept()
        self.checks.stopService()
        self.assertTrue(far.gone)
        self.assertEqual((self.loop.getDelayedCalls(), pool.told), ([], []))
