"""The local store, read by real programs: imaplib, poplib and mbsync over loopback, Dovecot and mutt on the same files.

The servers are born authenticated, as after a login; the listener here does what the session does at that point.
"""

from __future__ import annotations

import contextlib
import hashlib
import imaplib
import os
import poplib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mailgw.local.serve import LocalDestination, MaildirStore
from mailgw.model import Identity
from tests.integration.ports import free_port, needs

T = TypeVar("T")
ALICE = Identity("alice@example.com")
MAIL = b"From: bob@example.com\r\nTo: alice@example.com\r\nSubject: %b\r\nMessage-ID: <%b@x>\r\n\r\nHello\r\n.dot\r\n"


class LoggedIn(Protocol):
    """What a session is after the login."""

    session_id = "test"
    transport: Any

    def __init__(self, destination: LocalDestination, greeting: bytes) -> None:
        self._destination, self._greeting = destination, greeting
        self._stage: Any = None

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        self.factory.open.add(self)  # type: ignore[union-attr]
        Deferred.fromCoroutine(self._enter())

    async def _enter(self) -> None:
        arrival = await self._destination.open(self)  # type: ignore[arg-type]
        self._stage = arrival.protocol
        self.transport.write(self._greeting + b" " + arrival.text + b"\r\n")
        self.transport.resumeProducing()
        self._stage.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._stage.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.open.discard(self)  # type: ignore[union-attr]
        if self._stage is not None:
            self._stage.connectionLost(reason)


class StoreCase(TestCase):
    """A store with one user, and an IMAP and a POP3 port that lead to her mail."""

    timeout = 120.0

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.store = MaildirStore(str(self.folder / "{domain}/{local}"), "localhost", reactor)
        self.root = self.folder / "example.com/alice"
        self.imap = self._listen("imap", b"* PREAUTH")
        self.pop3 = self._listen("pop3", b"+OK")

    def _listen(self, protocol: str, greeting: bytes) -> int:
        factory = Factory()
        factory.open = set()  # type: ignore[attr-defined]
        factory.buildProtocol = lambda address: self._build(factory, protocol, greeting)  # type: ignore[method-assign]
        port = free_port()
        listening = reactor.listenTCP(port, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(listening.stopListening)
        self.addCleanup(self._hang_up, factory)
        return port

    def _build(self, factory: Factory, protocol: str, greeting: bytes) -> LoggedIn:
        server = LoggedIn(LocalDestination(ALICE, self.store, protocol), greeting)
        server.factory = factory
        return server

    async def _hang_up(self, factory: Any) -> None:
        for server in list(factory.open):
            server.transport.abortConnection()

    def tearDown(self) -> None:
        if self.store.disk._pool.started:
            self.store.disk._pool.stop()

    async def deliver(self, text: bytes, sender: str = "bob@example.com") -> bytes:
        """Deliver a message; what is stored."""
        message = self.store.inbox(ALICE, sender)
        for start in range(0, len(text), 10000):
            message.dataReceived(text[start : start + 10000])
        reply = await message.eomReceived()
        self.assertEqual(reply.code, 250, reply)
        return b"Return-Path: <%b>\r\nDelivered-To: alice@example.com\r\n" % sender.encode() + text

    async def client(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking client beside the reactor."""
        return await deferToThread(work, *arguments)  # type: ignore[no-any-return]

    def imaplib(self) -> imaplib.IMAP4:
        """A client that is logged in."""
        return imaplib.IMAP4("127.0.0.1", self.imap, timeout=60)


class ImapTests(StoreCase):
    async def test_same_bytes(self) -> None:
        """What is delivered comes back octet for octet by IMAP and by POP3, with the size that was told."""
        text = MAIL % (b"one", b"1")
        stored = await self.deliver(text)

        def read() -> tuple[bytes, bytes, bytes]:
            with self.imaplib() as client:
                client.select()
                _, answer = client.fetch("1", "(RFC822.SIZE BODY.PEEK[])")
            pop = poplib.POP3("127.0.0.1", self.pop3, timeout=60)
            lines = pop.retr(1)[1]
            pop.quit()
            return answer[0][0], answer[0][1], b"\r\n".join([*lines, b""])

        told, by_imap, by_pop3 = await self.client(read)
        self.assertEqual(by_imap, stored)
        self.assertEqual(by_pop3, stored)
        self.assertIn(b"RFC822.SIZE %d" % len(stored), told)

    async def test_life_of_a_message(self) -> None:
        """Append, fetch, flag, copy, search, move and expunge, each with its response codes."""

        def work() -> None:
            with self.imaplib() as client:
                self.assertEqual(client.create("Sent")[0], "OK")
                kind, data = client.append(
                    "Sent", r"(\Seen $label1)", '"01-Jan-2026 10:00:00 +0100"', MAIL % (b"a", b"1")
                )
                self.assertEqual(kind, "OK")
                self.assertRegex(data[0].decode(), r"\[APPENDUID \d+ 1\]")
                self.assertEqual(client.append("Nowhere", "", "", b"x")[0], "NO")
                self.assertEqual(client.select("Sent")[1], [b"1"])
                answer = client.fetch("1", "(FLAGS INTERNALDATE UID)")[1][0].decode()
                self.assertIn("$label1", answer)
                self.assertIn('INTERNALDATE " 1-Jan-2026 09:00:00 +0000"', answer)
                self.assertEqual(client.search(None, "SUBJECT", "a", "KEYWORD", "$label1")[1], [b"1"])
                self.assertEqual(client.search(None, "UNSEEN")[1], [b""])
                self.assertIn(b"\\Flagged", client.store("1", "+FLAGS", r"(\Flagged)")[1][0])
                self.assertIn(b"COPYUID", client.copy("1", "INBOX")[1][0])
                self.assertEqual(client.copy("1", "Nowhere")[0], "NO")
                client.store("1", "+FLAGS.SILENT", r"(\Deleted)")
                self.assertEqual(client.expunge()[1], [b"1"])
                client.unselect()
                self.assertEqual(client.status("INBOX", "(MESSAGES UNSEEN)")[1], [b'"INBOX" (MESSAGES 1 UNSEEN 0)'])
                self.assertIn(b'(\\HasNoChildren \\Sent) "." "Sent"', client.list()[1])
                self.assertEqual(client.delete("Sent")[0], "OK")

        await self.client(work)
