"""Tests of the composition root: what is built, started and reloaded. How it stops is in L{tests.test_drain}."""

from __future__ import annotations

import errno
import os
import pwd
import ssl
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from mailgw import gateway
from mailgw.edge.destination import ProxiedDestination
from mailgw.edge.selfsigned import write_pair
from mailgw.errors import SettingsError
from mailgw.gateway import RETIREMENT_POLL, Gateway, drop_privileges
from mailgw.interfaces import IFrontend, IHouse
from mailgw.local.serve import LocalDestination
from mailgw.model import Identity
from tests.kit import IMAP, POP3, KitTestCase
from tests.network import Far

MX = """
[[listener]]
protocol = "mx"
endpoint = "tcp:25"
[domains]
accept = ["example.com"]
"""
IMAP_AGAIN = """
[[listener]]
protocol = "imap"
endpoint = "tcp:2143"
tls = "none"
"""


class GatewayCase(KitTestCase):
    """A running gateway whose settings change."""

    def setUp(self) -> None:
        self.logged: list[str] = []
        super().setUp()
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if event["log_namespace"].startswith("mailgw.gateway"):
            self.logged.append(str(event["log_format"]).format(**event))

    def reload(self, more: str = "", **changed: str) -> None:
        """Write other settings, and put them in force."""
        self.write(more, **changed)
        self.gateway.reload(self.load)
        self.loop.turn()

    def without(self, port: int) -> None:
        """Take a listener out of the settings file, and reload."""
        path = self.folder / "mailgw.toml"
        tables = path.read_text().split("[[listener]]")
        path.write_text("[[listener]]".join(table for table in tables if f'"tcp:{port}"' not in table))
        self.gateway.reload(self.load)
        self.loop.turn()

    def ports(self) -> list[int]:
        """What is listened on."""
        return sorted(port.number for port in self.loop.ports)

    def people(self) -> Any:
        """The directory in force."""
        return self.gateway.house._chain.directories[0]

    def assertAlive(self, client: Far, backend: Far) -> None:
        """Bytes pass both ways."""
        client.send(b"n NOOP\r\n")
        self.assertEqual(backend.read(), b"n NOOP\r\n")
        backend.send(b"n OK\r\n")
        self.assertEqual(client.read(), b"n OK\r\n")


class BuildTests(GatewayCase):
    """What settings become."""

    def test_house(self) -> None:
        """It is what plugs and frontends are promised."""
        house = self.gateway.house
        verifyObject(IHouse, house)
        for protocol in ("imap", "pop3", "mx", "submission"):
            verifyObject(IFrontend, house.frontend(protocol))
        self.assertEqual(list(house.pools), ["main"])

    def test_nothing_before_the_start(self) -> None:
        """To build is not to listen, and asks nobody."""
        other = gateway.Gateway(self.load(), self.loop)
        self.assertEqual(len(self.loop.ports), 5)
        self.assertFalse(other.running)

    def test_tls(self) -> None:
        """Listeners have the identity, those without TLS have none."""
        listeners = {listener.endpoint: listener for listener in self.load().listener}
        self.assertIsNone(self.gateway.house.server_tls(listeners["tcp:1143"]))
        tls = self.gateway.house.server_tls(listeners["tcp:143"])
        assert tls is not None
        self.assertIs(tls.identities, self.gateway.house.identities)

    def test_destinations(self) -> None:
        """A pool's users go to a backend, others to the local store."""
        session: Any = type("Session", (), {"protocol": "imap", "login": None})()
        identity = Identity("anna@example.com")
        far = self.successResultOf(Deferred.fromCoroutine(self.gateway.house._destination(identity, session)))
        self.assertIsInstance(far, ProxiedDestination)
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace('kind = "pool"\npool = "main"', 'kind = "local"'))
        self.gateway.reload(self.load)
        here = self.successResultOf(Deferred.fromCoroutine(self.gateway.house._destination(identity, session)))
        self.assertIsInstance(here, LocalDestination)

    def test_stop(self) -> None:
        """A house that stops releases what its rules hold."""
        stopped: list[str] = []

        async def stop() -> None:
            stopped.append("rules")

        self.patch(self.gateway.house._router, "stop", stop)
        self.successResultOf(Deferred.fromCoroutine(self.gateway.house.stop()))
        self.assertEqual(stopped, ["rules"])

    def test_bad_files(self) -> None:
        """A certificate, or a CA, that cannot be used is a fault of the settings, with its path."""
        for name in ("localhost.key", "localhost.crt"):
            text = (self.folder / name).read_text()
            (self.folder / name).write_text("no PEM")
            error = self.assertRaises(SettingsError, gateway.Gateway, self.load(), self.loop)
            self.assertIn(name, error.faults[0])
            (self.folder / name).write_text(text)


