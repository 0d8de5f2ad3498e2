"""The local store, read by real programs: imaplib, poplib and mbsync over loopback, Dovecot and mutt on the same files.

The servers are born authenticated, as after a login; the listener here does what the session does at that point.
"""

from __future__ import annotations

import hashlib
import imaplib
import os
import poplib
import re
import shutil
import subprocess
import tempfile
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
from tests.integration.daemon import as_nobody
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
        # Not trial's own folder: Dovecot, as an ordinary user, has to get there as well.
        self.folder = Path(tempfile.mkdtemp(prefix="mailgw-store-"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
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

    async def test_big_message(self) -> None:
        """A message of 50 MB goes in by APPEND and comes out by FETCH unchanged."""
        line = hashlib.sha256(b"x").hexdigest().encode() + b"\r\n"
        text = MAIL % (b"big", b"1") + line * (50_000_000 // len(line))

        def work() -> tuple[bytes, bytes]:
            with self.imaplib() as client:
                self.assertEqual(client.append("INBOX", "", "", text)[0], "OK")
                client.select()
                whole = client.fetch("1", "(BODY.PEEK[])")[1][0][1]
                part = client.fetch("1", "(BODY.PEEK[]<40000000.100000>)")[1][0][1]
                return whole, part

        whole, part = await self.client(work)
        self.assertEqual(hashlib.sha256(whole).digest(), hashlib.sha256(text).digest())
        self.assertEqual(part, text[40000000:40100000])

    async def test_delivery_during_session(self) -> None:
        """Mail delivered while a mailbox is selected shows at NOOP, and at once during IDLE."""
        client = await self.client(self.imaplib)
        await self.client(client.select)
        await self.deliver(MAIL % (b"one", b"1"))
        await self.client(client.noop)
        self.assertEqual(client.response("EXISTS")[1], [b"0", b"1"])
        client.send(b"i IDLE\r\n")
        self.assertEqual(await self.client(client.readline), b"+ idling\r\n")
        await self.deliver(MAIL % (b"two", b"2"))
        self.assertEqual(await self.client(client.readline), b"* 2 EXISTS\r\n")
        self.assertEqual(await self.client(client.readline), b"* 2 RECENT\r\n")
        client.send(b"DONE\r\n")
        self.assertEqual(await self.client(client.readline), b"i OK IDLE completed\r\n")
        await self.client(client.logout)

    async def test_two_synchronisations(self) -> None:
        """A client that keeps UIDs finds, at its second visit, exactly what is new, and the rest under its old UIDs."""
        for number in range(3):
            await self.deliver(MAIL % (b"m%d" % number, b"%d" % number))

        def visit(since: int) -> tuple[bytes, dict[int, bytes]]:
            with self.imaplib() as client:
                client.select()
                validity = client.response("UIDVALIDITY")[1][0]
                found = client.uid("FETCH", f"{since}:*", "(FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
                rows = [row for row in found if isinstance(row, tuple)]
                return validity, {int(re.search(rb"UID (\d+)", row[0])[1]): row[1] for row in rows}  # type: ignore[index]

        validity, first = await self.client(visit, 1)
        self.assertEqual(list(first), [1, 2, 3])
        await self.deliver(MAIL % (b"m3", b"3"))
        again, second = await self.client(visit, 4)
        self.assertEqual((again, second), (validity, {4: b"Subject: m3\r\n\r\n"}))

    async def test_pop3_deletes_at_quit(self) -> None:
        """DELE takes effect at QUIT; unique names stay the same over sessions."""
        for number in range(3):
            await self.deliver(MAIL % (b"m%d" % number, b"%d" % number))

        def visit(delete: int, quit_: bool) -> list[bytes]:
            client = poplib.POP3("127.0.0.1", self.pop3, timeout=60)
            names = [row.partition(b" ")[2] for row in client.uidl()[1]]
            client.dele(delete)
            if quit_:
                client.quit()
            else:
                client.close()
            return names

        first = await self.client(visit, 1, False)
        self.assertEqual(await self.client(visit, 1, True), first)
        self.assertEqual(await self.client(visit, 1, False), first[1:])


class MbsyncTests(StoreCase):
    skip = needs("mbsync")

    async def test_twice(self) -> None:
        """mbsync synchronises both ways without a complaint, and finds nothing to do the second time."""
        for number in range(5):
            await self.deliver(MAIL % (b"m%d" % number, b"%d" % number))
        mine = self.folder / "mine"
        (mine / "cur").mkdir(parents=True)
        (mine / "new").mkdir()
        (mine / "tmp").mkdir()
        rc = self.folder / "mbsyncrc"
        rc.write_text(
            f"IMAPAccount a\nHost 127.0.0.1\nPort {self.imap}\nSSLType None\nUser alice\nPass x\n\n"
            f"IMAPStore far\nAccount a\n\nMaildirStore near\nPath {mine}/\nInbox {mine}/INBOX\nSubFolders Verbatim\n\n"
            "Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSyncState *\n"
        )

        def sync() -> str:
            command = ["mbsync", "-c", str(rc), "-V", "-a"]
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            words = (done.stdout + done.stderr).decode()
            self.assertEqual(done.returncode, 0, words)
            self.assertNotRegex(words.lower(), "warning|error|unknown")
            return words

        await self.client(sync)
        inbox = mine / "INBOX"
        files = [*(inbox / "new").iterdir(), *(inbox / "cur").iterdir()]
        self.assertEqual(len(files), 5)
        before = self.state()
        await self.client(sync)
        self.assertEqual(self.state(), before)
        # Changes on both sides: a flag and a message here, a folder with a message there.
        files.sort()
        os.rename(files[0], inbox / "cur" / (files[0].name.partition(":")[0] + ":2,FS"))
        os.unlink(files[1])
        (inbox / "new" / "1.new.host").write_bytes(MAIL.replace(b"\r\n", b"\n") % (b"mine", b"mine"))

        def append() -> None:
            with self.imaplib() as client:
                client.create("Sent")
                client.append("Sent", "(\\Seen)", "", MAIL % (b"sent", b"sent"))

        await self.client(append)
        await self.client(sync)
        await self.client(sync)

        def check() -> list[bytes]:
            with self.imaplib() as client:
                client.select(readonly=True)
                self.assertEqual(client.search(None, "SUBJECT", "mine")[1], [b"5"])
                self.assertEqual(len(client.search(None, "FLAGGED", "SEEN")[1][0].split()), 1)
                return client.search(None, "ALL")[1][0].split()

        self.assertEqual(len(await self.client(check)), 5)
        self.assertEqual(len([*(mine / "Sent").glob("*/*sent*"), *(mine / "Sent/cur").iterdir()]), 1)

    def state(self) -> list[str]:
        """Names of all messages and the index of INBOX."""
        names = sorted(str(path) for path in self.root.glob("*/*"))
        return [*names, (self.root / "mailgw-uids").read_text()]


class BesideTests(StoreCase):
    """Other programs on the same files."""

    def doveadm(self, *arguments: str) -> str:
        """Run doveadm on the user's Maildir, as if Dovecot were the IMAP server."""
        user = as_nobody() or {"user": os.geteuid(), "group": os.getegid()}
        conf = self.folder / "dovecot.conf"
        conf.write_text(
            f"mail_location = maildir:{self.root}\nmail_uid = {user['user']}\nmail_gid = {user['group']}\n"
            f"base_dir = {self.folder}/run\nstats_writer_socket_path =\nfirst_valid_uid = 1\nfirst_valid_gid = 1\n"
            "log_path = /dev/stderr\nnamespace inbox {\n  inbox = yes\n}\n"
        )
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, user["user"], user["group"])
        environment = {**os.environ, "HOME": str(self.root), "USER": "alice"}
        program = shutil.which("doveadm", path=os.environ["PATH"] + ":/usr/sbin") or "doveadm"
        command = [program, "-c", str(conf), *arguments]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False, **as_nobody())
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode()

    async def test_dovecot(self) -> None:
        """Dovecot sees our messages, flags and folders; we see what Dovecot flags, delivers and expunges."""
        stored = await self.deliver(MAIL % (b"one", b"1"))
        await self.deliver(MAIL % (b"two", b"2"))

        def ours() -> None:
            with self.imaplib() as client:
                client.create("Archive.2026")
                client.select()
                client.store("1", "+FLAGS", r"(\Seen $work)")

        await self.client(ours)
        found = await self.client(self.doveadm, "fetch", "flags size.physical hdr.subject", "mailbox", "INBOX")
        self.assertIn("\\Seen", found)
        self.assertIn("$work", found)
        self.assertIn(f"size.physical: {len(stored)}", found)
        self.assertIn("Archive.2026", await self.client(self.doveadm, "mailbox", "list"))

        client = await self.client(self.imaplib)
        await self.client(client.select)
        await self.client(self.doveadm, "flags", "add", "\\Flagged", "mailbox", "INBOX", "subject", "two")
        await self.client(self.doveadm, "expunge", "mailbox", "INBOX", "subject", "one")
        await self.client(self.doveadm, "copy", "Archive.2026", "mailbox", "INBOX", "subject", "two")
        await self.client(client.noop)
        self.assertEqual(client.response("EXPUNGE")[1], [b"1"])
        self.assertIn(b"\\Flagged", client.response("FETCH")[1][0])
        self.assertEqual(await self.client(client.select, "Archive.2026"), ("OK", [b"1"]))
        await self.client(client.logout)

    test_dovecot.skip = needs("doveadm")  # type: ignore[attr-defined]

    async def test_line_ends_of_others(self) -> None:
        """A message stored with LF comes with CRLF by IMAP and POP3, in the size that is told."""
        self.store.account(ALICE).folder("INBOX").ensure()
        text = (MAIL % (b"lf", b"1")) * 3
        (self.root / "new" / "1.foreign.host").write_bytes(text.replace(b"\r\n", b"\n"))

        def read() -> tuple[bytes, bytes, bytes, bytes]:
            with self.imaplib() as client:
                client.select()
                answer = client.fetch("1", "(RFC822.SIZE BODY.PEEK[])")[1][0]
                text = client.fetch("1", "(BODY.PEEK[TEXT])")[1][0][1]
            pop = poplib.POP3("127.0.0.1", self.pop3, timeout=60)
            lines = pop.retr(1)[1]
            pop.quit()
            return answer[0], answer[1], text, b"\r\n".join([*lines, b""])

        told, whole, body, by_pop3 = await self.client(read)
        self.assertIn(b"RFC822.SIZE %d " % len(text), told)
        self.assertEqual((whole, by_pop3), (text, text))
        self.assertEqual(body, text.partition(b"\r\n\r\n")[2])

    async def test_mutt(self) -> None:
        """mutt opens the Maildir, shows the text without stray CRs, and saves a message that we read."""
        await self.deliver(MAIL % (b"one", b"1"))
        copied = self.folder / "copied"
        rc = self.folder / "muttrc"
        rc.write_text(
            f"set folder={self.folder}\nset mbox_type=Maildir\n"
            "set copy=no\nset confirmcreate=no\nset confirmappend=no\n"
            f"push '<copy-message>{copied}<enter><exit>'\n"
        )

        def mutt() -> None:
            environment = {**os.environ, "TERM": "xterm", "HOME": str(self.folder)}
            command = f"mutt -n -F {rc} -R -f {self.root}"
            script = ["script", "-qec", command, "/dev/null"]
            # Its input stays open and silent: mutt leaves at the end of its input before it looks at what is pushed.
            with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as running:
                try:
                    running.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    running.kill()

        await self.client(mutt)
        (found,) = [*(copied / "new").iterdir(), *(copied / "cur").iterdir()]
        self.assertIn(b"Subject: one", found.read_bytes())

    test_mutt.skip = needs("mutt", "script")  # type: ignore[attr-defined]
