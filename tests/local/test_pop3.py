"""Tests for L{mailgw.local.pop3}."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.local import pop3
from mailgw.local.pop3 import LocalPop3, Maildrop
from tests.local.contract import ALICE, ClientTransport, local_store


def unstuffed(reply: bytes) -> bytes:
    """What a client makes of a multi-line response (RFC 1939 §3)."""
    first, _, rest = reply.partition(b"\r\n")
    assert first.startswith(b"+OK"), first
    lines = []
    for line in rest.split(b"\r\n"):
        if line == b".":
            break
        lines.append(line[1:] if line.startswith(b".") else line)
    else:
        raise AssertionError("no end")
    body = b"".join(line + b"\r\n" for line in lines)
    assert rest.endswith(b"\r\n.\r\n") or rest == b".\r\n", "something behind the end"
    return body


class Pop3Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = local_store(self.mktemp(), self.clock)
        self.root = self.store.account(ALICE).root
        self.store.account(ALICE).existing("INBOX")

    def put(self, text: bytes, name: str) -> None:
        """Put a file into the mailbox, as another program does."""
        with open(os.path.join(self.root, "new", name), "wb") as file:
            file.write(text)

    def session(self) -> None:
        """Begin a session."""
        self.transport = ClientTransport()
        maildrop: Maildrop = self.store.mailbox(ALICE)
        self.server = LocalPop3(maildrop, self.store.disk, self.store.board, self.clock, session_id="s", idle=600.0)
        self.server.makeConnection(self.transport)

    def ask(self, line: bytes) -> bytes:
        """Send a command; the answer."""
        self.server.dataReceived(line + b"\r\n")
        return self.transport.said()

    def clear(self) -> None:
        """Empty the mailbox."""
        for name in os.listdir(os.path.join(self.root, "new")):
            os.unlink(os.path.join(self.root, "new", name))


class StuffingTests(Pop3Case):
    def round_trip(self, text: bytes, expected: bytes | None = None) -> None:
        """Store a text, and see it come back."""
        self.clear()
        self.put(text, "1.a")
        self.session()
        expected = text if expected is None else expected
        reply = self.ask(b"RETR 1")
        self.assertEqual(
            unstuffed(reply), expected if expected.endswith(b"\r\n") or not expected else expected + b"\r\n"
        )
        self.assertTrue(reply.startswith(b"+OK %d octets" % len(expected)))

    def test_every_offset(self) -> None:
        """A dot at the start of a line at every offset around the size of a chunk, and around 16384."""
        self.patch(pop3, "CHUNK", 64)
        for offset in range(120, 140):
            self.round_trip(b"x" * offset + b"\r\n.\r\nmore\r\n")
            self.round_trip(b"x" * offset + b"\r\n..\r\n.")
        self.patch(pop3, "CHUNK", 1 << 14)
        for offset in range(16376, 16392):
            self.round_trip(b"x" * offset + b"\r\n.\r\nsecond part\r\n")

    def test_first_octet(self) -> None:
        """A message that begins with a dot, that is one, and that is nothing."""
        for text in (b".", b".\r\n", b"..", b".\r\n.\r\n", b""):
            self.round_trip(text)

    def test_line_ends(self) -> None:
        """Lone LFs become CRLF, CRLFs stay."""
        self.round_trip(b"a\n.b\r\n\n.\n", b"a\r\n.b\r\n\r\n.\r\n")

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from([b".", b"\r\n", b"x", b"\n"]), max_size=40), st.integers(1, 12))
    def test_any_text(self, pieces: list[bytes], chunk: int) -> None:
        """Whatever the text and the size of the chunks, the client has the text."""
        text = b"".join(pieces)
        self.patch(pop3, "CHUNK", chunk)
        self.round_trip(text, text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


class CommandTests(Pop3Case):
    def setUp(self) -> None:
        super().setUp()
        for number in (1, 2, 3):
            self.put(b"Subject: %d\r\n\r\n1\r\n.2\r\n3\r\n" % number + b"x" * number, f"{number}.m")
        self.session()

    def test_listings(self) -> None:
        """STAT, LIST and UIDL, with and without a number."""
        self.assertEqual(self.ask(b"STAT"), b"+OK 3 78\r\n")
        self.assertEqual(self.ask(b"LIST"), b"+OK 3 messages\r\n1 25\r\n2 26\r\n3 27\r\n.\r\n")
        self.assertEqual(self.ask(b"list 2"), b"+OK 2 26\r\n")
        self.assertEqual(self.ask(b"UIDL"), b"+OK 3 messages\r\n1 1.m\r\n2 2.m\r\n3 3.m\r\n.\r\n")
        self.assertEqual(self.ask(b"UIDL 3"), b"+OK 3 3.m\r\n")

    def test_top(self) -> None:
        """TOP gives the header and as many lines of the body."""
        for lines, expected in ((b"0", b""), (b"2", b"1\r\n.2\r\n"), (b"99", b"1\r\n.2\r\n3\r\nx\r\n")):
            self.assertEqual(unstuffed(self.ask(b"TOP 1 " + lines)), b"Subject: 1\r\n\r\n" + expected)

    def test_top_of_header_only(self) -> None:
        """A message without a body is all header, in chunks of any size."""
        self.clear()
        self.put(b"Subject: long\r\nTo: x\r\n", "1.h")
        self.session()
        self.patch(pop3, "CHUNK", 5)
        self.assertEqual(unstuffed(self.ask(b"TOP 1 5")), b"Subject: long\r\nTo: x\r\n")

    def test_numbers(self) -> None:
        """0, negative, too big and no numbers are refused everywhere, and delete nothing."""
        for number in (b"0", b"-1", b"4", b"99", b"abc", b"1.0", b"+1", b"", b"99999999999999", b"\xb2"):
            for command in (b"DELE ", b"RETR ", b"LIST ", b"UIDL "):
                self.assertTrue(self.ask(command + number).startswith(b"-ERR "), command + number)
            self.assertTrue(self.ask(b"TOP " + number + b" 1").startswith(b"-ERR "))
        self.assertTrue(self.ask(b"TOP 1 -1").startswith(b"-ERR "))
        self.assertEqual(self.ask(b"STAT"), b"+OK 3 78\r\n")

    def test_arguments(self) -> None:
        """Missing and superfluous arguments and unknown commands are refused, without a traceback."""
        for line in (b"DELE", b"DELE 1 2", b"RETR", b"TOP 1", b"STAT 1", b"", b"USER x", b"\xff\xfe", b"APOP", b"AUTH"):
            self.assertTrue(self.ask(line).startswith(b"-ERR "), line)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_deleted(self) -> None:
        """A deleted message is not listed and cannot be had, until RSET."""
        self.assertTrue(self.ask(b"DELE 2").startswith(b"+OK"))
        for command in (b"DELE 2", b"RETR 2", b"LIST 2", b"UIDL 2", b"TOP 2 0"):
            self.assertTrue(self.ask(command).startswith(b"-ERR "))
        self.assertEqual(self.ask(b"LIST"), b"+OK 2 messages\r\n1 25\r\n3 27\r\n.\r\n")
        self.assertEqual(self.ask(b"STAT"), b"+OK 2 52\r\n")
        self.ask(b"RSET")
        self.assertEqual(self.ask(b"STAT"), b"+OK 3 78\r\n")

    def test_quit(self) -> None:
        """QUIT deletes what is marked, whatever flags it got meanwhile, and nothing else."""
        self.ask(b"DELE 2")
        os.rename(os.path.join(self.root, "new", "2.m"), os.path.join(self.root, "cur", "2.m:2,S"))
        self.assertTrue(self.ask(b"QUIT").startswith(b"+OK"))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(sorted(os.listdir(os.path.join(self.root, "new"))), ["1.m", "3.m"])
        self.assertEqual(os.listdir(os.path.join(self.root, "cur")), [])

    def test_no_quit(self) -> None:
        """A session that ends otherwise deletes nothing."""
        self.ask(b"DELE 1")
        self.server.connectionLost()
        self.session()
        self.ask(b"DELE 1")
        self.clock.advance(601)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(len(os.listdir(os.path.join(self.root, "new"))), 3)

    def test_failed_quit(self) -> None:
        """What could not be deleted is said."""
        self.ask(b"DELE 1")

        def fail(path: str) -> None:
            raise OSError(5, "on purpose")

        self.patch(os, "unlink", fail)
        self.assertTrue(self.ask(b"QUIT").startswith(b"-ERR [SYS/TEMP]"))

    def test_gone(self) -> None:
        """A message that another client has removed is an error, not an empty message."""
        os.unlink(os.path.join(self.root, "new", "1.m"))
        self.assertEqual(self.ask(b"RETR 1"), b"-ERR Message is gone\r\n")
        self.assertTrue(self.ask(b"RETR 2").startswith(b"+OK"))

    def test_pipelined(self) -> None:
        """Pipelined commands are answered in order, however they are cut."""
        script = b"STAT\r\nLIST 1\r\nDELE 1\r\nRSET\r\nNOOP\r\nQUIT\r\nSTAT\r\n"
        self.server.dataReceived(script)
        whole = self.transport.said()
        self.assertEqual(whole.count(b"+OK"), 6)
        self.session()
        for octet in script:
            self.server.dataReceived(bytes([octet]))
        self.assertEqual(self.transport.said(), whole)

    def test_overlong(self) -> None:
        """A line without an end, or with a lone LF, ends the session."""
        for line in (b"x" * 600, b"STAT\nQUIT\r\n"):
            self.session()
            self.server.dataReceived(line)
            self.assertTrue(self.transport.said().startswith(b"-ERR "))
            self.assertTrue(self.transport.disconnecting)

    def test_capabilities(self) -> None:
        """CAPA tells what there is; no login any more."""
        answer = self.ask(b"CAPA").splitlines()
        self.assertTrue({b"TOP", b"UIDL", b"PIPELINING", b"RESP-CODES"} <= set(answer))
        self.assertNotIn(b"USER", answer)

    def test_unread(self) -> None:
        """A client that does not read is not answered on."""
        self.server.pauseProducing()
        self.assertEqual(self.ask(b"CAPA\r\n" * 100), b"")
        self.server.resumeProducing()
        self.assertEqual(self.transport.said().count(b"IMPLEMENTATION"), 100)


class UidlTests(Pop3Case):
    def test_odd_names(self) -> None:
        """Names that POP3 cannot show are hashed: valid, unique, and the same every time."""
        for name in ("a b", "x" * 80, "é", "1.fine"):
            self.put(b"x", name)
        seen = []
        for _ in range(2):
            self.session()
            rows = self.ask(b"UIDL").splitlines()[1:-1]
            seen.append([row.partition(b" ")[2] for row in rows])
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(len(set(seen[0])), 4)
        for name in seen[0]:
            self.assertRegex(name, rb"^[\x21-\x7e]{1,70}$")
        self.assertIn(b"1.fine", seen[0])
