"""Attacks on the server's side of SMTP: smuggling, injection, other protocols, floods; cut at every place."""

from __future__ import annotations

import base64
import re

from twisted.trial.unittest import SynchronousTestCase

from mailgw.wire.events import Chunk, Mail, Recipient, Reply, StartTLS
from tests.wire.smtptalk import Talk, cut_at, mx, octets, sending
from tests.wire.test_body import FALSE_ENDS

SMUGGLED = b"MAIL FROM:<smug@x>\r\nRCPT TO:<c@d>\r\nDATA\r\nSmuggled\r\n.\r\n"
LONE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


class Refusing(Talk):
    """A conversation in which events of one kind are refused."""

    refused: type = Recipient

    def _decide(self, event: object) -> None:
        if isinstance(event, self.refused):
            self._carry(self.server.answer(Reply(550, "5.1.1", "No such user here")))
        else:
            super()._decide(event)


def refusing(kind: type) -> Talk:
    """A conversation with an mx listener that refuses all such events."""
    talk = Refusing(False, authenticate=False)
    talk.refused = kind
    return talk


class SmugglingTests(SynchronousTestCase):
    """Only CRLF.CRLF ends DATA."""

    def check(self, talk: Talk, text: bytes) -> None:
        """One message at most, one reply after the last dot, and nothing uncanny in what came out."""
        self.assertLessEqual(len(talk.messages) + len(talk.faults), 1)
        self.assertEqual(talk.codes(b"RSET\r\n"), [250])
        for sender, recipients, message in talk.messages:
            self.assertEqual((sender, recipients), ("a@x", ["b@d"]))
            self.assertNotRegex(message, LONE)
            self.assertIn(b"Smuggled", message)
        for event in talk.events:
            if isinstance(event, Chunk):
                self.assertNotRegex(event.data, rb"\0|\n\n|\r\r")

    def test_false_ends(self) -> None:
        """No false end makes two messages of one, wherever the stream is cut."""
        for sequence in FALSE_ENDS:
            if sequence == b"\0\r\n.\r\n":
                continue
            text = b"Subject: x\r\n\r\nbody" + sequence + SMUGGLED
            for place in range(len(text) + 1):
                talk = sending(mx())
                codes = talk.codes(text, cut_at(place))
                self.assertEqual(len(codes), 1, (sequence, place))
                self.assertEqual(codes == [250], not LONE.search(text), (sequence, codes))
                self.check(talk, text)
            talk = sending(mx())
            self.assertEqual(len(talk.codes(text, octets)), 1)
            self.check(talk, text)

    def test_true_ends_with_nul(self) -> None:
        """After a true end, NUL or not, what follows are commands like any others: nothing is smuggled past policy."""
        text = b"Subject: x\r\n\r\nbody\0\r\n.\r\n"
        self.assertEqual(sending(mx()).codes(text), [554])
        talk = sending(mx())
        codes = talk.codes(b"body\r\n.\r\n\0" + SMUGGLED)
        self.assertEqual(codes, [250, 500, 503, 503, 500, 500])
        self.assertEqual(len(talk.messages), 1)

    def test_empty_body(self) -> None:
        """A dot at offset 0 is an empty message, and no more than one."""
        for place in range(4):
            talk = sending(mx())
            self.assertEqual(talk.codes(b".\r\n", cut_at(place)), [250])
            self.assertEqual(talk.messages, [("a@x", ["b@d"], b"")])

    def test_long_lines(self) -> None:
        """A line of any length never leaves DATA: the message is taken, or refused once at its end."""
        for length in (998, 999, 2047, 2048, 2049, 8192, 8193, 16384, 16385, 17000, 1 << 20):
            talk = sending(mx())
            self.assertEqual(talk.codes(b"A" * length), [])
            self.assertEqual(talk.codes(b"\r\nMAIL FROM:<smuggled@evil>\r\nRCPT TO:<victim@d>\r\nDATA\r\n"), [])
            self.assertEqual(talk.codes(b".\r\n"), [250] if length <= 8192 else [554])
            self.assertEqual(len(talk.messages), length <= 8192)

    def test_too_big(self) -> None:
        """A message over the limit is 552 at its end; nothing of the excess comes out."""
        talk = sending(mx(message_size=1000))
        for _ in range(100):
            self.assertEqual(talk.codes(b"x" * 98 + b"\r\n"), [])
        self.assertEqual(talk.codes(b".\r\nMAIL FROM:<a@x>\r\n"), [552, 250])
        self.assertLessEqual(sum(len(event.data) for event in talk.events if isinstance(event, Chunk)), 1000)

    def test_text_before_go_ahead(self) -> None:
        """Text sent together with DATA is refused, and none of it is run."""
        talk = mx()
        data = b"EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n"
        self.assertEqual(talk.codes(data), [250, 250, 250, 554])
        self.assertEqual((talk.messages, talk.closed), ([], "text before 354"))

    def test_chunking(self) -> None:
        """BDAT is not offered, unknown, and swallows nothing."""
        for line in (b"BDAT 5 LAST", b"BDAT 99999999999999999999", b"BDAT -1", b"BDAT 0 LAST", b"BDAT"):
            talk = mx()
            talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\n")
            self.assertEqual(talk.codes(line + b"\r\nNOOP\r\n"), [500, 250])