class StartTests(GatewayCase):
    """The start, in two steps."""

    def test_order(self) -> None:
        """Ports and the state folder come first, while we may still be root; directories begin after that."""
        self.stop(self.gateway)
        self.assertEqual(self.ports(), [])
        other = gateway.Gateway(self.load(), self.loop)
        other.privilegedStartService()
        self.assertEqual(self.ports(), [143, 993, 1110, 1143, 4190])
        self.assertTrue((self.folder / "state").is_dir())
        self.assertEqual((self.folder / "state").stat().st_mode & 0o777, 0o700)
        directory: Any = other.house._chain.directories[0]
        self.assertEqual(directory.started, 0)
        other.startService()
        self.assertEqual(directory.started, 1)
        self.stop(other)
        self.assertEqual(directory.stopped, 1)

    def stop(self, service: Gateway) -> None:
        stopped = service.stopService()
        self.loop.turn()
        self.successResultOf(stopped)

    def test_port_taken(self) -> None:
        """A port that cannot be bound ends the start with status 1 and a word about it."""
        error = self.assertRaises(SystemExit, gateway.Gateway(self.load(), self.loop).privilegedStartService)
        self.assertIn("mailgw: cannot listen: imap on tcp:143: another program", str(error))
        self.assertIn("cannot listen", self.logged[-1])

    def test_state_cannot_be_made(self) -> None:
        """Nor is there a start without a place to write."""
        (self.folder / "file").write_text("")
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace('state = "state"', 'state = "file/state"'))
        error = self.assertRaises(SystemExit, gateway.Gateway(self.load(), self.loop).privilegedStartService)
        self.assertIn("file/state", str(error))


class PrivilegeTests(GatewayCase):
    """gateway.user."""

    def drop(self, user: str, euid: int = 0, known: bool = True) -> list[tuple[Any, ...]]:
        """Start as root, or as somebody else; tell what was asked of the system."""
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace("[gateway]", f'[gateway]\nuser = "{user}"'))
        other = gateway.Gateway(self.load(), self.loop)
        calls: list[tuple[Any, ...]] = []
        fakes = {name: self.recorder(name, calls) for name in ("chown", "initgroups", "setgid", "setuid")}
        entry = pwd.struct_passwd((user, "x", 1234, 5678, "", "/", "/bin/false"))
        unknown = KeyError("getpwnam(): name not found")
        with (
            patch.multiple(os, geteuid=lambda: euid, **fakes),
            patch.object(pwd, "getpwnam", side_effect=unknown if not known else None, return_value=entry),
        ):
            drop_privileges(other.house.settings)
        return calls

    @staticmethod
    def recorder(name: str, calls: list[tuple[Any, ...]]) -> Any:
        return lambda *arguments: calls.append((name, *arguments))

    def test_root(self) -> None:
        """The state folder is given away, then groups and ids go, the user id last: without it nothing else would."""
        self.assertEqual(
            self.drop("mail"),
            [
                ("chown", str(self.folder / "state"), 1234, 5678),
                ("initgroups", "mail", 5678),
                ("setgid", 5678),
                ("setuid", 1234),
            ],
        )

    def test_not_root(self) -> None:
        """Who is not root stays who he is."""
        self.assertEqual(self.drop("mail", euid=1000), [])

    def test_unknown_user(self) -> None:
        """A user who does not exist ends the start with a word about it."""
        error = self.assertRaises(SystemExit, self.drop, "nobdy", known=False)
        self.assertIn("gateway.user", str(error))
        self.assertIn("'nobdy'", str(error))


