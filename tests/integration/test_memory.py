"""Large mail costs the gateway next to no memory, however slow the side is that takes it."""

from __future__ import annotations

import base64
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Wire, trusting
from tests.integration.dovecot import Dovecot
from tests.integration.exim import Exim
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import needs

USER = "big@example.org"
BLOCK = (b"0123456789abcdef" * 4 + b"0123456789\r\n") * 13797  # a MiB of lines
MOST = 8 << 20


class MemoryTests(ServersTestCase):
    skip = needs("exim4", "dovecot")
    exim: Exim
    dovecot: Dovecot
    gateway: Gateway
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.exim = cls.run_server(Exim({"relay": "relaypw"}, message_size="300M"))
        cls.dovecot = cls.run_server(Dovecot({USER: b"bigpw"}))
        passwd = cls.dovecot.folder / "for-gateway"
        passwd.write_text(f"{USER}:{{PLAIN}}bigpw\n")
        cls.gateway = cls.run_server(
            Gateway(f"""
[[directory]]
kind = "passwd"
file = "{passwd}"
[[route]]
kind = "pool"
pool = "main"
[pool.main]
members = [{{host = "localhost", imap = {cls.dovecot.imap}}}]
ca = "{certificates().ca}"
[pool.main.imap]
[pool.main.smtp]
port = {cls.exim.smtp}
service_user = "relay"
service_password = "relaypw"
[domains]
accept = ["example.org"]
{ROOMY}
message_size = "200M"
""")
        )
        cls.context = trusting(certificates().ca)

    def tearDown(self) -> None:
        self.gateway.check_log()
        super().tearDown()

    def send(self, blocks: int) -> Wire:
        """Send a message of that many MiB up to its last dot, which is not sent."""
        wire = Wire(self.gateway.ports.submissions, self.context, 120.0)
        self.addCleanup(wire.__exit__)
        wire.reply()
        plain = base64.b64encode(b"\0%s\0bigpw" % USER.encode())
        for command in (
            b"EHLO client.example",
            b"AUTH PLAIN " + plain,
            b"MAIL FROM:<%s> SIZE=%d" % (USER.encode(), blocks << 20),
            b"RCPT TO:<x@elsewhere.example>",
            b"DATA",
        ):
            wire.send(command + b"\r\n")
            reply = wire.reply()
            assert reply[:1] in b"23", (command, reply)
        wire.send(b"Subject: %d\r\n\r\n" % blocks)
        for _ in range(blocks):
            wire.send(BLOCK)
        return wire

    def end(self, wire: Wire) -> None:
        """Send the last dot, and hear that all is well."""
        wire.send(b".\r\n")
        reply = wire.reply()
        self.assertEqual(reply[:3], b"250", reply)
        wire.send(b"QUIT\r\n")

    def cost_since(self, before: int, what: str) -> None:
        """Print what it took at the most, and see that it is little."""
        cost = self.gateway.peak_memory() - before
        print(f"\n{what}: {cost / (1 << 20):.1f} MiB of the gateway's memory at the most")
        self.assertLess(cost, MOST)

    def ready(self) -> int:
        """Memory before; a first message has loaded all code."""
        self.end(self.send(1))
        self.gateway.forget_peak()
        return self.gateway.memory()

    def test_submission(self) -> None:
        """100 MB through submission to Exim."""
        before = self.ready()
        self.end(self.send(100))
        self.cost_since(before, "100 MB submitted")
        self.exim.wait_for_mail("x@elsewhere.example", b"Subject: 100\r\n", 60.0)
        (path,) = [
            p for p in (self.exim.folder / "mail" / "new").glob("*") if b"Subject: 100\n" in p.read_bytes()[:2000]
        ]
        self.assertEqual(path.read_bytes().replace(b"\n", b"\r\n").count(BLOCK), 100)

    def test_a_backend_that_does_not_read(self) -> None:
        """30 MB while Exim hangs for some seconds: the client has to wait, memory does not grow."""
        before = self.ready()
        with ThreadPoolExecutor(1) as pool:
            wire = self.send(0)
            self.exim.pause()
            try:
                sending = pool.submit(wire.send, *[BLOCK] * 30)
                time.sleep(2.0)
                self.assertFalse(sending.done(), "somebody has taken 30 MB that nobody reads")
            finally:
                self.exim.resume()
            sending.result(60.0)
        self.end(wire)
        self.cost_since(before, "30 MB to a backend that hangs")

    def test_a_client_that_does_not_read(self) -> None:
        """30 MB by IMAP to a client that does not read for some seconds: memory does not grow."""
        direct = Imap(self.dovecot.imap, "none", None)
        direct.login(USER, "bigpw")
        direct.append_message(b"Subject: slow\r\n\r\n" + BLOCK * 30)
        direct.logout()
        wire = Wire(self.gateway.ports.imaps, self.context, 60.0)
        self.addCleanup(wire.__exit__)
        wire.line()
        wire.send(b"a LOGIN %s bigpw\r\nb SELECT INBOX\r\n" % USER.encode())
        self.assertTrue(wire.tagged(b"b")[-1].startswith(b"b OK"))
        self.gateway.forget_peak()
        before = self.gateway.memory()
        wire.send(b"c FETCH 1 BODY.PEEK[TEXT]\r\nd LOGOUT\r\n")
        time.sleep(2.0)
        self.cost_since(before, "30 MB to a client that does not read")
        fetched = wire.rest()
        self.assertEqual(fetched.count(BLOCK), 30)
        self.assertIn(b"d OK", fetched[-200:])
        self.cost_since(before, "30 MB to a slow client")
