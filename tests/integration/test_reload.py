"""A running twistd that is told to read its settings again, and to stop: what its clients notice, which is little.

Mail is in local Maildirs, so that no other server is needed.
"""

from __future__ import annotations

import contextlib
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgw.edge.selfsigned import write_pair
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Wire, trusting
from tests.integration.gateway import Gateway
from tests.integration.ports import answers, free_port, wait_for

USER, PASSWORD = "anna@gateway.example", "horse"
SETTINGS = """
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "local"
[local]
path = "mail/{domain}/{local}"
[domains]
accept = ["gateway.example"]
[limits]
failure_delay = "50ms"
"""


class ReloadTestCase(SynchronousTestCase):
    """A gateway for each test."""

    timeout = 120.0

    def setUp(self) -> None:
        self.gateway = Gateway(SETTINGS)
        self.addCleanup(self.gateway.stop)
        (self.gateway.folder / "passwd").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        self.gateway.start()
        self.context = trusting(certificates().ca)

    def imap(self) -> Imap:
        """A session that has selected its INBOX."""
        client = Imap(self.gateway.ports.imaps, "implicit", self.context)
        self.addCleanup(self.hang_up, client)
        client.login(USER, PASSWORD)
        self.assertEqual(client.select()[0], "OK")
        return client

    @staticmethod
    def hang_up(client: Imap) -> None:
        """Close what may be closed already."""
        with contextlib.suppress(OSError):
            client.shutdown()

    def change(self, change: Callable[[str], str], log: str) -> None:
        """Change the settings file, and have it read again."""
        path = self.gateway.settings
        path.write_text(change(path.read_text()))
        self.reload(log)

    def reload(self, log: str) -> None:
        """SIGHUP, and wait until the log has one line more with that."""
        before = self.gateway.log().count(log)
        self.gateway.reload()
        wait_for(f"{log!r} in the log", lambda: self.gateway.log().count(log) > before)


class SighupTests(ReloadTestCase):
    """SIGHUP."""

    def shown(self, port: int, context: ssl.SSLContext) -> str:
        """Whose certificate is shown on a TLS port, if the context trusts it."""
        try:
            with Wire(port, context):
                return "trusted"
        except ssl.SSLCertVerificationError:
            return "unknown"

    def test_certificate(self) -> None:
        """New connections get the new certificate, on all kinds of ports; a session lives on."""
        session = self.imap()
        folder = self.gateway.folder / "new"
        folder.mkdir()
        write_pair(["localhost"], folder, 30, datetime.now(UTC))
        new = trusting(folder / "localhost.crt")
        self.assertEqual(self.shown(self.gateway.ports.imaps, new), "unknown")
        (folder / "localhost.key").rename(self.gateway.folder / "server.key")
        (self.gateway.folder / "server.pem").write_bytes((folder / "localhost.crt").read_bytes())
        self.reload("reloaded")
        for port in (self.gateway.ports.imaps, self.gateway.ports.pop3s, self.gateway.ports.submissions):
            self.assertEqual(self.shown(port, new), "trusted")
            self.assertEqual(self.shown(port, self.context), "unknown")
        Imap(self.gateway.ports.imap, "starttls", new).logout()
        self.assertEqual(session.noop()[0], "OK")

    def test_listeners(self) -> None:
        """A listener comes, another goes, sessions on it live on."""
        session = self.imap()
        port, gone = free_port(), self.gateway.ports.imaps
        self.change(lambda text: text.replace(f"tcp:{gone}:", f"tcp:{port}:"), "reloaded")
        wait_for("the old port closed", lambda: not answers(gone), 5.0)
        wait_for("the new port open", lambda: answers(port), 5.0)
        self.assertEqual(session.noop()[0], "OK")
        again = Imap(port, "implicit", self.context)
        again.login(USER, PASSWORD)
        again.logout()

    def test_terms(self) -> None:
        """A listener's TLS may change while its port stays."""
        port = self.gateway.ports.pop3
        with Wire(port) as wire:
            self.assertTrue(wire.line().startswith(b"+OK"))
        found = re.compile(rf'(tcp:{port}:\S+\ntls = )"starttls"')
        self.change(lambda text: found.sub(r'\1"implicit"', text), "reloaded")
        with Wire(port, self.context) as wire:
            self.assertTrue(wire.line().startswith(b"+OK"))

    def test_faults(self) -> None:
        """A bad file is refused, each fault is logged with its place, and nothing changes; then a good one is taken."""
        session = self.imap()
        good = self.gateway.settings.read_text()
        self.change(lambda text: text + '\n[limit]\nx = 1\n[[listener]]\nprotocol = "imap"\n', "not reloaded: ")
        self.assertRegex(self.gateway.log(), r"not reloaded: \S*mailgw\.toml:\d+: limit: unknown table")
        self.assertRegex(self.gateway.log(), r"not reloaded: \S*mailgw\.toml:\d+: listener\.8")
        self.assertEqual(session.noop()[0], "OK")
        self.imap().logout()
        self.change(lambda _: good, "#info] reloaded")

    def test_often(self) -> None:
        """Twenty signals in a row, with logins meanwhile."""
        session = self.imap()
        for _ in range(20):
            self.gateway.reload()
            time.sleep(0.02)
        self.imap().logout()
        self.assertEqual(session.noop()[0], "OK")
        self.gateway.check_log()

    def test_stop_soon_after(self) -> None:
        """What a reload has replaced does not hold up the stop."""
        self.imap().logout()
        self.reload("reloaded")
        self.imap().logout()
        began = time.monotonic()
        self.gateway.stop()
        self.assertLess(time.monotonic() - began, 4.0)


