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
MOST = 2 << 20


class MemoryTests(ServersTestCase):
    skip = needs("exim4", "dovecot")
    exim: Exim
    dovecot: Dovecot
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.exim = cls.run_server(Exim({"relay": "relaypw"}, message_size="300M"))
        cls.dovecot = cls.run_server(Dovecot({USER: b"bigpw"}))
        (cls.dovecot.folder / "for-gateway").write_text(f"{USER}:{{PLAIN}}bigpw\n")
        cls.context = trusting(certificates().ca)

    def setUp(self) -> None:
        super().setUp()
        # one for each test: buffers that an earlier test made it grow would hide what this one costs
        self.gateway = Gateway(self.settings())
        self.addCleanup(self.gateway.stop)
        self.gateway.start()

    def settings(self) -> str:
        """IMAP goes to Dovecot, submission to Exim."""
        return f"""
[[directory]]
kind = "passwd"
file = "{self.dovecot.folder / "for-gateway"}"
[[route]]
kind = "pool"
pool = "main"
[pool.main]
members = [{{host = "localhost", imap = {self.dovecot.imap}}}]
ca = "{certificates().ca}"
[pool.main.imap]
[pool.main.smtp]
port = {self.exim.smtp}
service_user = "relay"
service_password = "relaypw"
[domains]
accept = ["example.org"]
{ROOMY}
message_size = "200M"
"""

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
        """Print how far resident memory rose above what it was, and see that this is little.

        What was free on the heap before is not seen: this tells that nothing piles up, not what is in use.
        """
        cost = self.gateway.peak_memory() - before
        print(f"\n{what}: the gateway's memory grew by {cost >> 10} KiB at the most")
        self.assertLess(cost, MOST)

    def ready(self) -> int:
        """Memory before; a first message without a body has loaded all code and grown no buffer."""
        self.end(self.send(0))
        return self.begin()

    def begin(self) -> int:
        """Measure from here on; memory now."""
        self.gateway.forget_peak()
        before = self.gateway.memory()
        # a kernel that does not reset the peak would show less than a message costs, or nothing
        self.assertLess(self.gateway.peak_memory() - before, 64 << 10, "this kernel does not reset VmHWM")
        return before

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
        before = self.begin()
        wire.send(b"c FETCH 1 BODY.PEEK[TEXT]\r\nd LOGOUT\r\n")
        time.sleep(2.0)
        self.cost_since(before, "30 MB to a client that does not read")
        fetched = wire.rest()
        self.assertEqual(fetched.count(BLOCK), 30)
        self.assertIn(b"d OK", fetched[-200:])
        self.cost_since(before, "30 MB to a slow client")