class InjectionTests(SynchronousTestCase):
    """What must not get into names, addresses and state."""

    def test_greeting(self) -> None:
        """No line end, NUL or escape gets into the name that Received shows."""
        for name in (b"a\nX-Injected: yes", b"a\rX: y", b"a\0b", b"a\x1b[2J", b"a\tb", b"a (b)", b"a;b"):
            talk = mx()
            self.assertIn(talk.codes(b"EHLO " + name + b"\r\n")[0], (500, 501), name)
            self.assertEqual(talk.server.helo, "")

    def test_address(self) -> None:
        """A line end in a quoted local part never becomes one in an envelope."""
        talk = mx()
        talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\n")
        self.assertEqual(talk.codes(b'RCPT TO:<"v\nRCPT TO:<w@d>\nQ"@d>\r\n'), [500])
        self.assertIsNotNone(talk.closed)
        for address in (b'"v\rw"@d', b'"v\0"@d', b"v\x1b@d", b'"v\\\r"@d', b"v\x7f@d"):
            talk = mx()
            talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\n")
            self.assertEqual(talk.codes(b"RCPT TO:<" + address + b">\r\n"), [500], address)

    def test_bare_line_feed(self) -> None:
        """A command line ended by LF alone is 500, and nothing behind it is run."""
        for place in range(20):
            talk = mx()
            self.assertEqual(talk.codes(b"NOOP\nEHLO x\r\nNOOP\r\n", cut_at(place)), [500])
            self.assertIsNotNone(talk.closed)

    def test_empty_addresses(self) -> None:
        """Degenerate addresses are 501."""
        talk = mx(bad_commands=99)
        talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\n")
        for path in (b'<""@d>', b"<@d>", b"<a@>", b"<>", b"", b"<", b">", b"<@>", b'<"@d>', b"<\\@d>"):
            self.assertEqual(talk.codes(b"RCPT TO:" + path + b"\r\n"), [501], path)

    def test_rubbish(self) -> None:
        """Any octets bring a reply or an end, never an exception."""
        for rubbish in (b"\xff", b"AUTH", b"MAIL", b"MAIL FROM", b"RCPT TO:", b"EHLO \xc3", b"", b" ", b"\t", b"\0\0"):
            talk = Talk(True, tls="implicit")
            self.assertEqual([code // 100 for code in talk.codes(rubbish + b"\r\n")], [5], rubbish)
            self.assertIsNone(talk.closed)

    def test_lost_login(self) -> None:
        """An exchange that TLS or a cancellation cut off leaves nothing behind."""
        talk = Talk(tls="optional")
        talk.say(b"EHLO c\r\nAUTH PLAIN\r\n")
        self.assertEqual(talk.codes(b"STARTTLS\r\n"), [535])  # a response, by chance base64
        self.assertNotIn(StartTLS, map(type, talk.events))
        self.assertEqual(talk.codes(base64.b64encode(b"user") + b"\r\n"), [500])
        self.assertEqual(talk.logins, [])


class ForeignTests(SynchronousTestCase):
    """Other protocols, and floods."""

    def test_other_protocols(self) -> None:
        """A browser, an SSH client or a TLS client on a port in clear is cut off at once and gets no reply."""
        for words in (
            b"PROXY TCP4 203.0.113.7 192.0.2.1 1 25\r\n",
            *(b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@x>\r\n", b"Host: x\r\n"),
            *(b"SSH-2.0-x\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"options / x\r\n", b"CONNECT a:25 HTTP/1.1\r\n"),
        ):
            for secure in (False, True):
                for cut in (octets, lambda data: [data]):
                    talk = mx(secure)
                    self.assertEqual(talk.say(words, cut), b"", words)
                    self.assertIsNotNone(talk.closed)

    def test_long_command(self) -> None:
        """An overlong command is 500 and the end, with or without CRLF, and is not kept."""
        for line in (b"MAIL FROM:<" + b"a" * 5000 + b"@x>\r\n", b"NOOP " + b"x" * 2048 + b"\r\n", b"x" * (1 << 20)):
            for cut in (octets, lambda data: [data]):
                talk = mx()
                self.assertEqual(talk.codes(line[:20000], cut), [500])
                self.assertIsNotNone(talk.closed)
                self.assertEqual(len(talk.server._lines), 0)

    def test_many_recipients(self) -> None:
        """Ten thousand recipients: a thousand are taken."""
        talk = mx()
        talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\n")
        codes = [code for _ in range(100) for code in talk.codes(b"RCPT TO:<b@d>\r\n" * 100)]
        self.assertEqual((codes.count(250), codes.count(452)), (1000, 9000))

    def test_harvest(self) -> None:
        """Who tries out addresses gets a hundred refusals and the end; a message that goes well starts anew."""
        for refused, lines in (
            (Recipient, b"RCPT TO:<b@d>\r\n"),
            (Mail, b"MAIL FROM:<a@x>\r\n"),
        ):
            talk = refusing(refused)
            talk.say(b"EHLO c\r\n" + b"MAIL FROM:<a@x>\r\n" * (refused is Recipient))
            self.assertEqual(talk.codes(lines * 300), [550] * 99 + [421], refused)
            self.assertEqual(talk.closed, "too many idle commands")
        talk = sending(mx())
        talk.say(b".\r\n" + b"MAIL FROM:<a@x> SIZE=99999999999\r\n" * 100)
        self.assertIsNone(talk.closed)
        self.assertEqual(talk.codes(b"MAIL FROM:<a@x> SIZE=99999999999\r\n"), [421])

    def test_same_at_every_cut(self) -> None:
        """A conversation with errors is the same wherever it is cut."""
        script = b"NOOP\r\nEHLO c\r\nFOO\r\nMAIL FROM:<a@x> X=1\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\nRSET\r\nQUIT\r\n"
        whole = mx().say(script)
        self.assertEqual(mx().say(script, octets), whole)
        for place in range(len(script)):
            self.assertEqual(mx().say(script, cut_at(place)), whole)