class ReloadTests(GatewayCase):
    """New settings."""

    def test_live_sessions(self) -> None:
        """Sessions in relay do not notice."""
        imap, pop3 = self.logged_in(IMAP), self.logged_in(POP3)
        self.reload(members='"10.0.0.2"')
        self.assertAlive(*imap)
        self.assertAlive(*pop3)
        self.assertEqual(self.logged, ["reloaded"])

    def test_new_logins(self) -> None:
        """New connections find the new settings, on ports that were not closed."""
        ports = list(self.loop.ports)
        self.reload(members='"10.0.0.2"')
        self.assertEqual(self.loop.ports, ports)
        self.visit(1143).send(IMAP.login)
        self.assertEqual(self.loop.dials[0].host, "10.0.0.2")

    def test_faults(self) -> None:
        """A file with faults changes nothing, and each fault is told."""
        house = self.gateway.house
        self.write('[nonsense]\nx = 1\n[[listener]]\nprotocol = "imp"\nendpoint = "tcp:99999"\n')
        self.gateway.reload(self.load)
        self.assertIs(self.gateway.house, house)
        self.assertGreaterEqual(len(self.logged), 2)
        self.assertTrue(all(line.startswith("not reloaded: ") for line in self.logged))
        self.logged_in(IMAP)

    def test_unusable_certificate(self) -> None:
        """Nor does a certificate that does not fit its key, however good the rest is."""
        house = self.gateway.house
        (self.folder / "localhost.key").write_text("no PEM")
        self.reload(members='"10.0.0.2"')
        self.assertIs(self.gateway.house, house)
        self.loop.visit(993).secure(self.as_client)

    def test_file_gone(self) -> None:
        """Nor does a file that is gone."""
        house = self.gateway.house
        (self.folder / "mailgw.toml").unlink()
        self.gateway.reload(self.load)
        self.assertIs(self.gateway.house, house)
        self.assertIn("not reloaded: ", self.logged[0])

    def test_new_certificate(self) -> None:
        """Both kinds of listeners show the new certificate; a session that is there goes on."""
        old = self.loop.visit(993)
        old.secure(self.as_client)
        self.new_certificate()
        self.reload()
        self.assertCertificate()
        old.send(b"a NOOP\r\n")
        self.assertIn(b"a OK", old.read())

    def new_certificate(self) -> None:
        folder = self.folder / "new"
        folder.mkdir()
        write_pair(["localhost"], folder, 30, datetime.now(UTC))
        for name in ("localhost.key", "localhost.crt"):
            os.replace(folder / name, self.folder / name)

    def assertCertificate(self) -> None:
        """The present certificate is shown everywhere."""
        context = ssl.create_default_context(cafile=str(self.folder / "localhost.crt"))
        self.loop.visit(993).secure(context)
        client = self.visit(143)
        client.send(b"s STARTTLS\r\n")
        client.read(200)
        client.secure(context)
        self.assertRaises(ssl.SSLError, self.loop.visit(993).secure, self.as_client)

    def test_certificate_without_a_reload(self) -> None:
        """Files that have changed are used without new settings."""
        self.new_certificate()
        self.gateway.renew_certificates()
        self.assertCertificate()

    def test_listener_added(self) -> None:
        """A new listener answers, with everything the others have."""
        self.reload(IMAP_AGAIN)
        self.assertEqual(self.ports(), [143, 993, 1110, 1143, 2143, 4190])
        client = self.visit(2143)
        client.send(IMAP.login)
        self.backend(IMAP).send(IMAP.good)
        self.assertTrue(client.read().endswith(IMAP.welcome))

    def test_protocol_added(self) -> None:
        """A listener of a protocol that was not there before."""
        self.reload(MX)
        self.assertTrue(self.loop.visit(25).read().startswith(b"220 gw.example"))

    def test_listener_removed(self) -> None:
        """A port is closed; its sessions live on, and the other ports do not notice."""
        session = self.logged_in(IMAP)
        self.without(1143)
        self.assertEqual(self.ports(), [143, 993, 1110, 4190])
        self.assertAlive(*session)
        self.logged_in(POP3)

    def test_listener_changed(self) -> None:
        """Another protocol, and other TLS, on the same endpoint: without closing the port, which may need root."""
        path = self.folder / "mailgw.toml"
        ports = list(self.loop.ports)
        text = path.read_text().replace(
            'endpoint = "tcp:1143"\ntls = "none"', 'endpoint = "tcp:1143"\ntls = "implicit"'
        )
        path.write_text(text.replace('"pop3"\nendpoint = "tcp:1110"', '"imap"\nendpoint = "tcp:1110"'))
        self.gateway.reload(self.load)
        self.loop.turn()
        self.assertEqual(self.loop.ports, ports)
        self.loop.visit(1143).secure(self.as_client)
        self.assertTrue(self.loop.visit(1110).read().startswith(b"* OK"))
        self.assertEqual(self.logged, ["reloaded"])

    def test_same_port_in_other_words(self) -> None:
        """An endpoint that names a port of ours differently: the old one is closed before the new one is opened."""
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace('"tcp:1143"', '"tcp:1143:interface=127.0.0.1"'))
        self.gateway.reload(self.load)
        self.loop.turn()
        self.assertEqual(self.logged, ["reloaded"])
        self.assertEqual([port.interface for port in self.loop.ports if port.number == 1143], ["127.0.0.1"])
        self.logged_in(IMAP)

    def test_port_taken(self) -> None:
        """A new port that cannot be bound is told, the others are all served with the new settings; the next reload
        tries again."""
        self.loop.unbindable[2143] = errno.EADDRINUSE
        self.reload(IMAP_AGAIN + MX, members='"10.0.0.2"')
        self.assertIn("reloaded, but cannot listen: imap on tcp:2143", " ".join(self.logged))
        self.assertEqual(self.ports(), [25, 143, 993, 1110, 1143, 4190])
        for port in (1143, 1110):
            self.visit(port).send(IMAP.login if port == 1143 else POP3.login)
            self.assertEqual(self.loop.dials[0].host, "10.0.0.2")
            self.loop.dials[0].refuse()
        self.loop.unbindable.clear()
        self.gateway.reload(self.load)
        self.loop.turn()
        self.assertEqual(self.ports(), [25, 143, 993, 1110, 1143, 2143, 4190])

    def test_one_after_the_other(self) -> None:
        """Reloads that come faster than ports close end with what the last one says."""
        for more in (MX, IMAP_AGAIN, MX + IMAP_AGAIN):
            self.write(more)
            self.gateway.reload(self.load)
        self.without(1143)
        self.assertEqual(self.ports(), [25, 143, 993, 1110, 2143, 4190])
        self.assertNotIn("but", " ".join(self.logged))

    def test_limits(self) -> None:
        """Limits hold at once, counts go on."""
        self.logged_in(IMAP)
        self.reload(limits="connections_per_address = 1")
        self.assertIn(b"* BYE", self.loop.visit(1143).read())

    def test_login_under_way(self) -> None:
        """A login that began with the old settings ends with them."""
        client = self.visit(1143)
        client.send(IMAP.login)
        backend = self.backend(IMAP)
        old = self.people()
        self.reload(members='"10.0.0.2"')
        self.loop.wait(RETIREMENT_POLL + 0.5)
        self.assertEqual(old.stopped, 0)
        backend.send(IMAP.good)
        self.assertTrue(client.read().endswith(IMAP.welcome))

    def test_retirement(self) -> None:
        """Old directories are stopped once nobody is left who could ask them; relays could not."""
        self.logged_in(IMAP)
        waiting = self.visit(1143)
        old = self.people()
        self.reload()
        self.assertIsNot(self.people(), old)
        self.assertEqual(self.people().started, 1)
        self.loop.wait(3 * RETIREMENT_POLL)
        self.assertEqual(old.stopped, 0)
        waiting.close()
        self.loop.wait(RETIREMENT_POLL + 0.5)
        self.assertEqual(old.stopped, 1)
        self.assertEqual(self.people().stopped, 0)

    def test_long_smtp_session(self) -> None:
        """An SMTP session that is older than a reload may ask its directory as long as it lives."""
        self.reload(MX)
        sender = self.loop.visit(25)
        sender.send(b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRSET\r\n")
        self.reload(MX, members='"10.0.0.2"')
        for _ in range(5):
            self.loop.wait(100)
            sender.send(b"NOOP\r\n")
        sender.read()
        sender.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<nobody@example.com>\r\n")
        self.assertIn(b"550 5.1.1", sender.read())