class SigtermTests(ReloadTestCase):
    """SIGTERM, with gateway.drain = 3s."""

    def setUp(self) -> None:
        super().setUp()
        self.change(lambda text: text.replace('drain = "1s"', 'drain = "3s"'), "reloaded")

    def terminate(self) -> float:
        """Send the signal; the time."""
        assert self.gateway.process is not None
        self.gateway.process.terminate()
        return time.monotonic()

    def ended(self) -> int:
        """Wait for the end; its exit status, as shells see it."""
        assert self.gateway.process is not None
        return self.gateway.process.wait(20.0)

    def test_drain(self) -> None:
        """Who talks is told to go at once; who is logged in lives on until the time is over; no port answers."""
        session = self.imap()
        plain, secure = Wire(self.gateway.ports.imap), Wire(self.gateway.ports.imaps, self.context)
        self.addCleanup(plain.__exit__)
        self.addCleanup(secure.__exit__)
        mx, unfinished = Wire(self.gateway.ports.mx), Wire(self.gateway.ports.imaps)
        self.addCleanup(mx.__exit__)
        self.addCleanup(unfinished.__exit__)
        for wire in (plain, secure, mx):
            wire.line()
        unfinished.send(b"\x16\x03")
        began = self.terminate()
        self.assertIn(b"* BYE ", plain.rest())
        self.assertIn(b"* BYE ", secure.rest())
        self.assertTrue(mx.rest().startswith(b"421 "))
        self.assertEqual(unfinished.rest(), b"")
        self.assertLess(time.monotonic() - began, 1.0)
        for port in self.gateway.ports.all():
            self.assertFalse(answers(port), port)
        while time.monotonic() - began < 2.5:
            self.assertEqual(session.noop()[0], "OK")
            time.sleep(0.2)
        self.assertIn(self.ended(), (0, -signal.SIGTERM))
        took = time.monotonic() - began
        self.assertTrue(2.9 < took < 4.5, took)
        self.assertRaises((session.abort, OSError), session.noop)
        self.gateway.check_log()

    def test_leaves(self) -> None:
        """The stop waits no longer than the last session."""
        session = self.imap()
        began = self.terminate()
        time.sleep(0.5)
        session.logout()
        self.assertIn(self.ended(), (0, -signal.SIGTERM))
        self.assertLess(time.monotonic() - began, 2.0)

    def test_nobody(self) -> None:
        """Without sessions it is immediate."""
        began = self.terminate()
        self.assertIn(self.ended(), (0, -signal.SIGTERM))
        self.assertLess(time.monotonic() - began, 2.0)


class StartTests(SynchronousTestCase):
    """Starts that fail."""

    def test_status(self) -> None:
        """No file: 2. Faults: 1, with all of them. A port that is taken: 1, and which."""
        gateway = Gateway(SETTINGS)
        self.addCleanup(gateway.stop)
        (gateway.folder / "passwd").write_text("")
        self.assertEqual(self.status(gateway, Path("/nonexistent.toml")), (2, "no settings file /nonexistent.toml"))
        bad = gateway.folder / "bad.toml"
        bad.write_text(gateway.settings.read_text() + "[limit]\n[gatewy]\n")
        status, said = self.status(gateway, bad)
        self.assertEqual((status, "limit: unknown" in said, "gatewy: unknown" in said), (1, True, True))
        gateway.start()
        status, said = self.status(gateway, gateway.settings)
        self.assertEqual(status, 1)
        self.assertIn(f"tcp:{gateway.ports.mx}:interface=127.0.0.1: another program listens there already", said)

    def status(self, gateway: Gateway, settings: Path) -> tuple[int, str]:
        """How a start with that file ends, and what it says."""
        done = subprocess.run(
            [*gateway.command()[:-1], str(settings)],
            cwd=gateway.folder,
            env=gateway.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30.0,
        )
        said = (done.stderr + done.stdout).decode()
        self.assertNotIn("Traceback", said)
        found = re.search(r"mailgw: (no settings file [^;]*)", said)
        return done.returncode, found[1] if found else said
