"""A thousand idle sessions of one user through the gateway to Dovecot: all alive, and what each of them costs."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Wire, trusting
from tests.integration.dovecot import Dovecot
from tests.integration.gateway import ROOMY, Gateway, many_files
from tests.integration.ports import needs

SESSIONS = 1000
USER = "busy@example.org"


class IdleSessionsTests(ServersTestCase):
    dovecot: Dovecot
    gateway: Gateway
    context: ssl.SSLContext
    skip = needs("dovecot")
    if not skip and many_files() < 3 * SESSIONS:
        skip = f"the system allows us fewer than {3 * SESSIONS} open files (ulimit -Hn)"

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(Dovecot({USER: b"busypw"}))
        passwd = cls.dovecot.folder / "for-gateway"
        passwd.write_text(f"{USER}:{{PLAIN}}busypw\n")
        cls.gateway = cls.run_server(
            Gateway(f"""
[[directory]]
kind = "passwd"
file = "{passwd}"
[[route]]
kind = "pool"
pool = "main"
[pool.main]
members = [{{host = "127.0.0.1", imap = {cls.dovecot.imap}, pop3 = {cls.dovecot.pop3}}}]
ca = "{certificates().ca}"
[pool.main.imap]
tls = "none"
[pool.main.pop3]
tls = "none"
[domains]
accept = ["example.org"]
{ROOMY}
""")
        )
        cls.context = trusting(certificates().ca)

    def logged_in(self) -> Wire:
        """A session that has selected its INBOX."""
        wire = Wire(self.gateway.ports.imaps, self.context)
        self.addCleanup(wire.__exit__)
        wire.line()
        wire.send(b"a LOGIN %s busypw\r\nb SELECT INBOX\r\n" % USER.encode())
        last = wire.tagged(b"b")[-1]
        assert last.startswith(b"b OK"), last
        return wire

    def test_noop(self) -> None:
        """Each of a thousand sessions answers a NOOP; the memory that each takes is printed."""
        self.logged_in().send(b"c LOGOUT\r\n")
        before = self.gateway.memory()
        with ThreadPoolExecutor(4) as pool:
            sessions = [job.result() for job in [pool.submit(self.logged_in) for _ in range(SESSIONS)]]
        each = (self.gateway.memory() - before) / SESSIONS
        for session in sessions:
            session.send(b"n NOOP\r\n")
        self.assertEqual([s.tagged(b"n")[-1][:4] for s in sessions], [b"n OK"] * SESSIONS)
        print(f"\n{SESSIONS} idle IMAP sessions in TLS: {each / 1024:.1f} KiB of the gateway's memory each")
        self.assertLess(each, 64 << 10)
        for session in sessions:
            session.send(b"z LOGOUT\r\n")
        self.gateway.wait_for_sessions_to_end()
        self.gateway.check_log()
