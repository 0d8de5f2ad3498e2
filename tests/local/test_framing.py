"""Tests for L{mailgw.local.framing}: what a hostile or hasty client sends, byte by byte."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailgw.local.disk import Disk
from mailgw.local.flow import LINGER
from mailgw.local.mailbox import Mailbox
from tests.local.contract import MAIL, ImapTalk, InlineDisk, local_store


class FramingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = local_store(self.mktemp(), self.clock)
        self.talk = ImapTalk(self.store)
        self.transport = self.talk.transport

    @property
    def disk(self) -> InlineDisk:
        """The store's disk."""
        disk: Disk = self.store.disk
        assert isinstance(disk, InlineDisk)
        return disk


class GrammarTests(FramingCase):
    def test_any_cut(self) -> None:
        """What is answered depends on the octets, not on how they were cut."""
        script = (
            b"a CREATE {3}\r\nFoo\r\nb NOOP\r\nc APPEND Foo (\\Seen) {%d}\r\n%b\r\n" % (len(MAIL), MAIL)
            + b'd SELECT "Foo"\r\ne FETCH 1 (FLAGS BODY[])\r\nf SEARCH SUBJECT {5+}\r\nhello\r\ng LOGOUT\r\n'
        )
        whole = self.talk(script)
        self.assertIn(b"* SEARCH 1\r\nf OK", whole)
        for size in (1, 2, 3, 7, 64):
            talk = ImapTalk(local_store(self.mktemp(), Clock()))
            pieces = (script[start : start + size] for start in range(0, len(script), size))
            self.assertEqual(b"".join(map(talk, pieces)), whole)

    def test_literals_refused(self) -> None:
        """A literal whose size is no size, or too big, is no literal: BAD, no go-ahead, and the session goes on."""
        for size in (b"-1", b"-5", b" 5", b"05", b"1_0", b"0x5", b"", b"99999999999999999999", b"8193", b"4294967296"):
            answer = self.talk(b"a CREATE {" + size + b"}\r\n")
            self.assertTrue(answer.startswith(b"a BAD "), (size, answer))
            self.assertNotIn(b"+", answer)
            self.assertEqual(self.talk(b"b NOOP\r\n"), b"b OK NOOP completed\r\n")

    def test_unasked_literals(self) -> None:
        """Octets of a refused literal that come without our go-ahead are never taken for commands."""
        answer = self.talk(b"a CREATE {5000+}\r\n" + b"x LOGOUT\r\n" * 500 + b"\r\nb NOOP\r\n")
        self.assertRegex(answer, rb"^a BAD [^\r]*\r\nb OK NOOP completed\r\n$")
        self.assertEqual(self.talk(b"a NOOP {3+}\r\nabc\r\n"), b"a BAD Unexpected arguments\r\n")
        for size in (b"65537+", b"05+", b"+5", b"-1+"):
            talk = ImapTalk(self.store)
            answer = talk(b"a CREATE {" + size + b"}\r\nx NOOP\r\n")
            self.assertTrue(answer.startswith(b"* BYE "), (size, answer))
            self.assertTrue(talk.transport.disconnecting)
            self.assertNotIn(b"x OK", answer)

    def test_empty_literal(self) -> None:
        """A literal of no octets is an empty string."""
        self.assertEqual(self.talk(b"a CREATE {0}\r\n"), b"+ OK\r\n")
        self.assertTrue(self.talk(b"\r\n").startswith(b"a NO [CANNOT]"))

    def test_many_literals(self) -> None:
        """A command does not grow without limit by many small literals."""
        self.talk(b"a SELECT INBOX\r\n")
        answer = self.talk(b"a SEARCH" + b" SUBJECT {4096+}\r\n" + (b"x" * 4096 + b" SUBJECT {4096+}\r\n") * 40)
        answer += self.talk(b"x" * 4096 + b"\r\nb NOOP\r\n")
        self.assertRegex(answer, rb"^a BAD [^\r]*\r\nb OK NOOP completed\r\n$")

    def test_tags(self) -> None:
        """A tag is an atom of at most 64 octets; another one is not sent back."""
        for line in (
            b"\0\0 NOOP",
            b"a(b NOOP",
            b"+ NOOP",
            b"x" * 65 + b" NOOP",
            b"",
            b" NOOP",
            b"\xff NOOP",
            b'"a" NOOP',
        ):
            answer = self.talk(line + b"\r\n")
            self.assertEqual(answer, b"* BAD Invalid tag\r\n", line)
        self.assertEqual(self.talk(b"%n%s NOOP\r\n"), b"* BAD Invalid tag\r\n")

    def test_lone_line_feed(self) -> None:
        """A lone LF ends no command: the connection ends."""
        answer = self.talk(b"a\nb NOOP\r\n")
        self.assertTrue(answer.startswith(b"* BYE "))
        self.assertNotIn(b"OK", answer)

    def test_overlong_line(self) -> None:
        """Input without an end is cut off."""
        for _ in range(100):
            self.talk(b"a" * 1000)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.talk(b"\r\nb NOOP\r\n"), b"")

    def test_unknown(self) -> None:
        """Unknown commands, and those of another state, are BAD and tagged."""
        for line in (b"XYZZY", b"FETCH 1 FLAGS", b"UID XYZZY", b"UID", b"", b"UNSELECT", b"__INIT__"):
            self.assertTrue(self.talk(b"a " + line + b"\r\n").startswith(b"a BAD "), line)

    def test_names(self) -> None:
        """Mailbox names that are none reach no folder, whatever the command."""
        for name in (b"../../../../tmp/evil", b"a/b", b"..", b"&AAo-"):
            for verb in (b"CREATE %b", b"SELECT %b", b"DELETE %b", b"RENAME INBOX2 %b", b"STATUS %b (MESSAGES)"):
                answer = self.talk(b"a " + verb % name + b"\r\n")
                self.assertTrue(answer.startswith(b"a NO [CANNOT]"), (verb, name, answer))
        self.talk(b"a CREATE {5}\r\n")
        self.assertTrue(self.talk(b"a\r\nb*\r\n").startswith(b"a NO [CANNOT]"))
        self.assertEqual(
            self.talk.line(b'LIST "" *'), [b'* LIST (\\HasNoChildren) "." "INBOX"', b"a OK LIST completed"]
        )


