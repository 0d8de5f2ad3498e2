"""Tests for L{mailgw.local.serve}."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.mail import imap4
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.errors import BackendFailed, LoginRefused, SettingsError
from mailgw.interfaces import IDestination
from mailgw.local.serve import LocalDestination, MaildirStore
from mailgw.model import Identity
from tests.local.contract import ALICE, ClientTransport, StoreContract, local_store


class MaildirStoreTests(StoreContract, SynchronousTestCase):
    def make(self) -> MaildirStore:
        return local_store(self.mktemp())

    def test_template(self) -> None:
        """A path that would be the same for all users, or knows other words, stops the start."""
        for template in ("/var/mail", "/var/mail/{domain}", "/var/mail/{local}/{user}", "/{local}/{"):
            self.assertRaises(SettingsError, MaildirStore, template, "h", None)

    def test_no_domain(self) -> None:
        """The gateway's own name stands for the domain of a user name that has none."""
        account = self.make().account(Identity("bob"))
        self.assertTrue(account.root.endswith("/host.example/bob"))

    def test_account(self) -> None:
        """The account is one in twisted.mail's words."""
        account = self.make().account(ALICE)
        verifyObject(imap4.IAccount, account)
        verifyObject(imap4.INamespacePresenter, account)


class LocalDestinationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = local_store(self.mktemp())
        self.session = SimpleNamespace(session_id="s1")

    def open(self, protocol: str, identity: Identity = ALICE) -> Deferred[object]:
        destination = LocalDestination(identity, self.store, protocol)
        verifyObject(IDestination, destination)
        self.assertEqual(destination.username, identity.username)
        return Deferred.fromCoroutine(destination.open(self.session))  # type: ignore[arg-type]

    def test_imap(self) -> None:
        """An IMAP reader is told what the store can do, gets no greeting, and goes on with what was pipelined."""
        arrival = self.successResultOf(self.open("imap"))
        self.assertTrue(arrival.text.startswith(b"[CAPABILITY IMAP4rev1 "))
        transport = ClientTransport()
        arrival.protocol.makeConnection(transport)
        self.assertEqual(transport.said(), b"")
        arrival.protocol.dataReceived(b"a NOOP\r\nb SELECT INB")
        self.assertEqual(transport.said(), b"a OK NOOP completed\r\n")
        arrival.protocol.dataReceived(b"OX\r\n")
        self.assertIn(b"b OK [READ-WRITE]", transport.said())

    def test_announced_is_true(self) -> None:
        """What the login reply announces is what CAPABILITY says, and no login or STARTTLS works any more."""
        arrival = self.successResultOf(self.open("imap"))
        transport = ClientTransport()
        arrival.protocol.makeConnection(transport)
        arrival.protocol.dataReceived(b"a CAPABILITY\r\n")
        self.assertEqual(transport.said().splitlines()[0], b"* " + arrival.text[1:].partition(b"]")[0])
        for command in (b"LOGIN a b", b"STARTTLS", b"AUTHENTICATE PLAIN"):
            arrival.protocol.dataReceived(b"b " + command + b"\r\n")
            self.assertTrue(transport.said().startswith(b"b BAD "))

    def test_pop3(self) -> None:
        """A POP3 reader is in the transaction state."""
        arrival = self.successResultOf(self.open("pop3"))
        transport = ClientTransport()
        arrival.protocol.makeConnection(transport)
        arrival.protocol.dataReceived(b"STAT\r\n")
        self.assertEqual(transport.said(), b"+OK 0 0\r\n")

    def test_no_store(self) -> None:
        """A reader of another protocol is not handed to a server that speaks none of it."""
        self.failureResultOf(self.open("managesieve"), BackendFailed)

    def test_bad_name(self) -> None:
        """A user whose name is no path is refused without a word about paths on the wire."""
        self.failureResultOf(self.open("imap", Identity("../x")), LoginRefused)

    def test_disk_trouble(self) -> None:
        """A store that cannot be reached is temporary trouble."""
        with open(self.mktemp(), "w") as file:
            self.store = local_store(file.name)
        self.failureResultOf(self.open("imap"), BackendFailed)
        self.failureResultOf(self.open("pop3"), BackendFailed)
