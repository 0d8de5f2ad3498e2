"""What every mail store has to do, as tests for its implementer to inherit; and the doubles of this room's tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.errors import LoginRefused
from mailgw.interfaces import IChunkedMessage, IMailStore
from mailgw.local.disk import Disk
from mailgw.local.folders import Account
from mailgw.local.framing import FramedServer
from mailgw.local.imap import LocalImap
from mailgw.local.serve import MaildirStore
from mailgw.model import Identity

ALICE = Identity("alice@example.com")
BOB = Identity("bob")
MAIL = b"From: bob@example.com\r\nSubject: hello\r\n\r\nbody\r\n"
APPEND = b"APPEND INBOX {%d+}\r\n%b" % (len(MAIL), MAIL)


class InlineDisk(Disk):
    """A disk whose work is done at once, where it is asked for.

    @ivar waiting: while it is a list, work is put there instead of being done.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock or Clock(), "host.example")
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        if self.waiting is None:
            return maybeDeferred(work, *args, **kwargs)
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: work(*args, **kwargs)))
        return done

    def step(self) -> None:
        """Do the oldest work that waits."""
        assert self.waiting is not None
        done, work = self.waiting.pop(0)
        maybeDeferred(work).chainDeferred(done)


class ClientTransport(StringTransport):
    """A client's socket."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def said(self) -> bytes:
        """What was written since the last question."""
        written = self.value()
        self.clear()
        return written


def local_store(folder: str, clock: Clock | None = None) -> MaildirStore:
    """A store in a folder, its disk inline."""
    store = MaildirStore(os.path.join(folder, "{domain}/{local}"), "host.example", clock or Clock())
    store.disk = InlineDisk(clock)
    return store


class ImapTalk:
    """An IMAP session on a store, driven line by line."""

    def __init__(self, store: MaildirStore, identity: Identity = ALICE, **options: Any) -> None:
        self.clock: Clock = store.reactor
        self.account: Account = store.account(identity)
        self.account.existing("INBOX")
        self.transport = ClientTransport()
        self.server: FramedServer = LocalImap(self.account, store.disk, store.board, self.clock, **options)
        self.server.makeConnection(self.transport)

    def __call__(self, data: bytes) -> bytes:
        """Send octets; what the server says at once."""
        self.server.dataReceived(data)
        return self.transport.said()

    def line(self, text: bytes) -> list[bytes]:
        """Send a command C{a …}; the lines of the answer."""
        return self(b"a " + text + b"\r\n").splitlines()


class ImapCase(SynchronousTestCase):
    """Tests with one IMAP session, C{talk}, of a user with an empty Maildir."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.store = local_store(self.mktemp(), self.clock)
        self.talk = self.session()

    def session(self, **options: int) -> ImapTalk:
        """One more session of the same user."""
        return ImapTalk(self.store, **options)

    def selected(self, count: int = 3) -> ImapTalk:
        """A session with INBOX selected, in which are some messages."""
        for _ in range(count):
            self.talk.line(APPEND)
        self.talk.line(b"SELECT INBOX")
        return self.talk

    def root(self, *names: str) -> str:
        """A path in the user's Maildir."""
        return os.path.join(self.talk.account.root, *names)

    def files(self, sub: str) -> list[str]:
        """Sorted names."""
        return sorted(os.listdir(self.root(sub)))


class StoreContract:
    """For a C{SynchronousTestCase} that says how to L{make} an empty store."""

    assertEqual: Any
    assertRaises: Any
    successResultOf: Any

    def make(self) -> Any:
        """An empty store, its disk inline."""
        raise NotImplementedError

    def deliver(self, store: Any, identity: Identity, text: bytes = MAIL) -> Any:
        """Deliver a message; the reply."""
        message = store.inbox(identity, "sender@example.com")
        message.dataReceived(text)
        return self.successResultOf(message.eomReceived())

    def test_interfaces(self) -> None:
        """The store and its messages provide their interfaces."""
        store = self.make()
        verifyObject(IMailStore, store)
        message = store.inbox(ALICE, "")
        verifyObject(IChunkedMessage, message)
        message.connectionLost()

    def test_delivered(self) -> None:
        """A delivered message is in the user's mailbox, with its envelope in front and otherwise unchanged."""
        store = self.make()
        self.assertEqual(self.deliver(store, ALICE).code, 250)
        mailbox = store.mailbox(ALICE)
        expected = b"Return-Path: <sender@example.com>\r\nDelivered-To: alice@example.com\r\n" + MAIL
        self.assertEqual(mailbox.listMessages(), [len(expected)])
        self.assertEqual(mailbox.getMessage(0).read(), expected)

    def test_users_are_apart(self) -> None:
        """Mail of one user is not seen by another."""
        store = self.make()
        self.deliver(store, ALICE)
        self.assertEqual(store.mailbox(BOB).listMessages(), [])

    def test_dropped_message(self) -> None:
        """A message whose sender goes away leaves nothing behind."""
        store = self.make()
        message = store.inbox(ALICE, "")
        message.dataReceived(MAIL)
        message.connectionLost()
        self.assertEqual(store.mailbox(ALICE).listMessages(), [])

    def test_names_of_paths(self) -> None:
        """A user name that would be another path is refused, for readers and for deliveries."""
        store = self.make()
        for name in (
            "../alice@example.com",
            "..@example.com",
            "a/b@example.com",
            "a\0b",
            "A@example.com",
            "alice@..",
            "@",
        ):
            self.assertRaises(LoginRefused, store.account, Identity(name))
            self.assertRaises(LoginRefused, store.inbox, Identity(name), "")

    def test_pop3_deletes_at_sync(self) -> None:
        """A deleted message is gone after sync, and only that one; its number is no message's number."""
        store = self.make()
        for text in (MAIL, MAIL + b"second\r\n"):
            self.deliver(store, ALICE, text)
        mailbox = store.mailbox(ALICE)
        names = [mailbox.getUidl(0), mailbox.getUidl(1)]
        for wrong in (-1, 2):
            self.assertRaises(ValueError, mailbox.deleteMessage, wrong)
        mailbox.deleteMessage(0)
        self.assertEqual(len(store.mailbox(ALICE).listMessages()), 2)
        mailbox.sync()
        left = store.mailbox(ALICE)
        self.assertEqual([left.getUidl(index) for index in range(len(left.listMessages()))], names[1:])