class OneAtATimeTests(FramingCase):
    def test_commands_wait(self) -> None:
        """A pipelined command begins when the one before it is answered."""
        self.disk.waiting = []
        self.assertEqual(self.talk(b"a SELECT INBOX\r\nb NOOP\r\nc LOGOUT\r\n"), b"")
        self.assertEqual(len(self.disk.waiting), 1)
        self.disk.step()
        self.assertIn(b"a OK", self.transport.said())
        self.disk.step()
        self.assertRegex(self.transport.said(), rb"^b OK [^\r]*\r\n\* BYE [^\r]*\r\nc OK [^\r]*\r\n$")

    def test_waiting_input_is_bounded(self) -> None:
        """While a command runs, a client that goes on sending is not read beyond a limit, and read again after it."""
        self.disk.waiting = []
        self.talk(b"a SELECT INBOX\r\n")
        for _ in range(300):
            if self.transport.producerState == "paused":
                break
            self.talk(b"b NOOP\r\n" * 125)
        self.assertEqual(self.transport.producerState, "paused")
        self.disk.waiting, waiting = None, self.disk.waiting
        done, work = waiting[0]
        done.callback(work())
        self.assertEqual(self.transport.producerState, "producing")
        self.assertIn(b"b OK NOOP completed", self.transport.said())

    def test_lost_while_running(self) -> None:
        """A client that goes away ends its command without a trace."""
        self.disk.waiting = []
        self.talk(b"a SELECT INBOX\r\n")
        self.talk.server.connectionLost(Failure(ConnectionDone()))
        self.disk.step()
        self.assertEqual(self.transport.said(), b"")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_broken_command(self) -> None:
        """An error of ours is told without its words, and logged."""

        def broken(self: object, *arguments: object, **named: object) -> None:
            raise ZeroDivisionError("secret words")

        self.patch(Mailbox, "__init__", broken)
        self.assertEqual(self.talk(b"a SELECT INBOX\r\n"), b"a NO [SERVERBUG] Internal error\r\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.talk(b"b NOOP\r\n"), b"b OK NOOP completed\r\n")


class UnreadTests(FramingCase):
    def test_replies_do_not_pile_up(self) -> None:
        """A client that does not read its replies is not read, and its commands are not run."""
        self.talk.server.pauseProducing()
        self.assertEqual(self.transport.producerState, "paused")
        self.assertEqual(self.talk(b"a CAPABILITY\r\n" * 1000), b"")
        self.talk.server.resumeProducing()
        self.assertEqual(self.transport.said().count(b"a OK"), 1000)
        self.assertEqual(self.transport.producerState, "producing")

    def test_big_message_waits(self) -> None:
        """A long literal is written piece by piece, as the client reads."""
        message = self.store.inbox(self.identity(), "")
        message.dataReceived(b"\r\n" + b"x" * 998 * 2000)
        self.successResultOf(message.eomReceived())
        self.talk(b"a SELECT INBOX\r\n")
        written: list[int] = []

        def write(data: bytes) -> None:
            written.append(len(data))
            self.talk.server.pauseProducing()

        self.patch(self.transport, "write", write)
        self.talk.server.dataReceived(b"a FETCH 1 BODY.PEEK[]\r\n")
        seen = 0
        while len(written) > seen:
            seen = len(written)
            self.talk.server.resumeProducing()
        self.assertGreater(seen, 7)
        self.assertLessEqual(max(written), 1 << 18)

    def identity(self) -> object:
        """The user of the talk."""
        from tests.local.contract import ALICE

        return ALICE

    def test_unread_at_timeout(self) -> None:
        """Whoever has not read for the idle time is cut off, not talked to."""
        self.talk.server.pauseProducing()
        self.clock.advance(1801)
        self.assertTrue(self.transport.aborted)


class EndTests(FramingCase):
    def test_idle(self) -> None:
        """A silent client is told goodbye after half an hour, and cut off if it does not read that either."""
        self.clock.advance(1799)
        self.talk(b"a NOOP\r\n")
        self.clock.advance(1799)
        self.assertEqual(self.transport.said(), b"")
        self.clock.advance(2)
        self.assertTrue(self.transport.said().startswith(b"* BYE "))
        self.assertTrue(self.transport.disconnecting)
        self.clock.advance(LINGER)
        self.assertTrue(self.transport.aborted)

    def test_logout(self) -> None:
        """LOGOUT says BYE, then OK, and nothing that follows is looked at."""
        answer = self.talk(b"a LOGOUT\r\nb NOOP\r\n")
        self.assertEqual(answer, b"* BYE Logging out\r\na OK LOGOUT completed\r\n")
        self.assertIsNone(self.transport.producer)
        self.talk.server.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
