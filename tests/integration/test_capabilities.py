"""Capabilities before and after the login with a real Dovecot behind: what was learned of it, and what it says."""

from __future__ import annotations

import re

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Wire, trusting
from tests.integration.fronted import WideGateway, settings
from tests.integration.ports import free_port, needs, wait_for
from tests.integration.sieve import Sieve, SieveDovecot


class LearnedTests(ServersTestCase):
    """A gateway that checks its backend's health."""

    skip = needs("dovecot")
    dovecot: SieveDovecot
    gateway: WideGateway
    sieve: int
    own: int

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(SieveDovecot({"anna": b"annapw"}))
        cls.sieve, cls.own = free_port(), free_port()
        listeners = "".join(
            f'[[listener]]\nprotocol = "{protocol}"\nendpoint = "tcp:{port}:interface=127.0.0.1"\n'
            f'tls = "optional"\n{more}'
            for protocol, port, more in (
                ("managesieve", cls.sieve, ""),
                ("imap", cls.own, 'capabilities = ["IMAP4rev1", "X-HOUSE"]\n'),
            )
        )
        pool = (
            f'health = "300ms"\n[pool.main.imap]\nport = {cls.dovecot.imap}\n'
            f"[pool.main.pop3]\nport = {cls.dovecot.pop3}\n"
            f"[pool.main.managesieve]\nport = {cls.dovecot.sieve}\n"
        )
        cls.gateway = cls.run_server(WideGateway(settings(cls.dovecot, pool, listeners)))

    def test_managesieve(self) -> None:
        """Before the login we tell Dovecot's own extensions, and after it Dovecot does."""
        own = Sieve(self.dovecot.sieve, trusting(certificates().ca))
        [wanted] = [line for line in own.told if line.startswith(b'"SIEVE"')]
        own.__exit__()

        def learned() -> bool:
            with Sieve(self.sieve) as client:
                return wanted in client.told

        wait_for("the extensions are learned", learned)
        client = Sieve(self.sieve)
        self.addCleanup(client.__exit__)
        self.assertIn(b'"IMPLEMENTATION" "mailgw"', client.told)
        self.assertTrue(client.login("anna", b"annapw").startswith(b"OK"))
        told = client.ask(b"CAPABILITY")
        self.assertIn(wanted, told)
        self.assertNotIn(b'"IMPLEMENTATION" "mailgw"', told)

    def test_pop3(self) -> None:
        """TOP and UIDL before the login are true after it."""
        client = Pop3(self.gateway.ports.pop3, "starttls", trusting(certificates().ca))
        self.assertLess({"TOP", "UIDL"}, set(client.capa()))
        client.login("anna", b"annapw")
        self.assertLess({"TOP", "UIDL"}, set(client.capa()))
        client.quit()

    def test_imap(self) -> None:
        """The listener's list before the login, Dovecot's in the OK of the login; nothing of logging in crosses."""
        with Wire(self.own) as wire:
            self.assertIn(b"[CAPABILITY IMAP4rev1 X-HOUSE STARTTLS SASL-IR AUTH=PLAIN AUTH=LOGIN]", wire.line())
            wire.send(b"a LOGIN anna annapw\r\n")
            said = wire.tagged(b"a")[-1].decode()
            listed = re.search(r"\[CAPABILITY ([^]]*)\]", said)
            assert listed is not None
            self.assertLess({"IMAP4rev1", "IDLE", "UIDPLUS"}, set(listed[1].split()))
            self.assertNotRegex(listed[1], "AUTH=|STARTTLS|LOGINDISABLED|X-HOUSE")
        client = Imap(self.gateway.ports.imap, "starttls", trusting(certificates().ca))
        self.assertNotIn("IDLE", client.capabilities)
        client.logout()
